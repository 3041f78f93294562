// Products of bfloat16 matrices with the processor's tiles (AMX), with what adapters add to their rows.
//
// Rounded as `lora.add_delta` rounds: W·x + b, A·x, that times the scale, and their sum with B·(A·x). Where the result is
// to be float32, as logits are, it is one sum of float32. A number of the result is the same sum in the same order
// wherever it stands and however many threads there are.

#include <stdint.h>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "half_tiles.h"

// Rows that are multiplied at once, with as many columns as stay in the second-level cache while all rows meet them.
#define ROWS (2 * SIDE)
#define BYTES 900000

// What an adapter adds to rows from `start` to `end`: scale·(a·down)·up, with `down` [k, rank] and `up` [rank, n].
// `hidden` [end - start, rank] gets scale·a·down.
typedef struct {
    int64_t start, end, rank;
    factor down, up;
    number *hidden;
    float scale;
} delta;

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

// scale·a·down of packed rows.
static void go_down(number *hidden, const char *rows, const char *down, int64_t height, int64_t steps,
                    const delta *own)
{
    const int64_t panel = steps * TILE, rank = own->rank;
    const __m512 scale = _mm512_set1_ps(own->scale);
    _Alignas(64) float sums[4 * SIDE * SIDE];
    for (int64_t j = 0; j < rank; j += 2 * SIDE) {
        zero_tiles();
        multiply_tiles((panels){rows, down + j / SIDE * panel, steps, panel, panel});
        store_tiles(sums);
        for (int64_t row = 0; row < height; row++) {
            const float *line = sums + (row / SIDE * SIDE + row) * SIDE;
            const __m512 low = (__m512)rounded((vec)_mm512_load_ps(line)) * scale;
            const __m512 high = (__m512)rounded((vec)_mm512_load_ps(line + SIDE * SIDE)) * scale;
            _mm512_mask_storeu_epi16(hidden + row * rank + j, first(rank - j), (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
}

// Sixteen of up to 32 numbers as floats, the first or the last.
static inline __m512 widened(__m512i numbers, int last)
{
    const __m256i half = last ? _mm512_extracti64x4_epi64(numbers, 1) : _mm512_castsi512_si256(numbers);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Sums of up to 32 rows and columns that go to their place row by row, with a bias and with what an adapter adds, or
// NULL: while the tiles multiply the next ones, as the units for vectors have nothing else to do.
typedef struct {
    number *place;  // NULL where they stay float32
    float *wide_place;
    int64_t stride, row, rows, columns;
    const float *sums, *more;
    const number *bias;
} writing;

static inline void write_row(writing *w)
{
    const __mmask32 there = first(w->columns);
    const int64_t at = (w->row / SIDE * SIDE + w->row) * SIDE, right = at + SIDE * SIDE;
    __m512 low = _mm512_load_ps(w->sums + at), high = _mm512_load_ps(w->sums + right);
    if (w->bias) {
        const __m512i bias = _mm512_maskz_loadu_epi16(there, w->bias);
        low += widened(bias, 0), high += widened(bias, 1);
    }
    if (w->more) {
        low = (__m512)rounded((vec)low) + _mm512_load_ps(w->more + at);
        high = (__m512)rounded((vec)high) + _mm512_load_ps(w->more + right);
    }
    if (w->place) {
        _mm512_mask_storeu_epi16(w->place, there, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        w->place += w->stride;
    } else {
        _mm512_mask_storeu_ps(w->wide_place, (__mmask16)there, low);
        _mm512_mask_storeu_ps(w->wide_place + SIDE, (__mmask16)(there >> SIDE), high);
        w->wide_place += w->stride;
    }
    w->row++;
}

// Adds a product to the tiles' sums, and writes what waits.
static inline void multiply_and_write(panels p, writing *w)
{
    const int64_t each = (w->rows - w->row + p.steps - 1) / p.steps;
    for (int64_t step = 0; step < p.steps; step++) {
        multiply_step(p, step);
        for (int64_t i = 0; i < each && w->row < w->rows; i++) write_row(w);
    }
}

// c [m, n], rows so far apart: one of the two, the other one is NULL.
typedef struct {
    number *at;
    float *wide_at;
    int64_t stride;
} result;

// Rows [from, to) of c become a·b + bias and what adapters add. Returns whether there was memory.
static int multiply_rows(result c, factor a, factor b, const number *bias, int64_t from, int64_t to, int64_t n,
                         int64_t k, const delta *deltas, int64_t count)
{
    const int64_t steps = up(k, STEP) / STEP, panel = steps * TILE;
    const int64_t width = least(up(n, 2 * SIDE), up(BYTES / panel * SIDE, 2 * SIDE));
    int64_t rank = 0;
    for (int64_t i = 0; i < count; i++) rank = deltas[i].rank > rank ? deltas[i].rank : rank;
    const int64_t deepest = up(rank, STEP), climb = deepest / STEP * TILE;
    char *columns = take_room((width + ROWS + deepest) / SIDE * panel + (width + ROWS) / SIDE * climb);
    if (!columns) return 0;
    char *rows = columns + width / SIDE * panel, *down = rows + ROWS / SIDE * panel;
    char *up_columns = down + deepest / SIDE * panel, *inner = up_columns + width / SIDE * climb;
    // Two of each, for what is multiplied and for what is written.
    _Alignas(64) float sums[2][4 * SIDE * SIDE], more[2][4 * SIDE * SIDE];
    writing waiting = {0};
    int turn = 0;
    begin_tiles();
    for (int64_t column = 0; column < n; column += width) {
        const int64_t some = least(width, n - column);
        const delta *own, *packed = NULL;
        pack_tiles(columns, part_of(b, column, 0), some, k, 1);
        for (int64_t row = from, end; row < to; row = end) {
            end = block_end(row, to, deltas, count, &own);
            const int64_t height = end - row;
            pack_tiles(rows, part_of(a, row, 0), height, k, 0);
            if (own) {
                number *hidden = own->hidden + (row - own->start) * own->rank;
                if (own != packed && column == 0) pack_tiles(down, own->down, own->rank, k, 1);
                if (own != packed) pack_tiles(up_columns, part_of(own->up, column, 0), some, own->rank, 1);
                packed = own;
                if (column == 0) go_down(hidden, rows, down, height, steps, own);
                pack_tiles(inner, (factor){hidden, own->rank, 1}, height, own->rank, 0);
            }
            const int64_t turns = own ? up(own->rank, STEP) / STEP : 0;
            for (int64_t j = 0; j < some; j += 2 * SIDE, turn = !turn) {
                zero_tiles();
                multiply_and_write((panels){rows, columns + j / SIDE * panel, steps, panel, panel}, &waiting);
                if (own && c.at) {
                    store_tiles(sums[turn]);
                    zero_tiles();
                }
                if (own) {
                    const int64_t up_panel = turns * TILE;
                    multiply_tiles((panels){inner, up_columns + j / SIDE * up_panel, turns, up_panel, up_panel});
                }
                store_tiles(own && c.at ? more[turn] : sums[turn]);
                const int64_t place = row * c.stride + column + j;
                waiting = (writing){c.at ? c.at + place : NULL, c.at ? NULL : c.wide_at + place, c.stride, 0, height,
                                    some - j, sums[turn], own && c.at ? more[turn] : NULL,
                                    bias ? bias + column + j : NULL};
            }
        }
    }
    while (waiting.row < waiting.rows) write_row(&waiting);
    _tile_release();
    return 1;
}

// c becomes a·b + bias [n] (or NULL) and what adapters add. Returns whether there was memory.
int64_t multiply_half(const result *c, const factor *a, const factor *b, const number *bias, int64_t m, int64_t n,
                      int64_t k, const delta *deltas, int64_t count, int64_t threads)
{
    if (threads < 2) return multiply_rows(*c, *a, *b, bias, 0, m, n, k, deltas, count);
    // The longer side is cut, so that less of the shorter one is packed twice. What becomes of a row on its way through
    // an adapter is made where the row is.
    const int64_t by_rows = m >= n || count, share = up(((by_rows ? m : n) + threads - 1) / threads, 2 * SIDE);
    int64_t well = 1;
#pragma omp parallel for num_threads(threads) reduction(min : well)
    for (int64_t part = 0; part < threads; part++) {
        const int64_t low = part * share, high = least(low + share, by_rows ? m : n);
        if (low >= high) continue;
        const result own = {c->at ? c->at + low : NULL, c->at ? NULL : c->wide_at + low, c->stride};
        if (by_rows ? !multiply_rows(*c, *a, *b, bias, low, high, n, k, deltas, count)
                    : !multiply_rows(own, *a, part_of(*b, low, 0), bias ? bias + low : NULL, 0, m, high - low, k,
                                     deltas, 0))
            well = 0;
    }
    return well;
}

int64_t has_half_products(void) { return 1; }
#else
int64_t has_half_products(void) { return 0; }
#endif
