// Products of an adapter with at most half a vector of tokens.
//
// A vector that holds one feature of so few tokens would be half empty. Here it holds two features of each, side by
// side, and is multiplied with two weights at once:
//
//     [x0 of token 0, x1 of token 0, x0 of token 1, x1 of token 1, ...] * [w0, w1, w0, w1, ...]
//
// so that the sum of a token is in two places, which are added at the end.

#ifndef TINSMITH_PAIRS_H
#define TINSMITH_PAIRS_H

#include "products.h"

// A span of at most HALF tokens has a window, the first of as many columns that hold them; others have -1.
#define HALF (LANES / 2)
// Rows of a tile; each rank is a multiple of it.
#define PAIR_ROWS 8

typedef uint64_t pairs __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float half_vec __attribute__((vector_size(HALF * 4), aligned(4), may_alias));
typedef int32_t half_mask __attribute__((vector_size(HALF * 4), aligned(4), may_alias));

// Two features of HALF tokens each, in one vector.
static inline vec pair_up(const float *first, const float *second)
{
    const pairs low = __builtin_convertvector(*(const half_mask *)first, pairs) & 0xffffffffu;
    const pairs high = __builtin_convertvector(*(const half_mask *)second, pairs) << 32;
    return (vec)(low | high);
}

// Both places of each token's sum, added up: the first of its two places holds it.
static inline __attribute__((always_inline)) void sums_of_pairs(const float *w, int64_t w_stride, int64_t ahead,
                                                                const float *x, int64_t depth, pairs *sums)
{
    vec both[PAIR_ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < PAIR_ROWS; i++) both[i] = (vec){0};
    for (int64_t k = 0; k < depth; k += 2) {
        const vec tokens = load(x + k * HALF);
        if (k % LINE == 0)
#pragma GCC unroll 8
            for (int i = 0; i < PAIR_ROWS; i++) __builtin_prefetch(w + (i + ahead) * w_stride + k);
#pragma GCC unroll 8
        for (int i = 0; i < PAIR_ROWS; i++) {
            uint64_t weights;
            memcpy(&weights, w + i * w_stride + k, sizeof weights);
            both[i] += (vec)((pairs){0} + weights) * tokens;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < PAIR_ROWS; i++) sums[i] = (pairs)(both[i] + (vec)((pairs)both[i] >> 32));
}

// Scaled A·x for eight rows of A, again in pairs: what the product with B takes.
static void pairs_of_a(const float *a, int64_t depth, const float *x, float scale, float *out)
{
    pairs sums[PAIR_ROWS];
    sums_of_pairs(a, depth, PAIR_ROWS, x, depth, sums);
#pragma GCC unroll 4
    for (int i = 0; i < PAIR_ROWS; i += 2)
        store(out + i * HALF, (vec)((sums[i] & 0xffffffffu) | (sums[i + 1] << 32)) * scale);
}

// Add B·h for eight outputs to HALF columns of y, for the tokens that `own` says.
static inline __attribute__((always_inline)) void add_b_of_rank(int64_t rank, const float *b, int64_t ahead,
                                                                const float *h, const int32_t *own, float *y,
                                                                int64_t y_stride)
{
    pairs sums[PAIR_ROWS];
    sums_of_pairs(b, rank, ahead, h, rank, sums);
    const half_mask mine = *(const half_mask *)own;
#pragma GCC unroll 8
    for (int i = 0; i < PAIR_ROWS; i++) {
        const half_vec sum = (half_vec)__builtin_convertvector(sums[i], half_mask);
        half_vec *place = (half_vec *)(y + i * y_stride);
        // What is left out counts for nothing, NaN or not.
        *place += (half_vec)((half_mask)sum & mine);
    }
}

static void add_b(int64_t rows, int64_t rank, const float *b, int64_t ahead, const float *h, const int32_t *own,
                  float *y, int64_t y_stride)
{
    for (; rows >= PAIR_ROWS; rows -= PAIR_ROWS, b += PAIR_ROWS * rank, y += PAIR_ROWS * y_stride)
        // The common ranks with their strides built in: so short are the products that reckoning addresses shows.
        switch (rank) {
        case 8: add_b_of_rank(8, b, ahead, h, own, y, y_stride); break;
        case 16: add_b_of_rank(16, b, ahead, h, own, y, y_stride); break;
        case 32: add_b_of_rank(32, b, ahead, h, own, y, y_stride); break;
        case 64: add_b_of_rank(64, b, ahead, h, own, y, y_stride); break;
        default: add_b_of_rank(rank, b, ahead, h, own, y, y_stride);
        }
    for (; rows > 0; rows--, b += rank, y += y_stride)
        for (int64_t t = 0; t < HALF; t++) {
            float sum = 0.0f;
            for (int64_t k = 0; k < rank; k++) sum += b[k] * h[k / 2 * LANES + 2 * t + k % 2];
            if (own[t]) y[t] += sum;
        }
}

#endif
