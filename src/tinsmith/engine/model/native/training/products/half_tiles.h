// Matrices of bfloat16 in the order in which the processor's tiles (AMX) take them, and sums of tiles.

#ifndef TINSMITH_HALF_TILES_H
#define TINSMITH_HALF_TILES_H

#include "../../bfloat16.h"
#include "../room.h"
#include "tiles.h"

// One factor of a product: of its lines, rows of the left one or columns of the right one, and the terms of their sums.
typedef struct {
    const number *at;
    int64_t stride;
    int64_t along;  // whether a line's terms are neighbours in memory, else those of all lines are
} factor;

static inline factor part_of(factor whole, int64_t line, int64_t term)
{
    whole.at += whole.along ? line * whole.stride + term : term * whole.stride + line;
    return whole;
}

static inline __mmask32 first(int64_t count)
{
    return count >= STEP ? 0xffffffff : count <= 0 ? 0 : (__mmask32)((1u << count) - 1);
}

// 16 lines of 32 terms; what is beyond those that are there is zero.
static inline void take_lines(__m512i row[SIDE], const number *at, int64_t stride, int64_t lines, int64_t terms)
{
    const __mmask32 there = first(terms);
    for (int i = 0; i < SIDE; i++)
        row[i] = i < lines ? _mm512_maskz_loadu_epi16(there, at + i * stride) : _mm512_setzero_si512();
}

// 16 pairs of terms of 32 lines, in two times 16 rows.
static inline void take_pairs(__m512i low[SIDE], __m512i high[SIDE], const number *at, int64_t stride, int64_t terms,
                              int64_t lines)
{
    const __m512i first_half = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38,
                                                6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i last_half = _mm512_add_epi16(first_half, _mm512_set1_epi16(SIDE));
    const __mmask32 there = first(lines);
    for (int i = 0; i < SIDE; i++, at += 2 * stride) {
        const __m512i even = 2 * i < terms ? _mm512_maskz_loadu_epi16(there, at) : _mm512_setzero_si512();
        const __m512i odd = 2 * i + 1 < terms ? _mm512_maskz_loadu_epi16(there, at + stride) : _mm512_setzero_si512();
        low[i] = _mm512_permutex2var_epi16(even, first_half, odd);
        high[i] = _mm512_permutex2var_epi16(even, last_half, odd);
    }
}

static inline void put_tile(char *tile, __m512i row[SIDE], int turned)
{
    if (turned) transpose_tile(row);
    for (int i = 0; i < SIDE; i++) _mm512_store_si512(tile + i * 64, row[i]);
}

// A factor as tiles, [line / 16][term / 32], with lines of zeros up to a multiple of 32: the left one's tiles hold
// lines, the right one's pairs.
static void pack_tiles(char *to, factor from, int64_t lines, int64_t terms, int is_right)
{
    const int64_t steps = up(terms, STEP) / STEP, panel = steps * TILE, pairs = up(lines, 2 * SIDE);
    __m512i row[SIDE], next[SIDE];
    // In the order in which they lie in memory.
    if (from.along) {
        for (int64_t line = 0; line < pairs; line += SIDE)
            for (int64_t term = 0; term < terms; term += STEP, to += TILE) {
                take_lines(row, part_of(from, line, term).at, from.stride, lines - line, terms - term);
                put_tile(to, row, is_right);
            }
    } else {
        for (int64_t term = 0; term < terms; term += STEP, to += TILE)
            for (int64_t line = 0; line < pairs; line += 2 * SIDE) {
                take_pairs(row, next, part_of(from, line, term).at, from.stride, terms - term, lines - line);
                put_tile(to + line / SIDE * panel, row, !is_right);
                put_tile(to + (line / SIDE + 1) * panel, next, !is_right);
            }
    }
}

// Lines of both factors as `pack_tiles` leaves them: 16 lines' tiles of so many steps one behind the other, and so many bytes
// to those of the next 16 lines.
typedef struct {
    const char *left, *right;
    int64_t steps, left_panel, right_panel;
} panels;

static inline void load_tiles(const float sums[4 * SIDE * SIDE])
{
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + SIDE * SIDE, 64);
    _tile_loadd(2, sums + 2 * SIDE * SIDE, 64);
    _tile_loadd(3, sums + 3 * SIDE * SIDE, 64);
}

static inline void store_tiles(float sums[4 * SIDE * SIDE])
{
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SIDE * SIDE, 64);
    _tile_stored(2, sums + 2 * SIDE * SIDE, 64);
    _tile_stored(3, sums + 3 * SIDE * SIDE, 64);
}

// The same where rows of sums lie so many floats apart.
static inline void load_tiles_from(const float *at, int64_t stride)
{
    _tile_loadd(0, at, stride * 4);
    _tile_loadd(1, at + SIDE, stride * 4);
    _tile_loadd(2, at + SIDE * stride, stride * 4);
    _tile_loadd(3, at + SIDE * stride + SIDE, stride * 4);
}

static inline void store_tiles_to(float *at, int64_t stride)
{
    _tile_stored(0, at, stride * 4);
    _tile_stored(1, at + SIDE, stride * 4);
    _tile_stored(2, at + SIDE * stride, stride * 4);
    _tile_stored(3, at + SIDE * stride + SIDE, stride * 4);
}

// Adds one step of the product of 32 rows and 32 columns to four squares of sums.
static inline void multiply_step(panels p, int64_t step)
{
    const char *left = p.left + step * TILE, *right = p.right + step * TILE;
    _tile_loadd(4, left, 64);
    _tile_loadd(6, right, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right + p.right_panel, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, left + p.left_panel, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

static inline void multiply_tiles(panels p)
{
    for (int64_t step = 0; step < p.steps; step++) multiply_step(p, step);
}

#endif
