// Products of a layer's weights, with what each token's adapter adds (LoRA, Hu et al. 2021, arXiv:2106.09685, equation 3).
//
// All threads call `apply` and share its loops.

#ifndef TINSMITH_ADAPTERS_H
#define TINSMITH_ADAPTERS_H

#include "../loops.h"
#include "few.h"

// Output rows that a thread computes before the adapters' are added, a multiple of all tiles, and of which each block
// begins at a multiple.
#define BLOCK 24
#define WHOLE PAIR_ROWS
// Rows of an adapter's A, of which each rank is a multiple.
#define RANKS 8
// So many rows, in blocks of RANKS, are what a thread takes at once.
#define BLOCKS_AT_ONCE 4

// What the span's adapter adds to outputs [first, last) of a product, once A·x is there.
static void add_adapters(const Product *product, int64_t index, const float *adapted, int64_t first, int64_t last,
                         float *y, int64_t y_stride, const Pass *pass)
{
    for (int64_t s = 0; s < pass->spans; s++) {
        const Span *span = pass->span + s;
        const Factors *factors = pass->factors + index * pass->spans + s;
        if (!factors->a) continue;
        const int narrow = span->window >= 0;
        const int64_t from = span->start / LANES, count = (span->end + LANES - 1) / LANES - from;
        const int64_t width = narrow ? HALF : count * LANES;
        const Options options = {NULL, span->own + from * LANES, 1.0f, 1, BLOCK, NULL};
        for (int64_t target = 0, begin = 0; target < product->targets; begin = product->ends[target++]) {
            const int64_t low = first > begin ? first : begin;
            const int64_t high = last < product->ends[target] ? last : product->ends[target];
            if (low >= high) continue;
            const float *b = factors->b[target] + (low - begin) * span->rank;
            const float *h = adapted + span->hidden + target * span->rank * width;
            float *out = y + (low - first) * y_stride + (narrow ? span->window : from * LANES);
            if (narrow)
                add_b(high - low, span->rank, b, PAIR_ROWS, h, span->own + span->window, out, y_stride);
            else
                multiply(high - low, count, b, span->rank, h, width, span->rank, out, y_stride, &options);
        }
    }
}

// x of a narrow span in pairs.
static void pair_inputs(const Span *span, int64_t inputs, const float *x, float *paired, const Pass *pass)
{
    for (int64_t k = 0; k < inputs; k += 2) {
        const float *from = x + k * pass->stride + span->window;
        store(paired + k * HALF, pair_up(from, from + pass->stride));
    }
}

// Scaled A·x of all adapters, cut evenly whatever the ranks; every thread waits for the others behind it.
static void apply_a(const Product *product, int64_t index, const float *x, const Pass *pass, Team *team)
{
    const Factors *factors = pass->factors + index * pass->spans;
    // Whoever takes rows of a narrow span puts its x in pairs, which is sooner done than waited for.
    float paired[product->inputs * HALF] __attribute__((aligned(sizeof(vec))));
    const Span *in_pairs = NULL;
    int64_t blocks = 0;
    for (int64_t s = 0; s < pass->spans; s++)
        if (factors[s].a) blocks += product->targets * pass->span[s].rank / RANKS;
    Loop loop = begin_loop(blocks, 1, BLOCKS_AT_ONCE, team);
    while (take_piece(&loop)) {
        const int64_t first = loop.first, last = loop.last;
        for (int64_t s = 0, before = 0; s < pass->spans && before < last; s++) {
            if (!factors[s].a) continue;
            const Span *span = pass->span + s;
            const int64_t here = product->targets * span->rank / RANKS;
            const int64_t low = first > before ? first - before : 0, high = last - before < here ? last - before : here;
            const int64_t from = span->start / LANES, count = (span->end + LANES - 1) / LANES - from;
            if (low < high && span->window >= 0 && in_pairs != span) {
                pair_inputs(span, product->inputs, x, paired, pass);
                in_pairs = span;
            }
            const Options options = {NULL, NULL, span->scale, 0, RANKS, NULL};
            for (int64_t i = low; i < high && span->window >= 0; i++)
                pairs_of_a(factors[s].a + i * RANKS * product->inputs, product->inputs, paired, span->scale,
                           pass->adapted + span->hidden + i * RANKS * HALF);
            if (low < high && span->window < 0)
                multiply((high - low) * RANKS, count, factors[s].a + low * RANKS * product->inputs, product->inputs,
                         x + from * LANES, pass->stride, product->inputs,
                         pass->adapted + span->hidden + low * RANKS * count * LANES, count * LANES, &options);
            before += here;
        }
    }
    end_loop();
}

// Outputs [first, last) of W·x + b and of what the adapters add, or that added to y.
static void apply_block(const Product *product, int64_t index, int64_t first, int64_t last, const float *x, float *y,
                       int add, const Pass *pass)
{
    const float *weight = product->weight + first * product->inputs;
    Asked asked;
    ask_for_next(&asked, product, index, first, last,
                 (last - first) / ROWS * ((pass->vectors + WIDEST - 1) / WIDEST) * (product->inputs / STEP), pass);
    const Options options = {product->bias ? product->bias + first : NULL, NULL, 1.0f, add, ROWS, &asked};
    if (pass->few)
        few_tokens(last - first, pass->tokens, weight, product->inputs, pass->few, y, pass->stride, options.bias, add);
    else
        multiply(last - first, pass->vectors, weight, product->inputs, x, pass->stride, product->inputs, y, pass->stride,
                 &options);
    add_adapters(product, index, pass->adapted, first, last, y, pass->stride, pass);
}

// What comes before any of a product's outputs; every thread waits for the others behind it.
static void prepare(const Product *product, int64_t index, const float *x, const Pass *pass, Team *team)
{
    if (pass->few) few_inputs(product->inputs, x, pass);
    if (pass->spans) apply_a(product, index, x, pass, team);
}

// y = W·x + b and what the adapters add, or all that added to y.
static void apply(const Product *product, int64_t index, const float *x, float *y, int add, const Pass *pass,
                  Team *team)
{
    prepare(product, index, x, pass, team);
    Loop loop = begin_loop(product->outputs, WHOLE, BLOCK, team);
    while (take_piece(&loop))
        apply_block(product, index, loop.first, loop.last, x, y + loop.first * pass->stride, add, pass);
    end_loop();
}

// A block of logits.
static void logits_of(const Product *head, int64_t index, int64_t first, int64_t last, float *block, const Pass *pass)
{
    apply_block(head, index, first, last, pass->normed, block, 0, pass);
}

// Logits by columns, [features][stride], to rows [tokens][outputs].
static void to_rows(const float *block, int64_t features, float *logits, int64_t outputs, const Pass *pass)
{
    for (int64_t t = 0; t < pass->tokens; t++)
        for (int64_t f = 0; f < features; f++) logits[t * outputs + f] = block[f * pass->stride + t];
}

#endif
