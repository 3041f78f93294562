// The processor's tiles (AMX): what is in one, and how they begin.

#ifndef TINSMITH_TRAINING_TILES_H
#define TINSMITH_TRAINING_TILES_H

#include <immintrin.h>
#include <stdint.h>

// A tile holds 16 lines of 32 terms, or 16 pairs of terms of 16 lines, or 16 by 16 sums.
#define SIDE 16
#define STEP 32
#define TILE 1024

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// 16 rows of 16 words to columns.
static inline void transpose_tile(__m512i t[SIDE])
{
    __m512i r[SIDE];
    for (int i = 0; i < SIDE; i += 2) {
        r[i] = _mm512_unpacklo_epi32(t[i], t[i + 1]);
        r[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4)
        for (int j = 0; j < 2; j++) {
            t[i + 2 * j] = _mm512_unpacklo_epi64(r[i + j], r[i + j + 2]);
            t[i + 2 * j + 1] = _mm512_unpackhi_epi64(r[i + j], r[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
        r[i + 8] = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 8], 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(r[i], r[i + 8], 0xdd);
    }
}

// Whole tiles, all of them, until they are released.
static void begin_tiles(void)
{
    struct {
        uint8_t palette, first_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1};
    for (int i = 0; i < 8; i++) all.row_bytes[i] = 64, all.rows[i] = SIDE;
    // To GCC 12 the intrinsic reads eight bytes, and the others need not be written.
    __asm__ volatile("" : : "r"(&all) : "memory");
    _tile_loadconfig(&all);
}

// The four that hold sums.
static inline void zero_tiles(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

#endif
