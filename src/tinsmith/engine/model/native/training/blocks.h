// Products of small matrices of float32 that lie in the nearest memory.

#ifndef TINSMITH_BLOCKS_H
#define TINSMITH_BLOCKS_H

#include "../vectors.h"

// Rows of a tile, and how many vectors it is wide: its sums fill the registers.
#define TALL 6
#if LANES == 16
#define WIDE 4
#else
#define WIDE 2
#endif

// A matrix whose numbers stand so far apart from row to row, and from column to column.
typedef struct {
    const float *at;
    int64_t row, column;
} matrix;

static inline __attribute__((always_inline)) void block_tile(const int rows, const int width, float *c, int64_t c_row,
                                                             matrix a, const float *b, int64_t b_row, int64_t depth,
                                                             int add)
{
    vec sums[TALL][WIDE];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) sums[i][j] = add ? load(c + i * c_row + j * LANES) : (vec){0};
    for (int64_t k = 0; k < depth; k++) {
        vec line[WIDE];
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) line[j] = load(b + k * b_row + j * LANES);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            const float factor = a.at[i * a.row + k * a.column];
#pragma GCC unroll 4
            for (int j = 0; j < width; j++) sums[i][j] += factor * line[j];
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) store(c + i * c_row + j * LANES, sums[i][j]);
}

#define BLOCK_TILE(rows, width)                                                                                        \
    static void block_tile_##rows##x##width(float *c, int64_t c_row, matrix a, const float *b, int64_t b_row,          \
                                            int64_t depth, int add)                                                    \
    {                                                                                                                  \
        block_tile(rows, width, c, c_row, a, b, b_row, depth, add);                                                    \
    }
#define BLOCK_TILES(width) BLOCK_TILE(1, width) BLOCK_TILE(2, width) BLOCK_TILE(6, width)
BLOCK_TILES(1) BLOCK_TILES(2)
#if WIDE > 2
BLOCK_TILES(3) BLOCK_TILES(4)
#endif

typedef void (*BlockTile)(float *, int64_t, matrix, const float *, int64_t, int64_t, int);

// Of one row, two, six, by width.
static const BlockTile BLOCK_TILES_OF[3][WIDE] = {
#if WIDE > 2
    {block_tile_1x1, block_tile_1x2, block_tile_1x3, block_tile_1x4},
    {block_tile_2x1, block_tile_2x2, block_tile_2x3, block_tile_2x4},
    {block_tile_6x1, block_tile_6x2, block_tile_6x3, block_tile_6x4},
#else
    {block_tile_1x1, block_tile_1x2},
    {block_tile_2x1, block_tile_2x2},
    {block_tile_6x1, block_tile_6x2},
#endif
};

// c [rows, vectors * LANES] becomes a·b, or has that added; a has `depth` columns. Each sum is one chain of
// multiply-adds in the order of a's columns.
static void multiply_block(float *c, int64_t c_row, matrix a, const float *b, int64_t b_row, int64_t rows,
                           int64_t vectors, int64_t depth, int add)
{
    for (int64_t j = 0; j < vectors; j += WIDE) {
        const int64_t width = vectors - j < WIDE ? vectors - j : WIDE;
        for (int64_t i = 0, high; i < rows; i += high) {
            const int64_t left = rows - i;
            high = left >= TALL ? TALL : left >= 2 ? 2 : 1;
            const BlockTile tile = BLOCK_TILES_OF[high == TALL ? 2 : high - 1][width - 1];
            tile(c + i * c_row + j * LANES, c_row, (matrix){a.at + i * a.row, a.row, a.column}, b + j * LANES, b_row,
                 depth, add);
        }
    }
}

#endif
