// A decoding step of a decoder of the Llama family: one new token for each of many sequences, each with its adapter.
//
// The whole step is one parallel region, in which the threads of torch's pool share each loop (see `loops.h`) and wait
// for each other behind it. See `products.h` for how activations lie. `native_decoder.py` fills the structures. Numbers
// are those of `float32.h` or of `bfloat16.h`, whichever was included before, with its products and its attention.

#ifndef TINSMITH_STEP_H
#define TINSMITH_STEP_H

#include "loops.h"
#include "pass.h"
#include "stored.h"

// Pieces of the loops below, each of some microseconds: what a thread takes at once.
#define VECTORS_AT_ONCE 2
#define GROUPS_AT_ONCE 2
#define FEATURES_AT_ONCE 64

// Operands from rows to columns.
static void to_columns(const operand *rows, int64_t features, operand *columns, const Pass *pass)
{
#pragma omp for schedule(static)
    for (int64_t i = 0; i < features; i += LANES) {
        const int64_t end = i + LANES < features ? i + LANES : features;
        for (int64_t t = 0; t < pass->tokens; t++)
            for (int64_t f = i; f < end; f++) columns[f * pass->stride + t] = rows[t * features + f];
        for (int64_t f = i; f < end; f++)
            for (int64_t t = pass->tokens; t < pass->vectors * LANES; t++) columns[f * pass->stride + t] = 0;
    }
}

static void embed(const Model *model, const Pass *pass)
{
#pragma omp for schedule(static)
    for (int64_t i = 0; i < model->hidden; i += LANES) {
        const int64_t end = i + LANES < model->hidden ? i + LANES : model->hidden;
        for (int64_t t = 0; t < pass->tokens; t++)
            for (int64_t f = i; f < end; f++)
                pass->x[f * pass->stride + t] = to_float(pass->rows[t * model->hidden + f]);
        for (int64_t f = i; f < end; f++)
            for (int64_t t = pass->tokens; t < pass->vectors * LANES; t++) pass->x[f * pass->stride + t] = 0.0f;
    }
}

// What RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467, equation 4) multiplies one vector of tokens with.
static inline vec norm_scale(const float *x, int64_t stride, int64_t n, float epsilon)
{
    vec squares[4] = {{0}, {0}, {0}, {0}};
    for (int64_t i = 0; i < n; i++) {
        const vec value = load(x + i * stride);
        squares[i & 3] += value * value;
    }
    vec scale = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    for (int lane = 0; lane < LANES; lane++) scale[lane] = 1.0f / sqrtf(scale[lane] / (float)n + epsilon);
    return scale;
}

static inline vec scaled(const float *x, vec scale, number weight)
{
    return rounded(rounded(load(x) * scale) * to_float(weight));
}

static void norm(const float *x, const number *weight, int64_t n, float epsilon, operand *out, const Pass *pass,
                 Team *team)
{
    const int64_t stride = pass->stride;
    Loop loop = begin_loop(pass->vectors, 1, 1, team);
    while (take_piece(&loop)) {
        const int64_t v = loop.first;
        const float *own = x + v * LANES;
        const vec scale = norm_scale(own, stride, n, epsilon);
        for (int64_t i = 0; i < n; i += 2)
            put(out + i / PACKED * stride + v * LANES, stride, scaled(own + i * stride, scale, weight[i]),
                scaled(own + (i + 1) * stride, scale, weight[i + 1]));
    }
    end_loop();
}

// Norms and rotation of the heads (rotary embedding, Su et al. 2021, arXiv:2104.09864, section 3.4.2): queries go to
// rows, keys and values to the cache.
static void turn_heads(const Model *model, const Layer *layer, int64_t index, const Pass *pass, Team *team)
{
    const int64_t heads = model->heads, keys = model->key_heads, depth = model->head_dim, half = depth / 2;
    const int64_t stride = pass->stride;
    Loop loop = begin_loop((heads + 2 * keys) * pass->vectors, 1, VECTORS_AT_ONCE, team);
    while (take_piece(&loop))
        for (int64_t at = loop.first; at < loop.last; at++) {
            const int64_t head = at / pass->vectors, v = at % pass->vectors;
            vec own[WIDEST_HEAD];
            const float *x = pass->qkv + head * depth * stride + v * LANES;
            const number *weight = head < heads ? layer->query_norm : layer->key_norm;
            const int is_value = head >= heads + keys;
            if (weight && !is_value) {
                const vec scale = norm_scale(x, stride, depth, layer->head_epsilon);
                for (int64_t d = 0; d < depth; d++) own[d] = scaled(x + d * stride, scale, weight[d]);
            } else {
                for (int64_t d = 0; d < depth; d++) own[d] = load(x + d * stride);
            }
            for (int64_t d = 0; d < half && !is_value; d++) {
                const float *cos = pass->cos + d * stride + v * LANES, *sin = pass->sin + d * stride + v * LANES;
                const vec first = own[d], second = own[d + half];
                own[d] = rounded(rounded(first * load(cos)) - rounded(second * load(sin)));
                own[d + half] = rounded(rounded(second * load(cos + half * stride)) +
                                        rounded(first * load(sin + half * stride)));
            }
            const operand *packed = pack(own, depth);
            const int64_t left = pass->tokens - v * LANES;
            for (int64_t lane = 0; lane < LANES && lane < left; lane++) {
                const int64_t t = v * LANES + lane;
                number *out;
                if (head < heads) out = pass->query + (t * heads + head) * depth;
                else if (!is_value) out = pass->keys[index] + (pass->cells[t] * keys + head - heads) * depth;
                else out = pass->values[index] + (pass->cells[t] * keys + head - heads - keys) * depth;
                for (int64_t d = 0; d < depth / PACKED; d++) ((operand *)out)[d] = packed[d * LANES + lane];
            }
        }
    end_loop();
}

static void attend(const Model *model, const Layer *layer, int64_t index, const Pass *pass, Team *team)
{
    const int64_t heads = model->heads, depth = model->head_dim, shared = heads / model->key_heads;
    Loop loop = begin_loop(pass->tokens * model->key_heads, 1, GROUPS_AT_ONCE, team);
    while (take_piece(&loop))
        for (int64_t at = loop.first; at < loop.last; at++) {
            const int64_t t = at / model->key_heads, head = at % model->key_heads;
            const int64_t row = (t * heads + head * shared) * depth;
            const Stored stored = {pass->keys[index] + head * depth, pass->values[index] + head * depth,
                                   pass->tables + t * pass->blocks, pass->positions[t] + 1, pass->block_size,
                                   model->key_heads * depth};
            attend_group(shared, depth, pass->query + row, layer->scaling, &stored, pass->mixed + row);
        }
    end_loop();
    to_columns((const operand *)pass->mixed, heads * depth / PACKED, pass->mixed_columns, pass);
}

// silu(gate) * up (Shazeer 2020, arXiv:2002.05202, equation 6, without the projections).
static inline vec gated(const float *row, int64_t size)
{
    const vec x = load(row);
    return rounded(rounded(x / (1.0f + exponential(-x))) * load(row + size));
}

static void gate(const Model *model, const Pass *pass, Team *team)
{
    const int64_t stride = pass->stride, size = model->intermediate * stride;
    Loop loop = begin_loop(model->intermediate, 2, FEATURES_AT_ONCE, team);
    while (take_piece(&loop))
        for (int64_t i = loop.first; i < loop.last; i += 2) {
            const float *row = pass->gate_up + i * stride;
            for (int64_t t = 0; t < pass->vectors * LANES; t += LANES)
                put(pass->gated + i / PACKED * stride + t, stride, gated(row + t, size), gated(row + stride + t, size));
        }
    end_loop();
}

static void run_layer(const Model *model, int64_t index, const Pass *pass, Team *team)
{
    const Layer *layer = model->layer + index;
    norm(pass->x, layer->norm, model->hidden, layer->epsilon, pass->normed, pass, team);
    apply(&layer->qkv, 4 * index, pass->normed, pass->qkv, 0, pass, team);
    turn_heads(model, layer, index, pass, team);
    attend(model, layer, index, pass, team);
    apply(&layer->output, 4 * index + 1, pass->mixed_columns, pass->x, 1, pass, team);
    norm(pass->x, layer->mlp_norm, model->hidden, layer->mlp_epsilon, pass->normed, pass, team);
    apply(&layer->gate_up, 4 * index + 2, pass->normed, pass->gate_up, 0, pass, team);
    gate(model, pass, team);
    apply(&layer->down, 4 * index + 3, pass->gated, pass->x, 1, pass, team);
}

// From the embeddings in `pass->rows` to the hidden states after the final norm, there too.
static void run(const Model *model, const Pass *pass)
{
    Taken taken[LOOPS * pass->threads];
    memset(taken, 0, sizeof taken);
#pragma omp parallel num_threads(pass->threads)
    {
        Team team = join_team(taken);
        begin_products();
        embed(model, pass);
        for (int64_t index = 0; index < model->layers; index++) run_layer(model, index, pass, &team);
        norm(pass->x, model->norm, model->hidden, model->epsilon, pass->normed, pass, &team);
        const int64_t features = model->hidden / PACKED;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < pass->tokens; t++)
            for (int64_t f = 0; f < features; f++)
                ((operand *)pass->rows)[t * features + f] = pass->normed[f * pass->stride + t];
        end_products();
    }
}

// Logits [tokens][outputs] of the hidden states in `pass->rows`.
static void project_rows(const Product *head, const Pass *pass, float *logits)
{
    Taken taken[LOOPS * pass->threads];
    memset(taken, 0, sizeof taken);
#pragma omp parallel num_threads(pass->threads)
    {
        const int64_t last_product = pass->products - 1;
        Team team = join_team(taken);
        begin_products();
        to_columns((const operand *)pass->rows, head->inputs / PACKED, pass->normed, pass);
        prepare(head, last_product, pass->normed, pass, &team);
        Loop loop = begin_loop(head->outputs, WHOLE, BLOCK, &team);
        while (take_piece(&loop)) {
            float block[BLOCK * MOST_TOKENS];
            logits_of(head, last_product, loop.first, loop.last, block, pass);
            to_rows(block, loop.last - loop.first, logits + loop.first, head->outputs, pass);
        }
        end_products();
    }
}

#endif
