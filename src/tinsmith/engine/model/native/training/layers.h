// What a training pass computes of a decoder layer beside products and attention, and its gradients, one pass over
// memory each: RMSNorm with the sum before it, the rotation of heads with their norm, SwiGLU.
//
// Numbers are those of `float32.h` or of `bfloat16.h`, whichever was included before, and floats while they are
// computed with: rounded where the modules of `transformers` round, gradients once at the end. All matrices lie row by
// row in one piece.

#ifndef TINSMITH_LAYERS_H
#define TINSMITH_LAYERS_H

#include "rows.h"

// What a row is multiplied with: (mean of x² + epsilon)^-1/2.
static inline float norm_factor(vec squares, int64_t n, float epsilon)
{
    return 1.0f / sqrtf(sum_of(squares) / (float)n + epsilon);
}

// sum = x + delta, where there is a delta; y = weight·sum·factor. See `norms.py`.
void NAMED(add_norm)(number *sum, number *y, float *factor, const number *x, const number *delta, const number *weight,
                     int64_t rows, int64_t n, float epsilon, int64_t threads)
{
    EACH(row, rows)
    {
        const number *in = x + row * n;
        vec squares = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            vec v = take(in + i, n - i);
            if (delta) keep(sum + row * n + i, n - i, v = rounded(v + take(delta + row * n + i, n - i)));
            squares += v * v;
        }
        const float r = factor[row] = norm_factor(squares, n, epsilon);
        if (delta) in = sum + row * n;
        for (int64_t i = 0; i < n; i += LANES)
            keep(y + row * n + i, n - i, rounded(take(in + i, n - i) * r) * take(weight + i, n - i));
    }
}

// Of `add_norm` with respect to its sum, with g that of y and `carried` that of the sum.
void NAMED(add_norm_gradient)(number *to, const number *g, const number *carried, const number *sum,
                              const number *weight, const float *factor, int64_t rows, int64_t n, int64_t threads)
{
    EACH(row, rows)
    {
        const int64_t start = row * n;
        const float r = factor[row];
        vec along = {0};
        for (int64_t i = 0; i < n; i += LANES)
            along += take(g + start + i, n - i) * take(weight + i, n - i) * take(sum + start + i, n - i);
        const float back = sum_of(along) * r * r * r / (float)n;
        for (int64_t i = 0; i < n; i += LANES) {
            const int64_t left = n - i, at = start + i;
            const vec own = take(g + at, left) * take(weight + i, left) * r;
            keep(to + at, left, own - take(sum + at, left) * back + take(carried + at, left));
        }
    }
}

// Each head's RMSNorm, where there is a weight, and its rotation by the angles of its row: a half a becomes
// a·cos - b·sin, the other one b becomes b·cos + a·sin (Su et al. 2021, arXiv:2104.09864, equation 34). x and y are
// [rows, heads, d], cosines and sines [rows, d].
void NAMED(turn)(number *y, float *factor, const number *x, const number *weight, const number *cosines,
                 const number *sines, int64_t rows, int64_t heads, int64_t d, float epsilon, int64_t threads)
{
    const int64_t half = d / 2;
    EACH(row, rows)
    {
        const number *cos = cosines + row * d, *sin = sines + row * d;
        for (int64_t head = row * heads; head < (row + 1) * heads; head++) {
            const number *in = x + head * d;
            number *out = y + head * d;
            float r = 1.0f;
            if (weight) {
                vec squares = {0};
                for (int64_t i = 0; i < d; i += LANES) squares += take(in + i, d - i) * take(in + i, d - i);
                r = factor[head] = norm_factor(squares, d, epsilon);
            }
            for (int64_t i = 0, j = half; i < half; i += LANES, j += LANES) {
                const int64_t left = half - i;
                vec a = take(in + i, left), b = take(in + j, left);
                if (weight) {
                    a = rounded(rounded(a * r) * take(weight + i, left));
                    b = rounded(rounded(b * r) * take(weight + j, left));
                }
                keep(out + i, left, rounded(a * take(cos + i, left)) - rounded(b * take(sin + i, left)));
                keep(out + j, left, rounded(b * take(cos + j, left)) + rounded(a * take(sin + j, left)));
            }
        }
    }
}

// The gradient of one head's numbers from i and from j on before the rotation, without the norm's factor.
static inline void turn_back(vec *a, vec *b, const number *g, const number *weight, const number *cos,
                             const number *sin, int64_t i, int64_t j, int64_t left)
{
    const vec of_a = take(g + i, left), of_b = take(g + j, left);
    *a = of_a * take(cos + i, left) + of_b * take(sin + j, left);
    *b = of_b * take(cos + j, left) - of_a * take(sin + i, left);
    if (weight) *a *= take(weight + i, left), *b *= take(weight + j, left);
}

// Of `turn` with respect to x, which is read only where there is a weight.
void NAMED(turn_gradient)(number *to, const number *g, const number *x, const number *weight, const float *factor,
                          const number *cosines, const number *sines, int64_t rows, int64_t heads, int64_t d,
                          int64_t threads)
{
    const int64_t half = d / 2;
    EACH(row, rows)
    {
        const number *cos = cosines + row * d, *sin = sines + row * d;
        for (int64_t head = row * heads; head < (row + 1) * heads; head++) {
            const number *in = x + head * d, *of = g + head * d;
            number *out = to + head * d;
            float r = 1.0f, back = 0.0f;
            vec along = {0}, a, b;
            for (int64_t i = 0; i < half && weight; i += LANES) {
                turn_back(&a, &b, of, weight, cos, sin, i, half + i, half - i);
                along += a * take(in + i, half - i) + b * take(in + half + i, half - i);
            }
            if (weight) r = factor[head], back = sum_of(along) * r * r * r / (float)d;
            for (int64_t i = 0, j = half; i < half; i += LANES, j += LANES) {
                const int64_t left = half - i;
                turn_back(&a, &b, of, weight, cos, sin, i, j, left);
                if (weight) a = a * r - take(in + i, left) * back, b = b * r - take(in + j, left) * back;
                keep(out + i, left, a);
                keep(out + j, left, b);
            }
        }
    }
}

// s = 1 / (1 + e^-x) and 1 - s, both to the last digits.
static inline void logistic(vec x, vec *s, vec *rest)
{
    const vec zero = {0}, size = choose(x < zero, -x, x);
    // Where `exponential` no longer falls, it is nothing beside one.
    const vec e = choose(size > zero + 87.0f, zero, exponential(-size)), large = 1.0f / (e + 1.0f), small = e * large;
    *s = choose(x < zero, small, large);
    *rest = choose(x < zero, large, small);
}

// y = silu(gate)·up with silu(x) = x·s (Shazeer 2020, arXiv:2002.05202, equation 5).
void NAMED(swiglu)(number *y, const number *gate, const number *up, int64_t count, int64_t threads)
{
    EACH(block, (count + LANES - 1) / LANES)
    {
        const int64_t i = block * LANES, left = count - i;
        const vec x = take(gate + i, left);
        vec s, rest;
        logistic(x, &s, &rest);
        keep(y + i, left, rounded(x * s) * take(up + i, left));
    }
}

// With g the gradient of y: up gets g·silu(gate), gate gets g·up·s·(1 + gate·(1 - s)).
void NAMED(swiglu_gradient)(number *of_gate, number *of_up, const number *g, const number *gate, const number *up,
                            int64_t count, int64_t threads)
{
    EACH(block, (count + LANES - 1) / LANES)
    {
        const int64_t i = block * LANES, left = count - i;
        const vec x = take(gate + i, left), own = take(g + i, left);
        vec s, rest;
        logistic(x, &s, &rest);
        keep(of_up + i, left, own * x * s);
        keep(of_gate + i, left, own * take(up + i, left) * s * (x * rest + 1.0f));
    }
}

#endif
