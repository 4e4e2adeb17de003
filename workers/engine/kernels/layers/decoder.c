/* A whole decoder layer of Llama's kind in one call: its products, what stands between them, and adapters.
 *
 * The threads of the call go through its phases together, and wait for each other after each. `native_decoder.py` is the
 * caller and says what it passes. Tensors hold float32 or bfloat16.
 */
#include "one_token.h"

enum { QKV, O, GATE_UP, DOWN, LINEARS };
#define MOST_MEMBERS 3
#define MOST_PHASES 32

typedef struct {
    int64_t in, out, members, int8; /* out: of all members together */
    const Member *member;
} Linear;

typedef struct {
    int64_t hidden, heads, kv_heads, dim, width, bfloat16; /* width: of the gate */
    double eps[2], scale;
    const char *norm[2]; /* before attention, before the gate */
    Linear linears[LINEARS];
} Layer;

/* What all layers of a forward pass are told. */
typedef struct {
    int64_t rows, line, threads;
    const int64_t *first, *begins, *pages; /* see `Spans` */
    const float *cos, *sin;
    Parallel parallel;
    void (*barrier)(void); /* of the same pool of threads */
} Pass;

/* What the adapters of these rows do at one of the linears. */
typedef struct {
    const FoldedAdapters *table; /* [rows, members] */
    int64_t changes, scales;     /* whether one of them changes what comes out; what goes in, where there is one member */
} Adapters;

typedef struct {
    void (*some)(void *);
    void *work;
} Phase;

/* What is asked for while a product of FEW tokens is made. It has to stay near until it is read. */
#define FEW 32
#define MOST_RANGES 320
#define MOST_LINES (1536 * 1024 / LINE)

typedef struct {
    Coming range[MOST_RANGES];
    int64_t count, lines;
} Ahead;

typedef struct {
    Phase phases[MOST_PHASES];
    int count;
    void (*barrier)(void);
    int64_t arrived; /* threads */
    Product products[LINEARS];
    Changes changes[LINEARS];
    Scales scales[LINEARS];
    int64_t in[LINEARS][MOST_MEMBERS], out[LINEARS][MOST_MEMBERS];
    const void *x[LINEARS][MOST_MEMBERS];
    Norms norms[3];
    Gates gate;
    Spans spans;
} Plan;

static void go_through(void *argument)
{
    Plan *plan = argument;
    gw_thread = __atomic_fetch_add(&plan->arrived, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < plan->count; i++) {
        plan->phases[i].some(plan->phases[i].work);
        if (plan->barrier && i + 1 < plan->count) plan->barrier();
    }
}

INLINE void then(Plan *plan, void (*some)(void *), void *work)
{
    plan->phases[plan->count++] = (Phase){some, work};
}

/* y = x W^T + b and what adapters make of it, with room for x in 8 bits. before: who may round x as soon as it is made,
 * in place of a phase of its own, or NULL. */
static void plan_linear(Plan *plan, const Layer *layer, const Pass *pass, const Adapters *adapters, int which, char *x,
                        char *y, float *room, Product **before)
{
    const Linear *linear = layer->linears + which;
    const int64_t tokens = pass->first[pass->rows];
    const Adapters none = {0, 0, 0}, *here = adapters ? adapters + which : &none;
    Product *product = plan->products + which;
    *product = product_of(tokens, linear->in, linear->members, layer->bfloat16, linear->member, x, y,
                          linear->int8 ? INT8_PIECE : FLOATING_PIECE, pass->threads);
    if (here->scales) {
        plan->scales[which] = (Scales){pass->rows, 1, 0, layer->bfloat16, linear->in, pass->first, x, here->table, 0};
        then(plan, gw_scale_some, plan->scales + which);
    }
    if (linear->int8) {
        product->x_scale = room;
        product->x_sum = (int32_t *)(room + INT8_TOKENS(tokens));
        product->q = (int8_t *)(room + 2 * INT8_TOKENS(tokens));
        if (before && !here->scales) *before = product;
        else then(plan, gw_round_some, product);
        then(plan, gw_multiply_int8_some, product);
    } else {
        then(plan, gw_multiply_some, product);
    }
    if (here->changes) {
        const int64_t members = which == QKV ? 3 : which == GATE_UP ? 2 : 1, kv = layer->kv_heads * layer->dim;
        for (int64_t m = 0; m < members; m++) {
            plan->in[which][m] = linear->in;
            plan->out[which][m] = which == QKV ? (m ? kv : linear->out - 2 * kv) : linear->out / members;
            plan->x[which][m] = x;
        }
        plan->changes[which] = (Changes){pass->rows, members, layer->bfloat16, linear->out, pass->first, plan->in[which],
                                         plan->out[which], plan->x[which], y, here->table, pass->threads, 0, {{{0}}}, 0, 0};
        then(plan, gw_change_some, plan->changes + which);
    }
}

static void add_ahead(Ahead *ahead, const void *at, int64_t bytes)
{
    const int64_t lines = (bytes + LINE - 1) / LINE;
    if (!lines || ahead->count == MOST_RANGES || ahead->lines + lines > MOST_LINES) return;
    ahead->range[ahead->count++] = (Coming){at, lines, ahead->lines};
    ahead->lines += lines;
}

/* While the product of this linear is made, what is read after it is asked for: factors of adapters, keys and values. */
static void plan_ahead(Plan *plan, const Pass *pass, int which, Ahead *ahead)
{
    const Changes *changes = plan->changes + which;
    const Spans *spans = &plan->spans;
    ahead->count = ahead->lines = 0;
    if (pass->first[pass->rows] > FEW) return;
    for (int64_t i = 0; i < changes->rows * changes->members; i++) {
        const FoldedAdapters *change = changes->changes + i;
        const int64_t size = changes->bfloat16 ? 2 : 4, member = i % changes->members;
        add_ahead(ahead, change->a, change->rank * changes->in[member] * size);
        add_ahead(ahead, change->b, change->rank * changes->out[member] * size);
    }
    for (int64_t row = 0; which == QKV && row < spans->rows; row++)
        for (int64_t page = 0; page * PAGE < spans->begins[row]; page++) {
            const int64_t size = spans->bfloat16 ? 2 : 4, at = page_at(spans, row, 0, page, size);
            add_ahead(ahead, spans->keys + at, spans->kv_heads * PAGE * spans->dim * size);
            add_ahead(ahead, spans->values + at, spans->kv_heads * PAGE * spans->dim * size);
        }
    if (!ahead->count) return;
    plan->products[which].coming = ahead->range;
    plan->products[which].ranges = ahead->count;
}

/* What comes next for each token. Where adapters change the token first, their phase does both. */
INLINE void then_each(Plan *plan, int linear, void (*tokens)(void *, int64_t, int64_t), void (*some)(void *), void *work)
{
    Changes *changes = plan->changes + linear;
    if (changes->rows) changes->after = tokens, changes->of_after = work;
    else then(plan, some, work);
}

INLINE void plan_norm(Plan *plan, const Layer *layer, int64_t tokens, int which, const char *h, const char *delta,
                      char *sum, char *out)
{
    const char *weight = which < 2 ? layer->norm[which] : 0;
    const float eps = which < 2 ? (float)layer->eps[which] : 0;
    plan->norms[which] = (Norms){tokens, layer->hidden, layer->bfloat16, h, delta, weight, eps, sum, out, 0, 0};
    if (which) then_each(plan, which == 1 ? O : DOWN, gw_norm_tokens, gw_norm_some, plan->norms + which);
    else then(plan, gw_norm_some, plan->norms);
}

INLINE char *room_for(char **at, int64_t bytes)
{
    char *found = *at;
    *at += (bytes + 63) / 64 * 64;
    return found;
}

/* out = h2 + D (silu(gate) * up), h2 = h + O attend(q, k, v), each part from a normalised h, for the tokens of a ragged
 * pass, whose keys and values are put into the cache first. adapters [LINEARS], or NULL. 0, or 1 if out of memory. */
int gw_layer(const Layer *layer, const Pass *pass, const Adapters *adapters, const void *h, void *keys, void *values,
             void *out)
{
    const int64_t tokens = pass->first[pass->rows], line = tokens * (layer->bfloat16 ? 2 : 4), hidden = layer->hidden;
    const int64_t heads = layer->heads * layer->dim, width = layer->width;
    const int64_t qkv_width = heads + 2 * layer->kv_heads * layer->dim;
    int64_t widest = 0;
    for (int i = 0; i < LINEARS; i++) widest = layer->linears[i].in > widest ? layer->linears[i].in : widest;
    const int64_t rounded = INT8_TOKENS(tokens) * (8 + widest + 4);
    const int64_t needed = line * (4 * hidden + qkv_width + heads + 3 * width) + rounded + 16 * 64;
    char *at = (char *)scratch_of((size_t)needed / sizeof(float));
    if (!at) return 1;
    at = (char *)(((uintptr_t)at + 63) / 64 * 64);
    char *normed = room_for(&at, line * hidden), *delta = room_for(&at, line * hidden);
    char *second = room_for(&at, line * hidden), *qkv = room_for(&at, line * qkv_width);
    char *attended = room_for(&at, line * heads), *both = room_for(&at, line * 2 * width);
    char *gated = room_for(&at, line * width);
    float *room = (float *)room_for(&at, rounded);
    Ahead ahead[LINEARS];
    Plan plan = {.count = 0, .barrier = pass->parallel && pass->threads > 1 ? pass->barrier : 0};
    plan_norm(&plan, layer, tokens, 0, h, 0, 0, normed);
    plan_linear(&plan, layer, pass, adapters, QKV, normed, qkv, room, &plan.norms[0].rounded);
    plan.spans = (Spans){pass->rows, layer->heads / layer->kv_heads, layer->kv_heads, layer->dim, layer->bfloat16,
                         pass->first, pass->begins, pass->pages, pass->line, pass->cos, pass->sin, (float)layer->scale,
                         qkv, keys, values, attended, 0, 0, 0, 0, 0, 0, {{{0}}}};
    gw_divide(&plan.spans, pass->threads);
    if (plan.spans.apart) then(&plan, gw_keep_some, &plan.spans);
    then(&plan, gw_attend_some, &plan.spans);
    plan_linear(&plan, layer, pass, adapters, O, attended, delta, room, 0);
    plan_norm(&plan, layer, tokens, 1, h, delta, second, normed);
    plan_linear(&plan, layer, pass, adapters, GATE_UP, normed, both, room, &plan.norms[1].rounded);
    plan.gate = (Gates){tokens, width, layer->bfloat16, both, gated, 0, 0};
    then_each(&plan, GATE_UP, gw_gate_tokens, gw_gate_some, &plan.gate);
    plan_linear(&plan, layer, pass, adapters, DOWN, gated, delta, room, &plan.gate.rounded);
    plan_norm(&plan, layer, tokens, 2, second, delta, out, 0);
    for (int i = 0; i < LINEARS; i++) plan_ahead(&plan, pass, i, ahead + i);
    if (plan.barrier) pass->parallel(go_through, &plan, (unsigned)pass->threads, 0);
    else go_through(&plan);
    int failed = plan.spans.failed;
    for (int i = 0; i < LINEARS; i++) failed |= plan.products[i].failed | plan.changes[i].failed;
    return failed;
}
