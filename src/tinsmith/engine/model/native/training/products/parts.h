// Matrices of float32 split into parts of bfloat16, in the order in which the processor's tiles take them.

#ifndef TINSMITH_PARTS_H
#define TINSMITH_PARTS_H

#include "tiles.h"

#define PARTS 3
// Bits of the smallest number that rounds to infinity.
#define BEYOND 0x7f7f8000

// What is told of the numbers that were split.
typedef struct {
    __m512i rest;     // bits of what the high parts left
    __m512i largest;  // bits of the largest, without its sign
} seen;

typedef struct {
    __m512i row[PARTS][SIDE];
} split;

// Numbers that lie in rows, of which so many are there; what is beyond them counts as zero.
typedef struct {
    const float *at;
    int64_t rows, columns, stride;
} source;

// The parts of sixteen numbers, each in the upper half of its 32 bits. What is no number, and what would round to
// infinity, counts as zero here.
static inline void cut(__m512 x, __m512i parts[PARTS], seen *seen)
{
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000);
    const __m512i size = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
    seen->largest = _mm512_max_epu32(seen->largest, size);
    x = _mm512_maskz_mov_ps(_mm512_cmplt_epu32_mask(size, _mm512_set1_epi32(BEYOND)), x);
    parts[0] = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
    const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(parts[0]));
    parts[1] = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(rest), half), upper);
    parts[2] = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(parts[1])));
    seen->rest = _mm512_or_si512(seen->rest, _mm512_castps_si512(rest));
}

static inline __mmask16 first(int64_t count)
{
    return count >= SIDE ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

// 16 rows of 32 numbers to 16 rows of 16 pairs of neighbours.
static inline void split_rows(split *to, source from, seen *seen)
{
    // The upper halves of two vectors' numbers, one vector's behind the other's.
    const __m512i order = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                                           25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __mmask16 near = first(from.columns), far = first(from.columns - SIDE);
    for (int row = 0; row < SIDE; row++, from.at += from.stride) {
        __m512i a[PARTS], b[PARTS];
        const __mmask16 there = row < from.rows ? 0xffff : 0;
        cut(_mm512_maskz_loadu_ps(near & there, from.at), a, seen);
        cut(_mm512_maskz_loadu_ps(far & there, from.at + SIDE), b, seen);
        for (int part = 0; part < PARTS; part++)
            to->row[part][row] = _mm512_permutex2var_epi16(a[part], order, b[part]);
    }
}

// 32 rows of 16 numbers to 16 rows of 16 pairs, each of two rows' numbers.
static inline void split_columns(split *to, source from, seen *seen)
{
    const __mmask16 there = first(from.columns);
    for (int row = 0; row < SIDE; row++, from.at += 2 * from.stride) {
        __m512i a[PARTS], b[PARTS];
        const __mmask16 even = 2 * row < from.rows ? there : 0, odd = 2 * row + 1 < from.rows ? there : 0;
        cut(_mm512_maskz_loadu_ps(even, from.at), a, seen);
        cut(_mm512_maskz_loadu_ps(odd, from.at + from.stride), b, seen);
        for (int part = 0; part < PARTS; part++)
            to->row[part][row] = _mm512_or_si512(_mm512_srli_epi32(a[part], 16), b[part]);
    }
}

// One factor of a product: of its lines, rows of the left one or columns of the right one, and the terms of their sums.
typedef struct {
    const float *at;
    int64_t stride;
    int64_t along;   // whether a line's terms are neighbours in memory, else those of all lines are
    int64_t paired;  // whether a tile's row is to hold a pair of terms of 16 lines, else a line's terms
} factor;

static inline factor part_of(factor whole, int64_t line, int64_t term)
{
    whole.at += whole.along ? line * whole.stride + term : term * whole.stride + line;
    return whole;
}

// Splits lines into tiles, [line / 16][term / 32][part]. Returns whether so many parts are enough.
static int pack(char *to, factor from, int64_t lines, int64_t terms, int parts, int *unbounded)
{
    split s;
    seen seen = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int64_t line = 0; line < lines; line += SIDE)
        for (int64_t term = 0; term < terms; term += STEP) {
            const float *at = part_of(from, line, term).at;
            if (from.along)
                split_rows(&s, (source){at, lines - line, terms - term, from.stride}, &seen);
            else
                split_columns(&s, (source){at, terms - term, lines - line, from.stride}, &seen);
            if (parts < PARTS && _mm512_test_epi32_mask(seen.rest, seen.rest)) return 0;
            for (int part = 0; part < parts; part++, to += TILE) {
                if (from.along == from.paired) transpose_tile(s.row[part]);
                for (int row = 0; row < SIDE; row++) _mm512_store_si512(to + row * 64, s.row[part][row]);
            }
        }
    if (_mm512_cmpge_epu32_mask(seen.largest, _mm512_set1_epi32(BEYOND))) *unbounded = 1;
    return 1;
}

#endif
