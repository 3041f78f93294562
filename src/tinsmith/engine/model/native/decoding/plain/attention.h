// Attention of one query to the keys up to its own, in the blocks where the cache keeps them.

#ifndef TINSMITH_ATTENTION_H
#define TINSMITH_ATTENTION_H

#include "../stored.h"

// Keys whose scores are computed before their values are read: a multiple of all LANES.
#define KEYS 16

// One head, `vectors` registers wide, softmax(query * keys * scaling) * values: the largest score so far, the sum and the
// mixture are carried along and faded where a larger score comes (Milakov & Gimelshein 2018, arXiv:1805.02867,
// algorithm 3). The order of the sums follows the keys alone.
static inline __attribute__((always_inline)) void attend_vectors(const int vectors, const float *query, float scaling,
                                                                 const Stored *stored, float *out)
{
    vec own[WIDEST_HEAD / LANES], mixed[WIDEST_HEAD / LANES];
    const vec zero = {0};
    float peak = -INFINITY;
    vec total = zero;
    for (int j = 0; j < vectors; j++) own[j] = load(query + j * LANES) * scaling, mixed[j] = zero;
    for (int64_t start = 0, here; start < stored->count; start += here) {
        here = run_of(stored, start, stored->count, KEYS);
        const int64_t cell = cell_of(stored, start);
        const float *key = stored->keys + cell * stored->distance, *value = stored->values + cell * stored->distance;
        float scores[KEYS], highest = peak;
        for (int64_t i = 0; i < KEYS; i++) scores[i] = -INFINITY;
        for (int64_t i = 0; i < here; i++) {
            vec product = own[0] * load(key + i * stored->distance);
            for (int j = 1; j < vectors; j++) product += own[j] * load(key + i * stored->distance + j * LANES);
            scores[i] = sum_of(product);
            highest = scores[i] > highest ? scores[i] : highest;
        }
        const vec fade = exponential(zero + (peak - highest));
        total *= fade;
        for (int64_t i = 0; i < KEYS; i += LANES) {
            const vec weights = exponential(load(scores + i) - highest);
            store(scores + i, weights);
            total += weights;
        }
        for (int j = 0; j < vectors; j++) mixed[j] *= fade;
        for (int64_t i = 0; i < here; i++)
            for (int j = 0; j < vectors; j++)
                mixed[j] += scores[i] * load(value + i * stored->distance + j * LANES);
        peak = highest;
    }
    const float share = 1.0f / sum_of(total);
    for (int j = 0; j < vectors; j++) store(out + j * LANES, mixed[j] * share);
}

// The same for a width that is no multiple of a register's.
static void attend_narrow(int64_t depth, const float *query, float scaling, const Stored *stored, float *out)
{
    float wide[WIDEST_HEAD] = {0}, peak = -INFINITY, total = 0.0f;
    for (int64_t at = 0; at < stored->count; at++) {
        const int64_t cell = cell_of(stored, at) * stored->distance;
        float score = 0.0f;
        for (int64_t d = 0; d < depth; d++) score += query[d] * stored->keys[cell + d];
        score *= scaling;
        const float highest = score > peak ? score : peak;
        const float fade = expf(peak - highest), weight = expf(score - highest);
        for (int64_t d = 0; d < depth; d++) wide[d] = wide[d] * fade + weight * stored->values[cell + d];
        total = total * fade + weight;
        peak = highest;
    }
    for (int64_t d = 0; d < depth; d++) out[d] = wide[d] / total;
}

static void attend_head(int64_t depth, const float *query, float scaling, const Stored *stored, float *out)
{
    if (depth % LANES) {
        attend_narrow(depth, query, scaling, stored, out);
        return;
    }
    // The common widths with their numbers built in, so that a head stays in registers.
    switch (depth / LANES) {
    case 1: attend_vectors(1, query, scaling, stored, out); break;
    case 2: attend_vectors(2, query, scaling, stored, out); break;
    case 4: attend_vectors(4, query, scaling, stored, out); break;
    case 8: attend_vectors(8, query, scaling, stored, out); break;
    default: attend_vectors((int)(depth / LANES), query, scaling, stored, out);
    }
}

// Query heads of one key head, [shared][depth].
static void attend_group(int64_t shared, int64_t depth, const float *query, float scaling, const Stored *stored,
                         float *out)
{
    for (int64_t head = 0; head < shared; head++)
        attend_head(depth, query + head * depth, scaling, stored, out + head * depth);
}

#endif
