// Vectors of floats as wide as the processor's registers, and e^x of them.

#ifndef TINSMITH_VECTORS_H
#define TINSMITH_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

// May lie anywhere: weights are where a checkpoint's file has them.
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline vec load(const float *place) { return *(const vec *)place; }
static inline void store(float *place, vec value) { *(vec *)place = value; }

// The numbers from a place on, zeros behind the last of them.
static inline vec load_some(const float *place, int64_t count)
{
    if (count >= LANES) return load(place);
    vec some = {0};
    memcpy(&some, place, (size_t)count * sizeof(float));
    return some;
}

static inline void store_some(float *place, int64_t count, vec value)
{
    if (count >= LANES)
        store(place, value);
    else
        memcpy(place, &value, (size_t)count * sizeof(float));
}

// a where the mask is -1, b where it is 0; what is left out counts for nothing, NaN or not.
static inline vec choose(mask own, vec a, vec b) { return (vec)(((mask)a & own) | ((mask)b & ~own)); }

static inline float sum_of(vec x)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}

// e^x to two units in the last place, from -87 to 88, beyond which it stays what it is there: 2^n times a polynomial
// over half a power of two to both sides (Moshier's Cephes, `expf`).
static inline vec exponential(vec x)
{
    const vec zero = {0}, low = zero - 87.3f, high = zero + 88.3f;
    x = choose(x < low, low, choose(x > high, high, x));
    // Added to so large a number, a fraction is rounded away, and what is left is in the lowest bits.
    const float large = 12582912.0f;
    const vec shifted = x * 1.44269504088896341f + large, n = shifted - large;
    const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const mask exponent = (mask)shifted - (mask)(zero + large) + 127;
    return p * (vec)(exponent << 23);
}

#endif
