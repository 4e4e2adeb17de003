/* Products with weights in bfloat16 and in float32, for few tokens as well as for many:
 *
 *     y[j][o] = sum over i of x[j][i] W[o][i] + bias[o]
 *
 * An output is summed in the same order whatever tokens are beside it: a row computes the same numbers alone and in any
 * batch. Sums are float32. `floating_product.py` is the caller and says where it is used.
 *
 * In bfloat16, weights are packed as panels of 16 outputs, [panels, ceil(in / 2), 16, 2], so that one number of a register
 * is one output: processors with AVX-512 BF16 add two products of 16 outputs at once, those with AVX2 widen each half of
 * the pairs and multiply in float32. 16 pairs of a panel are a tile of AMX, where the processor has these. In float32
 * weights are read where the model has them, [out, in], and a register holds 16 inputs of one output.
 */
#include "../work.h"
#include "ahead.h"
#include "tiles.h"

#define CHUNK 112 /* tokens that one thread takes at a time, whose inputs stay in its cache */
#define FOUR 4    /* outputs that are summed together in float32 */
#define UNROLL _Pragma("GCC unroll 28") /* else sums are kept in memory and not in registers */

/* So many tokens of a panel find room in registers. */
#if defined(__AVX512F__)
#define SUMS 28
#define WIDE 6 /* tokens beside FOUR outputs in float32 */
#elif defined(__AVX2__)
#define SUMS 5
#define WIDE 1
#else
#define SUMS 4
#define WIDE 1
#endif

/* Two inputs of a token, as they are multiplied; `both`: the second one is there. */
#if defined(__AVX512BF16__)
typedef struct {
    uint16_t low, high;
} Pair;
INLINE Pair pair_of(const uint16_t *x, int both)
{
    Pair pair = {*x, 0};
    if (both) memcpy(&pair, x, sizeof pair);
    return pair;
}
#else
typedef struct {
    float low, high;
} Pair;
INLINE Pair pair_of(const uint16_t *x, int both) { return (Pair){load(x, 0, 1), both ? load(x, 1, 1) : 0}; }
#endif

/* `sums` of each token for the outputs of a panel, in so many registers: */
#if defined(__AVX512BF16__)
typedef __m512 Sums;
#define EACH 1
INLINE void add_pairs(Sums *sums, const uint16_t *weights, const Pair *x, const int tokens)
{
    const __m512bh both = (__m512bh)_mm512_loadu_si512(weights);
    UNROLL for (int t = 0; t < tokens; t++) {
        int32_t pair;
        memcpy(&pair, x + t, sizeof pair);
        sums[t] = _mm512_dpbf16_ps(sums[t], both, (__m512bh)_mm512_set1_epi32(pair));
    }
}
#elif defined(__AVX2__)
typedef __m256 Sums;
#define EACH 2
/* One half of the inputs after the other: the weights of both would leave too few registers to the sums. */
INLINE void add_pairs(Sums *sums, const uint16_t *weights, const Pair *x, const int tokens)
{
    const __m256i *both = (const __m256i *)weights, mask = _mm256_set1_epi32((int32_t)0xffff0000);
    const __m256 low = (__m256)_mm256_slli_epi32(_mm256_loadu_si256(both), 16);
    const __m256 low_too = (__m256)_mm256_slli_epi32(_mm256_loadu_si256(both + 1), 16);
    UNROLL for (int t = 0; t < tokens; t++) {
        const __m256 one = _mm256_broadcast_ss(&x[t].low);
        sums[2 * t] = low * one + sums[2 * t];
        sums[2 * t + 1] = low_too * one + sums[2 * t + 1];
    }
    const __m256 high = (__m256)_mm256_and_si256(_mm256_loadu_si256(both), mask);
    const __m256 high_too = (__m256)_mm256_and_si256(_mm256_loadu_si256(both + 1), mask);
    UNROLL for (int t = 0; t < tokens; t++) {
        const __m256 one = _mm256_broadcast_ss(&x[t].high);
        sums[2 * t] = high * one + sums[2 * t];
        sums[2 * t + 1] = high_too * one + sums[2 * t + 1];
    }
}
#else
typedef Lanes Sums;
#define EACH 1
INLINE void add_pairs(Sums *sums, const uint16_t *weights, const Pair *x, const int tokens)
{
    Words both;
    memcpy(&both, weights, sizeof both);
    UNROLL for (int t = 0; t < tokens; t++)
        sums[t] += (Lanes)(both << 16) * x[t].low + (Lanes)(both & 0xffff0000u) * x[t].high;
}
#endif

/* sums[t] = x[t] W^T of a panel, for `tokens` tokens, a constant wherever this is inlined. x [pairs, tokens]: one
 * address reaches all tokens of a pair. */
INLINE void sum_pairs(const uint16_t *weights, const Pair *x, int64_t pairs, float *sums, Ask *ask, const int tokens)
{
    Sums own[SUMS * EACH];
    UNROLL for (int s = 0; s < tokens * EACH; s++) own[s] = (Sums){0};
    for (int64_t i = 0, step; i < pairs;) {
        const char *at = (const char *)weights; /* to ask for what is there costs nothing */
        int64_t end = take_lines(ask, pairs - i, &at);
        step = end ? LINE : 0;
        end = end ? i + end : pairs;
        for (; i < end; i++, at += step, weights += 2 * LANES, x += tokens) {
            __builtin_prefetch((const char *)weights + AHEAD, 0, 2); /* the first cache is full of tokens */
            __builtin_prefetch(at, 0, 2);
            add_pairs(own, weights, x, tokens);
        }
    }
    UNROLL for (int s = 0; s < tokens * EACH; s++) memcpy(sums + s * LANES / EACH, own + s, sizeof *own);
}

static void sum_panel(const uint16_t *weights, const Pair *x, int64_t pairs, float *sums, int64_t tokens, Ask *ask)
{
#define FOR(tokens) case tokens: sum_pairs(weights, x, pairs, sums, ask, tokens); break;
    switch (tokens) {
    FOR(1) FOR(2) FOR(3) FOR(4)
#if SUMS > 4
    FOR(5)
#endif
#if SUMS == 28
    FOR(6) FOR(7) FOR(8) FOR(9) FOR(10) FOR(11) FOR(12) FOR(13) FOR(14) FOR(15) FOR(16)
    FOR(17) FOR(18) FOR(19) FOR(20) FOR(21) FOR(22) FOR(23) FOR(24) FOR(25) FOR(26) FOR(27) FOR(28)
#endif
    }
#undef FOR
}

/* The outputs of a panel, from their sums [tokens, LANES]. */
INLINE void put(const Product *work, const Member *member, const float *sums, char *y, int64_t output, int64_t tokens,
                const int bfloat16)
{
    const int64_t left = member->out - output;
    for (int64_t t = 0; t < tokens; t++, y += work->stride * (bfloat16 ? 2 : 4)) {
        Lanes results = lanes(sums, t * LANES, 0);
        if (member->bias) results += lanes(member->bias, output, 0);
        if (left >= LANES) store_lanes(y, output, results, bfloat16);
        else for (int64_t lane = 0; lane < left; lane++) store(y, output + lane, results[lane], bfloat16);
    }
}

/* The tokens of a chunk, in tiles that are summed together, as long as each other, so that none is short of sums. */
typedef struct {
    int64_t begin, end, tiles;
} Tiles;

INLINE Tiles tiles_of(const Product *work, int64_t chunk)
{
    const int64_t begin = chunk * CHUNK, left = work->tokens - begin, tokens = left < CHUNK ? left : CHUNK;
    return (Tiles){begin, begin + tokens, (tokens + SUMS - 1) / SUMS};
}

INLINE int64_t tile_at(const Tiles *tiles, int64_t tile)
{
    return tiles->begin + (tiles->end - tiles->begin) * tile / tiles->tiles;
}

/* The inputs of a chunk as `sum_pairs` reads them, one tile behind the other. */
static void arrange(const Product *work, const Tiles *tiles, Pair *to)
{
    const int64_t in = work->in, pairs = (in + 1) / 2;
    for (int64_t tile = 0; tile < tiles->tiles; tile++) {
        const int64_t from = tile_at(tiles, tile), tokens = tile_at(tiles, tile + 1) - from;
        const uint16_t *x = (const uint16_t *)work->x + from * in;
        for (int64_t t = 0; t < tokens; t++, x += in)
            for (int64_t i = 0; i < pairs; i++)
                to[i * tokens + t] = pair_of(x + 2 * i, 2 * i + 1 < in);
        to += pairs * tokens;
    }
}

static void multiply_pairs(const Product *work, const Member *member, const Tiles *tiles, const Pair *x,
                           int64_t output, char *y, Ask *ask)
{
    const int64_t pairs = (work->in + 1) / 2;
    const uint16_t *weights = (const uint16_t *)member->weights + output * pairs * 2;
    float sums[SUMS * LANES];
    ask->now = ask->of_piece;
    for (int64_t tile = 0; tile < tiles->tiles; tile++) {
        const int64_t from = tile_at(tiles, tile), tokens = tile_at(tiles, tile + 1) - from;
        sum_panel(weights, x + (from - tiles->begin) * pairs, pairs, sums, tokens, ask);
        put(work, member, sums, y + from * work->stride * 2, output, tokens, 1);
    }
}

#if TILES
/* Inputs of a tile. Where they do not make up whole tiles, registers are used. */
#define DEEP 32

/* The inputs of a chunk as tiles [tiles of tokens, in / DEEP, TILE_ROWS, DEEP]; tokens that are not there are 0. */
static void arrange_tiles(const Product *work, int64_t begin, int64_t tokens, uint16_t *to)
{
    const int64_t in = work->in;
    for (int64_t first = 0; first < tokens; first += TILE_ROWS)
        for (int64_t i = 0; i < in; i += DEEP)
            for (int64_t t = first; t < first + TILE_ROWS; t++, to += DEEP) {
                if (t < tokens) memcpy(to, (const uint16_t *)work->x + (begin + t) * in + i, DEEP * sizeof *to);
                else memset(to, 0, DEEP * sizeof *to);
            }
    keep_stores(to);
}

/* Two panels, whose weights are read together, or one; for two tiles of tokens or one: constants wherever this is
 * inlined. Of the panels that come next, the weights of the inputs from `ask` to `asked` are asked for. */
INLINE void sum_tiles(const uint16_t *weights, const uint16_t *x, int64_t in, float *sums, int64_t ask, int64_t asked,
                      const int panels, const int tiles)
{
    const int64_t panel = in * LANES, tile = in * TILE_ROWS;
    _tile_zero(0);
    if (panels == 2) _tile_zero(1);
    if (tiles == 2) _tile_zero(2);
    if (panels == 2 && tiles == 2) _tile_zero(3);
    for (int64_t i = 0; i < in; i += DEEP, weights += DEEP * LANES, x += DEEP * TILE_ROWS) {
        if (i >= ask && i < asked)
            UNROLL for (int line = 0; line < TILE_ROWS * panels; line++)
                __builtin_prefetch(weights + line / TILE_ROWS * panel + panels * panel + line % TILE_ROWS * DEEP);
        _tile_loadd(4, x, TILE_LINE);
        _tile_loadd(6, weights, TILE_LINE);
        _tile_dpbf16ps(0, 4, 6);
        if (panels == 2) {
            _tile_loadd(7, weights + panel, TILE_LINE);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tiles == 2) {
            _tile_loadd(5, x + tile, TILE_LINE);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (panels == 2 && tiles == 2) _tile_dpbf16ps(3, 5, 7);
    }
    /* [panels, tokens, LANES] */
    _tile_stored(0, sums, TILE_LINE);
    if (tiles == 2) _tile_stored(2, sums + TILE_ROWS * LANES, TILE_LINE);
    if (panels == 2) _tile_stored(1, sums + 2 * TILE_ROWS * LANES, TILE_LINE);
    if (panels == 2 && tiles == 2) _tile_stored(3, sums + 3 * TILE_ROWS * LANES, TILE_LINE);
}

/* As `put`, rounded by the processor, for which tiny numbers are 0: here all are, for chance decides which panels are
 * taken together. */
INLINE void put_one(const Product *work, const Member *member, const float *sums, char *y, int64_t output, int64_t tokens)
{
    const int64_t left = member->out - output;
    for (int64_t t = 0; t < tokens; t++, y += work->stride * 2) {
        Lanes results = lanes(sums, t * LANES, 0);
        if (member->bias) results += lanes(member->bias, output, 0);
        const __m256bh rounded = _mm512_cvtneps_pbh((__m512)results);
        if (left >= LANES) memcpy(y + output * 2, &rounded, sizeof rounded);
        else memcpy(y + output * 2, &rounded, (size_t)left * 2);
    }
}

/* The same of two whole panels. */
INLINE void put_two(const Product *work, const Member *member, const float *sums, char *y, int64_t output, int64_t tokens)
{
    const Lanes none = {0}, low = member->bias ? lanes(member->bias, output, 0) : none;
    const Lanes high = member->bias ? lanes(member->bias, output + LANES, 0) : none;
    for (int64_t t = 0; t < tokens; t++, y += work->stride * 2) {
        const Lanes one = lanes(sums, t * LANES, 0) + low;
        const Lanes two = lanes(sums, (2 * TILE_ROWS + t) * LANES, 0) + high;
        _mm512_storeu_si512(y + output * 2, (__m512i)_mm512_cvtne2ps_pbh((__m512)two, (__m512)one));
    }
}

/* One panel or two, for all tokens of a chunk. */
INLINE void multiply_tiles(const Product *work, const Member *member, int64_t begin, int64_t tokens, const uint16_t *x,
                           int64_t output, char *y, const int panels)
{
    const int64_t in = work->in;
    const uint16_t *weights = (const uint16_t *)member->weights + output * in;
    float sums[4 * TILE_ROWS * LANES] __attribute__((aligned(64)));
    /* What comes next is asked for bit by bit, for no memory brings it while one pair of tiles is multiplied. */
    const int64_t passes = (tokens + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS);
    for (int64_t pass = 0, t = 0, step; pass < passes; pass++, t += step, x += step * in) {
        const int64_t left = tokens - t, ask = in * pass / passes, asked = in * (pass + 1) / passes;
        step = left > TILE_ROWS ? 2 * TILE_ROWS : TILE_ROWS;
        if (step > TILE_ROWS) sum_tiles(weights, x, in, sums, ask, asked, panels, 2);
        else sum_tiles(weights, x, in, sums, ask, asked, panels, 1);
        const int64_t there = left < step ? left : step;
        char *to = y + (begin + t) * work->stride * 2;
        if (panels == 2 && output + 2 * LANES <= member->out) put_two(work, member, sums, to, output, there);
        else
            for (int p = 0; p < panels; p++)
                put_one(work, member, sums + p * 2 * TILE_ROWS * LANES, to, output + p * LANES, there);
    }
}
#endif

/* sums[t][o] = x[t] . W[o] for `tokens` tokens and `outputs` outputs, constants wherever this is inlined. */
INLINE void dot(const float *weights, const float *x, int64_t in, float *sums, const int tokens, const int outputs)
{
    Lanes own[WIDE * FOUR];
    int64_t i = 0;
    UNROLL for (int s = 0; s < tokens * outputs; s++) own[s] = (Lanes){0};
    for (; i + LANES <= in; i += LANES)
        UNROLL for (int s = 0; s < tokens * outputs; s++)
            own[s] += lanes(weights, s % outputs * in + i, 0) * lanes(x, s / outputs * in + i, 0);
    for (int s = 0; s < tokens * outputs; s++) {
        float sum = 0;
        for (int lane = 0; lane < LANES; lane++) sum += own[s][lane];
        for (int64_t rest = i; rest < in; rest++) sum += weights[s % outputs * in + rest] * x[s / outputs * in + rest];
        sums[s / outputs * LANES + s % outputs] = sum;
    }
}

static void dots(const float *weights, const float *x, int64_t in, float *sums, int64_t tokens)
{
    switch (tokens) {
    case 1: dot(weights, x, in, sums, 1, FOUR); break;
#if WIDE == 6
    case 2: dot(weights, x, in, sums, 2, FOUR); break;
    case 3: dot(weights, x, in, sums, 3, FOUR); break;
    case 4: dot(weights, x, in, sums, 4, FOUR); break;
    case 5: dot(weights, x, in, sums, 5, FOUR); break;
    case 6: dot(weights, x, in, sums, 6, FOUR); break;
#endif
    }
}

static void multiply_plain(const Product *work, const Member *member, const Tiles *tiles, int64_t output, char *y)
{
    const int64_t in = work->in, left = member->out - output, outputs = left < LANES ? left : LANES;
    const float *weights = (const float *)member->weights + output * in;
    float sums[WIDE * LANES] = {0};
    for (int64_t t = tiles->begin, tokens; t < tiles->end; t += tokens) {
        const float *x = (const float *)work->x + t * in;
        tokens = tiles->end - t < WIDE ? tiles->end - t : WIDE;
        int64_t o = 0;
        for (; o + FOUR <= outputs; o += FOUR) dots(weights + o * in, x, in, sums + o, tokens);
        for (; o < outputs; o++)
            for (int64_t one = 0; one < tokens; one++)
                dot(weights + o * in, x + one * in, in, sums + one * LANES + o, 1, 1);
        put(work, member, sums, y + t * work->stride * 4, output, tokens, 0);
    }
}

#if TILES
static void multiply_by_tiles(Product *work)
{
    const int64_t chunks = (work->tokens + TILE_CHUNK - 1) / TILE_CHUNK;
    int64_t next, some, arranged = -1;
    uint16_t *x = (uint16_t *)scratch_of((size_t)(work->in * TILE_CHUNK / 2 + LANES));
    if (!x) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    x = (uint16_t *)(((uintptr_t)x + 63) / 64 * 64);
    begin_tiles();
    while ((some = take(&work->next, chunks * work->pieces, work->threads, &next)))
        for (int64_t end = next + some, together; next < end; next += together) {
            const Member *member;
            int64_t piece = next % work->pieces;
            char *y = member_of(work, &piece, FLOATING_PIECE, &member);
            const int64_t begin = next / work->pieces * TILE_CHUNK, left = work->tokens - begin;
            const int64_t tokens = left < TILE_CHUNK ? left : TILE_CHUNK, output = piece * FLOATING_PIECE;
            together = next + 1 < end && output + FLOATING_PIECE < member->out ? 2 : 1;
            if (begin != arranged) arrange_tiles(work, begin, tokens, x);
            arranged = begin;
            if (together == 2) multiply_tiles(work, member, begin, tokens, x, output, y, 2);
            else multiply_tiles(work, member, begin, tokens, x, output, y, 1);
        }
    end_tiles();
}
#endif

void gw_multiply_some(void *product)
{
    Product *work = product;
#if TILES
    if (work->bfloat16 && work->in % DEEP == 0 && may_use_tiles()) {
        multiply_by_tiles(work);
        return;
    }
#endif
    const int64_t chunks = (work->tokens + CHUNK - 1) / CHUNK, pairs = (work->in + 1) / 2;
    int64_t next, some, arranged = -1;
    Ask ask = ask_of(work);
    while ((some = take(&work->next, chunks * work->pieces, work->threads, &next)))
        for (; some--; next++) {
            const Member *member;
            int64_t piece = next % work->pieces;
            char *y = member_of(work, &piece, FLOATING_PIECE, &member);
            const Tiles tiles = tiles_of(work, next / work->pieces);
            if (work->bfloat16) {
                Pair *x = (Pair *)scratch_of((size_t)(pairs * CHUNK) * sizeof(Pair) / sizeof(float));
                if (!x) {
                    __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
                    return;
                }
                if (tiles.begin != arranged) arrange(work, &tiles, x);
                arranged = tiles.begin;
                multiply_pairs(work, member, &tiles, x, piece * FLOATING_PIECE, y, &ask);
            } else {
                multiply_plain(work, member, &tiles, piece * FLOATING_PIECE, y);
            }
        }
}

/* y as above, of x [tokens, in]. 0, or 1 if out of memory. */
int gw_multiply(int64_t tokens, int64_t in, int64_t members, int64_t bfloat16, const void *member, const void *x, void *y,
                 int64_t threads, Parallel parallel)
{
    Product work = product_of(tokens, in, members, bfloat16, member, x, y, FLOATING_PIECE, threads);
    if (parallel && threads > 1 && tokens && work.pieces > 1) parallel(gw_multiply_some, &work, (unsigned)threads, 0);
    else gw_multiply_some(&work);
    return work.failed;
}

/* Whether these products are faster here than those of torch. */
int gw_multiplies_well(int64_t bfloat16)
{
#if defined(__AVX512BF16__) || (defined(__AVX2__) && !defined(__AVX512F__))
    const int pairs = 1;
#else
    const int pairs = 0;
#endif
#if defined(__AVX512F__)
    const int numbers = 1;
#else
    const int numbers = 0;
#endif
    return bfloat16 ? pairs : numbers;
}
