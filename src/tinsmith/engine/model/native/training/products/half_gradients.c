// The gradients of adapters' factors with the processor's tiles (AMX): sums over tokens of products of bfloat16, added
// to float32.
//
// One side is as wide as a rank, the other as a layer. The wide one is read once, some tokens at a time, while the sums
// of all its columns wait in the second-level cache. The order of a sum follows from its tokens alone.

#include <stdint.h>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "half_tiles.h"

// Tokens and columns whose tiles stay in the second-level cache.
#define TERMS 256
#define WIDTH 1024

// To `out`, whose numbers stand so far apart from row to row and from column to column, is added left'·right, with
// `left` [terms, rows] and `right` [terms, columns], whose rows stand so far apart.
typedef struct {
    float *out;
    int64_t row, column;
    const number *left, *right;
    int64_t left_stride, right_stride, terms, rows, columns;
} outer;

static inline void add_some(float *place, __mmask16 there, __m512i sums)
{
    _mm512_mask_storeu_ps(place, there, _mm512_add_ps(_mm512_maskz_loadu_ps(there, place), _mm512_castsi512_ps(sums)));
}

// A square of sums to its place, of which so many rows and columns are there.
static void add_square(const float *sums, float *out, int64_t row, int64_t column, int64_t rows, int64_t columns)
{
    __m512i line[SIDE];
    for (int i = 0; i < SIDE; i++) line[i] = _mm512_load_si512(sums + i * SIDE);
    if (column != 1) {
        transpose_tile(line);
        const int64_t other = rows;
        rows = columns, columns = other, row = column;
    }
    for (int64_t i = 0; i < least(rows, SIDE); i++)
        add_some(out + i * row, (__mmask16)first(least(columns, SIDE)), line[i]);
}

// Columns from `from` to `to`, of which the first is a multiple of 32. Returns whether there was memory.
static int add_columns(const outer *o, int64_t from, int64_t to)
{
    const int64_t rows = up(o->rows, 2 * SIDE), width = up(to - from, 2 * SIDE), square = 4 * SIDE * SIDE;
    const int64_t left_bytes = rows / SIDE * (TERMS / STEP) * TILE, right_bytes = width / SIDE * (TERMS / STEP) * TILE;
    char *left = take_room(left_bytes + right_bytes + rows * width * (int64_t)sizeof(float));
    if (!left) return 0;
    char *right = left + left_bytes;
    float *all = (float *)(right + right_bytes);
    begin_tiles();
    for (int64_t term = 0; term < o->terms; term += TERMS) {
        const int64_t terms = least(TERMS, o->terms - term), steps = up(terms, STEP) / STEP, panel = steps * TILE;
        float *sums = all;
        pack_tiles(left, (factor){o->left + term * o->left_stride, o->left_stride, 0}, o->rows, terms, 0);
        pack_tiles(right, (factor){o->right + term * o->right_stride + from, o->right_stride, 0}, to - from, terms, 1);
        for (int64_t j = 0; j < width; j += 2 * SIDE)
            for (int64_t i = 0; i < rows; i += 2 * SIDE, sums += square) {
                if (term) load_tiles(sums);
                else zero_tiles();
                multiply_tiles((panels){left + i / SIDE * panel, right + j / SIDE * panel, steps, panel, panel});
                store_tiles(sums);
            }
    }
    _tile_release();
    const float *sums = all;
    for (int64_t j = from; j < to; j += 2 * SIDE)
        for (int64_t i = 0; i < rows; i += 2 * SIDE)
            for (int64_t part = 0; part < 4; part++, sums += SIDE * SIDE) {
                const int64_t y = i + part / 2 * SIDE, x = j + part % 2 * SIDE;
                if (y < o->rows && x < to)
                    add_square(sums, o->out + y * o->row + x * o->column, o->row, o->column, o->rows - y, to - x);
            }
    return 1;
}

// Computes all of them, each thread its columns of each. Returns whether there was memory.
int64_t add_outer_half(const outer *outers, int64_t count, int64_t threads)
{
    int64_t well = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) collapse(2) reduction(min : well)
    for (int64_t i = 0; i < count; i++)
        for (int64_t part = 0; part < threads; part++) {
            const int64_t share = up((outers[i].columns + threads - 1) / threads, 2 * SIDE);
            const int64_t from = part * share, to = least(from + share, outers[i].columns);
            for (int64_t j = from; j < to; j += WIDTH)
                if (!add_columns(outers + i, j, least(j + WIDTH, to))) well = 0;
        }
    return well;
}
#endif
