// What `native_decoder.py` tells of a model and of a pass; `structures.py` has the same fields.

#ifndef TINSMITH_PASS_H
#define TINSMITH_PASS_H

#include <stdint.h>

// `number` and `operand` are of `float32.h` or `bfloat16.h`.

// Columns of a pass, so that a thread has room for a block of outputs.
#define MOST_TOKENS 512

// A product of one input with up to three layers' weights, which lie one behind the other.
typedef struct {
    const number *weight;  // [outputs][inputs]
    const number *bias;    // [outputs] or NULL
    int64_t inputs, outputs;
    int64_t targets;       // layers
    int64_t ends[3];       // output behind the last one of each layer
} Product;

typedef struct {
    Product qkv, output, gate_up, down;
    const number *norm, *mlp_norm;        // [H]
    const number *query_norm, *key_norm;  // [D] or NULL
    float epsilon, mlp_epsilon, head_epsilon, scaling;
} Layer;

typedef struct {
    int64_t layers, hidden, heads, key_heads, head_dim, intermediate;
    const Layer *layer;
    const number *norm;  // [H]
    float epsilon;
} Model;

// Tokens [start, end) of one adapter, in memory of one layout.
typedef struct {
    int64_t start, end;
    int64_t rank;         // of the layout's bucket
    int64_t hidden;       // where its A·x lies
    int64_t window;       // see `pairs.h` and `tiled/adapters.h`
    const int32_t *own;   // [stride], -1 for its tokens, 0 for others
    float scale;
} Span;

// A and, for each layer of a product, B of one span; NULL where the adapter leaves them out.
typedef struct {
    const number *a;     // [targets * rank][inputs]
    const number *b[3];  // [outputs][rank]
} Factors;

typedef struct {
    int64_t threads, tokens, vectors, stride, spans, products;
    const Span *span;
    const Factors *factors;     // [products][spans], four products a layer and then the output projection
    operand *adapted;           // A·x of all spans
    float *few;                 // x by tokens where they are few, else NULL: see `few.h`
    const float *cos, *sin;     // [D][stride]
    const int64_t *cells;       // of the cache, where each new key goes
    const int32_t *tables;      // [tokens][blocks]
    const int64_t *positions;   // of each token: keys before it
    int64_t blocks, block_size;
    number *const *keys, *const *values;  // of each layer, [blocks][block_size][key heads][D]
    number *rows;               // [tokens][H], the embeddings, and at the end the hidden states
    float *x;                   // [H][stride]
    operand *normed;            // [H / PACKED][stride]
    float *qkv;                 // [(heads + 2 * key heads) * D][stride]
    number *query, *mixed;      // [tokens][heads * D]
    operand *mixed_columns;     // [heads * D / PACKED][stride]
    float *gate_up;             // [2 * I][stride]
    operand *gated;             // [I / PACKED][stride]; where PACKED is 1 in the gate's place
} Pass;

#endif
