/* What the kernels share: numbers of either dtype, room to work in, and how blocks of work are given to threads. */
#ifndef GUIDEWAY_KERNELS_H
#define GUIDEWAY_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

/* Runs a function in so many threads of the caller's pool. */
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

static _Thread_local float *scratch;
static _Thread_local size_t scratch_size;

/* Kept from call to call; NULL where memory has run out. */
static inline float *scratch_of(size_t size)
{
    if (size > scratch_size) {
        size += size / 2; /* what is asked for grows by little at every step */
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

/* So many numbers from `i` on, in float32; compilers make of it what the machine has. */
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

INLINE Lanes lanes(const void *at, int64_t i, int bfloat16)
{
    Lanes found;
    if (bfloat16) {
        Halves halves;
        memcpy(&halves, (const uint16_t *)at + i, sizeof halves);
        const Words words = __builtin_convertvector(halves, Words) << 16;
        memcpy(&found, &words, sizeof found);
    } else {
        memcpy(&found, (const float *)at + i, sizeof found);
    }
    return found;
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

INLINE void store_lanes(void *at, int64_t i, Lanes values, int bfloat16)
{
    if (bfloat16) {
        Words bits;
        memcpy(&bits, &values, sizeof bits);
        const Words is_nan = (Words)(values != values);
        bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        bits = (bits & ~is_nan) | (0x7fc0 & is_nan);
        const Halves halves = __builtin_convertvector(bits, Halves);
        memcpy((uint16_t *)at + i, &halves, sizeof halves);
    } else {
        memcpy((float *)at + i, &values, sizeof values);
    }
}

#endif
