/* What the kernels share: numbers of either dtype, room to work in, and how blocks of work are given to threads. */
#ifndef GUIDEWAY_KERNELS_H
#define GUIDEWAY_KERNELS_H

#include <stdint.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))

/* Runs a function in so many threads of the caller's pool. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

static _Thread_local float *scratch;
static _Thread_local size_t scratch_size;

/* Kept from call to call; NULL where memory has run out. */
static inline float *scratch_of(size_t size)
{
    if (size > scratch_size) {
        free(scratch);
        scratch = malloc(size * sizeof(float));
        scratch_size = scratch ? size : 0;
    }
    return scratch;
}

/* `bfloat16` is a constant wherever these are inlined. */
INLINE float load(const void *at, int64_t i, int bfloat16)
{
    union { uint32_t bits; float value; } word;
    if (!bfloat16) return ((const float *)at)[i];
    word.bits = (uint32_t)((const uint16_t *)at)[i] << 16;
    return word.value;
}

INLINE void store(void *at, int64_t i, float value, int bfloat16)
{
    union { float value; uint32_t bits; } word = {value};
    if (!bfloat16) {
        ((float *)at)[i] = value;
    } else {
        uint32_t rounded = (word.bits + 0x7fff + ((word.bits >> 16) & 1)) >> 16; /* to the nearest, ties to even */
        int is_nan = (word.bits & 0x7fffffff) > 0x7f800000;
        ((uint16_t *)at)[i] = (uint16_t)(is_nan ? 0x7fc0 : rounded);
    }
}

#endif
