// What is computed with where a model's weights are float32; `bfloat16.h` has the same for those of bfloat16.

#ifndef TINSMITH_FLOAT32_H
#define TINSMITH_FLOAT32_H

#include "vectors.h"

// What weights, embeddings, keys and values are stored as, and the activations of training.
typedef float number;
// What a product's input is made of, and how many features are in one.
typedef float operand;
#define PACKED 1

static inline vec load_numbers(const number *place) { return load(place); }
static inline void store_numbers(number *place, vec value) { store(place, value); }
static inline vec take(const number *place, int64_t count) { return load_some(place, count); }
static inline void keep(number *place, int64_t count, vec value) { store_some(place, count, value); }
static inline float to_float(number value) { return value; }
static inline number to_number(float value) { return value; }

// e^x of x <= 0, nothing where that is nothing beside one.
static inline vec power_of_score(vec x)
{
    const vec zero = {0};
    return choose(x < zero - 87.0f, zero, exponential(x));
}

// Keys whose scores are computed before their values are read: all.
#define KEYS_AT_ONCE INT64_MAX

// To what the modules of `transformers` round an operation's result to.
static inline vec rounded(vec value) { return value; }

// Two features, of which the first is even, of LANES tokens, into a product's input.
static inline void put(operand *place, int64_t stride, vec first, vec second)
{
    store(place, first);
    store(place + stride, second);
}

// The same of n features in the place where they are.
static inline const operand *pack(vec *own, int64_t n)
{
    (void)n;
    return (const operand *)own;
}

// A thread's products are between these two.
static inline void begin_products(void) {}
static inline void end_products(void) {}

#endif
