/* What is read after a product, asked for while the product is made: its threads wait for sums, and memory has time. */
#ifndef GUIDEWAY_AHEAD_H
#define GUIDEWAY_AHEAD_H

#include "../work.h"

/* Lines that are still to be asked for: by a thread, and by the piece that it is at. */
typedef struct {
    const Coming *from;
    int64_t first, left; /* the next line, of `from`; how many there are */
    int64_t of_piece, now;
} Ask;

/* The part of this thread, as `take_own` gives it the pieces of what is read. */
INLINE Ask ask_of(const Product *work)
{
    if (!work->coming || gw_thread >= MOST_PARTS) return (Ask){0, 0, 0, 0, 0};
    const Coming *last = work->coming + work->ranges - 1, *from = work->coming;
    const int64_t all = last->before + last->lines, begin = part_at(all, work->threads, gw_thread);
    while (from->before + from->lines <= begin) from++;
    const int64_t left = part_at(all, work->threads, gw_thread + 1) - begin;
    return (Ask){from, begin - from->before, left, (all + work->pieces - 1) / work->pieces, 0};
}

/* Takes lines that lie one behind the other, at most `most`, for the piece that the thread is at. Returns how many. */
INLINE int64_t take_lines(Ask *ask, int64_t most, const char **at)
{
    if (!ask->left || !ask->now) return 0;
    while (ask->first == ask->from->lines) ask->from++, ask->first = 0;
    int64_t some = ask->from->lines - ask->first;
    some = some < ask->left ? some : ask->left;
    some = some < ask->now ? some : ask->now;
    some = some < most ? some : most;
    *at = ask->from->at + ask->first * LINE;
    ask->first += some;
    ask->left -= some;
    ask->now -= some;
    return some;
}

#endif
