// Products of weights with few tokens, in bfloat16 on the processor's tiles (Intel 64 and IA-32 Architectures
// Optimization Reference Manual, chapter 20): each step multiplies 16 rows of 32 weights with 32 features of 16 tokens
// and adds to sums in float32.
//
// A tile takes weights where they lie, and two features of a token in one word, side by side with those of the other
// tokens: x is [features / 2][stride]. The order of a sum follows the features alone, and a token has the same bits in
// any company.

#ifndef TINSMITH_TILES_H
#define TINSMITH_TILES_H

#include "../../bfloat16.h"
#include "../asked.h"

// Rows and tokens of a tile of sums, and the weights in one row of a tile.
#define SIDE 16
#define DEEP 32
// Tokens whose sums are under way at once.
#define WIDE (2 * SIDE)

// How `ldtilecfg` takes the shapes of all tiles.
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];  // of a row
    uint8_t rows[16];
} Shapes;

// What shapes this thread's tiles have now; 0 for none of ours.
static __thread int64_t tiles_shape;

// All whole, but for the tiles of `multiply_rest`: some are of so many rows, some hold the last features.
static void shape_tiles(int64_t rows, int64_t rest)
{
    const int64_t wanted = rows * DEEP + rest;
    if (tiles_shape == wanted) return;
    tiles_shape = wanted;
    Shapes shapes = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) shapes.bytes[tile] = DEEP * sizeof(number), shapes.rows[tile] = SIDE;
    shapes.rows[0] = shapes.rows[4] = shapes.rows[5] = (uint8_t)rows;
    if (rest) shapes.bytes[5] = (uint16_t)(rest * sizeof(number)), shapes.rows[7] = (uint8_t)(rest / 2);
    // Compilers do not know that the instruction reads all of it.
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
}

// Others use the tiles as well, and a thread whose tiles hold nothing is cheaper to switch.
static inline void begin_products(void) { tiles_shape = 0; }
static inline void end_products(void) { _tile_release(); }

// One tile's step of its sums, and of asking for what is read later.
#define ADD_PRODUCT(sums, weights, tokens)                                                                             \
    do {                                                                                                               \
        _tile_dpbf16ps(sums, weights, tokens);                                                                         \
        if (asked) ask_for_some(asked);                                                                                \
    } while (0)

// y[high * SIDE][wide * SIDE] = w·x with constant numbers of tiles once inlined: two by two, or fewer, or four by one.
static inline __attribute__((always_inline)) void tiles(const int high, const int wide, const number *w, int64_t depth,
                                                        const operand *x, int64_t x_stride, float *y, int64_t y_stride,
                                                        Asked *asked)
{
    const int64_t w_bytes = depth * (int64_t)sizeof(number), x_bytes = x_stride * (int64_t)sizeof(operand);
    const int64_t y_bytes = y_stride * (int64_t)sizeof(float);
    _tile_zero(0);
    if (high * wide > 1) _tile_zero(1);
    if (high * wide > 2) _tile_zero(2);
    if (high * wide > 3) _tile_zero(3);
    for (int64_t k = 0; k < depth; k += DEEP) {
        const operand *tokens = x + k / 2 * x_stride;
        _tile_loadd(6, tokens, x_bytes);
        _tile_loadd(4, w + k, w_bytes);
        ADD_PRODUCT(0, 4, 6);
        if (wide > 1) {
            _tile_loadd(7, tokens + SIDE, x_bytes);
            ADD_PRODUCT(1, 4, 7);
        }
        if (high > 1) {
            _tile_loadd(5, w + SIDE * depth + k, w_bytes);
            if (wide > 1) {
                ADD_PRODUCT(2, 5, 6);
                ADD_PRODUCT(3, 5, 7);
            } else {
                ADD_PRODUCT(1, 5, 6);
            }
        }
        if (high > 2) {
            _tile_loadd(4, w + 2 * SIDE * depth + k, w_bytes);
            ADD_PRODUCT(2, 4, 6);
            _tile_loadd(5, w + 3 * SIDE * depth + k, w_bytes);
            ADD_PRODUCT(3, 5, 6);
        }
    }
    _tile_stored(0, y, y_bytes);
    if (wide > 1) {
        _tile_stored(1, y + SIDE, y_bytes);
        if (high > 1) {
            _tile_stored(2, y + SIDE * y_stride, y_bytes);
            _tile_stored(3, y + SIDE * y_stride + SIDE, y_bytes);
        }
    } else {
        if (high > 1) _tile_stored(1, y + SIDE * y_stride, y_bytes);
        if (high > 2) {
            _tile_stored(2, y + 2 * SIDE * y_stride, y_bytes);
            _tile_stored(3, y + 3 * SIDE * y_stride, y_bytes);
        }
    }
}

// The same for SIDE rows at most and any even number of features: nothing behind either is read.
static void multiply_rest(int64_t rows, const number *w, int64_t w_stride, int64_t depth, const operand *x,
                          int64_t x_stride, float *y, int64_t y_stride)
{
    const int64_t rest = depth % DEEP, whole = depth - rest;
    const int64_t w_bytes = w_stride * (int64_t)sizeof(number), x_bytes = x_stride * (int64_t)sizeof(operand);
    shape_tiles(rows, rest);
    _tile_zero(0);
    for (int64_t k = 0; k < whole; k += DEEP) {
        _tile_loadd(4, w + k, w_bytes);
        _tile_loadd(6, x + k / 2 * x_stride, x_bytes);
        _tile_dpbf16ps(0, 4, 6);
    }
    if (rest) {
        _tile_loadd(5, w + whole, w_bytes);
        _tile_loadd(7, x + whole / 2 * x_stride, x_bytes);
        _tile_dpbf16ps(0, 5, 7);
    }
    _tile_stored(0, y, y_stride * (int64_t)sizeof(float));
}

// y[rows][count * SIDE] = w·x, of any size, tile by tile; rows are few, so that their weights stay near while tokens
// pass.
static void multiply(int64_t rows, int64_t count, const number *w, int64_t depth, const operand *x, int64_t x_stride,
                     float *y, int64_t y_stride, Asked *asked)
{
    for (int64_t i = 0, high; i < rows; i += high * SIDE, w += high * SIDE * depth, y += high * SIDE * y_stride) {
        const int64_t left = (rows - i) / SIDE;
        high = count == 1 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (!left || depth % DEEP) {
            high = 1;
            for (int64_t j = 0; j < count; j++)
                multiply_rest(left ? SIDE : rows - i, w, depth, depth, x + j * SIDE, x_stride, y + j * SIDE,
                              y_stride);
            continue;
        }
        shape_tiles(SIDE, 0);
        for (int64_t j = 0; j < count; j += 2) {
            const int wide = count - j > 1;
            const operand *tokens = x + j * SIDE;
            float *out = y + j * SIDE;
            if (high == 4) tiles(4, 1, w, depth, tokens, x_stride, out, y_stride, asked);
            else if (high == 2 && wide) tiles(2, 2, w, depth, tokens, x_stride, out, y_stride, asked);
            else if (high == 2) tiles(2, 1, w, depth, tokens, x_stride, out, y_stride, asked);
            else if (wide) tiles(1, 2, w, depth, tokens, x_stride, out, y_stride, asked);
            else tiles(1, 1, w, depth, tokens, x_stride, out, y_stride, asked);
        }
    }
}

#endif
