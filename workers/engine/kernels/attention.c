/* What attends in a decoder layer of Llama's kind: the tokens of all rows of a step, by pages of keys and values.
 *
 * Tensors hold float32 or bfloat16; what is computed is float32 and rounded once. Where the processor multiplies pairs of
 * bfloat16, the shares of several tokens are rounded too, as transformers does it. `native_layer.py` is the caller and says
 * what it passes; `fast_layers.py` does the same by operations of torch.
 */
#include "layers/strips.h"

/* Attention of several tokens a row -------------------------------------------------------------------------------- */

/* Where in the rows' work a thread is. */
typedef struct {
    int64_t row, before;
} Cursor;

/* The row that piece `at` of all belongs to; the piece's number within the row. */
INLINE int64_t within(const Spans *work, Cursor *cursor, int64_t at, int64_t of_block)
{
    if (at < cursor->before) *cursor = (Cursor){0, 0};
    for (;;) {
        const int64_t tokens = work->first[cursor->row + 1] - work->first[cursor->row];
        const int64_t pieces = (tokens + work->block - 1) / work->block * of_block;
        if (at < cursor->before + pieces) return at - cursor->before;
        cursor->before += pieces;
        cursor->row++;
    }
}

INLINE int64_t pieces_of(const Spans *work, int64_t of_block)
{
    int64_t pieces = 0;
    for (int64_t row = 0; row < work->rows; row++)
        pieces += (work->first[row + 1] - work->first[row] + work->block - 1) / work->block * of_block;
    return pieces;
}

/* Tokens `begin` to `end` of a row attend, strip of keys by strip of keys, with a running softmax
 * (https://arxiv.org/abs/1805.02867). A key is read and turned once for all queries of the block. */
INLINE void attend_block(Spans *work, int64_t row, int64_t head, int64_t begin, int64_t end, int64_t from, int64_t to,
                         const int64_t dim, const int bfloat16)
{
    const int64_t size = bfloat16 ? 2 : 4, heads = work->group * work->kv_heads, some = to - from;
    const int64_t wide = (dim + 2 * LANES - 1) / (2 * LANES) * (2 * LANES), count = work->begins[row] + end;
    const int64_t queries = (end - begin) * some, padded = (queries + QUERIES - 1) / QUERIES * QUERIES;
    const int pairs = PAIRS && bfloat16;
    float *turned = scratch_of((size_t)(2 * STRIP * wide + 2 * QUERIES * STRIP + padded * (2 * wide + 2)));
    if (!turned) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *values = turned + STRIP * wide, *scores = values + STRIP * wide, *asked = scores + 2 * QUERIES * STRIP;
    uint16_t *narrowed = (uint16_t *)(scores + QUERIES * STRIP), *narrow_asked = (uint16_t *)asked;
    float *sums = asked + padded * wide, *most = sums + padded * wide, *total = most + padded;
    if (!work->apart) keep_tokens(work, row, head, begin, end, scores, dim, bfloat16);
    memset(asked, 0, (size_t)(padded * 2 * wide) * sizeof(float));
    for (int64_t q = 0; q < padded; q++) most[q] = -INFINITY, total[q] = 0;
    for (int64_t q = 0; q < queries; q++) {
        const int64_t token = work->first[row] + begin + q / some;
        rotate(work->qkv + (token * (heads + 2 * work->kv_heads) + head * work->group + from + q % some) * dim * size,
               work->cos + token * dim, work->sin + token * dim, work->scale, scores, dim, bfloat16);
        /* In bfloat16 they are rounded as keys are. */
        for (int64_t i = 0; i < dim; i++) {
            store(narrowed, i, scores[i], bfloat16);
            if (pairs) narrow_asked[q * wide + i] = narrowed[i];
            else asked[q * wide + i] = load(narrowed, i, bfloat16);
        }
    }
    for (int64_t strip = 0; strip < count; strip += STRIP) {
        const int64_t left = count - strip, keys = left < STRIP ? left : STRIP, pages = (keys + PAGE - 1) / PAGE;
        for (int64_t page = 0; page < pages; page++) {
            const int64_t at = page_at(work, row, head, strip / PAGE + page, size);
            const char *page_values = work->values + at;
            if (pairs) turn_page(work->keys + at, turned + page * wide / 2 * PAGE, dim / 2, wide / 2, 0);
            else turn_page(work->keys + at, turned + page * wide * PAGE, dim, wide, bfloat16);
            for (int64_t k = 0; pairs && k < PAGE && page * PAGE + k < keys; k += 2)
                pair_up(page_values + k * dim * 2, page * PAGE + k + 1 < keys ? page_values + (k + 1) * dim * 2 : NULL,
                        (uint32_t *)values + (page * PAGE + k) / 2 * wide, dim, wide);
            for (int64_t k = 0; !pairs && k < PAGE && page * PAGE + k < keys; k++)
                for (int64_t i = 0; i < wide; i++)
                    values[(page * PAGE + k) * wide + i] = i < dim ? load(page_values, k * dim + i, bfloat16) : 0;
        }
        for (int64_t q = 0; q < padded; q += QUERIES) {
            float shrink[QUERIES];
            /* Whoever stands before this strip attends to nothing of it. */
            const int64_t last = q + QUERIES < queries ? q + QUERIES - 1 : queries - 1;
            if (work->begins[row] + begin + last / some < strip) continue;
            if (pairs) score_pairs(narrow_asked + q * wide, turned, scores, pages, wide);
            else score(asked + q * wide, turned, scores, pages, wide);
            int64_t valid[QUERIES];
            for (int64_t j = 0; j < QUERIES; j++) {
                const int64_t ahead = work->begins[row] + begin + (q + j) / some + 1 - strip;
                const int64_t none = q + j >= queries || ahead < 0;
                valid[j] = none ? 0 : ahead < keys ? ahead : keys;
            }
            shares(scores, valid, most + q, total + q, shrink, pairs);
            if (pairs) narrow_all(scores, narrowed, QUERIES * STRIP);
            if (pairs) add_value_pairs(narrowed, (const uint32_t *)values, shrink, sums + q * wide, keys, wide);
            else add_values(scores, values, shrink, sums + q * wide, keys, wide);
        }
    }
    for (int64_t q = 0; q < queries; q++) {
        const int64_t token = work->first[row] + begin + q / some;
        char *out = work->out + (token * heads + head * work->group + from + q % some) * dim * size;
        for (int64_t i = 0; i < dim; i++) store(out, i, sums[q * wide + (pairs ? paired(i) : i)] / total[q], bfloat16);
    }
}

/* `dim` and `bfloat16` are constants wherever this is inlined. */
INLINE void attend_piece(Spans *work, int64_t row, int64_t piece, const int64_t dim, const int bfloat16)
{
    const int64_t part = piece % work->parts, head = piece / work->parts % work->kv_heads;
    const int64_t begin = piece / work->parts / work->kv_heads * work->block;
    const int64_t tokens = work->first[row + 1] - work->first[row];
    const int64_t end = begin + work->block < tokens ? begin + work->block : tokens;
    const int64_t from = work->group * part / work->parts, to = work->group * (part + 1) / work->parts;
    if (end == begin + 1) attend_one(work, row, head, begin, from, to, dim, bfloat16);
    else attend_block(work, row, head, begin, end, from, to, dim, bfloat16);
}

void gw_attend_some(void *spans)
{
    Spans *work = spans;
    Cursor cursor = {0, 0};
    const int64_t of_block = work->kv_heads * work->parts, pieces = pieces_of(work, of_block);
    int64_t next, passed = 0;
    while ((next = take_own(&work->taken, pieces, work->threads, &passed)) >= 0) {
        const int64_t piece = within(work, &cursor, next, of_block);
        if (work->bfloat16 && work->dim == 64) attend_piece(work, cursor.row, piece, 64, 1);
        else if (work->bfloat16 && work->dim == 128) attend_piece(work, cursor.row, piece, 128, 1);
        else if (work->bfloat16) attend_piece(work, cursor.row, piece, work->dim, 1);
        else attend_piece(work, cursor.row, piece, work->dim, 0);
    }
}

void gw_keep_some(void *spans)
{
    Spans *work = spans;
    Cursor cursor = {0, 0};
    const int64_t pieces = pieces_of(work, work->kv_heads);
    for (;;) {
        const int64_t next = __atomic_fetch_add(&work->next_kept, 1, __ATOMIC_RELAXED);
        if (next >= pieces) return;
        const int64_t piece = within(work, &cursor, next, work->kv_heads), begin = piece / work->kv_heads * work->block;
        const int64_t tokens = work->first[cursor.row + 1] - work->first[cursor.row];
        const int64_t end = begin + work->block < tokens ? begin + work->block : tokens;
        float *room = scratch_of((size_t)work->dim);
        if (!room) __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        else if (work->bfloat16) keep_tokens(work, cursor.row, piece % work->kv_heads, begin, end, room, work->dim, 1);
        else keep_tokens(work, cursor.row, piece % work->kv_heads, begin, end, room, work->dim, 0);
    }
}

int64_t gw_divide(Spans *work, int64_t threads)
{
    work->threads = threads;
    work->block = 192 / work->group > QUERIES ? 192 / work->group : QUERIES;
    work->parts = 1;
    const int64_t pieces = pieces_of(work, work->kv_heads);
    if (pieces < threads) work->parts = work->group;
    /* Others read what a piece of work keeps, where there are others for the same head. */
    for (int64_t row = 0; row < work->rows; row++)
        work->apart |= work->parts > 1 || work->first[row + 1] - work->first[row] > work->block;
    return pieces * work->parts;
}

/* out = softmax(scale q K^T) V for the tokens of each row, which stand behind what its pages hold and are put there
 * first; a token attends up to itself. 0, or 1 if out of memory. */
int gw_attend(int64_t rows, int64_t group, int64_t kv_heads, int64_t dim, int64_t bfloat16, const int64_t *first,
              const int64_t *begins, const int64_t *pages, int64_t line, const float *cos, const float *sin, float scale,
              const void *qkv, void *keys, void *values, void *out, int64_t threads, Parallel parallel)
{
    Spans work = {rows, group, kv_heads, dim, bfloat16, first, begins, pages, line, cos, sin, scale,
                  qkv, keys, values, out, 0, 0, 0, 0, 0, 0, {{{0}}}};
    const int together = gw_divide(&work, threads) > 1 && parallel && threads > 1;
    if (work.apart && together) parallel(gw_keep_some, &work, (unsigned)threads, 0);
    else if (work.apart) gw_keep_some(&work);
    if (together) parallel(gw_attend_some, &work, (unsigned)threads, 0);
    else gw_attend_some(&work);
    return work.failed;
}
