// Products of weights with a few tokens, at most a quarter of a vector.
//
// A vector that holds one feature of so few tokens is mostly empty, and the processor would have more to multiply than
// memory has to bring. So vectors lie along the inputs here, and the sum over a vector comes last.

#ifndef TINSMITH_FEW_H
#define TINSMITH_FEW_H

#include "pairs.h"
#include "../pass.h"

#define FEW (LANES / 4)

// y[rows][tokens], x[tokens][depth], with constant rows and tokens once inlined; x has zeros where there are fewer tokens.
static inline __attribute__((always_inline)) void few_rows(const int rows, const int tokens, int64_t wanted,
                                                           const float *w, int64_t depth, const float *x, float *y,
                                                           int64_t y_stride, const float *bias, int add)
{
    vec sums[4][FEW];
    const int64_t whole = depth / LANES * LANES;
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) sums[i][t] = (vec){0};
    for (int64_t k = 0; k < whole; k += LANES) {
        vec weights[4];
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) {
            weights[i] = load(w + i * depth + k);
            __builtin_prefetch(w + (i + rows) * depth + k);
        }
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            const vec inputs = load(x + t * depth + k);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++) sums[i][t] += weights[i] * inputs;
        }
    }
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tokens && t < wanted; t++) {
            float sum = sum_of(sums[i][t]);
            for (int64_t k = whole; k < depth; k++) sum += w[i * depth + k] * x[t * depth + k];
            if (bias) sum += bias[i];
            float *place = y + i * y_stride + t;
            *place = add ? *place + sum : sum;
        }
}

// The same for any number of rows and as many tokens as are few.
static void few_tokens(int64_t rows, int64_t tokens, const float *w, int64_t depth, const float *x, float *y,
                       int64_t y_stride, const float *bias, int add)
{
    for (int64_t i = 0, high; i < rows; i += high) {
        const float *from = w + i * depth, *of_rows = bias ? bias + i : NULL;
        float *out = y + i * y_stride;
        high = rows - i < 4 ? 1 : 4;
        if (high == 1) few_rows(1, FEW, tokens, from, depth, x, out, y_stride, of_rows, add);
        else if (tokens == 1) few_rows(4, 1, 1, from, depth, x, out, y_stride, of_rows, add);
        else if (tokens == 2) few_rows(4, 2 < FEW ? 2 : FEW, 2, from, depth, x, out, y_stride, of_rows, add);
        else few_rows(4, FEW, tokens, from, depth, x, out, y_stride, of_rows, add);
    }
}

// x by tokens, [FEW][inputs], for all threads.
static void few_inputs(int64_t inputs, const float *x, const Pass *pass)
{
#pragma omp for schedule(static)
    for (int64_t i = 0; i < inputs; i += LINE)
        for (int64_t t = 0; t < pass->tokens; t++)
            for (int64_t k = i; k < i + LINE && k < inputs; k++) pass->few[t * inputs + k] = x[k * pass->stride + t];
}

#endif
