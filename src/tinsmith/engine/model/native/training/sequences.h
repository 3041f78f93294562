// Sequences of a packed stream, and what attention does with one query or one line.

#ifndef TINSMITH_SEQUENCES_H
#define TINSMITH_SEQUENCES_H

#include "room.h"

// `count` tokens from `start` on, behind `before` tokens of another from `lent` on.
typedef struct {
    int64_t start, count, lent, before;
} sequence;

// Queries [T, heads, d] and keys and values [T, key heads, d].
typedef struct {
    const number *query, *key, *value;
    int64_t heads, key_heads, d;
    float scaling;
} input;

static inline int64_t place_of(const sequence *s, int64_t key)
{
    return key < s->before ? s->lent + key : s->start + key - s->before;
}

// The softmax of one query over the keys so far: the largest score, and the sum of the others' powers beside it.
typedef struct {
    float peak;
    vec total;
} softmax;

// A row of products with further keys, of which so many are seen, becomes e^(score - largest), zero from there on.
// Returns what all before is to be multiplied with, as the largest may be another one now.
static inline float soften(float *row, int64_t seen, int64_t keys, float scaling, softmax *so_far)
{
    const vec zero = {0};
    float peak = so_far->peak;
    for (int64_t i = seen > 0 ? seen : 0; i < keys; i++) row[i] = -INFINITY;
    vec largest = zero + peak;
    for (int64_t i = 0; i < keys; i += LANES) {
        const vec x = load(row + i) * scaling;
        store(row + i, x);
        largest = choose(x > largest, x, largest);
    }
    for (int lane = 0; lane < LANES; lane++) peak = largest[lane] > peak ? largest[lane] : peak;
    const float fade = exponential(zero + (so_far->peak - peak))[0];
    vec sum = zero;
    for (int64_t i = 0; i < keys; i += LANES) {
        const vec e = power_of_score(load(row + i) - peak);
        store(row + i, rounded(e));
        sum += e;
    }
    so_far->total = so_far->total * fade + sum;
    so_far->peak = peak;
    return fade;
}

// What `packed_attention_gradient` is told, and where it leaves the gradients of queries, keys and values.
typedef struct {
    const number *g;
    const float *sums;
    number *query, *key, *value;
} gradient;

// The gradients of one head's keys and values of a sequence whose tokens others share, until all of them have been.
typedef struct {
    float *keys, *values;  // [count, wide]; NULL where nobody shares them
} lent;

static void write_lines(number *to, const float *lines, int64_t wide, int64_t token, int64_t count, int64_t head,
                        int64_t heads, int64_t d)
{
    for (int64_t i = 0; i < count; i++, lines += wide)
        for (int64_t j = 0; j < d; j += LANES) keep(to + ((token + i) * heads + head) * d + j, d - j, load(lines + j));
}

// What a sequence's lines [before + count, wide] add to the gradient of keys or values.
static void hand_over(number *to, const float *lines, int64_t wide, float *shared, const sequence *s, int64_t head,
                      int64_t heads, int64_t d)
{
    if (shared && !s->before) {
        memcpy(shared, lines, (size_t)(s->count * wide) * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < s->before * wide; i += LANES) store(shared + i, load(lines + i) + load(shared + i));
    write_lines(to, lines + s->before * wide, wide, s->start, s->count, head, heads, d);
}

#endif
