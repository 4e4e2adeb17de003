/* What the adapters of each row make of a linear module's output, one row after the other and all rows in parallel:
 *
 *     y[j] = s[j] * y[j] + t[j] + (x[j] A[j]^T) B[j]
 *
 * Every row brings pointers to its own factors, so nothing is gathered, padded or copied, and a row costs what its own
 * rank costs. x and y hold float32 or bfloat16, and so do the factors; sums are float32. `native_backend.py` is the
 * caller and says what it passes; `torch_backend.py` does the same by operations of torch.
 */
#include "kernels.h"

#define TOKENS 4  /* taken together, so that a factor is read once for all of them */
#define BLOCK 16  /* tokens of a row that one thread takes at a time */

typedef struct {
    const void *a;          /* [rank, in] */
    const void *b;          /* [rank, out] */
    int64_t rank;           /* 0: no factors */
    const float *in_scale;  /* [in], or NULL */
    const float *out_scale; /* [out], or NULL */
    const float *out_shift; /* [out], or NULL */
} FoldedAdapters;

typedef struct {
    int64_t rows, tokens, members, bfloat16, stride; /* stride: features of one token of y, over all members */
    const int64_t *in, *out;                         /* [members] */
    const void *const *x;                            /* [members], each [rows, tokens, in] */
    char *y;                                         /* [rows, tokens, stride] */
    const FoldedAdapters *changes;                           /* [rows, members] */
    int64_t next;                                    /* the first block that nobody has taken, over all rows */
    int failed;
} Work;

_Static_assert(TOKENS == 4, "sums are kept by fours");

/* Four sums at once, for one waits for itself at every addition: sums[j] = a[from + j step_a ...] . x[j step_x ...], over
 * `in` numbers; one of the steps is 0. */
INLINE void dots(const void *a, int64_t from, int64_t step_a, int64_t in, const float *x, int64_t step_x,
                 float *sums, const int bfloat16)
{
    Lanes s[4] = {0};
    int64_t i = 0;
    for (; i + LANES <= in; i += LANES)
        for (int j = 0; j < 4; j++) s[j] += lanes(a, from + j * step_a + i, bfloat16) * lanes(x, j * step_x + i, 0);
    for (int j = 0; j < 4; j++) {
        float sum = 0;
        for (int lane = 0; lane < LANES; lane++) sum += s[j][lane];
        for (int64_t rest = i; rest < in; rest++)
            sum += load(a, from + j * step_a + rest, bfloat16) * x[j * step_x + rest];
        sums[j] = sum;
    }
}

/* `tokens` and `bfloat16` are constants wherever this is inlined. */
INLINE void change_tokens(const FoldedAdapters *change, const void *x, int64_t in, char *y, int64_t out, int64_t stride,
                          float *room, const int tokens, const int bfloat16)
{
    const int64_t rank = change->rank;
    const void *a = change->a, *b = change->b;
    const float *scale = change->out_scale, *shift = change->out_shift;
    float *wide = room, *inner = room + tokens * in;

    for (int64_t i = 0; i < (rank ? tokens * in : 0); i++) wide[i] = load(x, i, bfloat16);
    int64_t k = 0;
    for (; tokens == 1 && k + 4 <= rank; k += 4) dots(a, k * in, in, in, wide, 0, inner + k, bfloat16);
    for (; tokens == 1 && k < rank; k++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < in; i++) sum += load(a, k * in + i, bfloat16) * wide[i];
        inner[k] = sum;
    }
    for (; k < rank; k++) dots(a, k * in, 0, in, wide, in, inner + k * tokens, bfloat16);
    /* Four sums at once here too: of neighbouring outputs of one token, or of one output of four tokens. */
    const int64_t apart = tokens == 1 ? LANES : 0, width = tokens == 1 ? 4 * LANES : LANES;
    int64_t i = 0;
    for (; i + width <= out; i += width) {
        Lanes sums[4];
        for (int j = 0; j < 4; j++) {
            sums[j] = lanes(y, (tokens == 1 ? 0 : j * stride) + i + j * apart, bfloat16);
            if (scale) sums[j] *= lanes(scale, i + j * apart, 0);
            if (shift) sums[j] += lanes(shift, i + j * apart, 0);
        }
        for (k = 0; k < rank; k++)
            for (int j = 0; j < 4; j++)
                sums[j] += inner[tokens == 1 ? k : k * tokens + j] * lanes(b, k * out + i + j * apart, bfloat16);
        for (int j = 0; j < 4; j++) store_lanes(y, (tokens == 1 ? 0 : j * stride) + i + j * apart, sums[j], bfloat16);
    }
    for (; i < out; i++) {
        for (int t = 0; t < tokens; t++) {
            float sum = load(y, t * stride + i, bfloat16) * (scale ? scale[i] : 1.0f) + (shift ? shift[i] : 0.0f);
            for (k = 0; k < rank; k++) sum += inner[k * tokens + t] * load(b, k * out + i, bfloat16);
            store(y, t * stride + i, sum, bfloat16);
        }
    }
}

INLINE void change_member(const FoldedAdapters *change, const char *x, int64_t in, char *y, int64_t out, int64_t stride,
                          int64_t tokens, float *room, const int bfloat16)
{
    const int64_t size = bfloat16 ? 2 : 4;
    int64_t t = 0;
    for (; t + TOKENS <= tokens; t += TOKENS)
        change_tokens(change, x + t * in * size, in, y + t * stride * size, out, stride, room, TOKENS, bfloat16);
    for (; t < tokens; t++)
        change_tokens(change, x + t * in * size, in, y + t * stride * size, out, stride, room, 1, bfloat16);
}

static void change_block(Work *work, int64_t row, int64_t begin, int64_t tokens)
{
    const int64_t size = work->bfloat16 ? 2 : 4, first = row * work->tokens + begin;
    char *y = work->y + first * work->stride * size;
    for (int64_t m = 0; m < work->members; y += work->out[m] * size, m++) {
        const FoldedAdapters *change = work->changes + row * work->members + m;
        const int64_t in = work->in[m], out = work->out[m];
        const char *x = (const char *)work->x[m] + first * in * size;
        if (!change->rank && !change->out_scale && !change->out_shift) continue;
        float *room = scratch_of(TOKENS * (size_t)(in + change->rank));
        if (!room) __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        else if (work->bfloat16) change_member(change, x, in, y, out, work->stride, tokens, room, 1);
        else change_member(change, x, in, y, out, work->stride, tokens, room, 0);
    }
}

static void change_some(void *argument)
{
    Work *work = argument;
    const int64_t blocks = (work->tokens + BLOCK - 1) / BLOCK;
    for (;;) {
        const int64_t block = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (block >= work->rows * blocks) return;
        const int64_t begin = block % blocks * BLOCK, left = work->tokens - begin;
        change_block(work, block / blocks, begin, left < BLOCK ? left : BLOCK);
    }
}

/* y as above. `parallel` runs a function in so many threads of the caller's pool, or is NULL. 0, or 1 if out of memory. */
int gw_change_outputs(int64_t rows, int64_t tokens, int64_t members, int64_t bfloat16, const int64_t *in,
                      const int64_t *out, const void *const *x, void *y, const void *changes, int64_t threads,
                      Parallel parallel)
{
    Work work = {rows, tokens, members, bfloat16, 0, in, out, x, y, changes, 0, 0};
    for (int64_t m = 0; m < members; m++) work.stride += out[m];
    if (parallel && threads > 1 && rows * tokens > 1) parallel(change_some, &work, (unsigned)threads, 0);
    else change_some(&work);
    return work.failed;
}

/* x[j] = i[j] * x[j], in place, for the rows that have an i at this member; x [rows, tokens, in]. */
void gw_scale_inputs(int64_t rows, int64_t tokens, int64_t members, int64_t member, int64_t bfloat16, int64_t in,
                     void *x, const void *changes)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *scale = ((const FoldedAdapters *)changes + row * members + member)->in_scale;
        if (!scale) continue;
        for (int64_t t = 0; t < tokens; t++) {
            char *at = (char *)x + (row * tokens + t) * in * (bfloat16 ? 2 : 4);
            if (bfloat16)
                for (int64_t i = 0; i < in; i++) store(at, i, load(at, i, 1) * scale[i], 1);
            else
                for (int64_t i = 0; i < in; i++) store(at, i, load(at, i, 0) * scale[i], 0);
        }
    }
}
