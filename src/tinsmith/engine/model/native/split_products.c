// Products of float32 matrices with the processor's units for tiles of bfloat16 (AMX), which multiply sixteen times as
// much in a cycle as its units for float32.
//
// A float32 has 24 significant bits, a bfloat16 8: x = high + middle + low, each part the rest that the parts before it
// leave, rounded. A product of two parts is exact in the float32 sums of a tile. Of the nine such products of two
// numbers six are computed; what the other three come to, 2^-25 of the whole at most, is less than the rounding of a
// float32 product (Henry, Tang, Heinecke 2019, arXiv:1904.06376). Where the right factor holds numbers of bfloat16
// alone, as the weights of most checkpoints are, three products are left and nothing is left out.
//
// A number of the result is the same sum in the same order wherever it stands and however many threads there are. What
// is smaller than 2^-126 counts as zero, as it does to the tiles.

#include <stdint.h>

#if defined(__AMX_BF16__) && defined(__AVX512BW__)
#include "parts.h"

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

// What is split at a time: the left block, 768 kB, stays in the second-level cache while all columns meet it.
#define ROWS 128
#define COLUMNS 1024
#define DEPTH 1024

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

#define LEFT(part)                                                                                                     \
    _tile_loadd(4, a + (part) * TILE, 64);                                                                             \
    _tile_loadd(5, a + (part) * TILE + a_panel, 64)
#define RIGHT(part)                                                                                                    \
    _tile_loadd(6, b + (part) * TILE, 64);                                                                             \
    _tile_loadd(7, b + (part) * TILE + b_panel, 64)
#define MULTIPLY                                                                                                       \
    _tile_dpbf16ps(0, 4, 6);                                                                                           \
    _tile_dpbf16ps(1, 4, 7);                                                                                           \
    _tile_dpbf16ps(2, 5, 6);                                                                                           \
    _tile_dpbf16ps(3, 5, 7)

// Sums of 32 rows times 32 columns, four tiles of 16 by 16; the small products of each step come before the large ones.
static inline void multiply_tiles(const char *a, const char *b, int64_t steps, int parts, float *sums)
{
    const int64_t a_panel = steps * PARTS * TILE, b_panel = steps * parts * TILE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < steps; step++, a += PARTS * TILE, b += parts * TILE) {
        RIGHT(0);
        LEFT(2);
        MULTIPLY;
        LEFT(1);
        MULTIPLY;
        if (parts == PARTS) {
            RIGHT(1);
            MULTIPLY;
            LEFT(0);
            MULTIPLY;
            RIGHT(2);
            MULTIPLY;
            RIGHT(0);
        } else {
            LEFT(0);
        }
        MULTIPLY;
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
}

static inline void write_sums(float *to, int64_t stride, int64_t rows, int64_t columns, const float *sums, int add)
{
    for (int half = 0; half < 2; half++) {
        const __mmask16 there = first(columns - half * SIDE);
        for (int64_t row = 0; row < rows; row++) {
            float *place = to + row * stride + half * SIDE;
            __m512 sum = _mm512_load_ps(sums + (row / SIDE * 2 + half) * 256 + row % SIDE * SIDE);
            if (add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, place));
            _mm512_mask_storeu_ps(place, there, sum);
        }
    }
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Where a thread's blocks are, for as long as it lives.
static _Thread_local char *room;

// c [m, n], rows so far apart, of a·b or with that added to it. Returns as `multiply_split`.
static int multiply_block(float *c, int64_t stride, factor a, factor b, int64_t m, int64_t n, int64_t k, int add)
{
    if (room == NULL) room = aligned_alloc(4096, (size_t)(ROWS + COLUMNS) * DEPTH * 2 * PARTS);
    if (room == NULL) return -1;
    char *left = room, *right = room + (size_t)ROWS * DEPTH * 2 * PARTS;
    _Alignas(64) float sums[4 * SIDE * SIDE];
    int unbounded = 0;
    // Of equal depth, so that the last one is no short one.
    const int64_t depths = (k + DEPTH - 1) / DEPTH, depth = up((k + depths - 1) / depths, STEP);
    begin_tiles();
    for (int64_t column = 0; column < n; column += COLUMNS)
        for (int64_t term = 0; term < k; term += depth) {
            const int64_t terms = least(depth, k - term), width = least(COLUMNS, n - column);
            const int64_t steps = up(terms, STEP) / STEP;
            const factor columns = part_of(b, column, term);
            const int parts = pack(right, columns, width, terms, 1, &unbounded) ? 1 : PARTS;
            if (parts > 1) pack(right, columns, width, terms, parts, &unbounded);
            for (int64_t row = 0; row < m; row += ROWS) {
                const int64_t height = least(ROWS, m - row);
                pack(left, part_of(a, row, term), height, terms, PARTS, &unbounded);
                for (int64_t j = 0; j < width; j += 2 * SIDE)
                    for (int64_t i = 0; i < height; i += 2 * SIDE) {
                        float *place = c + (row + i) * stride + column + j;
                        const int64_t rows = least(2 * SIDE, height - i);
                        // Under way while the tiles multiply.
                        for (int64_t x = 0; x < rows; x++) {
                            _mm_prefetch(place + x * stride, _MM_HINT_T0);
                            _mm_prefetch(place + x * stride + SIDE, _MM_HINT_T0);
                        }
                        multiply_tiles(left + i / SIDE * steps * PARTS * TILE, right + j / SIDE * steps * parts * TILE,
                                       steps, parts, sums);
                        write_sums(place, stride, rows, width - j, sums, add || term);
                    }
            }
        }
    _tile_release();
    return unbounded;
}

// Whether the processor has tiles and the system lets this process use them.
int64_t has_tiles(void)
{
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// c [m, n] = a·b, or with that added to it. a is [m, k] row by row, or [k, m] where not `a_along`; b is [n, k] where
// `b_along`, else [k, n]; strides are distances of rows. Returns 1 where either holds what is no finite number, which
// counted as zero, and -1 where there is no memory.
int64_t multiply_split(float *c, int64_t c_stride, const float *a, int64_t a_stride, int64_t a_along, const float *b,
                       int64_t b_stride, int64_t b_along, int64_t m, int64_t n, int64_t k, int64_t add, int64_t threads)
{
    const factor left = {a, a_stride, a_along, 0}, right = {b, b_stride, b_along, 1};
    if (threads < 2) return multiply_block(c, c_stride, left, right, m, n, k, add);
    // The longer side is cut, so that less of the shorter one is split twice.
    const int64_t by_rows = m >= n, share = up(((by_rows ? m : n) + threads - 1) / threads, 2 * SIDE);
    int64_t worst = 0, missing = 0;
#pragma omp parallel for num_threads(threads) reduction(max : worst, missing)
    for (int64_t part = 0; part < threads; part++) {
        const int64_t row = by_rows ? part * share : 0, column = by_rows ? 0 : part * share;
        const int64_t rows = by_rows ? least(share, m - row) : m, columns = by_rows ? n : least(share, n - column);
        if (rows <= 0 || columns <= 0) continue;
        const int said = multiply_block(c + row * c_stride + column, c_stride, part_of(left, row, 0),
                                        part_of(right, column, 0), rows, columns, k, add);
        worst = said > worst ? said : worst;
        missing = said < 0 ? 1 : missing;
    }
    return missing ? -1 : worst;
}

#else
int64_t has_tiles(void) { return 0; }
#endif
