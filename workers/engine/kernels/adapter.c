/* What the adapters of each row make of a linear module's output, one row after the other and all rows in parallel:
 *
 *     y[j] = s[j] * y[j] + t[j] + (x[j] A[j]^T) B[j]
 *
 * Every row brings pointers to its own factors, so nothing is gathered, padded or copied, and a row costs what its own
 * rank costs. x and y hold float32 or bfloat16, and so do the factors; sums are float32. `native_backend.py` is the
 * caller and says what it passes; `torch_backend.py` does the same by operations of torch.
 */
#include "work.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

_Thread_local int64_t gw_thread;

#define TOKENS 4  /* taken together, so that a factor is read once for all of them */
#define BLOCK 16  /* tokens of a row that one thread takes at a time */

_Static_assert(TOKENS == 4, "sums are kept by fours");

/* Asks for what is used after this, number for number: factors are nowhere near, since all weights were read meanwhile. */
INLINE void ask_for_lines(const char *after, int64_t from, int64_t step, const int bfloat16)
{
    for (int j = 0; j < 4; j++) __builtin_prefetch(after + (from + j * step) * (bfloat16 ? 2 : 4));
}

INLINE float sum_of(Lanes sums)
{
    float lane[LANES];
    memcpy(lane, &sums, sizeof sums);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

/* Four sums at once, for one waits for itself at every addition: sums[j] = a[from + j step_a ...] . x[j step_x ...], over
 * `in` numbers of one type; one of the steps is 0. after: what is used next in the place of `a`. */
INLINE void dots(const void *a, int64_t from, int64_t step_a, int64_t in, const void *x, int64_t step_x, float *sums,
                 const char *after, const int bfloat16)
{
    Lanes s[4] = {0};
    int64_t i = 0;
#if defined(__AVX512BF16__)
    for (; bfloat16 && i + 2 * LANES <= in; i += 2 * LANES) { /* products of pairs, added at once */
        if (step_a && after) ask_for_lines(after, from + i, step_a, bfloat16);
        for (int j = 0; j < 4; j++)
            s[j] = (Lanes)_mm512_dpbf16_ps(
                (__m512)s[j], (__m512bh)_mm512_loadu_si512((const uint16_t *)a + from + j * step_a + i),
                (__m512bh)_mm512_loadu_si512((const uint16_t *)x + j * step_x + i));
    }
#endif
    for (; i + LANES <= in; i += LANES) {
        if (step_a && after) ask_for_lines(after, from + i, step_a, bfloat16);
        for (int j = 0; j < 4; j++)
            s[j] += lanes(a, from + j * step_a + i, bfloat16) * lanes(x, j * step_x + i, bfloat16);
    }
    for (int j = 0; j < 4; j++) {
        sums[j] = sum_of(s[j]);
        for (int64_t rest = i; rest < in; rest++)
            sums[j] += load(a, from + j * step_a + rest, bfloat16) * load(x, j * step_x + rest, bfloat16);
    }
}

/* `tokens` and `bfloat16` are constants wherever this is inlined. after: the change that comes next. */
INLINE void change_tokens(const FoldedAdapters *change, const FoldedAdapters *after, const void *x, int64_t in, char *y,
                          int64_t out, int64_t stride, float *room, const int tokens, const int bfloat16)
{
    const int64_t rank = change->rank;
    const void *a = change->a, *b = change->b;
    const float *scale = change->out_scale, *shift = change->out_shift;
    float *inner = room;
    int64_t k = 0;
    for (; tokens == 1 && k + 4 <= rank; k += 4) dots(a, k * in, in, in, x, 0, inner + k, after->a, bfloat16);
    for (; tokens == 1 && k < rank; k++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < in; i++) sum += load(a, k * in + i, bfloat16) * load(x, i, bfloat16);
        inner[k] = sum;
    }
    for (; k < rank; k++) dots(a, k * in, 0, in, x, in, inner + k * tokens, 0, bfloat16);
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
        for (k = 0; k < rank; k++) {
            for (int j = 0; tokens == 1 && after->b && j < (bfloat16 ? 2 : 4); j++)
                __builtin_prefetch((const char *)after->b + (k * out + i) * (bfloat16 ? 2 : 4) + 64 * j);
            for (int j = 0; j < 4; j++)
                sums[j] += inner[tokens == 1 ? k : k * tokens + j] * lanes(b, k * out + i + j * apart, bfloat16);
        }
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

INLINE void change_member(const FoldedAdapters *change, const FoldedAdapters *after, const char *x, int64_t in, char *y,
                          int64_t out, int64_t stride, int64_t tokens, float *room, const int bfloat16)
{
    const int64_t size = bfloat16 ? 2 : 4;
    int64_t t = 0;
    for (; t + TOKENS <= tokens; t += TOKENS)
        change_tokens(change, after, x + t * in * size, in, y + t * stride * size, out, stride, room, TOKENS, bfloat16);
    for (; t < tokens; t++)
        change_tokens(change, after, x + t * in * size, in, y + t * stride * size, out, stride, room, 1, bfloat16);
}

static void change_block(Changes *work, int64_t row, int64_t begin, int64_t tokens)
{
    const int64_t size = work->bfloat16 ? 2 : 4, first = work->first[row] + begin;
    char *y = work->y + first * work->stride * size;
    for (int64_t m = 0; m < work->members; y += work->out[m] * size, m++) {
        const FoldedAdapters *change = work->changes + row * work->members + m;
        const FoldedAdapters *after = row + 1 < work->rows || m + 1 < work->members ? change + 1 : change;
        const int64_t in = work->in[m], out = work->out[m];
        const char *x = (const char *)work->x[m] + first * in * size;
        if (!change->rank && !change->out_scale && !change->out_shift) continue;
        float *room = scratch_of(TOKENS * (size_t)change->rank + 1);
        if (!room) __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        else if (work->bfloat16) change_member(change, after, x, in, y, out, work->stride, tokens, room, 1);
        else change_member(change, after, x, in, y, out, work->stride, tokens, room, 0);
    }
}

void gw_change_some(void *changes)
{
    Changes *work = changes;
    int64_t row = 0, before = 0, passed = 0; /* before: blocks of the rows before this one */
    int64_t all = 0, next;
    for (int64_t r = 0; r < work->rows; r++) all += (work->first[r + 1] - work->first[r] + BLOCK - 1) / BLOCK;
    while ((next = take_own(&work->blocks, all, work->threads, &passed)) >= 0) {
        if (next < before) row = before = 0;
        for (;; row++) {
            const int64_t blocks = (work->first[row + 1] - work->first[row] + BLOCK - 1) / BLOCK;
            if (next < before + blocks) break;
            before += blocks;
        }
        const int64_t begin = (next - before) * BLOCK, left = work->first[row + 1] - work->first[row] - begin;
        const int64_t tokens = left < BLOCK ? left : BLOCK, first = work->first[row] + begin;
        change_block(work, row, begin, tokens);
        if (work->after) work->after(work->of_after, first, first + tokens);
    }
}

/* y as above. `parallel` runs a function in so many threads of the caller's pool, or is NULL. 0, or 1 if out of memory. */
int gw_change_outputs(int64_t rows, int64_t members, int64_t bfloat16, const int64_t *first, const int64_t *in,
                      const int64_t *out, const void *const *x, void *y, const void *changes, int64_t threads,
                      Parallel parallel)
{
    Changes work = {rows, members, bfloat16, 0, first, in, out, x, y, changes, threads, 0, {{{0}}}, 0, 0};
    for (int64_t m = 0; m < members; m++) work.stride += out[m];
    if (parallel && threads > 1 && first[rows] > 1) parallel(gw_change_some, &work, (unsigned)threads, 0);
    else gw_change_some(&work);
    return work.failed;
}

void gw_scale_some(void *scales)
{
    Scales *work = scales;
    for (;;) {
        const int64_t row = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (row >= work->rows) return;
        const float *scale = (work->changes + row * work->members + work->member)->in_scale;
        if (!scale) continue;
        for (int64_t t = work->first[row]; t < work->first[row + 1]; t++) {
            char *at = work->x + t * work->in * (work->bfloat16 ? 2 : 4);
            if (work->bfloat16)
                for (int64_t i = 0; i < work->in; i++) store(at, i, load(at, i, 1) * scale[i], 1);
            else
                for (int64_t i = 0; i < work->in; i++) store(at, i, load(at, i, 0) * scale[i], 0);
        }
    }
}

/* x[j] = i[j] * x[j], in place, for the rows that have an i at this member; x [tokens, in]. */
void gw_scale_inputs(int64_t rows, int64_t members, int64_t member, int64_t bfloat16, int64_t in, const int64_t *first,
                     void *x, const void *changes)
{
    Scales work = {rows, members, member, bfloat16, in, first, x, changes, 0};
    gw_scale_some(&work);
}
