// What `attention.h` does, in bfloat16, for the query heads that share a key head: tiles of keys give their scores.
//
// Rounded as in torch's kernel (ATen/native/cpu/FlashAttentionKernel.cpp): scores, their exponentials and the sum of
// these are float32; the exponentials are rounded before they weigh the values, and so is the mixture at the end.

#ifndef TINSMITH_TILE_ATTENTION_H
#define TINSMITH_TILE_ATTENTION_H

#include "../stored.h"
#include "tiles.h"

// Two rows of values, in pairs: LANES numbers of each.
static inline __m512i rows_in_pairs(const number *first, __m256i second)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i both = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)first));
    return _mm512_permutexvar_epi16(order, _mm512_inserti64x4(both, second, 1));
}

// mixed[vectors] += weights * values of keys [start, end), of which the first weight is the first key's.
static inline __attribute__((always_inline)) void mix_vectors(const int vectors, const number *weights, int64_t start,
                                                              int64_t end, const Stored *stored, vec *mixed)
{
    __m512 sums[WIDEST_HEAD / LANES];
    for (int j = 0; j < vectors; j++) sums[j] = (__m512)mixed[j];
    for (int64_t at = start, here; at < end; at += here) {
        const number *value = stored->values + cell_of(stored, at) * stored->distance;
        here = run_of(stored, at, end, KEYS_AT_ONCE);
        for (int64_t i = 0; i < here; i += 2, value += 2 * stored->distance) {
            const int alone = i + 1 == here;
            const uint32_t second = alone ? 0 : weights[at - start + i + 1];
            const __m512bh pair = (__m512bh)_mm512_set1_epi32((int)(weights[at - start + i] | second << 16));
            // A cell behind the last one can hold NaN.
            const __mmask8 there = alone ? 0 : 0xff;
            for (int j = 0; j < vectors; j++) {
                const __m256i next = _mm256_maskz_loadu_epi32(there, value + stored->distance + j * LANES);
                sums[j] = _mm512_dpbf16_ps(sums[j], (__m512bh)rows_in_pairs(value + j * LANES, next), pair);
            }
        }
    }
    for (int j = 0; j < vectors; j++) mixed[j] = (vec)sums[j];
}

static void mix(int64_t depth, const number *weights, int64_t start, int64_t end, const Stored *stored, vec *mixed)
{
    // The common widths with their numbers built in, so that a head stays in registers.
    switch (depth / LANES) {
    case 1: mix_vectors(1, weights, start, end, stored, mixed); break;
    case 2: mix_vectors(2, weights, start, end, stored, mixed); break;
    case 4: mix_vectors(4, weights, start, end, stored, mixed); break;
    case 8: mix_vectors(8, weights, start, end, stored, mixed); break;
    default: mix_vectors((int)(depth / LANES), weights, start, end, stored, mixed);
    }
}

// One head over keys [start, end): the largest score so far, the sum and the mixture.
typedef struct {
    float peak;
    vec total, mixed[WIDEST_HEAD / LANES];
} Head;

// The scores of a head are LANES apart.
static void attend_head(int64_t depth, const float *scores, float scaling, int64_t start, int64_t end,
                        const Stored *stored, Head *head)
{
    const vec zero = {0};
    const __m512i apart = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(LANES));
    const int64_t count = end - start;
    float own[KEYS_AT_ONCE], highest = head->peak;
    number weights[KEYS_AT_ONCE];
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 there = count - i < LANES ? (__mmask16)((1u << (count - i)) - 1) : 0xffff;
        const __m512 some = _mm512_mask_i32gather_ps(most, there, apart, scores + i * LANES, 4);
        const __m512 scaled = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), there, some, _mm512_set1_ps(scaling));
        store(own + i, (vec)scaled);
        most = _mm512_max_ps(most, scaled);
    }
    const float here = _mm512_reduce_max_ps(most);
    highest = here > highest ? here : highest;
    const vec fade = exponential(zero + (head->peak - highest));
    head->total *= fade;
    for (int64_t j = 0; j < depth / LANES; j++) head->mixed[j] *= fade;
    for (int64_t i = 0; i < count; i += LANES) {
        const vec weight = power_of_score(load(own + i) - highest);
        store_numbers(weights + i, weight);
        head->total += weight;
    }
    head->peak = highest;
    mix(depth, weights, start, end, stored, head->mixed);
}

// Query heads of one key head, [shared][depth], SIDE at a time.
static void attend_group(int64_t shared, int64_t depth, const number *query, float scaling, const Stored *stored,
                         number *out)
{
    for (int64_t first = 0; first < shared; first += SIDE) {
        const int64_t heads = shared - first < SIDE ? shared - first : SIDE;
        operand columns[WIDEST_HEAD / 2 * SIDE];
        float scores[KEYS_AT_ONCE * SIDE];
        Head head[SIDE];
        for (int64_t h = 0; h < heads; h++) {
            const operand *row = (const operand *)(query + (first + h) * depth);
            for (int64_t d = 0; d < depth / 2; d++) columns[d * SIDE + h] = row[d];
            head[h].peak = -INFINITY, head[h].total = (vec){0};
            for (int64_t j = 0; j < depth / LANES; j++) head[h].mixed[j] = (vec){0};
        }
        for (int64_t start = 0, end; start < stored->count; start = end) {
            end = start + KEYS_AT_ONCE < stored->count ? start + KEYS_AT_ONCE : stored->count;
            for (int64_t at = start, here; at < end; at += here) {
                here = run_of(stored, at, end, SIDE);
                multiply_rest(here, stored->keys + cell_of(stored, at) * stored->distance, stored->distance, depth,
                              columns, SIDE, scores + (at - start) * SIDE, SIDE);
            }
            for (int64_t h = 0; h < heads; h++)
                attend_head(depth, scores + h, scaling, start, end, stored, head + h);
        }
        for (int64_t h = 0; h < heads; h++) {
            const float share = 1.0f / sum_of(head[h].total);
            for (int64_t j = 0; j < depth / LANES; j++)
                store_numbers(out + (first + h) * depth + j * LANES, head[h].mixed[j] * share);
        }
    }
}

#endif
