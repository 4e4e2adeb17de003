/* The blocks that rows have after a decoder layer, those of a row in their order, each row with its own ones:
 *
 *     h[j] = h[j] + act[j](rms(h[j]) D[j]^T) U[j]
 *
 * A row costs what its own blocks cost. h holds float32 or bfloat16, D and U float32; sums are float32 and h is rounded
 * after each block. `native_inserted.py` is the caller; `batched_inserted_layers.py` does the same by operations of torch.
 */
#include <math.h>

#include "../work.h"

enum { GELU, SILU, RELU };

typedef struct {
    const float *down, *up; /* [rank, hidden] each */
    int64_t rank;           /* 0: no block */
    int64_t activation;
    double eps;
} Block;

typedef struct {
    int64_t rows, deep, hidden, bfloat16, threads; /* deep: blocks of a row at most */
    const int64_t *first;                          /* [rows + 1]: the first token of each row, and the number of tokens */
    const Block *blocks;                           /* [rows, deep] */
    const char *h;                                 /* [tokens, hidden] */
    char *out;
    int64_t next;
    int failed;
} Insertions;

INLINE float activated(float x, int64_t activation)
{
    if (activation == GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    if (activation == SILU) return x / (1.0f + exp_of(-x));
    return x < 0 ? 0.0f : x; /* NaN stays NaN */
}

INLINE float sum_of(Lanes sums)
{
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    return sum;
}

/* x <- x + act(rms(x) D^T) U; x [hidden], inner [rank] */
static void insert(const Block *block, float *x, int64_t hidden, float *inner)
{
    Lanes squares = {0};
    int64_t i = 0;
    for (; i + LANES <= hidden; i += LANES) squares += lanes(x, i, 0) * lanes(x, i, 0);
    float square = sum_of(squares);
    for (; i < hidden; i++) square += x[i] * x[i];
    const float by = 1.0f / sqrtf(square / (float)hidden + (float)block->eps);
    for (int64_t k = 0; k < block->rank; k++) {
        const float *down = block->down + k * hidden;
        Lanes sums[4] = {{0}};
        for (i = 0; i + 4 * LANES <= hidden; i += 4 * LANES)
            for (int j = 0; j < 4; j++) sums[j] += lanes(down, i + j * LANES, 0) * lanes(x, i + j * LANES, 0);
        float sum = sum_of(sums[0] + sums[1] + (sums[2] + sums[3]));
        for (; i < hidden; i++) sum += down[i] * x[i];
        inner[k] = activated(sum * by, block->activation);
    }
    for (i = 0; i + LANES <= hidden; i += LANES) {
        Lanes sums = {0};
        for (int64_t k = 0; k < block->rank; k++) sums += inner[k] * lanes(block->up, k * hidden + i, 0);
        sums += lanes(x, i, 0);
        memcpy(x + i, &sums, sizeof sums);
    }
    for (; i < hidden; i++) {
        float sum = 0;
        for (int64_t k = 0; k < block->rank; k++) sum += inner[k] * block->up[k * hidden + i];
        x[i] += sum;
    }
}

static void insert_some(void *insertions)
{
    Insertions *work = insertions;
    const int64_t hidden = work->hidden, bfloat16 = work->bfloat16, tokens = work->first[work->rows];
    int64_t row = 0, token, some;
    while ((some = take(&work->next, tokens, work->threads, &token)))
        for (; some--; token++) {
            while (work->first[row + 1] <= token) row++; /* numbers only grow */
            const char *h = work->h + token * hidden * (bfloat16 ? 2 : 4);
            char *out = work->out + token * hidden * (bfloat16 ? 2 : 4);
            memcpy(out, h, (size_t)(hidden * (bfloat16 ? 2 : 4)));
            for (int64_t deep = 0; deep < work->deep; deep++) {
                const Block *block = work->blocks + row * work->deep + deep;
                if (!block->rank) break;
                float *x = scratch_of((size_t)(hidden + block->rank));
                if (!x) {
                    __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
                    return;
                }
                for (int64_t i = 0; i < hidden; i++) x[i] = bfloat16 ? load(out, i, 1) : load(out, i, 0);
                insert(block, x, hidden, x + hidden);
                if (bfloat16) for (int64_t i = 0; i < hidden; i++) store(out, i, x[i], 1);
                else memcpy(out, x, (size_t)hidden * sizeof *x);
            }
        }
}

/* out as above, of h [tokens, hidden]. 0, or 1 if out of memory. */
int gw_insert(int64_t rows, int64_t deep, int64_t hidden, int64_t bfloat16, const int64_t *first, const void *blocks,
              const void *h, void *out, int64_t threads, Parallel parallel)
{
    Insertions work = {rows, deep, hidden, bfloat16, threads, first, blocks, h, out, 0, 0};
    if (parallel && threads > 1 && first[rows] > 1) parallel(insert_some, &work, (unsigned)threads, 0);
    else insert_some(&work);
    return work.failed;
}
