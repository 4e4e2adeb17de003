/* What the kernels share: numbers of either dtype, room to work in, and how blocks of work are given to threads. */
#ifndef GUIDEWAY_KERNELS_H
#define GUIDEWAY_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

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

/* So many numbers from `i` on, in float32; compilers make of it what the machine has. GCC widens and narrows vectors in
 * halves, several times as slowly as AVX-512 does. */
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

/* So many numbers fill a register. GCC computes with longer vectors in memory, and compares them number by number. */
#if defined(__AVX512F__)
#define REGISTER 16
#elif defined(__AVX2__)
#define REGISTER 8
#else
#define REGISTER 4
#endif
#define PARTS (LANES / REGISTER)
typedef float Part __attribute__((vector_size(4 * REGISTER)));

/* All ones where it is so. */
#define COMPARED(name, sign) INLINE Words name(Lanes a, Lanes b) \
{ \
    Part of_a[PARTS], of_b[PARTS]; \
    Words found; \
    memcpy(of_a, &a, sizeof a); \
    memcpy(of_b, &b, sizeof b); \
    for (int part = 0; part < PARTS; part++) of_a[part] = (Part)(of_a[part] sign of_b[part]); \
    memcpy(&found, of_a, sizeof found); \
    return found; \
}
COMPARED(is_more, >)
COMPARED(differs, !=)

/* Where the condition is all ones, `yes`, and elsewhere `no`. */
INLINE Lanes where(Words condition, Lanes yes, Lanes no)
{
    return (Lanes)(((Words)yes & condition) | ((Words)no & ~condition));
}

INLINE Words widened(const void *halves)
{
#if defined(__AVX512F__)
    return (Words)_mm512_cvtepu16_epi32(_mm256_loadu_si256(halves));
#elif defined(__AVX2__)
    const __m128i *both = halves;
    const __m256i found[2] = {_mm256_cvtepu16_epi32(_mm_loadu_si128(both)), _mm256_cvtepu16_epi32(_mm_loadu_si128(both + 1))};
    Words words;
    memcpy(&words, found, sizeof words);
    return words;
#else
    Halves found;
    memcpy(&found, halves, sizeof found);
    return __builtin_convertvector(found, Words);
#endif
}

INLINE void narrow(Words words, void *halves)
{
#if defined(__AVX512F__)
    _mm256_storeu_si256(halves, _mm512_cvtepi32_epi16((__m512i)words));
#elif defined(__AVX2__)
    __m256i both[2];
    memcpy(both, &words, sizeof words);
    /* The words are below 65,536. */
    _mm256_storeu_si256(halves, _mm256_permute4x64_epi64(_mm256_packus_epi32(both[0], both[1]), 0xd8));
#else
    const Halves found = __builtin_convertvector(words, Halves);
    memcpy(halves, &found, sizeof found);
#endif
}

INLINE Lanes lanes(const void *at, int64_t i, int bfloat16)
{
    Lanes found;
    if (bfloat16) {
        const Words words = widened((const uint16_t *)at + i) << 16;
        memcpy(&found, &words, sizeof found);
    } else {
        memcpy(&found, (const float *)at + i, sizeof found);
    }
    return found;
}

/* The same, as many as fill a register. */
INLINE Part part(const void *at, int64_t i, int bfloat16)
{
#if REGISTER == LANES
    return lanes(at, i, bfloat16);
#else
    Part found;
    if (!bfloat16) memcpy(&found, (const float *)at + i, sizeof found);
#if defined(__AVX2__)
    else found = (Part)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)((const char *)at + 2 * i))), 16);
#else
    else for (int lane = 0; lane < REGISTER; lane++) found[lane] = load(at, i + lane, 1);
#endif
    return found;
#endif
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
        const Words is_nan = differs(values, values);
        bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        bits = (bits & ~is_nan) | (0x7fc0 & is_nan);
        narrow(bits, (uint16_t *)at + i);
    } else {
        memcpy((float *)at + i, &values, sizeof values);
    }
}

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

#endif
