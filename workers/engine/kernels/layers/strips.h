/* What some queries and a strip of keys have to do with each other, in float32 and by pairs of bfloat16: the products and
 * shares of `attention.c`, for several tokens of a row. */
#ifndef GUIDEWAY_STRIPS_H
#define GUIDEWAY_STRIPS_H

#include "one_token.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>
#define PAIRS 1 /* of bfloat16 are multiplied and summed by one instruction */
#else
#define PAIRS 0
#endif

#define STRIP 64  /* keys that are taken together */
#define QUERIES 8 /* queries that are taken together, so that a key is read once for all of them */

/* to[i][k] = keys[k][i] for a page; `to` [wide, PAGE] is zero from dim on. Four perfect shuffles transpose. */
INLINE void turn_page(const char *keys, float *to, const int64_t dim, const int64_t wide, const int bfloat16)
{
    int64_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        Lanes a[LANES], b[LANES];
        for (int k = 0; k < PAGE; k++) a[k] = lanes(keys, k * dim + i, bfloat16);
        for (int round = 0; round < 2; round++) {
            for (int j = 0; j < LANES / 2; j++) {
                b[2 * j] = LOW(a[j], a[j + LANES / 2]);
                b[2 * j + 1] = HIGH(a[j], a[j + LANES / 2]);
            }
            for (int j = 0; j < LANES / 2; j++) {
                a[2 * j] = LOW(b[j], b[j + LANES / 2]);
                a[2 * j + 1] = HIGH(b[j], b[j + LANES / 2]);
            }
        }
        memcpy(to + i * PAGE, a, sizeof a);
    }
    for (; i < wide; i++)
        for (int k = 0; k < PAGE; k++) to[i * PAGE + k] = i < dim ? load(keys, k * dim + i, bfloat16) : 0.0f;
}

/* scores[q][k] = queries[q] . keys[k] for QUERIES queries and the keys of some pages, turned */
INLINE void score(const float *queries, const float *turned, float *scores, int64_t pages, const int64_t wide)
{
    for (int64_t page = 0; page < pages; page++)
        for (int some = 0; some < PAGE; some += REGISTER) {
            Part sums[QUERIES] = {0};
            for (int64_t i = 0; i < wide; i++) {
                const Part keys = part(turned, (page * wide + i) * PAGE + some, 0);
                for (int q = 0; q < QUERIES; q++) sums[q] += queries[q * wide + i] * keys;
            }
            for (int q = 0; q < QUERIES; q++) memcpy(scores + q * STRIP + page * PAGE + some, sums + q, sizeof *sums);
        }
}

#define BESIDE (REGISTER == LANES ? 2 : 1) /* vectors of values for which a share is read once */

/* sums[q] = shrink[q] sums[q] + scores[q] values */
INLINE void add_values(const float *scores, const float *values, const float *shrink, float *sums, int64_t keys,
                       const int64_t wide)
{
    for (int64_t i = 0; i < wide; i += BESIDE * REGISTER) {
        Part own[QUERIES][BESIDE];
        for (int q = 0; q < QUERIES; q++)
            for (int j = 0; j < BESIDE; j++) own[q][j] = part(sums, q * wide + i + j * REGISTER, 0) * shrink[q];
        for (int64_t k = 0; k < keys; k++)
            for (int j = 0; j < BESIDE; j++) {
                const Part value = part(values, k * wide + i + j * REGISTER, 0);
                for (int q = 0; q < QUERIES; q++) own[q][j] += scores[q * STRIP + k] * value;
            }
        for (int q = 0; q < QUERIES; q++)
            for (int j = 0; j < BESIDE; j++) memcpy(sums + q * wide + i + j * REGISTER, &own[q][j], sizeof own[q][j]);
    }
}

/* The same two by pairs of bfloat16, where there are such products: of two numbers of a head, and of two keys. ---------- */

/* sums + a pair of each lane times the pair that `pair` points to */
INLINE Lanes add_pair(Lanes sums, Words pairs, const uint16_t *pair)
{
#if PAIRS
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return (Lanes)_mm512_dpbf16_ps((__m512)sums, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(both));
#else
    (void)pairs, (void)pair;
    return sums;
#endif
}

/* The nearest number that bfloat16 has, of one that is not far from 0 */
INLINE float rounded(float value)
{
    union { float value; uint32_t bits; } word = {value};
    word.bits = (word.bits + 0x7fff + ((word.bits >> 16) & 1)) & 0xffff0000u;
    return word.value;
}

/* to[i] = from[i], which are rounded, for whole vectors */
INLINE void narrow_all(const float *from, uint16_t *to, int64_t count)
{
    for (int64_t i = 0; i < count; i += LANES) narrow((Words)lanes(from, i, 0) >> 16, to + i);
}

/* queries [QUERIES, wide]; turned [pages, wide / 2, PAGE, 2] */
INLINE void score_pairs(const uint16_t *queries, const float *turned, float *scores, int64_t pages, const int64_t wide)
{
    for (int64_t page = 0; page < pages; page++) {
        Lanes sums[QUERIES] = {0};
        for (int64_t i = 0; i < wide / 2; i++) {
            const Words keys = (Words)lanes(turned, (page * wide / 2 + i) * PAGE, 0);
            for (int q = 0; q < QUERIES; q++) sums[q] = add_pair(sums[q], keys, queries + q * wide + 2 * i);
        }
        for (int q = 0; q < QUERIES; q++) store_lanes(scores, q * STRIP + page * PAGE, sums[q], 0);
    }
}

/* LANES pairs of a row of `dim` numbers, from pair i on; zero where there are none */
INLINE Words pairs_of(const char *row, int64_t i, const int64_t dim)
{
    Words pairs = {0};
    const int64_t left = dim / 2 - i;
    if (left > 0) memcpy(&pairs, row + 4 * i, left < LANES ? (size_t)(4 * left) : sizeof pairs);
    return pairs;
}

/* to[i] = (row[i], next[i]); of 2 LANES numbers those with an even i come first */
INLINE void pair_up(const char *row, const char *next, uint32_t *to, const int64_t dim, const int64_t wide)
{
    for (int64_t i = 0; i < wide / 2; i += LANES) {
        const Words a = pairs_of(row, i, dim), b = next ? pairs_of(next, i, dim) : (Words){0};
        const Words even = (a & 0xffff) | (b << 16), odd = (a >> 16) | (b & 0xffff0000u);
        memcpy(to + 2 * i, &even, sizeof even);
        memcpy(to + 2 * i + LANES, &odd, sizeof odd);
    }
}
INLINE int64_t paired(int64_t i) { return i / (2 * LANES) * (2 * LANES) + i % 2 * LANES + i % (2 * LANES) / 2; }

/* shares [QUERIES, STRIP]; values [keys / 2, wide], as `pair_up` makes them, and so are the sums */
INLINE void add_value_pairs(const uint16_t *shares, const uint32_t *values, const float *shrink, float *sums,
                            int64_t keys, const int64_t wide)
{
    for (int64_t i = 0; i < wide; i += 2 * LANES) {
        Lanes own[QUERIES][2];
        for (int q = 0; q < QUERIES; q++)
            for (int j = 0; j < 2; j++) own[q][j] = lanes(sums, q * wide + i + j * LANES, 0) * shrink[q];
        for (int64_t k = 0; k < keys; k += 2) {
            Words one, other;
            memcpy(&one, values + k / 2 * wide + i, sizeof one);
            memcpy(&other, values + k / 2 * wide + i + LANES, sizeof other);
            for (int q = 0; q < QUERIES; q++) {
                own[q][0] = add_pair(own[q][0], one, shares + q * STRIP + k);
                own[q][1] = add_pair(own[q][1], other, shares + q * STRIP + k);
            }
        }
        for (int q = 0; q < QUERIES; q++)
            for (int j = 0; j < 2; j++) store_lanes(sums, q * wide + i + j * LANES, own[q][j], 0);
    }
}

INLINE Lanes larger(Lanes a, Lanes b) { return where(is_more(a, b), a, b); }

/* Lane q, and lane q + QUERIES: the sum, or the largest, of the lanes of parts[q]; `parts` is not kept. */
INLINE Lanes across(Lanes *parts, const int summed)
{
    for (int half = QUERIES / 2; half; half /= 2)
        for (int j = 0; j < half; j++) {
            const Lanes low = LOW(parts[j], parts[j + half]), high = HIGH(parts[j], parts[j + half]);
            parts[j] = summed ? low + high : larger(low, high);
        }
    const Lanes other = (Lanes)SWAPPED(parts[0]);
    return summed ? parts[0] + other : larger(parts[0], other);
}

/* The scores of QUERIES queries in a strip become shares of their sums, rounded for `pairs`; the first valid[q] keys are
 * not behind query q. Keeps the largest score and the sum so far; what was summed before shrinks by `shrink`. All are
 * summed in one order, whatever queries stand together: a row computes the same numbers alone and in any batch. */
INLINE void shares(float *scores, const int64_t *valid, float *most, float *total, float *shrink, const int pairs)
{
    Lanes parts[QUERIES];
    float largest[LANES], sums[LANES];
    for (int q = 0; q < QUERIES; q++) {
        for (int64_t k = valid[q]; k < STRIP; k++) scores[q * STRIP + k] = -INFINITY;
        parts[q] = lanes(scores, q * STRIP, 0);
        for (int k = LANES; k < STRIP; k += LANES) parts[q] = larger(parts[q], lanes(scores, q * STRIP + k, 0));
    }
    store_lanes(largest, 0, across(parts, 0), 0);
    for (int q = 0; q < QUERIES; q++) largest[q] = most[q] > largest[q] ? most[q] : largest[q];
    for (int q = 0; q < QUERIES; q++) {
        float *own = scores + q * STRIP;
#pragma omp simd
        for (int k = 0; k < STRIP; k++) {
            const float share = exp_of(own[k] - largest[q]);
            own[k] = pairs ? rounded(share) : share;
        }
        for (int64_t k = valid[q]; k < STRIP; k++) own[k] = 0;
        parts[q] = lanes(own, 0, 0);
        for (int k = LANES; k < STRIP; k += LANES) parts[q] += lanes(own, k, 0);
    }
    store_lanes(sums, 0, across(parts, 1), 0);
#pragma omp simd
    for (int q = 0; q < QUERIES; q++) {
        shrink[q] = most[q] == largest[q] ? 1.0f : exp_of(most[q] - largest[q]);
        most[q] = largest[q];
        total[q] = total[q] * shrink[q] + sums[q];
    }
}

#endif
