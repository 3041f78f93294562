// A decoding step of a decoder of the Llama family: one new token for each of many sequences, each with its adapter.
//
// The whole step is one parallel region, in which the threads of torch's pool share each loop (`omp for`) and wait for
// each other behind it. See `products.h` for how activations lie. `native_decoder.py` fills the structures.

#include "adapters.h"
#include "attention.h"

// Columns of a pass, so that a thread has room for a block of logits.
#define MOST_TOKENS 512

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
        prepare(head, number, pass->normed, pass);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < head->outputs; i += BLOCK) {
            const int64_t last = i + BLOCK < head->outputs ? i + BLOCK : head->outputs;
            float block[BLOCK * MOST_TOKENS];
            apply_rows(head, number, i, last, pass->normed, block, 0, pass);
            for (int64_t t = 0; t < pass->tokens; t++)
                for (int64_t f = i; f < last; f++) logits[t * head->outputs + f] = block[(f - i) * pass->stride + t];
        }
    }
}
