/* Products with weights of 8 bits. Each row of x is rounded to 8 bits by its own scale, so that no row depends on others:
 *
 *     y[j] = (sum over i of q[j][i] W[o][i]) * x_scale[j] * w_scale[o] + bias[o],   q[j] = round(x[j] / x_scale[j])
 *
 * The sum is of integers, and therefore the same in whatever order and in whatever blocks it is made. `int8_linear.py` is
 * the caller, packs the weights and does the same by operations of torch.
 *
 * Packed weights are panels of 64 outputs: [panels, ceil(in / 4), 64, 4], each number as W + 128, because the products of
 * processors take one operand without a sign. What the 128 add is 128 times the sum of q[j]. 16 outputs of 16 fours of
 * inputs are a tile of AMX, where the processor has these.
 */
#include <float.h>
#include <math.h>
#if defined(__AVX512VNNI__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "ahead.h"
#include "tiles.h"

#define PANEL INT8_PIECE   /* outputs of a panel, in groups of LANES */
#define GROUPS (PANEL / LANES)
#define CHUNK 112          /* tokens that one thread takes at a time, which stay in its cache */
#define UNROLL _Pragma("GCC unroll 28") /* else sums are kept in memory and not in registers */

typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

/* The sums of LANES outputs, and how four numbers of each are added to them. */
#if defined(__AVX512VNNI__)
#define TOKENS 28 /* of one group of outputs: so many sums find room in registers */
typedef __m512i Sums;
INLINE Sums no_sums(void) { return _mm512_setzero_si512(); }
INLINE Sums add_four(Sums sums, const uint8_t *weights, const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_dpbusd_epi32(sums, _mm512_loadu_si512(weights), _mm512_set1_epi32(four));
}
INLINE void put_sums(Sums sums, void *to) { _mm512_storeu_si512(to, sums); }
#elif defined(__AVX2__)
#define TOKENS 2
typedef struct { __m256i part[4]; } Sums; /* two sums of two products for each of four outputs */
INLINE Sums no_sums(void) { return (Sums){0}; }
INLINE Sums add_four(Sums sums, const uint8_t *weights, const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
    for (int i = 0; i < 4; i++) {
        const __m256i w = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(weights + 16 * i)));
        sums.part[i] = _mm256_add_epi32(sums.part[i], _mm256_madd_epi16(w, wide));
    }
    return sums;
}
INLINE void put_sums(Sums sums, void *to)
{
    for (int i = 0; i < 4; i++) {
        int32_t pairs[8];
        _mm256_storeu_si256((__m256i *)pairs, sums.part[i]);
        for (int lane = 0; lane < 4; lane++) ((int32_t *)to)[4 * i + lane] = pairs[2 * lane] + pairs[2 * lane + 1];
    }
}
#else
#define TOKENS 2
typedef struct { int32_t lane[LANES]; } Sums;
INLINE Sums no_sums(void) { return (Sums){{0}}; }
INLINE Sums add_four(Sums sums, const uint8_t *weights, const int8_t *x)
{
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) sums.lane[lane] += (int32_t)weights[4 * lane + i] * (int32_t)x[i];
    return sums;
}
INLINE void put_sums(Sums sums, void *to) { memcpy(to, &sums, sizeof sums); }
#endif

#if TILES
/* Inputs of a tile. Where they do not make up whole tiles, registers are used. */
#define DEEP 64
#endif

INLINE int by_tiles(const Product *work)
{
#if TILES
    return work->padded % DEEP == 0 && may_use_tiles();
#else
    return 0;
#endif
}

/* Tokens that are summed together: all blocks are as long as each other, so that none is short of sums. */
typedef struct {
    int64_t begin, tokens;
} Block;

INLINE Block block_at(const Product *work, int64_t block)
{
    const int64_t blocks = (work->tokens + TOKENS - 1) / TOKENS, begin = work->tokens * block / blocks;
    return (Block){begin, work->tokens * (block + 1) / blocks - begin};
}

/* A row with a number that is not finite gets a scale that is none either, and so do all its outputs. */
INLINE void round_token(const Product *work, int64_t token, const int bfloat16)
{
    const char *x = work->x + token * work->in * (bfloat16 ? 2 : 4);
    int8_t *q = work->q + token * work->padded;
    float most = 0;
    int32_t sum = 0, lost = 0;
#pragma omp simd reduction(max : most) reduction(| : lost)
    for (int64_t i = 0; i < work->in; i++) {
        const float size = fabsf(load(x, i, bfloat16));
        most = size > most ? size : most;
        lost |= !(size <= FLT_MAX);
    }
    /* Of numbers too small to divide by nothing is left. */
    const float by = most > 1e-30f && !lost ? 127.0f / most : 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < work->in; i++) {
        const float scaled = load(x, i, bfloat16) * by;
        const int32_t rounded = lost ? 0 : (int32_t)__builtin_rintf(scaled);
        q[i] = (int8_t)rounded;
        sum += rounded;
    }
    memset(q + work->in, 0, (size_t)(work->padded - work->in));
    work->x_scale[token] = lost ? NAN : most / 127.0f;
    work->x_sum[token] = sum;
}

void gw_round_tokens(void *product, int64_t from, int64_t to)
{
    const Product *work = product;
    for (int64_t token = from; token < to; token++) {
        if (work->bfloat16) round_token(work, token, 1);
        else round_token(work, token, 0);
    }
}

void gw_round_some(void *product)
{
    Product *work = product;
    for (;;) {
        const int64_t token = __atomic_fetch_add(&work->next_token, 1, __ATOMIC_RELAXED);
        if (token >= work->tokens) return;
        gw_round_tokens(work, token, token + 1);
    }
}

/* LANES outputs of each token of a block, from the sums of their products, of which each `step`-th is one of these. */
INLINE void put(const Product *work, const Member *member, const Ints *sums, int64_t step, char *y, Block block,
                int64_t output, const int bfloat16)
{
    const int64_t left = member->out - output, line = work->stride * (bfloat16 ? 2 : 4);
    const Lanes scale = lanes(member->scale, output, 0), none = {0};
    const Lanes bias = member->bias ? lanes(member->bias, output, 0) : none;
    char *row = y + block.begin * line;
    for (int64_t t = 0; t < block.tokens; t++, row += line) {
        const int64_t token = block.begin + t;
        const Ints whole = sums[t * step] - 128 * work->x_sum[token];
        Lanes results = __builtin_convertvector(whole, Lanes) * (work->x_scale[token] * scale);
        if (member->bias) results += bias;
        if (left >= LANES) store_lanes(row, output, results, bfloat16);
        else for (int64_t lane = 0; lane < left; lane++) store(row, output + lane, results[lane], bfloat16);
    }
}

/* sums [groups, tokens] of some groups of a panel for the tokens of a block, constants wherever this is inlined.
 * coming: after so many bytes come the weights that are asked for. */
INLINE void sum_fours(const uint8_t *weights, const int8_t *q, int64_t padded, int64_t coming, Ints *sums, Ask *ask,
                      const int tokens, const int groups)
{
    Sums own[TOKENS];
    UNROLL for (int s = 0; s < tokens * groups; s++) own[s] = no_sums();
    for (int64_t i = 0, step; i < padded;) {
        const char *at = (const char *)weights; /* to ask for what is there costs nothing */
        int64_t end = take_lines(ask, (padded - i) / 4, &at);
        step = end ? LINE : 0;
        end = end ? i + 4 * end : padded;
        for (; i < end; i += 4, at += step, weights += 4 * PANEL, q += 4 * tokens) {
            __builtin_prefetch(at, 0, 2);
            UNROLL for (int g = 0; g < groups; g++) {
                __builtin_prefetch(weights + 4 * LANES * g + coming, 0, 2); /* sets of the first cache are few */
                UNROLL for (int t = 0; t < tokens; t++)
                    own[g * tokens + t] = add_four(own[g * tokens + t], weights + 4 * LANES * g, q + 4 * t);
            }
        }
    }
    UNROLL for (int s = 0; s < tokens * groups; s++) put_sums(own[s], sums + s);
}

/* Few tokens have room for the sums of several groups, which are read together. */
INLINE int groups_for(int64_t tokens)
{
    return tokens * GROUPS <= TOKENS ? GROUPS : tokens * 2 <= TOKENS ? 2 : 1;
}

static void sum_groups(const uint8_t *weights, const int8_t *q, int64_t padded, int64_t coming, Ints *sums, Ask *ask,
                       int64_t tokens)
{
#define FOR(tokens) case tokens: sum_fours(weights, q, padded, coming, sums, ask, tokens, groups_for(tokens)); break;
    switch (tokens) {
    FOR(1) FOR(2)
#if TOKENS == 28
    FOR(3) FOR(4) FOR(5) FOR(6) FOR(7) FOR(8) FOR(9) FOR(10) FOR(11) FOR(12) FOR(13) FOR(14) FOR(15) FOR(16)
    FOR(17) FOR(18) FOR(19) FOR(20) FOR(21) FOR(22) FOR(23) FOR(24) FOR(25) FOR(26) FOR(27) FOR(28)
#endif
    }
#undef FOR
}

/* The rounded tokens of some blocks, as `sum_fours` reads them: [fours, tokens, 4] of each block. Each thread does it
 * for itself, for lines of memory that several threads write would go from one to the other. */
static void arrange(const Product *work, int64_t block, int64_t end, int8_t *to)
{
    for (; block < end; block++) {
        const Block at = block_at(work, block);
        for (int64_t t = 0; t < at.tokens; t++) {
            const int8_t *q = work->q + (at.begin + t) * work->padded;
            for (int64_t i = 0; i < work->padded; i += 4) memcpy(to + i * at.tokens + 4 * t, q + i, 4);
        }
        to += at.tokens * work->padded;
    }
}

/* A panel for the tokens of some blocks, which are as long as each other or differ by one. q: these, arranged. */
INLINE void multiply_panel(const Product *work, int64_t panel, int64_t block, int64_t end, const int8_t *q, Ask *ask,
                           const int bfloat16)
{
    const Member *member;
    char *y = member_of(work, &panel, PANEL, &member);
    const int64_t padded = work->padded, first = panel * PANEL;
    const uint8_t *weights = (const uint8_t *)member->weights + panel * PANEL * padded;
    ask->now = ask->of_piece;
    for (; block < end; block++) {
        const Block at = block_at(work, block);
        const int groups = groups_for(at.tokens);
        Ints sums[TOKENS];
        for (int group = 0; group < GROUPS && first + group * LANES < member->out; group += groups) {
            const int64_t output = first + group * LANES;
            /* What is read next: the same panel, its next groups, or the first ones of the next panel. */
            const int64_t coming = groups == GROUPS ? AHEAD
                                   : group + groups < GROUPS ? 4 * LANES * groups : PANEL * padded - 4 * LANES * group;
            sum_groups(weights + 4 * LANES * group, q, padded, coming, sums, ask, at.tokens);
            for (int g = 0; g < groups && output + g * LANES < member->out; g++)
                put(work, member, sums + g * at.tokens, 1, y, at, output + g * LANES, bfloat16);
        }
        q += at.tokens * padded;
    }
}

#if TILES
/* The sums of two groups of a panel, for two tiles of tokens or one, which is a constant wherever this is inlined. Of the
 * panel that comes next, the weights of the inputs from `ask` to `asked` are asked for. */
INLINE void sum_tiles(const uint8_t *weights, const int8_t *q, int64_t padded, int32_t *sums, int64_t ask, int64_t asked,
                      const int tiles)
{
    const int8_t *second = q + TILE_ROWS * padded;
    _tile_zero(0);
    _tile_zero(1);
    if (tiles == 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < padded; i += DEEP, weights += DEEP * PANEL) {
        if (i >= ask && i < asked)
            UNROLL for (int line = 0; line < 2 * TILE_ROWS; line++)
                __builtin_prefetch(weights + PANEL * padded + line / 2 * 4 * PANEL + line % 2 * TILE_LINE);
        _tile_loadd(4, q + i, padded);
        _tile_loadd(6, weights, 4 * PANEL);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, weights + TILE_LINE, 4 * PANEL);
        _tile_dpbsud(1, 4, 7);
        if (tiles == 2) {
            _tile_loadd(5, second + i, padded);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
    }
    /* [tokens, 2, LANES] */
    _tile_stored(0, sums, 2 * TILE_LINE);
    _tile_stored(1, sums + LANES, 2 * TILE_LINE);
    if (tiles == 2) {
        _tile_stored(2, sums + 2 * TILE_ROWS * LANES, 2 * TILE_LINE);
        _tile_stored(3, sums + 2 * TILE_ROWS * LANES + LANES, 2 * TILE_LINE);
    }
}

INLINE void multiply_tiles(const Product *work, const Member *member, int64_t panel, int64_t begin, int64_t end, char *y,
                           const int bfloat16)
{
    const uint8_t *weights = (const uint8_t *)member->weights + panel * PANEL * work->padded;
    /* What comes next is asked for bit by bit, for no memory brings it while one pair of tiles is multiplied. */
    const int64_t passes = (end - begin + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS), padded = work->padded;
    Ints sums[4 * TILE_ROWS]; /* [tokens, 2] */
    for (int group = 0; group < PANEL / LANES; group += 2) {
        const int64_t output = panel * PANEL + group * LANES;
        if (output >= member->out) return;
        for (int64_t pass = 0, token = begin, step; pass < passes; pass++, token += step) {
            const int64_t left = end - token, ask = padded * pass / passes, asked = padded * (pass + 1) / passes;
            const uint8_t *from = weights + 4 * LANES * group;
            const int8_t *q = work->q + token * padded;
            step = left > TILE_ROWS ? 2 * TILE_ROWS : TILE_ROWS;
            if (step > TILE_ROWS) sum_tiles(from, q, padded, (int32_t *)sums, ask, asked, 2);
            else sum_tiles(from, q, padded, (int32_t *)sums, ask, asked, 1);
            const Block block = {token, left < step ? left : step};
            for (int g = 0; g < 2 && output + g * LANES < member->out; g++)
                put(work, member, sums + g, 2, y, block, output + g * LANES, bfloat16);
        }
    }
}

static void multiply_by_tiles(Product *work)
{
    const int64_t chunks = (work->tokens + TILE_CHUNK - 1) / TILE_CHUNK;
    int64_t next, some;
    begin_tiles();
    while ((some = take(&work->next, chunks * work->pieces, work->threads, &next)))
        for (; some--; next++) {
            const int64_t begin = next / work->pieces * TILE_CHUNK, left = work->tokens - begin;
            const int64_t end = begin + (left < TILE_CHUNK ? left : TILE_CHUNK);
            const Member *member;
            int64_t panel = next % work->pieces;
            char *y = member_of(work, &panel, PANEL, &member);
            if (work->bfloat16) multiply_tiles(work, member, panel, begin, end, y, 1);
            else multiply_tiles(work, member, panel, begin, end, y, 0);
        }
    end_tiles();
}
#endif

void gw_multiply_int8_some(void *product)
{
    Product *work = product;
#if TILES
    if (by_tiles(work)) {
        multiply_by_tiles(work);
        return;
    }
#endif
    const int64_t blocks = (work->tokens + TOKENS - 1) / TOKENS, chunks = (work->tokens + CHUNK - 1) / CHUNK;
    int64_t next, some, arranged = -1;
    Ask ask = ask_of(work);
    int8_t *q = (int8_t *)scratch_of((size_t)(CHUNK * work->padded) / sizeof(float));
    if (!q) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    while ((some = take(&work->next, chunks * work->pieces, work->threads, &next)))
        for (; some--; next++) {
            const int64_t chunk = next / work->pieces, begin = blocks * chunk / chunks, end = blocks * (chunk + 1) / chunks;
            if (chunk != arranged) arrange(work, begin, end, q);
            arranged = chunk;
            if (work->bfloat16) multiply_panel(work, next % work->pieces, begin, end, q, &ask, 1);
            else multiply_panel(work, next % work->pieces, begin, end, q, &ask, 0);
        }
}

/* y as above, of x [tokens, in]. 0, or 1 if out of memory. */
int gw_multiply_int8(int64_t tokens, int64_t in, int64_t members, int64_t bfloat16, const void *member, const void *x,
                     void *y, int64_t threads, Parallel parallel)
{
    Product work = product_of(tokens, in, members, bfloat16, member, x, y, PANEL, threads);
    if (!tokens) return 0;
    float *room = malloc((size_t)INT8_TOKENS(tokens) * (2 + (size_t)work.padded / 4) * sizeof(float));
    if (!room) return 1;
    work.x_scale = room;
    work.x_sum = (int32_t *)(room + INT8_TOKENS(tokens));
    work.q = (int8_t *)(room + 2 * INT8_TOKENS(tokens));
    if (parallel && threads > 1 && tokens * in > SMALL) parallel(gw_round_some, &work, (unsigned)threads, 0);
    else gw_round_some(&work);
    if (parallel && threads > 1 && work.pieces > 1) parallel(gw_multiply_int8_some, &work, (unsigned)threads, 0);
    else gw_multiply_int8_some(&work);
    free(room);
    return work.failed;
}
