// What `adapters.h` does, in bfloat16: products of a layer's weights, and what each token's adapter adds to them.
//
// Rounded as `lora.add_delta` rounds: W·x + b, A·x, that times the scale, and their sum with B·(A·x).

#ifndef TINSMITH_TILE_ADAPTERS_H
#define TINSMITH_TILE_ADAPTERS_H

#include "../pass.h"
#include "tiles.h"

// Output rows that a thread computes before the adapters' are added.
#define BLOCK (4 * SIDE)

// Tiles of tokens that hold a span's, from its window on: where they begin, all are columns of the pass.
static inline int64_t tiles_of(const Span *span) { return (span->end - span->start + SIDE - 1) / SIDE; }

// Add B·h of all spans to outputs [first, last) of a product, which are rounded if they are to stay bfloat16.
static void add_adapters(const Product *product, int64_t index, int64_t first, int64_t last, float *y,
                         int64_t y_stride, int stays, const Pass *pass)
{
    for (int64_t s = 0; s < pass->spans; s++) {
        const Span *span = pass->span + s;
        const Factors *factors = pass->factors + index * pass->spans + s;
        if (!factors->a) continue;
        const int64_t count = tiles_of(span), width = count * SIDE;
        for (int64_t target = 0, begin = 0; target < product->targets; begin = product->ends[target++]) {
            const int64_t low = first > begin ? first : begin;
            const int64_t high = last < product->ends[target] ? last : product->ends[target];
            if (low >= high) continue;
            const number *b = factors->b[target] + (low - begin) * span->rank;
            const operand *h = pass->adapted + span->hidden + target * span->rank / 2 * width;
            for (int64_t j = 0; j < count; j++) {
                float sums[BLOCK * SIDE];
                multiply(high - low, 1, b, span->rank, h + j * SIDE, width, sums, SIDE);
                const int64_t column = span->window + j * SIDE;
                const mask own = *(const mask *)(span->own + column);
                float *out = y + (low - first) * y_stride + column;
                for (int64_t i = 0; i < high - low; i++, out += y_stride) {
                    const vec before = load(out), sum = before + load(sums + i * SIDE);
                    // What is left out counts for nothing, NaN or not.
                    store(out, choose(own, stays ? rounded(sum) : sum, before));
                }
            }
        }
    }
}

// The first of n things that are a part's, of as many parts as there are threads; a multiple of `whole`.
static inline int64_t first_of(int64_t part, int64_t n, int64_t whole, const Pass *pass)
{
    return part == pass->threads ? n : n * part / pass->threads / whole * whole;
}

// Scaled A·x of rows [first, last) of one span's A, in pairs.
static void hidden_of(const Span *span, const number *a, int64_t inputs, const operand *x, int64_t first, int64_t last,
                      const Pass *pass)
{
    const int64_t count = tiles_of(span), width = count * SIDE;
    for (int64_t i = first, end; i < last; i = end) {
        end = i + BLOCK < last ? i + BLOCK : last;
        for (int64_t j = 0; j < count; j++) {
            float sums[BLOCK * SIDE];
            multiply(end - i, 1, a + i * inputs, inputs, x + span->window + j * SIDE, pass->stride, sums, SIDE);
            operand *out = pass->adapted + span->hidden + i / 2 * width + j * SIDE;
            for (int64_t row = 0; row < end - i; row += 2, out += width)
                put(out, width, rounded(load(sums + row * SIDE)) * span->scale,
                    rounded(load(sums + (row + 1) * SIDE)) * span->scale);
        }
    }
}

// A·x of all adapters, cut evenly whatever the ranks; every thread waits for the others behind it.
static void apply_a(const Product *product, int64_t index, const operand *x, const Pass *pass)
{
    const Factors *factors = pass->factors + index * pass->spans;
    int64_t all = 0;
    for (int64_t s = 0; s < pass->spans; s++)
        if (factors[s].a) all += (product->targets * pass->span[s].rank + SIDE - 1) / SIDE;
#pragma omp for schedule(static)
    for (int64_t part = 0; part < pass->threads; part++) {
        const int64_t first = first_of(part, all, 1, pass), last = first_of(part + 1, all, 1, pass);
        for (int64_t s = 0, before = 0, here; s < pass->spans && before < last; s++, before += here) {
            here = 0;
            if (!factors[s].a) continue;
            const int64_t rows = product->targets * pass->span[s].rank;
            here = (rows + SIDE - 1) / SIDE;
            const int64_t low = first > before ? first - before : 0, high = last - before < here ? last - before : here;
            hidden_of(pass->span + s, factors[s].a, product->inputs, x, low * SIDE,
                      high * SIDE < rows ? high * SIDE : rows, pass);
        }
    }
}

// What comes before any of a product's outputs; every thread waits for the others behind it.
static void prepare(const Product *product, int64_t index, const operand *x, const Pass *pass)
{
    if (pass->spans) apply_a(product, index, x, pass);
}

// Ask for the adapters' B of the outputs from `last` on, while those from `first` on are computed: a processor's own
// guesses begin anew with every adapter.
static void ask_for_next(const Product *product, int64_t index, int64_t first, int64_t last, const Pass *pass)
{
    const int64_t steps = (last - first) / (2 * SIDE) * ((pass->vectors + 1) / 2) * (product->inputs / DEEP);
    asked = (Asked){.count = 0};
    for (int64_t s = 0; s < pass->spans && asked.count < MOST_ASKED && steps; s++) {
        const Factors *factors = pass->factors + index * pass->spans + s;
        if (!factors->a) continue;
        int64_t target = 0, begin = 0;
        while (target < product->targets && last >= product->ends[target]) begin = product->ends[target++];
        if (target == product->targets) return;
        const int64_t lines = (last - first) * pass->span[s].rank / DEEP;
        asked.lines = lines > asked.lines ? lines : asked.lines;
        asked.stretch[asked.count++] = factors->b[target] + (last - begin) * pass->span[s].rank;
    }
    asked.each = steps ? (asked.count * asked.lines + steps - 1) / steps : 0;
}

// W·x + b of outputs [first, last) and what the adapters add, rounded if they are to stay bfloat16.
static void apply_block(const Product *product, int64_t index, const operand *x, int64_t first, int64_t last,
                        float *y, int stays, const Pass *pass)
{
    ask_for_next(product, index, first, last, pass);
    multiply(last - first, pass->vectors, product->weight + first * product->inputs, product->inputs, x, pass->stride,
             y, pass->stride);
    for (int64_t i = first; i < last && (stays || product->bias); i++) {
        const float bias = product->bias ? to_float(product->bias[i]) : 0.0f;
        float *row = y + (i - first) * pass->stride;
        for (int64_t t = 0; t < pass->stride; t += SIDE) {
            const vec sum = load(row + t) + bias;
            store(row + t, stays ? rounded(sum) : sum);
        }
    }
    add_adapters(product, index, first, last, y, pass->stride, stays, pass);
}

// y = W·x + b and what the adapters add, or all that added to y.
static void apply(const Product *product, int64_t index, const operand *x, float *y, int add, const Pass *pass)
{
    prepare(product, index, x, pass);
#pragma omp for schedule(static)
    for (int64_t part = 0; part < pass->threads; part++) {
        const int64_t end = first_of(part + 1, product->outputs, SIDE, pass);
        for (int64_t i = first_of(part, product->outputs, SIDE, pass), last; i < end; i = last) {
            last = i + BLOCK < end ? i + BLOCK : end;
            float block[BLOCK * MOST_TOKENS], *out = y + i * pass->stride;
            apply_block(product, index, x, i, last, add ? block : out, 1, pass);
            for (int64_t at = 0; at < (last - i) * pass->stride && add; at += SIDE)
                store(out + at, rounded(load(out + at) + load(block + at)));
        }
    }
}

// A block of logits, which stay float32.
static void logits_of(const Product *head, int64_t index, int64_t first, int64_t last, float *block, const Pass *pass)
{
    apply_block(head, index, pass->normed, first, last, block, 0, pass);
}

// Logits by columns, [features][stride], to rows [tokens][outputs].
static void to_rows(const float *block, int64_t features, float *logits, int64_t outputs, const Pass *pass)
{
    const int64_t whole = features / SIDE * SIDE;
    for (int64_t f = 0; f < whole; f += SIDE)
        for (int64_t t = 0; t < pass->tokens; t += SIDE)
            transpose(block + f * pass->stride + t, pass->stride, logits + t * outputs + f, outputs, pass->tokens - t);
    for (int64_t t = 0; t < pass->tokens; t++)
        for (int64_t f = whole; f < features; f++) logits[t * outputs + f] = block[f * pass->stride + t];
}

#endif
