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
// The largest rank of an adapter that is added on the way.
#define RANK 64

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

// Adds 32 rows times 32 columns to the sums in four tiles, the small products of each step before the large ones.
static inline void multiply_tiles(const char *a, const char *b, int64_t steps, int parts)
{
    const int64_t a_panel = steps * PARTS * TILE, b_panel = steps * parts * TILE;
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
}

static inline void write_tiles(float *to, int64_t stride, int64_t rows, int64_t columns, int add)
{
    _Alignas(64) float sums[4 * SIDE * SIDE];
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
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

// What an adapter adds to rows from `start` to `end`: scale·(a·down)·up, with `down` [k, rank] and `up` [rank, n].
// `hidden` [end - start, rank] gets scale·a·down.
typedef struct {
    int64_t start, end, rank;
    factor down, up;
    float *hidden;
    float scale;
} delta;

// A thread's blocks, for as long as it lives: the rows, the weight's columns, and of an adapter what rows become in
// between, its columns on the way down, and on the way up.
typedef struct {
    char *rows, *columns, *inner, *down, *up;
} blocks;

static _Thread_local blocks room;

static int make_room(void)
{
    const size_t term = 2 * PARTS;
    if (room.rows) return 1;
    char *all = aligned_alloc(4096, term * ((ROWS + COLUMNS + RANK) * DEPTH + (ROWS + COLUMNS) * RANK));
    if (all == NULL) return 0;
    room.columns = all + term * ROWS * DEPTH;
    room.down = room.columns + term * COLUMNS * DEPTH;
    room.inner = room.down + term * RANK * DEPTH;
    room.up = room.inner + term * ROWS * RANK;
    room.rows = all;
    return 1;
}

// Where the next block of rows ends: at most so many of them, all of one adapter or of none.
static int64_t block_end(int64_t row, int64_t m, const delta *deltas, int64_t count, const delta **own)
{
    int64_t end = least(row + ROWS, m);
    *own = NULL;
    for (int64_t i = 0; i < count; i++) {
        if (row >= deltas[i].start && row < deltas[i].end) {
            *own = &deltas[i];
            end = least(end, deltas[i].end);
        } else if (deltas[i].start > row) {
            end = least(end, deltas[i].start);
        }
    }
    return end;
}

// scale·a·down of the packed rows into `hidden`, by parts of its terms.
static void go_down(float *hidden, int64_t rows, int64_t steps, int64_t rank, float scale, int add, int last)
{
    for (int64_t j = 0; j < rank; j += 2 * SIDE)
        for (int64_t i = 0; i < rows; i += 2 * SIDE) {
            zero_tiles();
            multiply_tiles(room.rows + i / SIDE * steps * PARTS * TILE, room.down + j / SIDE * steps * PARTS * TILE,
                           steps, PARTS);
            write_tiles(hidden + i * rank + j, rank, least(2 * SIDE, rows - i), rank - j, add);
        }
    for (int64_t i = 0; last && i < rows * rank; i++) hidden[i] *= scale;
}

// Rows [from, to) of c [m, n], rows so far apart, become a·b and what adapters add, or that is added to them. Returns
// as `multiply_split`.
static int multiply_rows(float *c, int64_t stride, factor a, factor b, int64_t from, int64_t to, int64_t n, int64_t k,
                         int add, const delta *deltas, int64_t count)
{
    if (!make_room()) return -1;
    int unbounded = 0;
    // Of equal depth, so that the last one is no short one.
    const int64_t depths = (k + DEPTH - 1) / DEPTH, depth = up((k + depths - 1) / depths, STEP);
    begin_tiles();
    for (int64_t column = 0; column < n; column += COLUMNS)
        for (int64_t term = 0; term < k; term += depth) {
            const int64_t terms = least(depth, k - term), width = least(COLUMNS, n - column);
            const int64_t steps = up(terms, STEP) / STEP;
            const int last = term + terms == k;
            const factor columns = part_of(b, column, term);
            const int parts = pack(room.columns, columns, width, terms, 1, &unbounded) ? 1 : PARTS;
            if (parts > 1) pack(room.columns, columns, width, terms, parts, &unbounded);
            const delta *own, *packed = NULL;
            for (int64_t row = from, end; row < to; row = end) {
                end = block_end(row, to, deltas, count, &own);
                const int64_t height = end - row;
                pack(room.rows, part_of(a, row, term), height, terms, PARTS, &unbounded);
                int64_t inner = 0;
                if (own) {
                    float *hidden = own->hidden + (row - own->start) * own->rank;
                    if (own != packed && column == 0)
                        pack(room.down, part_of(own->down, 0, term), own->rank, terms, PARTS, &unbounded);
                    if (own != packed && last)
                        pack(room.up, part_of(own->up, column, 0), width, own->rank, PARTS, &unbounded);
                    packed = own;
                    if (column == 0) go_down(hidden, height, steps, own->rank, own->scale, term > 0, last);
                    if (last) {
                        inner = up(own->rank, STEP) / STEP;
                        pack(room.inner, (factor){hidden, own->rank, 1, 0}, height, own->rank, PARTS, &unbounded);
                    }
                }
                for (int64_t j = 0; j < width; j += 2 * SIDE)
                    for (int64_t i = 0; i < height; i += 2 * SIDE) {
                        float *place = c + (row + i) * stride + column + j;
                        const int64_t rows = least(2 * SIDE, height - i);
                        // Under way while the tiles multiply.
                        for (int64_t x = 0; x < rows; x++) {
                            _mm_prefetch(place + x * stride, _MM_HINT_T0);
                            _mm_prefetch(place + x * stride + SIDE, _MM_HINT_T0);
                        }
                        zero_tiles();
                        multiply_tiles(room.rows + i / SIDE * steps * PARTS * TILE,
                                       room.columns + j / SIDE * steps * parts * TILE, steps, parts);
                        multiply_tiles(room.inner + i / SIDE * inner * PARTS * TILE,
                                       room.up + j / SIDE * inner * PARTS * TILE, inner, PARTS);
                        write_tiles(place, stride, rows, width - j, add || term);
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

// c [m, n], rows so far apart, becomes a·b and what adapters add, or has that added. Returns 1 where a factor holds
// what is no finite number, which counted as zero, and -1 where there is no memory.
int64_t multiply_split(float *c, int64_t stride, const factor *a, const factor *b, int64_t m, int64_t n, int64_t k,
                       int64_t add, const delta *deltas, int64_t count, int64_t threads)
{
    if (threads < 2) return multiply_rows(c, stride, *a, *b, 0, m, n, k, add, deltas, count);
    // The longer side is cut, so that less of the shorter one is split twice. What becomes of a row on its way through
    // an adapter is made where the row is.
    const int64_t by_rows = m >= n || count, share = up(((by_rows ? m : n) + threads - 1) / threads, 2 * SIDE);
    int64_t worst = 0, missing = 0;
#pragma omp parallel for num_threads(threads) reduction(max : worst, missing)
    for (int64_t part = 0; part < threads; part++) {
        const int64_t low = part * share, high = least(low + share, by_rows ? m : n);
        if (low >= high) continue;
        const int said = by_rows ? multiply_rows(c, stride, *a, *b, low, high, n, k, add, deltas, count)
                                 : multiply_rows(c + low, stride, *a, part_of(*b, low, 0), 0, m, high - low, k, add,
                                                 deltas, 0);
        worst = said > worst ? said : worst;
        missing = said < 0 ? 1 : missing;
    }
    return missing ? -1 : worst;
}

int64_t largest_rank(void) { return RANK; }

#else
int64_t has_tiles(void) { return 0; }
#endif
