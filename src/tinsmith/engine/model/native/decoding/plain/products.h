// Products of weights with few tokens, in float32.
//
// Activations lie by columns, [features][stride], the tokens of one feature side by side: a vector register holds one
// feature of several tokens, and a weight is read where it lies, once, and multiplied with all of them. Libraries copy
// weights into an order of their own first, which for few tokens takes as long as the product.
//
// Every output is one chain of multiply-adds over the inputs in their order. It does not depend on how many tokens
// there are, where they stand or how many threads compute: a token has the same bits in any company. (Few tokens of all
// or of one adapter have other chains, `few.h` and `pairs.h`, which look at nothing else either.)

#ifndef TINSMITH_PRODUCTS_H
#define TINSMITH_PRODUCTS_H

#include "../../vectors.h"
#include "../asked.h"

// Rows of a tile, and how many vectors of tokens it is wide: its sums fill the registers.
#define ROWS 6
// Floats that memory brings at once.
#define LINE 16
// Inputs between two times that a tile asks for memory.
#define STEP 2
#if LANES == 8
#define WIDEST 2
#else
#define WIDEST 4
#endif

// What belongs to a product beside its factors.
typedef struct {
    const float *bias;    // of the rows, or NULL
    const int32_t *own;   // -1 for each token that the product is for, 0 for others; NULL for all
    float scale;          // of the sums
    int add;              // whether they are added to what is there
    int64_t ahead;        // rows from those that are read to those that will be soon
    Asked *asked;         // what else will be read soon, or NULL
} Options;

// y[rows][width * LANES] = sum over k of w[row][k] * x[k][...], with constant rows and width once inlined.
static inline __attribute__((always_inline)) void tile(
    const int rows, const int width, const float *w, int64_t w_stride, const float *x, int64_t x_stride, int64_t depth,
    float *y, int64_t y_stride, const Options *options)
{
    vec sums[8][WIDEST];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) sums[i][j] = (vec){0};
    const float *next = w + options->ahead * w_stride;
    Asked *const asked = options->asked;
    for (int64_t k = 0; k < depth; k++) {
        vec tokens[WIDEST];
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) tokens[j] = load(x + k * x_stride + j * LANES);
        if (k % STEP == 0 && asked) ask_for_some(asked);
        // A processor's own guesses begin anew with every row, which is too late for short ones.
        if (k % LINE == 0)
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) __builtin_prefetch(next + i * w_stride + k);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const float weight = w[i * w_stride + k];
#pragma GCC unroll 4
            for (int j = 0; j < width; j++) sums[i][j] += weight * tokens[j];
        }
    }
    // Read before anything is written, which for all the compiler knows might change them.
    const Options o = *options;
    mask own[WIDEST];
#pragma GCC unroll 4
    for (int j = 0; j < width; j++) {
        own[j] = (mask){0} == 0;
        if (o.own) own[j] = *(const mask *)(o.own + j * LANES);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) {
            vec sum = sums[i][j] * o.scale;
            float *place = y + i * y_stride + j * LANES;
            if (o.bias) sum += o.bias[i];
            // What is left out counts for nothing, NaN or not.
            sum = choose(own[j], sum, (vec){0});
            if (o.add) sum += load(place);
            store(place, sum);
        }
}

#define TILE(rows, width)                                                                                              \
    static void tile_##rows##x##width(const float *w, int64_t w_stride, const float *x, int64_t x_stride,             \
                                      int64_t depth, float *y, int64_t y_stride, const Options *options)                 \
    {                                                                                                                  \
        tile(rows, width, w, w_stride, x, x_stride, depth, y, y_stride, options);                                       \
    }
#define TILES(width) TILE(1, width) TILE(2, width) TILE(6, width)
TILES(1) TILES(2) TILE(8, 1)
#if WIDEST > 2
TILES(3) TILES(4)
#endif

typedef void (*Tile)(const float *, int64_t, const float *, int64_t, int64_t, float *, int64_t, const Options *);

// Of one row, two, six, by width.
static const Tile TILES_OF[3][WIDEST] = {
#if WIDEST > 2
    {tile_1x1, tile_1x2, tile_1x3, tile_1x4},
    {tile_2x1, tile_2x2, tile_2x3, tile_2x4},
    {tile_6x1, tile_6x2, tile_6x3, tile_6x4},
#else
    {tile_1x1, tile_1x2},
    {tile_2x1, tile_2x2},
    {tile_6x1, tile_6x2},
#endif
};

// y[rows][vectors * LANES] of any size, tile by tile; rows are few, so that their weights stay near while tokens pass.
static void multiply(int64_t rows, int64_t vectors, const float *w, int64_t w_stride, const float *x, int64_t x_stride,
                     int64_t depth, float *y, int64_t y_stride, const Options *options)
{
    for (int64_t j = 0; j < vectors; j += WIDEST) {
        const int64_t width = vectors - j < WIDEST ? vectors - j : WIDEST;
        for (int64_t i = 0, high; i < rows; i += high) {
            const int64_t left = rows - i;
            Options of_tile = *options;
            Tile tile_of;
            // A single vector of tokens needs more rows to have as many sums under way as a processor adds at once.
            if (width == 1 && left >= 8) tile_of = tile_8x1, high = 8;
            else if (left >= 6) tile_of = TILES_OF[2][width - 1], high = 6;
            else if (left >= 2) tile_of = TILES_OF[1][width - 1], high = 2;
            else tile_of = TILES_OF[0][width - 1], high = 1;
            if (options->bias) of_tile.bias += i;
            if (options->own) of_tile.own += j * LANES;
            tile_of(w + i * w_stride, w_stride, x + j * LANES, x_stride, depth, y + i * y_stride + j * LANES, y_stride,
                    &of_tile);
        }
    }
}

#endif
