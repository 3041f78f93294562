// What `adapters.h` does, in bfloat16: products of a layer's weights, and what each token's adapter adds to them.
//
// Rounded as `lora.add_delta` rounds: W·x + b, A·x, that times the scale, and their sum with B·(A·x).

#ifndef TINSMITH_TILE_ADAPTERS_H
#define TINSMITH_TILE_ADAPTERS_H

#include "../loops.h"
#include "tiles.h"

// Output rows that a thread computes before the adapters' are added, and of which each block begins at a multiple.
#define BLOCK (4 * SIDE)
#define WHOLE SIDE

// Tiles of tokens that hold a span's, from its window on: where they begin, all are columns of the pass.
static inline int64_t tiles_of(const Span *span) { return (span->end - span->start + SIDE - 1) / SIDE; }

// What the adapters add to a block of outputs, and to which of the tokens.
typedef struct {
    _Alignas(64) float sums[BLOCK * MOST_TOKENS];  // [rows][stride]
    _Alignas(64) int32_t own[MOST_TOKENS];         // -1 where a token's adapter adds something, else 0
} Additions;

// Put B·h of rows of B in their place: a span's tokens from its window on. What else its tiles hold comes to lie where
// no span or a later one is, or is left out.
static void put_sums(const Span *span, int64_t rows, const number *b, const operand *h, int alone, float *place,
                     int64_t stride)
{
    const int64_t count = tiles_of(span), width = count * SIDE;
    if (alone) {
        multiply(rows, count, b, span->rank, h, width, place + span->window, stride, NULL);
        return;
    }
    // Spans before it have tokens in its first columns.
    for (int64_t j = 0; j < count; j++) {
        float sums[BLOCK * SIDE];
        multiply(rows, 1, b, span->rank, h + j * SIDE, width, sums, SIDE, NULL);
        const int64_t column = span->window + j * SIDE;
        const mask own = *(const mask *)(span->own + column);
        float *out = place + column;
        for (int64_t i = 0; i < rows; i++, out += stride) store(out, choose(own, load(sums + i * SIDE), load(out)));
    }
}

// B·h of all spans for outputs [first, last) of a product. Returns whether there is any.
static int add_up(const Product *product, int64_t index, int64_t first, int64_t last, const Pass *pass,
                  Additions *additions)
{
    int any = 0;
    int64_t taken = 0;  // behind the last column of the spans so far
    for (int64_t s = 0; s < pass->spans; s++) {
        const Span *span = pass->span + s;
        const Factors *factors = pass->factors + index * pass->spans + s;
        if (!factors->a) continue;
        if (!any) memset(additions->own, 0, (size_t)pass->stride * sizeof *additions->own);
        any = 1;
        for (int64_t t = span->start; t < span->end; t++) additions->own[t] = -1;
        for (int64_t target = 0, begin = 0; target < product->targets; begin = product->ends[target++]) {
            const int64_t low = first > begin ? first : begin;
            const int64_t high = last < product->ends[target] ? last : product->ends[target];
            if (low < high)
                put_sums(span, high - low, factors->b[target] + (low - begin) * span->rank,
                         pass->adapted + span->hidden + target * span->rank / 2 * tiles_of(span) * SIDE,
                         span->window >= taken, additions->sums + (low - first) * pass->stride, pass->stride);
        }
        taken = span->end > taken ? span->end : taken;
    }
    return any;
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
            multiply(end - i, 1, a + i * inputs, inputs, x + span->window + j * SIDE, pass->stride, sums, SIDE, NULL);
            operand *out = pass->adapted + span->hidden + i / 2 * width + j * SIDE;
            for (int64_t row = 0; row < end - i; row += 2, out += width)
                put(out, width, rounded(load(sums + row * SIDE)) * span->scale,
                    rounded(load(sums + (row + 1) * SIDE)) * span->scale);
        }
    }
}

// A·x of all adapters, cut evenly whatever the ranks; every thread waits for the others behind it.
static void apply_a(const Product *product, int64_t index, const operand *x, const Pass *pass, Team *team)
{
    const Factors *factors = pass->factors + index * pass->spans;
    int64_t all = 0;
    for (int64_t s = 0; s < pass->spans; s++)
        if (factors[s].a) all += (product->targets * pass->span[s].rank + SIDE - 1) / SIDE;
    Loop loop = begin_loop(all, 1, BLOCK / SIDE, team);
    while (take_piece(&loop)) {
        const int64_t first = loop.first, last = loop.last;
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
    end_loop();
}

// What comes before any of a product's outputs; every thread waits for the others behind it.
static void prepare(const Product *product, int64_t index, const operand *x, const Pass *pass, Team *team)
{
    if (pass->spans) apply_a(product, index, x, pass, team);
}

// W·x + b of outputs [first, last) and what the adapters add, in `block` [rows][stride].
static void apply_block(const Product *product, int64_t index, const operand *x, int64_t first, int64_t last,
                        int stays, float *block, const Pass *pass)
{
    Additions additions;
    Asked asked;
    ask_for_next(&asked, product, index, first, last,
                 (last - first) / SIDE * pass->vectors * (product->inputs / DEEP), pass);
    multiply(last - first, pass->vectors, product->weight + first * product->inputs, product->inputs, x, pass->stride,
             block, pass->stride, &asked);
    const int any = add_up(product, index, first, last, pass, &additions);
    for (int64_t i = first; i < last && (stays || any || product->bias); i++) {
        const float bias = product->bias ? to_float(product->bias[i]) : 0.0f;
        const int64_t row = (i - first) * pass->stride;
        for (int64_t t = 0; t < pass->stride; t += SIDE) {
            vec sum = load(block + row + t) + bias;
            if (stays) sum = rounded(sum);
            if (any) {
                const vec both = sum + load(additions.sums + row + t);
                // What is left out counts for nothing, NaN or not.
                sum = choose(*(const mask *)(additions.own + t), stays ? rounded(both) : both, sum);
            }
            store(block + row + t, sum);
        }
    }
}

// y = W·x + b and what the adapters add, or all that added to y.
static void apply(const Product *product, int64_t index, const operand *x, float *y, int add, const Pass *pass,
                  Team *team)
{
    prepare(product, index, x, pass, team);
    Loop loop = begin_loop(product->outputs, WHOLE, BLOCK, team);
    while (take_piece(&loop)) {
        float block[BLOCK * MOST_TOKENS], *out = y + loop.first * pass->stride;
        apply_block(product, index, x, loop.first, loop.last, 1, add ? block : out, pass);
        for (int64_t at = 0; at < (loop.last - loop.first) * pass->stride && add; at += SIDE)
            store(out + at, rounded(load(out + at) + load(block + at)));
    }
    end_loop();
}

// A block of logits, which stay float32.
static void logits_of(const Product *head, int64_t index, int64_t first, int64_t last, float *block, const Pass *pass)
{
    apply_block(head, index, pass->normed, first, last, 0, block, pass);
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
