// What `native_decoder.py` tells of a model and of a pass; `structures.py` has the same fields.

#ifndef TINSMITH_PASS_H
#define TINSMITH_PASS_H

#include <stdint.h>

// A product of one input with up to three layers' weights, which lie one behind the other.
typedef struct {
    const float *weight;  // [outputs][inputs]
    const float *bias;    // [outputs] or NULL
    int64_t inputs, outputs;
    int64_t targets;      // layers
    int64_t ends[3];      // output behind the last one of each layer
} Product;

typedef struct {
    Product qkv, output, gate_up, down;
    const float *norm, *mlp_norm;         // [H]
    const float *query_norm, *key_norm;   // [D] or NULL
    float epsilon, mlp_epsilon, head_epsilon, scaling;
} Layer;

typedef struct {
    int64_t layers, hidden, heads, key_heads, head_dim, intermediate;
    const Layer *layer;
    const float *norm;  // [H]
    float epsilon;
} Model;

// Tokens [start, end) of one adapter, in memory of one layout.
typedef struct {
    int64_t start, end;
    int64_t rank;         // of the layout's bucket
    int64_t hidden;       // where its A·x lies
    int64_t window;       // first of HALF columns that hold its tokens, -1 where they are more: see `pairs.h`
    int64_t paired;       // where its x lies in pairs
    const int32_t *own;   // [stride], -1 for its tokens, 0 for others
    float scale;
} Span;

// A and, for each layer of a product, B of one span; NULL where the adapter leaves them out.
typedef struct {
    const float *a;     // [targets * rank][inputs]
    const float *b[3];  // [outputs][rank]
} Factors;

typedef struct {
    int64_t threads, tokens, vectors, stride, spans, products;
    const Span *span;
    const Factors *factors;     // [products][spans], four products a layer and then the output projection
    float *adapted, *paired;    // A·x of all spans, and x in pairs
    float *few;                 // x by tokens where they are few, else NULL: see `few.h`
    const float *cos, *sin;     // [D][stride]
    const int64_t *cells;       // of the cache, where each new key goes
    const int32_t *tables;      // [tokens][blocks]
    const int64_t *positions;   // of each token: keys before it
    int64_t blocks, block_size;
    float *const *keys, *const *values;  // of each layer, [blocks][block_size][key heads][D]
    float *rows;                // [tokens][H], the embeddings, and at the end the hidden states
    float *x, *normed;          // [H][stride]
    float *qkv;                 // [(heads + 2 * key heads) * D][stride]
    float *query, *mixed;       // [tokens][heads * D]
    float *mixed_columns;       // [heads * D][stride]
    float *gate_up;             // [2 * I][stride]
} Pass;

#endif
