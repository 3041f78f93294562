// A decoding step of a decoder of the Llama family: one new token for each of many sequences, each with its adapter.
//
// The whole step is one parallel region, in which the threads of torch's pool share each loop (`omp for`) and wait for
// each other behind it. See `products.h` for how activations lie. `native_decoder.py` fills the structures.

#include "attention.h"
#include "pairs.h"

// Output rows that a thread computes before the adapters' are added: a multiple of all tiles. Of logits, which are
// written by tokens, more: each write is a line.
#define BLOCK 24
#define LOGIT_BLOCK 24
// Rows of an adapter's A, of which each rank is a multiple.
#define RANKS 8
// Columns of a pass, so that a thread has room for a block of logits.
#define MOST_TOKENS 512

// A product of one input with up to three layers' weights, which lie one behind the other.
typedef struct {
    const float *weight;  // [outputs][inputs]
    const float *bias;    // [outputs] or NULL
    int64_t inputs, outputs;
    int64_t targets;      // layers
    int64_t ends[3];      // output behind the last one of each layer
} Product;

typedef struct {
    Product qkv, output, gate_up, down;
    const float *norm, *mlp_norm;         // [H]
    const float *query_norm, *key_norm;   // [D] or NULL
    float epsilon, mlp_epsilon, head_epsilon, scaling;
} Layer;

typedef struct {
    int64_t layers, hidden, heads, key_heads, head_dim, intermediate;
    const Layer *layer;
    const float *norm;  // [H]
    float epsilon;
} Model;

// Tokens [start, end) of one adapter, in memory of one layout.
typedef struct {
    int64_t start, end;
    int64_t rank;         // of the layout's bucket
    int64_t hidden;       // where its A·x lies
    int64_t window;       // first of HALF columns that hold its tokens, -1 where they are more: see `pairs.h`
    int64_t paired;       // where its x lies in pairs
    const int32_t *own;   // [stride], -1 for its tokens, 0 for others
    float scale;
} Span;

// A and, for each layer of a product, B of one span; NULL where the adapter leaves them out.
typedef struct {
    const float *a;     // [targets * rank][inputs]
    const float *b[3];  // [outputs][rank]
} Factors;

typedef struct {
    int64_t threads, tokens, vectors, stride, spans, products;
    const Span *span;
    const Factors *factors;     // [products][spans], four products a layer and then the output projection
    float *adapted, *paired;    // A·x of all spans, and x in pairs
    const float *cos, *sin;     // [D][stride]
    const int64_t *cells;       // of the cache, where each new key goes
    const int32_t *tables;      // [tokens][blocks]
    const int64_t *positions;   // of each token: keys before it
    int64_t blocks, block_size;
    float *const *keys, *const *values;  // of each layer, [blocks][block_size][key heads][D]
    float *rows;                // [tokens][H], the embeddings, and at the end the hidden states
    float *x, *normed;          // [H][stride]
    float *qkv;                 // [(heads + 2 * key heads) * D][stride]
    float *query, *mixed;       // [tokens][heads * D]
    float *mixed_columns;       // [heads * D][stride]
    float *gate_up;             // [2 * I][stride]
} Pass;

int64_t lanes(void) { return LANES; }
int64_t widest_head(void) { return WIDEST_HEAD; }
int64_t most_tokens(void) { return MOST_TOKENS; }

static void to_columns(const float *rows, int64_t features, float *columns, const Pass *pass)
{
#pragma omp for schedule(static)
    for (int64_t i = 0; i < features; i += LANES) {
        const int64_t end = i + LANES < features ? i + LANES : features;
        for (int64_t t = 0; t < pass->tokens; t++)
            for (int64_t f = i; f < end; f++) columns[f * pass->stride + t] = rows[t * features + f];
        for (int64_t f = i; f < end; f++)
            for (int64_t t = pass->tokens; t < pass->vectors * LANES; t++) columns[f * pass->stride + t] = 0.0f;
    }
}

// What the span's adapter adds to outputs [first, last) of a product, once A·x is there.
static void add_adapters(const Product *product, int64_t number, const float *adapted, int64_t first, int64_t last,
                         float *y, int64_t y_stride, const Pass *pass)
{
    for (int64_t s = 0; s < pass->spans; s++) {
        const Span *span = pass->span + s;
        const Factors *factors = pass->factors + number * pass->spans + s;
        if (!factors->a) continue;
        const int narrow = span->window >= 0;
        const int64_t from = span->start / LANES, count = (span->end + LANES - 1) / LANES - from;
        const int64_t width = narrow ? HALF : count * LANES;
        const Options options = {NULL, span->own + from * LANES, span->scale, 1, BLOCK};
        for (int64_t target = 0, begin = 0; target < product->targets; begin = product->ends[target++]) {
            const int64_t low = first > begin ? first : begin;
            const int64_t high = last < product->ends[target] ? last : product->ends[target];
            if (low >= high) continue;
            const float *b = factors->b[target] + (low - begin) * span->rank;
            const float *h = adapted + span->hidden + target * span->rank * width;
            float *out = y + (low - first) * y_stride + (narrow ? span->window : from * LANES);
            if (narrow)
                add_b(high - low, span->rank, b, BLOCK, h, span->scale, span->own + span->window, out, y_stride);
            else
                multiply(high - low, count, b, span->rank, h, width, span->rank, out, y_stride, &options);
        }
    }
}

// The first of n things that are a part's, of as many parts as there are threads; a multiple of `whole`.
static inline int64_t first_of(int64_t part, int64_t n, int64_t whole, const Pass *pass)
{
    return part == pass->threads ? n : n * part / pass->threads / whole * whole;
}

// x of narrow spans in pairs.
static void pair_inputs(const Product *product, int64_t number, const float *x, const Pass *pass)
{
#pragma omp for schedule(static)
    for (int64_t part = 0; part < pass->threads; part++)
        for (int64_t s = 0; s < pass->spans; s++) {
            const Span *span = pass->span + s;
            if (span->window < 0 || !pass->factors[number * pass->spans + s].a) continue;
            const float *from = x + span->window;
            const int64_t end = first_of(part + 1, product->inputs, 2, pass);
            for (int64_t k = first_of(part, product->inputs, 2, pass); k < end; k += 2)
                store(pass->paired + span->paired + k * HALF,
                      pair_up(from + k * pass->stride, from + (k + 1) * pass->stride));
        }
}

// A·x of all adapters, cut evenly whatever the ranks; every thread waits for the others behind it.
static void apply_a(const Product *product, int64_t number, const float *x, const Pass *pass)
{
    const Options options = {NULL, NULL, 1.0f, 0, RANKS};
    const Factors *factors = pass->factors + number * pass->spans;
    pair_inputs(product, number, x, pass);
    int64_t blocks = 0;
    for (int64_t s = 0; s < pass->spans; s++)
        if (factors[s].a) blocks += product->targets * pass->span[s].rank / RANKS;
#pragma omp for schedule(static)
    for (int64_t part = 0; part < pass->threads; part++) {
        const int64_t first = first_of(part, blocks, 1, pass), last = first_of(part + 1, blocks, 1, pass);
        for (int64_t s = 0, before = 0; s < pass->spans && before < last; s++) {
            if (!factors[s].a) continue;
            const Span *span = pass->span + s;
            const int64_t here = product->targets * span->rank / RANKS;
            const int64_t low = first > before ? first - before : 0, high = last - before < here ? last - before : here;
            const int64_t from = span->start / LANES, count = (span->end + LANES - 1) / LANES - from;
            for (int64_t i = low; i < high && span->window >= 0; i++)
                pairs_of_a(factors[s].a + i * RANKS * product->inputs, product->inputs, pass->paired + span->paired,
                           pass->adapted + span->hidden + i * RANKS * HALF);
            if (low < high && span->window < 0)
                multiply((high - low) * RANKS, count, factors[s].a + low * RANKS * product->inputs, product->inputs,
                         x + from * LANES, pass->stride, product->inputs,
                         pass->adapted + span->hidden + low * RANKS * count * LANES, count * LANES, &options);
            before += here;
        }
    }
}

// y = W·x + b and what the adapters add, or all that added to y.
static void apply(const Product *product, int64_t number, const float *x, float *y, int add, const Pass *pass)
{
    if (pass->spans) apply_a(product, number, x, pass);
#pragma omp for schedule(static)
    for (int64_t part = 0; part < pass->threads; part++) {
        const int64_t end = first_of(part + 1, product->outputs, PAIR_ROWS, pass);
        for (int64_t i = first_of(part, product->outputs, PAIR_ROWS, pass), last; i < end; i = last) {
            last = i + BLOCK < end ? i + BLOCK : end;
            const Options options = {product->bias ? product->bias + i : NULL, NULL, 1.0f, add, ROWS};
            float *out = y + i * pass->stride;
            multiply(last - i, pass->vectors, product->weight + i * product->inputs, product->inputs, x, pass->stride,
                     product->inputs, out, pass->stride, &options);
            add_adapters(product, number, pass->adapted, i, last, out, pass->stride, pass);
        }
    }
}

// RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467, equation 4) of one vector of tokens.
static inline void norm_of_vector(const float *x, int64_t stride, const float *weight, int64_t n, float epsilon,
                                  float *out, int64_t out_stride)
{
    vec squares[4] = {{0}, {0}, {0}, {0}};
    for (int64_t i = 0; i < n; i++) {
        const vec value = load(x + i * stride);
        squares[i & 3] += value * value;
    }
    vec scale = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    for (int lane = 0; lane < LANES; lane++) scale[lane] = 1.0f / sqrtf(scale[lane] / (float)n + epsilon);
    for (int64_t i = 0; i < n; i++)
        store(out + i * out_stride, load(x + i * stride) * scale * weight[i]);
}

static void norm(const float *x, const float *weight, int64_t n, float epsilon, float *out, const Pass *pass)
{
#pragma omp for schedule(static)
    for (int64_t v = 0; v < pass->vectors; v++)
        norm_of_vector(x + v * LANES, pass->stride, weight, n, epsilon, out + v * LANES, pass->stride);
}

// Norms and rotation of the heads (rotary embedding, Su et al. 2021, arXiv:2104.09864, section 3.4.2): queries go to
// rows, keys and values to the cache.
static void turn_heads(const Model *model, const Layer *layer, int64_t number, const Pass *pass)
{
    const int64_t heads = model->heads, keys = model->key_heads, depth = model->head_dim, half = depth / 2;
    const int64_t stride = pass->stride;
#pragma omp for collapse(2) schedule(static)
    for (int64_t head = 0; head < heads + 2 * keys; head++)
        for (int64_t v = 0; v < pass->vectors; v++) {
            vec own[WIDEST_HEAD];
            const float *x = pass->qkv + head * depth * stride + v * LANES;
            const float *weight = head < heads ? layer->query_norm : layer->key_norm;
            const int is_value = head >= heads + keys;
            if (weight && !is_value)
                norm_of_vector(x, stride, weight, depth, layer->head_epsilon, (float *)own, LANES);
            else
                for (int64_t d = 0; d < depth; d++) own[d] = load(x + d * stride);
            for (int64_t d = 0; d < half && !is_value; d++) {
                const float *cos = pass->cos + d * stride + v * LANES, *sin = pass->sin + d * stride + v * LANES;
                const vec first = own[d], second = own[d + half];
                own[d] = first * load(cos) - second * load(sin);
                own[d + half] = second * load(cos + half * stride) + first * load(sin + half * stride);
            }
            const int64_t left = pass->tokens - v * LANES;
            for (int64_t lane = 0; lane < LANES && lane < left; lane++) {
                const int64_t t = v * LANES + lane;
                float *out;
                if (head < heads) out = pass->query + (t * heads + head) * depth;
                else if (!is_value) out = pass->keys[number] + (pass->cells[t] * keys + head - heads) * depth;
                else out = pass->values[number] + (pass->cells[t] * keys + head - heads - keys) * depth;
                for (int64_t d = 0; d < depth; d++) out[d] = ((const float *)own)[d * LANES + lane];
            }
        }
}

static void attend(const Model *model, const Layer *layer, int64_t number, const Pass *pass)
{
    const int64_t heads = model->heads, depth = model->head_dim, shared = heads / model->key_heads;
    // Sequences have other numbers of keys, so each thread takes the next ones when it has done its own.
#pragma omp for schedule(dynamic, 2)
    for (int64_t t = 0; t < pass->tokens; t++)
        for (int64_t head = 0; head < heads; head++) {
            const int64_t row = (t * heads + head) * depth, key_head = head / shared * depth;
            const Stored stored = {pass->keys[number] + key_head, pass->values[number] + key_head,
                                   pass->tables + t * pass->blocks, pass->positions[t] + 1, pass->block_size,
                                   model->key_heads * depth};
            attend_head(depth, pass->query + row, layer->scaling, &stored, pass->mixed + row);
        }
    to_columns(pass->mixed, heads * depth, pass->mixed_columns, pass);
}

// silu(gate) * up, into the gate's place (Shazeer 2020, arXiv:2002.05202, equation 6, without the projections).
static void gate(const Model *model, const Pass *pass)
{
    const int64_t size = model->intermediate * pass->stride;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < model->intermediate; i++) {
        float *row = pass->gate_up + i * pass->stride;
        for (int64_t t = 0; t < pass->vectors * LANES; t += LANES) {
            const vec x = load(row + t);
            store(row + t, x / (1.0f + exponential(-x)) * load(row + size + t));
        }
    }
}

static void run_layer(const Model *model, int64_t number, const Pass *pass)
{
    const Layer *layer = model->layer + number;
    norm(pass->x, layer->norm, model->hidden, layer->epsilon, pass->normed, pass);
    apply(&layer->qkv, 4 * number, pass->normed, pass->qkv, 0, pass);
    turn_heads(model, layer, number, pass);
    attend(model, layer, number, pass);
    apply(&layer->output, 4 * number + 1, pass->mixed_columns, pass->x, 1, pass);
    norm(pass->x, layer->mlp_norm, model->hidden, layer->mlp_epsilon, pass->normed, pass);
    apply(&layer->gate_up, 4 * number + 2, pass->normed, pass->gate_up, 0, pass);
    gate(model, pass);
    apply(&layer->down, 4 * number + 3, pass->gate_up, pass->x, 1, pass);
}

// From the embeddings in `pass->rows` to the hidden states after the final norm, there too.
void decode(const Model *model, const Pass *pass)
{
#pragma omp parallel num_threads(pass->threads)
    {
        to_columns(pass->rows, model->hidden, pass->x, pass);
        for (int64_t number = 0; number < model->layers; number++) run_layer(model, number, pass);
        norm(pass->x, model->norm, model->hidden, model->epsilon, pass->normed, pass);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < pass->tokens; t++)
            for (int64_t f = 0; f < model->hidden; f++)
                pass->rows[t * model->hidden + f] = pass->normed[f * pass->stride + t];
    }
}

// Logits [tokens][outputs] of the hidden states that `decode` left by columns.
void project(const Product *head, const Pass *pass, float *logits)
{
#pragma omp parallel num_threads(pass->threads)
    {
        const int64_t number = pass->products - 1;
        if (pass->spans) apply_a(head, number, pass->normed, pass);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < head->outputs; i += LOGIT_BLOCK) {
            const int64_t last = i + LOGIT_BLOCK < head->outputs ? i + LOGIT_BLOCK : head->outputs;
            float block[LOGIT_BLOCK * MOST_TOKENS];
            const Options options = {head->bias ? head->bias + i : NULL, NULL, 1.0f, 0, ROWS};
            multiply(last - i, pass->vectors, head->weight + i * head->inputs, head->inputs, pass->normed,
                     pass->stride, head->inputs, block, pass->stride, &options);
            add_adapters(head, number, pass->adapted, i, last, block, pass->stride, pass);
            for (int64_t t = 0; t < pass->tokens; t++)
                for (int64_t f = i; f < last; f++) logits[t * head->outputs + f] = block[(f - i) * pass->stride + t];
        }
    }
}
