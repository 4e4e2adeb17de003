/* Attention of one token of a row, as rows that decode have it: its part of `attention.c`. */
#ifndef GUIDEWAY_ONE_TOKEN_H
#define GUIDEWAY_ONE_TOKEN_H

#include <math.h>
#include <string.h>

#include "../work.h"

#define PAGE 16 /* tokens; `PAGE_TOKENS` of kv_cache.py is the same number */

_Static_assert(PAGE == LANES, "the keys of a page are the lanes of one vector");

INLINE int64_t page_at(const Spans *work, int64_t row, int64_t head, int64_t page, int64_t size)
{
    return (work->pages[row * work->line + page] * work->kv_heads + head) * PAGE * work->dim * size;
}

INLINE void rotate(const char *x, const float *cos, const float *sin, float scale, float *to, int64_t dim,
                   const int bfloat16)
{
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = load(x, i, bfloat16), b = load(x, half + i, bfloat16);
        to[i] = (a * cos[i] + b * sin[i]) * scale;
        to[half + i] = (b * cos[half + i] + a * sin[half + i]) * scale;
    }
}

/* Puts the new keys and values of one head of a row's tokens into the cache. `room` [dim] */
INLINE void keep_tokens(const Spans *work, int64_t row, int64_t head, int64_t begin, int64_t end, float *room,
                        const int64_t dim, const int bfloat16)
{
    const int64_t size = bfloat16 ? 2 : 4, heads = work->group * work->kv_heads, kv_heads = work->kv_heads;
    for (int64_t t = begin; t < end; t++) {
        const int64_t token = work->first[row] + t, position = work->begins[row] + t;
        const int64_t at = page_at(work, row, head, position / PAGE, size) + position % PAGE * dim * size;
        const char *of_token = work->qkv + token * (heads + 2 * kv_heads) * dim * size;
        rotate(of_token + (heads + head) * dim * size, work->cos + token * dim, work->sin + token * dim, 1.0f, room, dim,
               bfloat16);
        for (int64_t i = 0; i < dim; i++) store(work->keys + at, i, room[i], bfloat16);
        memcpy(work->values + at, of_token + (heads + kv_heads + head) * dim * size, (size_t)(dim * size));
    }
}

/* softmax(scores), in place */
INLINE void soften(float *scores, int64_t count)
{
    float most = scores[0], total = 0;
#pragma omp simd reduction(max : most)
    for (int64_t k = 0; k < count; k++) most = scores[k] > most ? scores[k] : most;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < count; k++) {
        scores[k] = exp_of(scores[k] - most);
        total += scores[k];
    }
    for (int64_t k = 0; k < count; k++) scores[k] /= total;
}

#if defined(__clang__) || __GNUC__ >= 12
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define SWAPPED(a) __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
#define LOW(a, b) __builtin_shuffle(a, b, (Words){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23})
#define SWAPPED(a) __builtin_shuffle(a, (Words){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7})
#define HIGH(a, b) __builtin_shuffle(a, b, (Words){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31})
#endif

#if REGISTER == 16
#define PART_LOW(a, b) LOW(a, b)
#define PART_HIGH(a, b) HIGH(a, b)
#elif REGISTER == 8 && (defined(__clang__) || __GNUC__ >= 12)
#define PART_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define PART_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#elif REGISTER == 8
#define PART_LOW(a, b) __builtin_shuffle(a, b, (__v8si){0, 8, 1, 9, 2, 10, 3, 11})
#define PART_HIGH(a, b) __builtin_shuffle(a, b, (__v8si){4, 12, 5, 13, 6, 14, 7, 15})
#elif defined(__clang__) || __GNUC__ >= 12
#define PART_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define PART_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#else
typedef int32_t Four __attribute__((vector_size(16)));
#define PART_LOW(a, b) __builtin_shuffle(a, b, (Four){0, 4, 1, 5})
#define PART_HIGH(a, b) __builtin_shuffle(a, b, (Four){2, 6, 3, 7})
#endif

/* Lane k: the sum of the lanes of parts[k]; `parts` is not kept. */
INLINE Part sums_of(Part *parts)
{
    for (int half = REGISTER / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            parts[j] = PART_LOW(parts[j], parts[j + half]) + PART_HIGH(parts[j], parts[j + half]);
    return parts[0];
}

#define ONES ~0u, ~0u, ~0u, ~0u
#define TOGETHER 4 /* queries of a group for which a key is read once, and vectors of sums of each */

/* scores[q][k] = queries[q] . keys[k] for a page, of which `n` keys count; the others score -inf. `dim` is a multiple of
 * LANES; `count` queries, at most TOGETHER, a constant wherever this is inlined. */
INLINE void score_page(const float *queries, const char *keys, float *scores, int64_t apart, int64_t n, const int count,
                       const int64_t dim, const int bfloat16)
{
    static const uint32_t all_then_none[2 * LANES] = {ONES, ONES, ONES, ONES};
    Words counts;
    for (int some = 0; some < PAGE; some += REGISTER) {
        Part parts[TOGETHER][REGISTER];
        for (int k = 0; k < REGISTER; k++) {
            Part own[TOGETHER] = {0};
            for (int64_t i = 0; i < dim; i += REGISTER) {
                const Part key = part(keys, (some + k) * dim + i, bfloat16);
                for (int q = 0; q < count; q++) own[q] += part(queries, q * dim + i, 0) * key;
            }
            for (int q = 0; q < count; q++) parts[q][k] = own[q];
        }
        for (int q = 0; q < count; q++) {
            const Part sums = sums_of(parts[q]);
            memcpy(scores + q * apart + some, &sums, sizeof sums);
        }
    }
    memcpy(&counts, all_then_none + LANES - n, sizeof counts);
    for (int q = 0; q < count; q++)
        store_lanes(scores, q * apart, where(counts, lanes(scores, q * apart, 0), (Lanes){0} - INFINITY), 0);
}

/* Asks for a page of keys or values before it is needed: they are nowhere near, since all weights were read meanwhile. */
#define NEAR 32 /* pages of values that stay near while keys are scored */
INLINE void ask_for(const char *page, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(page + at);
}

/* sums[q][i] += scores[q][k] values[k][i], for `vectors` vectors of i from `begin` on and all pages of a row */
INLINE void add_row(const Spans *work, int64_t row, int64_t head, const float *scores, int64_t apart, int64_t keys,
                    int64_t begin, float *sums, const int count, const int vectors, const int64_t dim, const int bfloat16)
{
    Part own[TOGETHER][TOGETHER] = {{{0}}};
    for (int64_t page = 0; page * PAGE < keys; page++) {
        const char *values = work->values + page_at(work, row, head, page, bfloat16 ? 2 : 4);
        const int64_t left = keys - page * PAGE, n = left < PAGE ? left : PAGE;
        if (page + 1 >= NEAR && left > PAGE)
            ask_for(work->values + page_at(work, row, head, page + 1, bfloat16 ? 2 : 4), PAGE * dim * (bfloat16 ? 2 : 4));
        for (int64_t k = 0; k < n; k++)
            for (int v = 0; v < vectors; v++) {
                const Part value = part(values, k * dim + begin + v * REGISTER, bfloat16);
                for (int q = 0; q < count; q++) own[q][v] += scores[q * apart + page * PAGE + k] * value;
            }
    }
    for (int q = 0; q < count; q++)
        for (int v = 0; v < vectors; v++) memcpy(sums + q * dim + begin + v * REGISTER, &own[q][v], sizeof own[q][v]);
}

/* sums[q] = softmax(queries[q] K^T) V for `count` queries of one token; scores [count, whole pages of keys] */
INLINE void attend_together(const Spans *work, int64_t row, int64_t head, const float *queries, float *scores,
                            int64_t keys, float *sums, const int count, const int64_t dim, const int bfloat16)
{
    const int64_t apart = (keys + PAGE - 1) / PAGE * PAGE;
    for (int64_t page = 0; page * PAGE < keys; page++) {
        const int64_t size = bfloat16 ? 2 : 4, left = keys - page * PAGE, n = left < PAGE ? left : PAGE;
        if (page < NEAR) ask_for(work->values + page_at(work, row, head, page, size), n * dim * size);
        if (left > PAGE) ask_for(work->keys + page_at(work, row, head, page + 1, size), PAGE * dim * size);
        else if (head + 1 < work->kv_heads) ask_for(work->keys + page_at(work, row, head + 1, 0, size), PAGE * dim * size);
        else if (row + 1 < work->rows) ask_for(work->keys + page_at(work, row + 1, 0, 0, size), PAGE * dim * size);
        score_page(queries, work->keys + page_at(work, row, head, page, size), scores + page * PAGE, apart, n, count, dim,
                   bfloat16);
    }
    for (int q = 0; q < count; q++) soften(scores + q * apart, keys);
    int64_t i = 0;
    for (; i + TOGETHER * REGISTER <= dim; i += TOGETHER * REGISTER)
        add_row(work, row, head, scores, apart, keys, i, sums, count, TOGETHER, dim, bfloat16);
    for (; i < dim; i += REGISTER) add_row(work, row, head, scores, apart, keys, i, sums, count, 1, dim, bfloat16);
}

/* The same, for any `dim` and any number of queries; `wide` [dim] */
INLINE void attend_plain(const Spans *work, int64_t row, int64_t head, const float *queries, float *scores, int64_t keys,
                         float *sums, float *wide, int64_t count, const int64_t dim, const int bfloat16)
{
    const int64_t size = bfloat16 ? 2 : 4;
    for (int64_t k = 0; k < keys; k++) {
        const char *page = work->keys + page_at(work, row, head, k / PAGE, size);
        for (int64_t i = 0; i < dim; i++) wide[i] = load(page, k % PAGE * dim + i, bfloat16);
        for (int64_t q = 0; q < count; q++) {
            const float *query = queries + q * dim;
            float score = 0;
#pragma omp simd reduction(+ : score)
            for (int64_t i = 0; i < dim; i++) score += query[i] * wide[i];
            scores[q * keys + k] = score;
        }
    }
    for (int64_t q = 0; q < count; q++) soften(scores + q * keys, keys);
    memset(sums, 0, (size_t)(count * dim) * sizeof(float));
    for (int64_t k = 0; k < keys; k++) {
        const char *page = work->values + page_at(work, row, head, k / PAGE, size);
        for (int64_t q = 0; q < count; q++)
            for (int64_t i = 0; i < dim; i++)
                sums[q * dim + i] += scores[q * keys + k] * load(page, k % PAGE * dim + i, bfloat16);
    }
}

/* One token's queries `from` to `to` of a group attend to all keys up to its own. */
INLINE void attend_one(Spans *work, int64_t row, int64_t head, int64_t t, int64_t from, int64_t to, const int64_t dim,
                       const int bfloat16)
{
    const int64_t size = bfloat16 ? 2 : 4, heads = work->group * work->kv_heads, some = to - from;
    const int64_t token = work->first[row] + t, count = work->begins[row] + t + 1;
    float *queries = scratch_of((size_t)(dim + 2 * some * dim + some * (count + PAGE)));
    if (!queries) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *wide = queries + some * dim, *sums = wide + dim, *scores = sums + some * dim;
    if (!work->apart) keep_tokens(work, row, head, t, t + 1, wide, dim, bfloat16);
    const int64_t first_query = head * work->group + from;
    for (int64_t g = 0; g < some; g++)
        rotate(work->qkv + ((token * (heads + 2 * work->kv_heads)) + first_query + g) * dim * size,
               work->cos + token * dim, work->sin + token * dim, work->scale, queries + g * dim, dim, bfloat16);
    for (int64_t g = 0, n; dim % LANES == 0 && g < some; g += n) {
        const float *asked = queries + g * dim;
        n = some - g < TOGETHER ? some - g : TOGETHER;
        if (n == 4) attend_together(work, row, head, asked, scores, count, sums + g * dim, 4, dim, bfloat16);
        else if (n == 3) attend_together(work, row, head, asked, scores, count, sums + g * dim, 3, dim, bfloat16);
        else if (n == 2) attend_together(work, row, head, asked, scores, count, sums + g * dim, 2, dim, bfloat16);
        else attend_together(work, row, head, asked, scores, count, sums + g * dim, 1, dim, bfloat16);
    }
    if (dim % LANES) attend_plain(work, row, head, queries, scores, count, sums, wide, some, dim, bfloat16);
    char *out = work->out + (token * heads + first_query) * dim * size;
    for (int64_t i = 0; i < some * dim; i++) store(out, i, sums[i], bfloat16);
}

#endif
