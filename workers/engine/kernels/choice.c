/* Choosing the next token of every row from its logits: the likeliest, or one drawn.
 *
 * `native_choice.py` is the caller; `text/sampling.py` says what is computed and does the same by operations of torch.
 */
#include "kernels.h"

#include <math.h>

#define TILE 64 /* tokens; a block of the generator gives four words, so 16 blocks give one tile its noise */
#define NOISE_MOST 23.0f /* no noise is more: -ln(-ln(1 - 2^-33)) is 22.9 */
#define NEAR 1e-4f /* scores that may win have an error in float32 of less than a tenth of this */
#define CLOSE_MOST 32

typedef struct {
    int64_t rows, vocabulary;
    const float *logits;        /* [rows, vocabulary] */
    const float *inverse;       /* [rows] 1 / temperature; 0: the likeliest is taken */
    const double *top_p;        /* [rows] */
    const uint64_t *seeds;      /* [rows] */
    const int64_t *places;      /* [rows] */
    int64_t *tokens;            /* [rows] */
    int64_t next;
    int failed;
} Choices;

/* The tokens that may be drawn: those above `least`, and of those equal to it the ones up to `last`. */
typedef struct {
    float least; /* as `scaled` is: (logit - the largest) / temperature */
    int64_t last;
} Nucleus;

/* A token whose score is among the highest. */
typedef struct {
    int64_t token;
    uint32_t word;
    float about; /* its score in float32 */
} Close;

typedef uint64_t Wides __attribute__((vector_size(4 * LANES)));
typedef int32_t Signed __attribute__((vector_size(4 * LANES)));

/* Both halves of the products of x and `by`. */
INLINE void multiply(Words x, uint64_t by, Words *high, Words *low)
{
    const uint64_t half = 0xffffffffu;
    const Wides even = ((Wides)x & half) * by, odd = ((Wides)x >> 32) * by;
    *low = (Words)((even & half) | (odd << 32));
    *high = (Words)((even >> 32) | (odd & ~half));
}

/* Philox4x32-10 of 16 neighbouring blocks (https://doi.org/10.1145/2063384.2063405): lane i of words[k] is word k of
 * block `first` + i. */
INLINE void philox(uint64_t seed, uint32_t place, uint32_t first, Words words[4])
{
    const Words none = {0}, lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Words a = lane + first, b = none + place, c = none, d = none;
    uint32_t low = (uint32_t)seed, high = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        Words high_a, low_a, high_c, low_c;
        multiply(a, 0xD2511F53u, &high_a, &low_a);
        multiply(c, 0xCD9E8D57u, &high_c, &low_c);
        a = high_c ^ b ^ low;
        b = low_c;
        c = high_a ^ d ^ high;
        d = low_a;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    words[0] = a;
    words[1] = b;
    words[2] = c;
    words[3] = d;
}

/* x = (1 + f) 2^n, 1 + f between the roots of 1/2 and of 2; x normal and > 0. Returns f. */
INLINE Lanes parts_of(Lanes x, Lanes *n)
{
    const Signed power = ((Signed)x - 0x3f3504f3) >> 23;
    *n = __builtin_convertvector(power, Lanes);
    return (Lanes)((Signed)x - (power << 23)) - 1.0f;
}

/* ln((1 + f) 2^n), to 2 units in the last place. The polynomial was fitted to (ln(1 + f) - f + f^2/2) / f^3. */
INLINE Lanes log_of(Lanes f, Lanes n)
{
    const Lanes squared = f * f;
    Lanes sum = 0.0850695372f * f - 0.141974717f;
    sum = sum * f + 0.149509788f;
    sum = sum * f - 0.165879488f;
    sum = sum * f + 0.199605972f;
    sum = sum * f - 0.250009686f;
    sum = sum * f + 0.333339721f;
    return n * 0.693147181f + (f - 0.5f * squared + squared * f * sum);
}

/* Noise of Gumbel's distribution from 32 even bits: -ln(-ln(1 - w)), w = (word + 1/2) / 2^32. */
INLINE Lanes noise_of(Words words)
{
    const Lanes below_one = (Lanes){0} + 0x1.fffffep-1f;
    Lanes n, w = __builtin_convertvector(words, Lanes) * 0x1p-32f + 0x1p-33f;
    w = where(is_more(w, below_one), below_one, w);
    Lanes f = parts_of(1.0f - w, &n);
    /* 1 - w has lost the last bits of a small w, and the largest noise hangs on them. */
    f = where(is_more((Lanes){0} + 0.25f, w), -w, f);
    f = parts_of(-log_of(f, n), &n);
    return -log_of(f, n);
}

/* The largest number of each tile into `tops`; returns the largest of all, NaN if one is. */
static float largest(const float *x, int64_t vocabulary, float *tops)
{
    float most = -__builtin_inff();
    int is_nan = 0;
    for (int64_t at = 0, tile = 0; at < vocabulary; at += TILE, tile++) {
        float lane[LANES], top;
        int wrong[LANES] = {0};
        const int64_t count = vocabulary - at < TILE ? vocabulary - at : TILE;
        for (int i = 0; i < LANES; i++) lane[i] = -__builtin_inff();
        if (count == TILE) {
            for (int k = 0; k < TILE; k += LANES)
                for (int i = 0; i < LANES; i++) {
                    const float value = x[at + k + i];
                    lane[i] = value > lane[i] ? value : lane[i];
                    wrong[i] |= value != value;
                }
        } else {
            for (int64_t k = 0; k < count; k++) {
                lane[0] = x[at + k] > lane[0] ? x[at + k] : lane[0];
                wrong[0] |= x[at + k] != x[at + k];
            }
        }
        top = lane[0];
        for (int i = 0; i < LANES; i++) {
            top = lane[i] > top ? lane[i] : top;
            is_nan |= wrong[i];
        }
        tops[tile] = top;
        most = top > most ? top : most;
    }
    return is_nan ? __builtin_nanf("") : most;
}

/* The order of floats as an order of numbers without a sign. */
INLINE uint32_t rank_of(float x)
{
    union { float value; uint32_t bits; } word = {x + 0.0f}; /* -0 is 0 */
    return word.bits >> 31 ? ~word.bits : word.bits | 0x80000000u;
}

typedef double Doubles __attribute__((vector_size(64)));
typedef uint64_t Longs __attribute__((vector_size(64)));
typedef float Eight __attribute__((vector_size(32)));
#define DOUBLES 8

/* e^x in parts of 2^-bits, a whole number in float64; x <= 0. Sums of them are exact in any order, so that whoever adds
 * them up finds the same. The polynomial is Taylor's: what it leaves out is less than 2^-53. */
INLINE Doubles parts_of_exp(Doubles x, int bits)
{
    const Longs small = (Longs)(x < -60.0);
    x = (Doubles)(((Longs)((Doubles){0} - 60.0) & small) | ((Longs)x & ~small));
    const Doubles shifted = x * 1.4426950408889634 + 0x1.8p52; /* the last bits are the nearest whole number */
    const Doubles power = (Doubles)(((Longs)shifted + 1023 + (uint64_t)bits) << 52), n = shifted - 0x1.8p52;
    const Doubles r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33; /* x - n ln 2, in two parts */
    Doubles sum = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    return ((sum * r * r + r + 1.0) * power + 0x1.8p52) - 0x1.8p52; /* to the nearest, ties to even */
}

/* Bits after the point, such that the sum of `vocabulary` parts is less than 2^53. */
static int bits_of_parts(int64_t vocabulary)
{
    int bits = 52;
    for (int64_t left = vocabulary; left; left >>= 1) bits--;
    return bits;
}

/* The fewest of the likeliest tokens whose sum reaches `top_p`. room: 6 numbers for each token of whole tiles.
 *
 * Nothing is sorted. All tokens that have less than an equal part of 1 - top_p have less than that together, so the
 * nucleus is among the others, mostly a few hundred. The number that ends it is found bit by bit. */
static Nucleus nucleus_of(const float *x, int64_t vocabulary, const float *tops, float most, float inverse,
                          double top_p, void *room)
{
    const int64_t padded = (vocabulary + TILE - 1) / TILE * TILE;
    const int bits = bits_of_parts(vocabulary);
    const double parts = (double)((uint64_t)1 << bits);
    const float nothing = -0.7f * (float)(bits + 2); /* e^nothing is less than half of a part */
    double *shares = room, *found_shares = shares + padded;
    uint32_t *ranks = (uint32_t *)(found_shares + padded), *ids = ranks + padded;
    Doubles sums = {0};
    double total = 0;
    for (int64_t at = 0, tile = 0; at < vocabulary; at += TILE, tile++) {
        if ((tops[tile] - most) * inverse < nothing) continue;
        const float *own = x + at;
        float lane[TILE];
        if (vocabulary - at < TILE) {
            for (int64_t i = 0; i < TILE; i++) lane[i] = at + i < vocabulary ? x[at + i] : -__builtin_inff();
            own = lane;
        }
        for (int i = 0; i < TILE; i += DOUBLES) {
            Eight values;
            memcpy(&values, own + i, sizeof values);
            values = (values - most) * inverse;
            const Doubles some = parts_of_exp(__builtin_convertvector(values, Doubles), bits);
            memcpy(shares + at + i, &some, sizeof some);
            sums += some;
        }
    }
    for (int i = 0; i < DOUBLES; i++) total += sums[i];
    const double wanted = top_p * total > 1e-300 ? top_p * total : 1e-300; /* more than 0 wherever it is computed */
    const double least = 0.999 * (1.0 - top_p) * total / (double)vocabulary;
    int64_t found = 0;
    for (int64_t at = 0, tile = 0; at < vocabulary; at += TILE, tile++) {
        const float scaled = (tops[tile] - most) * inverse;
        if (scaled < nothing || 1.001 * (double)exp_of(scaled) * parts < least) continue;
        const int64_t count = vocabulary - at < TILE ? vocabulary - at : TILE;
        for (int64_t i = 0; i < count; i++) {
            found_shares[found] = shares[at + i];
            ranks[found] = rank_of((x[at + i] - most) * inverse);
            ids[found] = (uint32_t)(at + i);
            found += shares[at + i] >= least;
        }
    }
    /* The largest rank from which on there is enough, bit by bit: only ranks that begin as it does are kept. */
    double above = 0;
    uint32_t differ = 0;
    for (int64_t i = 1; i < found; i++) differ |= ranks[i] ^ ranks[0];
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        if (!(differ & bit)) continue;
        double mass = 0;
        int64_t count = 0;
#pragma omp simd reduction(+ : mass, count)
        for (int64_t i = 0; i < found; i++) {
            mass += ranks[i] & bit ? found_shares[i] : 0.0;
            count += ranks[i] & bit ? 1 : 0;
        }
        if (!count || count == found) continue;
        const uint32_t wants = above + mass >= wanted ? bit : 0;
        if (!wants) above += mass;
        int64_t kept = 0;
        for (int64_t i = 0; i < found; i++) {
            const uint32_t rank = ranks[i];
            found_shares[kept] = found_shares[i];
            ranks[kept] = rank;
            ids[kept] = ids[i];
            kept += (rank & bit) == wants;
        }
        found = kept;
    }
    Nucleus nucleus = {(x[ids[0]] - most) * inverse, ids[0]};
    for (int64_t i = 0; i < found && above < wanted; i++) {
        above += found_shares[i];
        nucleus.last = ids[i];
    }
    return nucleus;
}

/* The one with the highest score in float64, the first of those that have it. */
static int64_t highest(const float *x, float most, float inverse, const Close *close, int count)
{
    double best = -__builtin_inf();
    int64_t token = -1;
    for (int i = 0; i < count; i++) {
        const float scaled = (x[close[i].token] - most) * inverse;
        const double w = ((double)close[i].word + 0.5) * 0x1p-32;
        const double score = (double)scaled - log(-log1p(-w));
        if (score > best || (score == best && close[i].token < token)) {
            best = score;
            token = close[i].token;
        }
    }
    return token;
}

/* argmax of (x - most) / temperature + noise over the tokens of the nucleus. Tiles that cannot have it are left out. */
static int64_t drawn(const float *x, int64_t vocabulary, const float *tops, float most, float inverse, uint64_t seed,
                     int64_t place, Nucleus nucleus)
{
    const Signed count_up = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Lanes none = (Lanes){0} - __builtin_inff();
    const int32_t last = (int32_t)nucleus.last;
    float best = -__builtin_inff();
    int64_t tiles = (vocabulary + TILE - 1) / TILE, first = 0;
    Close close[CLOSE_MOST];
    int found = 0;
    while (tops[first] != most) first++;
    for (int64_t turn = -1; turn < tiles; turn++) {
        const int64_t tile = turn < 0 ? first : turn, at = tile * TILE;
        const float highest_scaled = (tops[tile] - most) * inverse;
        if (turn == first || highest_scaled < nucleus.least) continue;
        if (turn >= 0 && highest_scaled + NOISE_MOST < best) continue;
        const int64_t count = vocabulary - at < TILE ? vocabulary - at : TILE;
        Words words[4];
        Lanes values[4], best_of_lanes = (Lanes){0} - __builtin_inff();
        float lane[TILE], top = -__builtin_inff();
        for (int64_t i = 0; i < TILE; i++) lane[i] = i < count ? x[at + i] : -__builtin_inff();
        philox(seed, (uint32_t)place, (uint32_t)tile * LANES, words);
        for (int k = 0; k < 4; k++) {
            Lanes value;
            memcpy(&value, lane + k * LANES, sizeof value);
            const Signed id = count_up + (int32_t)(at + k * LANES);
            const Lanes scaled = (value - most) * inverse;
            const Words is_in = (Words)(scaled > nucleus.least) | (Words)((scaled == nucleus.least) & (id <= last));
            values[k] = where(is_in, scaled + noise_of(words[k]), none);
            best_of_lanes = where(is_more(values[k], best_of_lanes), values[k], best_of_lanes);
        }
        memcpy(lane, &best_of_lanes, sizeof best_of_lanes);
        for (int i = 0; i < LANES; i++) top = lane[i] > top ? lane[i] : top;
        if (top < best - NEAR || top == -__builtin_inff()) continue;
        best = top > best ? top : best;
        memcpy(lane, values, sizeof values);
        for (int i = 0; i < TILE; i++) {
            if (lane[i] < best - NEAR) continue;
            if (found == CLOSE_MOST) {
                /* Those that fell behind go; were all still close, the best of them would be kept. */
                int kept = 0;
                for (int k = 0; k < found; k++)
                    if (close[k].about >= best - NEAR) close[kept++] = close[k];
                if (kept == CLOSE_MOST) {
                    const int64_t token = highest(x, most, inverse, close, kept);
                    for (int k = 0; k < kept; k++)
                        if (close[k].token == token) close[0] = close[k];
                    kept = 1;
                }
                found = kept;
            }
            close[found++] = (Close){at + i, words[i / LANES][i % LANES], lane[i]};
        }
    }
    int kept = 0;
    for (int k = 0; k < found; k++)
        if (close[k].about >= best - NEAR) close[kept++] = close[k];
    return kept == 1 ? close[0].token : highest(x, most, inverse, close, kept);
}

static void choose_some(void *argument)
{
    Choices *work = argument;
    const int64_t vocabulary = work->vocabulary, tiles = (vocabulary + TILE - 1) / TILE;
    const int64_t room = (tiles + TILE - 1) / TILE * TILE; /* numbers of 64 bits come after it */
    for (;;) {
        const int64_t row = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (row >= work->rows) return;
        const float *x = work->logits + row * vocabulary;
        float *tops = scratch_of((size_t)(room + 6 * tiles * TILE));
        if (!tops) {
            __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
            return;
        }
        const float most = largest(x, vocabulary, tops), inverse = work->inverse[row];
        int64_t token = -1;
        if (__builtin_isfinite(most)) {
            Nucleus nucleus = {-__builtin_inff(), -1}; /* all but what is forbidden */
            if (inverse > 0 && work->top_p[row] < 1)
                nucleus = nucleus_of(x, vocabulary, tops, most, inverse, work->top_p[row], tops + room);
            if (inverse > 0) {
                token = drawn(x, vocabulary, tops, most, inverse, work->seeds[row], work->places[row], nucleus);
            } else {
                int64_t tile = 0;
                while (tops[tile] != most) tile++;
                for (token = tile * TILE; x[token] != most; token++) {}
            }
        }
        work->tokens[row] = token;
    }
}

typedef struct {
    int64_t masked, vocabulary, words;
    const int64_t *rows;        /* [masked] */
    const uint32_t *bits;       /* [masked, words]: bit t of a line is 1 if token t is allowed */
    float *logits;              /* [rows, vocabulary] */
    int64_t next;
} Masks;

static void mask_some(void *argument)
{
    Masks *work = argument;
    const Words lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Lanes none = (Lanes){0} - __builtin_inff();
    for (;;) {
        const int64_t line = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (line >= work->masked) return;
        const uint32_t *bits = work->bits + line * work->words;
        float *x = work->logits + work->rows[line] * work->vocabulary;
        int64_t at = 0;
        for (; at + LANES <= work->vocabulary; at += LANES) {
            const uint32_t own = bits[at / 32] >> (at & 16) & 0xffffu;
            if (own == 0xffffu) continue;
            Lanes value;
            memcpy(&value, x + at, sizeof value);
            const Words allowed = -(((Words){0} + own) >> lane & 1);
            value = where(allowed, value, none);
            memcpy(x + at, &value, sizeof value);
        }
        for (; at < work->vocabulary; at++)
            if (!(bits[at / 32] >> (at & 31) & 1)) x[at] = -__builtin_inff();
    }
}

/* logits[rows[i], t] = -inf where bit t of line i is 0. */
void gw_mask(int64_t masked, int64_t vocabulary, int64_t words, const int64_t *rows, const uint32_t *bits,
             float *logits, int64_t threads, Parallel parallel)
{
    Masks work = {masked, vocabulary, words, rows, bits, logits, 0};
    if (parallel && threads > 1 && masked > 1) parallel(mask_some, &work, (unsigned)threads, 0);
    else mask_some(&work);
}

/* The next token of each row, -1 where a row has no finite maximum. 0; 1 if out of memory. */
int gw_choose(int64_t rows, int64_t vocabulary, const float *logits, const float *inverse, const double *top_p,
              const uint64_t *seeds, const int64_t *places, int64_t *tokens, int64_t threads, Parallel parallel)
{
    Choices work = {rows, vocabulary, logits, inverse, top_p, seeds, places, tokens, 0, 0};
    if (parallel && threads > 1 && rows > 1) parallel(choose_some, &work, (unsigned)threads, 0);
    else choose_some(&work);
    return work.failed;
}
