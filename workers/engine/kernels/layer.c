/* What a decoder layer of Llama's kind does between its matrix products.
 *
 * Tensors hold float32 or bfloat16; what is computed is float32 and rounded once. `native_layer.py` is the caller and
 * says what it passes; `fast_layers.py` does the same by operations of torch.
 */
#include <math.h>
#include <string.h>

#include "work.h"

/* Norms and gates -------------------------------------------------------------------------------------------------- */

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
    if (!work->out) return;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; i++) squares += load(h, i, bfloat16) * load(h, i, bfloat16);
    const float by = 1.0f / sqrtf(squares / (float)width + work->eps);
    for (int64_t i = 0; i < width; i++)
        store(work->out + at, i, load(h, i, bfloat16) * by * load(work->weight, i, bfloat16), bfloat16);
}

void gw_norm_tokens(void *norms, int64_t from, int64_t to)
{
    const Norms *work = norms;
    for (int64_t token = from; token < to; token++) {
        if (work->bfloat16) norm_token(work, token, 1);
        else norm_token(work, token, 0);
    }
    if (work->rounded) gw_round_tokens(work->rounded, from, to);
}

void gw_norm_some(void *norms)
{
    Norms *work = norms;
    for (;;) {
        const int64_t token = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (token >= work->tokens) return;
        gw_norm_tokens(work, token, token + 1);
    }
}

/* sum = h + delta, rounded; out = weight * sum / sqrt(mean(sum^2) + eps); without a delta, of h itself. */
void gw_norm(int64_t tokens, int64_t width, int64_t bfloat16, const void *h, const void *delta, const void *weight,
             float eps, void *sum, void *out, int64_t threads, Parallel parallel)
{
    Norms work = {tokens, width, bfloat16, h, delta, weight, eps, sum, out, 0, 0};
    if (parallel && threads > 1 && tokens * width > SMALL) parallel(gw_norm_some, &work, (unsigned)threads, 0);
    else gw_norm_some(&work);
}

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

void gw_gate_tokens(void *gates, int64_t from, int64_t to)
{
    const Gates *work = gates;
    for (int64_t token = from; token < to; token++) {
        if (work->bfloat16) gate_token(work, token, 1);
        else gate_token(work, token, 0);
    }
    if (work->rounded) gw_round_tokens(work->rounded, from, to);
}

void gw_gate_some(void *gates)
{
    Gates *work = gates;
    for (;;) {
        const int64_t token = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (token >= work->tokens) return;
        gw_gate_tokens(work, token, token + 1);
    }
}

/* out = silu(both[:, :width]) * both[:, width:] */
void gw_gate(int64_t tokens, int64_t width, int64_t bfloat16, const void *both, void *out, int64_t threads,
             Parallel parallel)
{
    Gates work = {tokens, width, bfloat16, both, out, 0, 0};
    if (parallel && threads > 1 && tokens * width > SMALL) parallel(gw_gate_some, &work, (unsigned)threads, 0);
    else gw_gate_some(&work);
}
