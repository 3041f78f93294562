// Attention of one sequence and one key head in bfloat16 by the processor's tiles (AMX), which multiply; sums, softmax
// and its gradient are float32 by the units for vectors.

#ifndef TINSMITH_TILED_ATTENTION_H
#define TINSMITH_TILED_ATTENTION_H

#include "products/half_tiles.h"
#include "sequences.h"

// Queries that are taken at once: the rows of two tiles.
#define QUERIES (2 * SIDE)

// Numbers of a line of keys or values.
static inline int64_t line_width(int64_t d) { return up(d, STEP); }

// A sequence's keys or values of one head, [length, wide] with zeros around.
static void gather(number *lines, const number *from, const sequence *s, int64_t head, int64_t heads, int64_t d,
                   int64_t length)
{
    const int64_t n = s->before + s->count, wide = line_width(d);
    memset(lines, 0, (size_t)(length * wide) * sizeof(number));
    for (int64_t i = 0; i < n; i++)
        memcpy(lines + i * wide, from + (place_of(s, i) * heads + head) * d, (size_t)d * sizeof(number));
}

// Queries, or the gradients of what became of them, of one head from a token on.
static inline factor rows_of(const number *x, const input *in, int64_t token, int64_t head, int along)
{
    return (factor){x + (token * in->heads + head) * in->d, in->heads * in->d, along};
}

// 32 rows of so many products with lines of `right`: `left`, as packed, has `deep` steps.
static void multiply_lines(float *to, const char *left, const char *right, int64_t lines, int64_t deep)
{
    for (int64_t j = 0; j < lines; j += 2 * SIDE) {
        zero_tiles();
        multiply_tiles((panels){left, right + j / SIDE * deep * TILE, deep, deep * TILE, deep * TILE});
        store_tiles_to(to + j, lines);
    }
}

// Rows of floats, a multiple of 32, to bfloat16; what is behind the last of the rows is zero.
static void round_rows(number *to, const float *from, int64_t rows, int64_t columns)
{
    memset(to + rows * columns, 0, (size_t)((QUERIES - rows) * columns) * sizeof(number));
    for (int64_t i = 0; i < rows * columns; i += LANES) store_numbers(to + i, load(from + i));
}

static int attend_sequence(number *out, float *sums, const input *in, const sequence *s, int64_t key_head)
{
    const int64_t d = in->d, n = s->before + s->count, wide = line_width(d), length = up(n, STEP);
    const int64_t shared = in->heads / in->key_heads, deep = wide / STEP, bytes = length * wide * 2;
    const int64_t most = least(length, KEYS_AT_ONCE);
    char *rest = take_room(3 * bytes + QUERIES * (2 * wide + 4 * wide + 8 * most) + 7 * 64);
    if (!rest) return 0;
    number *lines = part_of_room(&rest, bytes), *weights = part_of_room(&rest, QUERIES * most * 2);
    char *keys = part_of_room(&rest, bytes), *values = part_of_room(&rest, bytes);
    char *query = part_of_room(&rest, QUERIES * wide * 2), *left = part_of_room(&rest, QUERIES * most * 2);
    float *scores = part_of_room(&rest, QUERIES * most * 4), *mixed = part_of_room(&rest, QUERIES * wide * 4);
    gather(lines, in->key, s, key_head, in->key_heads, d, length);
    pack_tiles(keys, (factor){lines, wide, 1}, length, wide, 1);
    gather(lines, in->value, s, key_head, in->key_heads, d, length);
    pack_tiles(values, (factor){lines, wide, 0}, wide, length, 1);
    begin_tiles();
    for (int64_t head = key_head * shared; head < (key_head + 1) * shared; head++)
        for (int64_t first = 0; first < s->count; first += QUERIES) {
            const int64_t rows = least(s->count - first, QUERIES), seen = s->before + first + rows;
            softmax so_far[QUERIES];
            for (int64_t i = 0; i < rows; i++) so_far[i] = (softmax){-INFINITY, {0}};
            pack_tiles(query, rows_of(in->query, in, s->start + first, head, 1), rows, d, 0);
            for (int64_t start = 0, here; start < seen; start += here) {
                here = least(seen - start, KEYS_AT_ONCE);
                const int64_t some = up(here, STEP), steps = some / STEP;
                multiply_lines(scores, query, keys + start / SIDE * deep * TILE, some, deep);
                for (int64_t i = 0; i < rows; i++) {
                    const int64_t own = s->before + first + i + 1 - start;
                    const float fade = soften(scores + i * some, own, some, in->scaling, so_far + i);
                    for (int64_t j = 0; j < wide && start; j++) mixed[i * wide + j] *= fade;
                }
                round_rows(weights, scores, rows, some);
                pack_tiles(left, (factor){weights, some, 1}, QUERIES, some, 0);
                for (int64_t j = 0; j < wide; j += 2 * SIDE) {
                    const char *right = values + (j / SIDE * (length / STEP) + start / STEP) * TILE;
                    if (start) load_tiles_from(mixed + j, wide);
                    else zero_tiles();
                    multiply_tiles((panels){left, right, steps, steps * TILE, length / STEP * TILE});
                    store_tiles_to(mixed + j, wide);
                }
            }
            for (int64_t i = 0; i < rows; i++) {
                const int64_t at = (s->start + first + i) * in->heads + head;
                const float total = sum_of(so_far[i].total), share = 1.0f / total;
                sums[at] = so_far[i].peak + logf(total);
                for (int64_t j = 0; j < d; j += LANES)
                    keep(out + at * d + j, d - j, load(mixed + i * wide + j) * share);
            }
        }
    _tile_release();
    leave_room();
    return 1;
}

// Bytes that the gradient of a sequence takes.
static inline int64_t gradient_room(const input *in, const sequence *s)
{
    const int64_t wide = line_width(in->d), length = up(s->before + s->count, STEP);
    return 4 * length * wide * 2 + 2 * length * wide * 4 + QUERIES * (4 * wide * 2 + 4 * wide + 8 * length) +
           3 * QUERIES * length * 2 + QUERIES * STEP * 2 + 17 * 64;
}

// A row of products q·k and one of g·v become the softmax and the gradient of what it was taken of, as bfloat16.
static void soften_again(number *weights, number *slopes, float *products, float *row, int64_t seen, int64_t keys,
                         float scaling, float sum)
{
    vec along = {0};
    for (int64_t j = seen; j < keys; j++) products[j] = -INFINITY, row[j] = 0.0f;
    for (int64_t j = 0; j < keys; j += LANES) {
        const vec p = power_of_score(load(products + j) * scaling - sum);
        store(products + j, p);
        along += p * load(row + j);
    }
    const float mean = sum_of(along);
    for (int64_t j = 0; j < keys; j += LANES) {
        const vec p = load(products + j);
        store_numbers(weights + j, p);
        store_numbers(slopes + j, p * (load(row + j) - mean));
    }
}

// Adds to lines of keys or values what 32 queries with `weights` [QUERIES, keys] make of their `right`.
static void add_lines(float *lines, const number *weights, const char *right, char *left, int64_t keys, int64_t wide)
{
    for (int64_t j = 0; j < keys; j += 2 * SIDE) {
        pack_tiles(left, (factor){weights + j, keys, 0}, 2 * SIDE, QUERIES, 0);
        for (int64_t column = 0; column < wide; column += 2 * SIDE) {
            load_tiles_from(lines + j * wide + column, wide);
            multiply_tiles((panels){left, right + column / SIDE * TILE, 1, TILE, TILE});
            store_tiles_to(lines + j * wide + column, wide);
        }
    }
}

static void differentiate_sequence(const gradient *to, const input *in, const sequence *s, int64_t key_head,
                                   const lent *family, char *rest)
{
    const int64_t d = in->d, n = s->before + s->count, wide = line_width(d), length = up(n, STEP);
    const int64_t shared = in->heads / in->key_heads, deep = wide / STEP, bytes = length * wide * 2;
    number *lines = part_of_room(&rest, bytes), *weights = part_of_room(&rest, QUERIES * length * 2);
    number *slopes = part_of_room(&rest, QUERIES * length * 2);
    char *keys = part_of_room(&rest, bytes), *values = part_of_room(&rest, bytes);
    char *key_columns = part_of_room(&rest, bytes), *left = part_of_room(&rest, QUERIES * STEP * 2);
    char *query = part_of_room(&rest, QUERIES * wide * 2), *query_columns = part_of_room(&rest, QUERIES * wide * 2);
    char *g = part_of_room(&rest, QUERIES * wide * 2), *g_columns = part_of_room(&rest, QUERIES * wide * 2);
    char *slope_rows = part_of_room(&rest, QUERIES * length * 2);
    float *of_keys = part_of_room(&rest, length * wide * 4), *of_values = part_of_room(&rest, length * wide * 4);
    float *products = part_of_room(&rest, QUERIES * length * 4), *row = part_of_room(&rest, QUERIES * length * 4);
    float *of_query = part_of_room(&rest, QUERIES * wide * 4);
    gather(lines, in->value, s, key_head, in->key_heads, d, length);
    pack_tiles(values, (factor){lines, wide, 1}, length, wide, 1);
    gather(lines, in->key, s, key_head, in->key_heads, d, length);
    pack_tiles(keys, (factor){lines, wide, 1}, length, wide, 1);
    pack_tiles(key_columns, (factor){lines, wide, 0}, wide, length, 1);
    memset(of_keys, 0, (size_t)(length * wide) * sizeof(float));
    memset(of_values, 0, (size_t)(length * wide) * sizeof(float));
    begin_tiles();
    for (int64_t head = key_head * shared; head < (key_head + 1) * shared; head++)
        for (int64_t first = 0; first < s->count; first += QUERIES) {
            const int64_t rows = least(s->count - first, QUERIES), token = s->start + first;
            const int64_t some = up(s->before + first + rows, STEP), steps = some / STEP;
            pack_tiles(query, rows_of(in->query, in, token, head, 1), rows, d, 0);
            pack_tiles(g, rows_of(to->g, in, token, head, 1), rows, d, 0);
            pack_tiles(query_columns, rows_of(in->query, in, token, head, 0), d, rows, 1);
            pack_tiles(g_columns, rows_of(to->g, in, token, head, 0), d, rows, 1);
            multiply_lines(products, query, keys, some, deep);
            multiply_lines(row, g, values, some, deep);
            for (int64_t i = 0; i < rows; i++)
                soften_again(weights + i * some, slopes + i * some, products + i * some, row + i * some,
                             s->before + first + i + 1, some, in->scaling, to->sums[(token + i) * in->heads + head]);
            memset(weights + rows * some, 0, (size_t)((QUERIES - rows) * some) * sizeof(number));
            memset(slopes + rows * some, 0, (size_t)((QUERIES - rows) * some) * sizeof(number));
            add_lines(of_values, weights, g_columns, left, some, wide);
            add_lines(of_keys, slopes, query_columns, left, some, wide);
            pack_tiles(slope_rows, (factor){slopes, some, 1}, QUERIES, some, 0);
            for (int64_t j = 0; j < wide; j += 2 * SIDE) {
                const char *right = key_columns + j / SIDE * (length / STEP) * TILE;
                zero_tiles();
                multiply_tiles((panels){slope_rows, right, steps, steps * TILE, length / STEP * TILE});
                store_tiles_to(of_query + j, wide);
            }
            for (int64_t i = 0; i < rows; i++) {
                number *line = to->query + ((token + i) * in->heads + head) * d;
                for (int64_t j = 0; j < d; j += LANES)
                    keep(line + j, d - j, load(of_query + i * wide + j) * in->scaling);
            }
        }
    _tile_release();
    for (int64_t i = 0; i < n * wide; i += LANES) store(of_keys + i, load(of_keys + i) * in->scaling);
    hand_over(to->key, of_keys, wide, family->keys, s, key_head, in->key_heads, d);
    hand_over(to->value, of_values, wide, family->values, s, key_head, in->key_heads, d);
}

#endif
