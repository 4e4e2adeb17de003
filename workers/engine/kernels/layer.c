/* What a decoder layer of Llama's kind does between its matrix products.
 *
 * Tensors hold float32 or bfloat16; what is computed is float32 and rounded once. `native_layer.py` is the caller and
 * says what it passes; `fast_layers.py` does the same by operations of torch.
 */
#include <math.h>
#include <string.h>

#include "kernels.h"

#define SMALL 32768 /* numbers that one thread is done with sooner than two threads have met */

/* e^x, to 3 units in the last place; below -87 it is that of -87, above 89 infinite. NaN stays NaN. */
INLINE float exp_of(float x)
{
    union { int32_t bits; float value; } power;
    x = x < -87.0f ? -87.0f : x;
    x = x > 89.0f ? 89.0f : x;
    const float n = __builtin_rintf(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* x - n ln 2, in two parts */
    const float poly = ((((1.38888889e-3f * r + 8.33333333e-3f) * r + 4.16666667e-2f) * r + 1.66666667e-1f) * r + 0.5f);
    power.bits = ((int32_t)(n == n ? n : 0.0f) + 127) << 23;
    return (poly * r * r + r + 1.0f) * power.value;
}

/* One query a row ------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t rows, group, kv_heads, dim, bfloat16; /* group: heads of queries that share a head of keys */
    int64_t slot_stride, head_stride, capacity;   /* of keys and values: numbers, numbers, tokens */
    const int64_t *positions;                     /* [rows] */
    const float *cos, *sin;                       /* [rows, dim]; sin with the signs of the rotation */
    float scale;
    const char *qkv;                              /* [rows, (group + 2) kv_heads, dim]: queries, keys, values */
    char *keys, *values;                          /* of the first row's slot: [slots, kv_heads, capacity, dim] */
    char *out;                                    /* [rows, group kv_heads, dim] */
    int64_t next;                                 /* the first head of keys that nobody has taken, over all rows */
    int failed;
} Queries;

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

/* Puts the new key and value of one head into the cache, and attends to them and to all before them. */
INLINE void attend_head(Queries *work, int64_t row, int64_t head, const int64_t dim, const int bfloat16)
{
    const int64_t size = bfloat16 ? 2 : 4, group = work->group, heads = group * work->kv_heads;
    const int64_t position = work->positions[row], count = position + 1;
    const int64_t at = (row * work->slot_stride + head * work->head_stride) * size;
    const float *cos = work->cos + row * dim, *sin = work->sin + row * dim;
    const char *of_row = work->qkv + row * (heads + 2 * work->kv_heads) * dim * size;
    char *keys = work->keys + at, *values = work->values + at;
    if (position < 0 || position >= work->capacity) {
        __atomic_store_n(&work->failed, 2, __ATOMIC_RELAXED);
        return;
    }
    float *queries = scratch_of((size_t)(dim + 2 * group * dim + group * count));
    if (!queries) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *wide = queries + group * dim, *sums = wide + dim, *scores = sums + group * dim;

    rotate(of_row + (heads + head) * dim * size, cos, sin, 1.0f, wide, dim, bfloat16);
    for (int64_t i = 0; i < dim; i++) store(keys, position * dim + i, wide[i], bfloat16);
    memcpy(values + position * dim * size, of_row + (heads + work->kv_heads + head) * dim * size, (size_t)(dim * size));
    for (int64_t g = 0; g < group; g++)
        rotate(of_row + (head * group + g) * dim * size, cos, sin, work->scale, queries + g * dim, dim, bfloat16);

    for (int64_t k = 0; k < count; k++) {
        for (int64_t i = 0; i < dim; i++) wide[i] = load(keys, k * dim + i, bfloat16);
        for (int64_t g = 0; g < group; g++) {
            const float *query = queries + g * dim;
            float score = 0;
#pragma omp simd reduction(+ : score)
            for (int64_t i = 0; i < dim; i++) score += query[i] * wide[i];
            scores[g * count + k] = score;
        }
    }
    for (int64_t g = 0; g < group; g++) {
        float *of_query = scores + g * count, most = of_query[0], total = 0;
#pragma omp simd reduction(max : most)
        for (int64_t k = 0; k < count; k++) most = of_query[k] > most ? of_query[k] : most;
#pragma omp simd reduction(+ : total)
        for (int64_t k = 0; k < count; k++) {
            of_query[k] = exp_of(of_query[k] - most);
            total += of_query[k];
        }
        for (int64_t k = 0; k < count; k++) of_query[k] /= total;
    }
    memset(sums, 0, (size_t)(group * dim) * sizeof(float));
    for (int64_t k = 0; k < count; k++) {
        for (int64_t i = 0; i < dim; i++) wide[i] = load(values, k * dim + i, bfloat16);
        for (int64_t g = 0; g < group; g++) {
            const float share = scores[g * count + k];
            float *sum = sums + g * dim;
#pragma omp simd
            for (int64_t i = 0; i < dim; i++) sum[i] += share * wide[i];
        }
    }
    char *out = work->out + (row * heads + head * group) * dim * size;
    for (int64_t i = 0; i < group * dim; i++) store(out, i, sums[i], bfloat16);
}

static void attend_some(void *argument)
{
    Queries *work = argument;
    for (;;) {
        const int64_t next = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (next >= work->rows * work->kv_heads) return;
        const int64_t row = next / work->kv_heads, head = next % work->kv_heads;
        if (work->bfloat16 && work->dim == 64) attend_head(work, row, head, 64, 1);
        else if (work->bfloat16 && work->dim == 128) attend_head(work, row, head, 128, 1);
        else if (work->bfloat16) attend_head(work, row, head, work->dim, 1);
        else attend_head(work, row, head, work->dim, 0);
    }
}

/* out = softmax(scale q K^T) V for one query a row, which stands behind what its slot holds and is put there first.
 * 0; 1 if out of memory; 2 if a position is outside of the slots. */
int gw_attend_one(int64_t rows, int64_t group, int64_t kv_heads, int64_t dim, int64_t bfloat16, int64_t slot_stride,
                  int64_t head_stride, int64_t capacity, const int64_t *positions, const float *cos, const float *sin,
                  float scale, const void *qkv, void *keys, void *values, void *out, int64_t threads,
                  Parallel parallel)
{
    Queries work = {rows, group, kv_heads, dim, bfloat16, slot_stride, head_stride, capacity, positions,
                    cos, sin, scale, qkv, keys, values, out, 0, 0};
    if (parallel && threads > 1 && rows * kv_heads > 1) parallel(attend_some, &work, (unsigned)threads, 0);
    else attend_some(&work);
    return work.failed;
}

/* Norms and gates -------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t tokens, width, bfloat16;
    const char *h, *delta; /* [tokens, width]; delta may be NULL */
    const char *weight;    /* [width] */
    float eps;
    char *sum, *out;       /* [tokens, width]; sum is NULL where delta is */
    int64_t next;
} Norms;

INLINE void norm_token(const Norms *work, int64_t token, const int bfloat16)
{
    const int64_t width = work->width, at = token * width * (bfloat16 ? 2 : 4);
    const char *h = work->h + at;
    float squares = 0;
    if (work->delta) {
        for (int64_t i = 0; i < width; i++)
            store(work->sum + at, i, load(h, i, bfloat16) + load(work->delta + at, i, bfloat16), bfloat16);
        h = work->sum + at;
    }
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; i++) squares += load(h, i, bfloat16) * load(h, i, bfloat16);
    const float by = 1.0f / sqrtf(squares / (float)width + work->eps);
    for (int64_t i = 0; i < width; i++)
        store(work->out + at, i, load(h, i, bfloat16) * by * load(work->weight, i, bfloat16), bfloat16);
}

static void norm_some(void *argument)
{
    Norms *work = argument;
    for (;;) {
        const int64_t token = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (token >= work->tokens) return;
        if (work->bfloat16) norm_token(work, token, 1);
        else norm_token(work, token, 0);
    }
}

/* sum = h + delta, rounded; out = weight * sum / sqrt(mean(sum^2) + eps); without a delta, of h itself. */
void gw_norm(int64_t tokens, int64_t width, int64_t bfloat16, const void *h, const void *delta, const void *weight,
             float eps, void *sum, void *out, int64_t threads, Parallel parallel)
{
    Norms work = {tokens, width, bfloat16, h, delta, weight, eps, sum, out, 0};
    if (parallel && threads > 1 && tokens * width > SMALL) parallel(norm_some, &work, (unsigned)threads, 0);
    else norm_some(&work);
}

typedef struct {
    int64_t tokens, width, bfloat16;
    const char *both; /* [tokens, 2 width] */
    char *out;        /* [tokens, width] */
    int64_t next;
} Gates;

INLINE void gate_token(const Gates *work, int64_t token, const int bfloat16)
{
    const int64_t width = work->width, size = bfloat16 ? 2 : 4;
    const char *gate = work->both + token * 2 * width * size, *up = gate + width * size;
    char *out = work->out + token * width * size;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        const float x = load(gate, i, bfloat16);
        store(out, i, x / (1.0f + exp_of(-x)) * load(up, i, bfloat16), bfloat16);
    }
}

static void gate_some(void *argument)
{
    Gates *work = argument;
    for (;;) {
        const int64_t token = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (token >= work->tokens) return;
        if (work->bfloat16) gate_token(work, token, 1);
        else gate_token(work, token, 0);
    }
}

/* out = silu(both[:, :width]) * both[:, width:] */
void gw_gate(int64_t tokens, int64_t width, int64_t bfloat16, const void *both, void *out, int64_t threads,
             Parallel parallel)
{
    Gates work = {tokens, width, bfloat16, both, out, 0};
    if (parallel && threads > 1 && tokens * width > SMALL) parallel(gate_some, &work, (unsigned)threads, 0);
    else gate_some(&work);
}
