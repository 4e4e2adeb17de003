/* Work that the threads of one call do together, piece by piece. Whoever has described a piece of work lets each thread
 * run its function; `next` is the first piece that no thread has taken, and begins at 0. */
#ifndef GUIDEWAY_WORK_H
#define GUIDEWAY_WORK_H

#include "kernels.h"

#define SMALL 32768 /* numbers that one thread is done with sooner than two threads have met */
#define AHEAD 16384 /* bytes of weights that are asked for ahead: what processors foresee by themselves is too little */
#define LINE 64     /* bytes that memory brings at once */

/* One linear module of those whose outputs stand side by side. */
typedef struct {
    const void *weights; /* as the kernel of its type has them */
    const float *scale;  /* [out, up to whole panels]; of weights of 8 bits only */
    const float *bias;   /* the same, or NULL */
    int64_t out;
} Member;

/* Lines of memory that lie one behind the other. */
typedef struct {
    const char *at;
    int64_t lines, before; /* > 0; those of the ranges before it */
} Coming;

/* y = x W^T + bias: `floating.c` and, with weights of 8 bits, `integer.c` */
typedef struct {
    int64_t tokens, in, members, bfloat16, stride; /* bfloat16: x and y; stride: features of one token of y */
    const Member *member;
    const char *x;  /* [tokens, in] */
    char *y;        /* [tokens, stride]: the members' outputs side by side */
    int64_t pieces; /* of the outputs of all members */
    int64_t threads;
    int64_t padded; /* of weights of 8 bits only: in, up to a multiple of 4; and x in 8 bits */
    float *x_scale; /* [tokens] */
    int32_t *x_sum; /* [tokens] */
    int8_t *q;      /* [INT8_TOKENS(tokens), padded] */
    int64_t next_token, next;
    int failed;
    const Coming *coming; /* [ranges]: what is read after it; NULL: that is not known */
    int64_t ranges;
} Product;

/* piece: outputs that are one piece of work */
INLINE Product product_of(int64_t tokens, int64_t in, int64_t members, int64_t bfloat16, const Member *member,
                          const void *x, void *y, int64_t piece, int64_t threads)
{
    Product work = {tokens, in, members, bfloat16, 0, member, x, y, 0, threads, (in + 3) / 4 * 4, 0, 0, 0, 0, 0, 0, 0, 0};
    for (int64_t m = 0; m < members; m++) {
        work.stride += member[m].out;
        work.pieces += (member[m].out + piece - 1) / piece;
    }
    return work;
}

/* Makes `piece` of all members one of its own member; returns where the member's outputs of the first token are. */
INLINE char *member_of(const Product *work, int64_t *piece, int64_t size, const Member **found)
{
    const Member *member = work->member;
    char *y = work->y;
    int64_t pieces;
    for (; *piece >= (pieces = (member->out + size - 1) / size); *piece -= pieces, member++)
        y += member->out * (work->bfloat16 ? 2 : 4);
    *found = member;
    return y;
}

/* Takes what comes next of `pieces`: many at first, whose weights lie side by side, and single ones in the end. Returns
 * how many, 0 where none is left. */
INLINE int64_t take(int64_t *next, int64_t pieces, int64_t threads, int64_t *first)
{
    int64_t some;
    *first = __atomic_load_n(next, __ATOMIC_RELAXED);
    do {
        if (*first >= pieces) return 0;
        some = (pieces - *first) / (2 * threads);
        some = some > 1 ? some : 1;
    } while (!__atomic_compare_exchange_n(next, first, *first + some, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return some;
}

#define MOST_PARTS 32

/* The number of this thread among those that go through the phases of a layer together; elsewhere any, at first 0. */
extern _Thread_local int64_t gw_thread;

/* Pieces of which each thread has a part of its own, the same at every call: it finds near what it has asked for. */
typedef struct {
    struct {
        int64_t taken;
        char apart[LINE - sizeof(int64_t)];
    } part[MOST_PARTS];
} Parts;

/* The first piece of a part, and so the end of the one before. */
INLINE int64_t part_at(int64_t pieces, int64_t threads, int64_t part)
{
    const int64_t parts = threads < MOST_PARTS ? threads : MOST_PARTS;
    return pieces * part / parts;
}

/* A piece that nobody has taken: of the thread's own part, or else of others'. -1: there is none. `passed`, at first 0,
 * counts the parts of which none is left. */
INLINE int64_t take_own(Parts *all, int64_t pieces, int64_t threads, int64_t *passed)
{
    const int64_t parts = threads < MOST_PARTS ? threads : MOST_PARTS;
    for (; *passed < parts; ++*passed) {
        const int64_t part = (gw_thread + *passed) % parts;
        const int64_t at =
            part_at(pieces, threads, part) + __atomic_fetch_add(&all->part[part].taken, 1, __ATOMIC_RELAXED);
        if (at < part_at(pieces, threads, part + 1)) return at;
    }
    return -1;
}

#define FLOATING_PIECE LANES
#define INT8_PIECE 64
#define INT8_TOKENS(tokens) (((tokens) + 15) / 16 * 16) /* x in 8 bits has room for whole tiles of AMX */
void gw_multiply_some(void *product);
void gw_round_some(void *product); /* before the next one; or, as soon as these tokens of x are there: */
void gw_round_tokens(void *product, int64_t from, int64_t to);
void gw_multiply_int8_some(void *product);

/* What the adapters of each row make of y: `adapter.c` */
typedef struct {
    const void *a;          /* [rank, in] */
    const void *b;          /* [rank, out] */
    int64_t rank;           /* 0: no factors */
    const float *in_scale;  /* [in], or NULL */
    const float *out_scale; /* [out], or NULL */
    const float *out_shift; /* [out], or NULL */
} FoldedAdapters;

typedef struct {
    int64_t rows, members, bfloat16, stride; /* stride: features of one token of y, over all members */
    const int64_t *first;                    /* [rows + 1]: the first token of each row, and the number of tokens */
    const int64_t *in, *out;                 /* [members] */
    const void *const *x;                    /* [members], each [tokens, in] */
    char *y;                                 /* [tokens, stride] */
    const FoldedAdapters *changes;           /* [rows, members] */
    int64_t threads;
    int failed;
    Parts blocks;                            /* of all rows */
    void (*after)(void *work, int64_t from, int64_t to); /* what comes next for the tokens of a block, or NULL */
    void *of_after;                          /* its `work` */
} Changes;
void gw_change_some(void *changes);

/* x[j] = i[j] * x[j], in place, for the rows that have an i at this member */
typedef struct {
    int64_t rows, members, member, bfloat16, in;
    const int64_t *first;
    char *x; /* [tokens, in] */
    const FoldedAdapters *changes;
    int64_t next;
} Scales;
void gw_scale_some(void *scales);

/* sum = h + delta, rounded; out = weight * sum / sqrt(mean(sum^2) + eps); without a delta, of h itself: `layer.c` */
typedef struct {
    int64_t tokens, width, bfloat16;
    const char *h, *delta; /* [tokens, width]; delta may be NULL */
    const char *weight;    /* [width] */
    float eps;
    char *sum, *out;       /* [tokens, width]; sum is NULL where delta is, out where there is no norm */
    int64_t next;
    Product *rounded;      /* by whoever has made these tokens of its x, or NULL */
} Norms;
void gw_norm_some(void *norms);
void gw_norm_tokens(void *norms, int64_t from, int64_t to);

/* out = silu(both[:, :width]) * both[:, width:]: `layer.c` */
typedef struct {
    int64_t tokens, width, bfloat16;
    const char *both; /* [tokens, 2 width] */
    char *out;        /* [tokens, width] */
    int64_t next;
    Product *rounded; /* as of norms */
} Gates;
void gw_gate_some(void *gates);
void gw_gate_tokens(void *gates, int64_t from, int64_t to);

/* The tokens of all rows attend: `attention.c` */
typedef struct {
    int64_t rows, group, kv_heads, dim, bfloat16; /* group: heads of queries that share a head of keys */
    const int64_t *first;  /* [rows + 1]: the first token of each row, and the number of tokens */
    const int64_t *begins; /* [rows]: the position of each row's first token */
    const int64_t *pages;  /* [rows, line] */
    int64_t line;
    const float *cos, *sin; /* [tokens, dim]; sin with the signs of the rotation */
    float scale;
    const char *qkv;       /* [tokens, (group + 2) kv_heads, dim]: queries, keys, values */
    char *keys, *values;   /* [all pages, kv_heads, PAGE, dim] */
    char *out;             /* [tokens, group kv_heads, dim] */
    int64_t block;         /* tokens of a row that one thread takes at a time */
    int64_t parts;         /* into which the heads of a group are divided, so that no thread is idle */
    int64_t threads;
    int64_t apart;         /* whether new keys and values are put into the cache before, and not on the way */
    int64_t next_kept;
    int failed;
    Parts taken;
} Spans;
int64_t gw_divide(Spans *spans, int64_t threads); /* sets block, parts, threads and apart; returns the pieces of work */
void gw_keep_some(void *spans);                   /* before the next one, where `apart` is set */
void gw_attend_some(void *spans);

#endif
