// Attention of one sequence and one key head by units for vectors: numbers are floats in products.

#ifndef TINSMITH_PLAIN_ATTENTION_H
#define TINSMITH_PLAIN_ATTENTION_H

#include "blocks.h"
#include "sequences.h"

// Queries that are taken at once.
#define QUERIES 24

static inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// Floats of a line of keys or values.
static inline int64_t line_width(int64_t d) { return padded(d); }

// A line of one head, d numbers with zeros behind them.
static inline void copy_line(float *to, const number *from, int64_t d, int64_t wide)
{
    for (int64_t j = 0; j < wide; j += LANES) store(to + j, take(from + j, d - j));
}

// A sequence's keys or values of one head, [n, d] and its transpose [d, n], both filled up with zeros; either may be
// NULL.
static void gather(float *lines, float *columns, const number *from, const sequence *s, int64_t head, int64_t heads,
                   int64_t d)
{
    const int64_t n = s->before + s->count, wide = padded(d), length = padded(n);
    for (int64_t i = 0; lines && i < n; i++)
        copy_line(lines + i * wide, from + (place_of(s, i) * heads + head) * d, d, wide);
    // As many lines at once as fill a register: columns lie far apart, and each is written once.
    for (int64_t i = 0; columns && i < length; i += LANES) {
        const number *line[LANES];
        for (int64_t l = 0; l < LANES; l++) line[l] = i + l < n ? from + (place_of(s, i + l) * heads + head) * d : NULL;
        for (int64_t j = 0; j < d; j++) {
            vec column = {0};
            for (int64_t l = 0; l < LANES && line[l]; l++) column[l] = to_float(line[l][j]);
            store(columns + j * length + i, column);
        }
    }
}

static int attend_sequence(number *out, float *sums, const input *in, const sequence *s, int64_t key_head)
{
    const int64_t d = in->d, n = s->before + s->count, wide = padded(d), length = padded(n);
    const int64_t shared = in->heads / in->key_heads;
    float *keys = (float *)take_room((d * length + n * wide + QUERIES * (length + 2 * wide)) * (int64_t)sizeof(float));
    if (!keys) return 0;
    float *values = keys + d * length, *scores = values + n * wide, *query = scores + QUERIES * length;
    float *mixed = query + QUERIES * wide;
    gather(NULL, keys, in->key, s, key_head, in->key_heads, d);
    gather(values, NULL, in->value, s, key_head, in->key_heads, d);
    for (int64_t head = key_head * shared; head < (key_head + 1) * shared; head++)
        for (int64_t first = 0; first < s->count; first += QUERIES) {
            const int64_t rows = s->count - first < QUERIES ? s->count - first : QUERIES;
            const int64_t seen = s->before + first + rows;
            softmax so_far[QUERIES];
            for (int64_t i = 0; i < rows; i++) {
                copy_line(query + i * wide, in->query + ((s->start + first + i) * in->heads + head) * d, d, wide);
                so_far[i] = (softmax){-INFINITY, {0}};
            }
            for (int64_t start = 0, here; start < seen; start += here) {
                here = seen - start < KEYS_AT_ONCE ? seen - start : KEYS_AT_ONCE;
                const int64_t some = padded(here);
                multiply_block(scores, some, (matrix){query, wide, 1}, keys + start, length, rows, some / LANES, d, 0);
                for (int64_t i = 0; i < rows; i++) {
                    const int64_t own = s->before + first + i + 1 - start;
                    const float fade = soften(scores + i * some, own, some, in->scaling, so_far + i);
                    for (int64_t j = 0; j < wide && start; j++) mixed[i * wide + j] *= fade;
                }
                multiply_block(mixed, wide, (matrix){scores, some, 1}, values + start * wide, wide, rows, wide / LANES,
                               here, start > 0);
            }
            for (int64_t i = 0; i < rows; i++) {
                const int64_t at = (s->start + first + i) * in->heads + head;
                const float total = sum_of(so_far[i].total), share = 1.0f / total;
                sums[at] = so_far[i].peak + logf(total);
                for (int64_t j = 0; j < d; j += LANES)
                    keep(out + at * d + j, d - j, load(mixed + i * wide + j) * share);
            }
        }
    leave_room();
    return 1;
}

// Bytes that the gradient of a sequence takes.
static inline int64_t gradient_room(const input *in, const sequence *s)
{
    const int64_t d = in->d, n = s->before + s->count, wide = padded(d), length = padded(n);
    return (2 * d * length + 3 * n * wide + QUERIES * (2 * length + 3 * wide)) * (int64_t)sizeof(float);
}

static void differentiate_sequence(const gradient *to, const input *in, const sequence *s, int64_t key_head,
                                   const lent *family, char *own_room)
{
    const int64_t d = in->d, n = s->before + s->count, wide = padded(d), length = padded(n);
    const int64_t shared = in->heads / in->key_heads;
    float *columns = (float *)own_room, *value_columns = columns + d * length, *keys = value_columns + d * length;
    float *of_keys = keys + n * wide;
    float *of_values = of_keys + n * wide, *weights = of_values + n * wide, *slopes = weights + QUERIES * length;
    float *query = slopes + QUERIES * length, *g = query + QUERIES * wide, *of_query = g + QUERIES * wide;
    gather(keys, columns, in->key, s, key_head, in->key_heads, d);
    gather(NULL, value_columns, in->value, s, key_head, in->key_heads, d);
    memset(of_keys, 0, (size_t)(2 * n * wide) * sizeof(float));
    for (int64_t head = key_head * shared; head < (key_head + 1) * shared; head++)
        for (int64_t first = 0; first < s->count; first += QUERIES) {
            const int64_t rows = s->count - first < QUERIES ? s->count - first : QUERIES;
            const int64_t seen = s->before + first + rows, some = padded(seen);
            for (int64_t i = 0; i < rows; i++) {
                const int64_t at = ((s->start + first + i) * in->heads + head) * d;
                copy_line(query + i * wide, in->query + at, d, wide);
                copy_line(g + i * wide, to->g + at, d, wide);
                for (int64_t j = 0; j < d; j++) query[i * wide + j] *= in->scaling;
            }
            multiply_block(weights, some, (matrix){query, wide, 1}, columns, length, rows, some / LANES, d, 0);
            multiply_block(slopes, some, (matrix){g, wide, 1}, value_columns, length, rows, some / LANES, d, 0);
            for (int64_t i = 0; i < rows; i++) {
                float *weight = weights + i * some, *slope = slopes + i * some;
                const float sum = to->sums[(s->start + first + i) * in->heads + head];
                for (int64_t j = s->before + first + i + 1; j < some; j++) weight[j] = -INFINITY, slope[j] = 0.0f;
                vec along = {0};
                for (int64_t j = 0; j < some; j += LANES) {
                    const vec p = power_of_score(load(weight + j) - sum);
                    store(weight + j, p);
                    along += p * load(slope + j);
                }
                // Not g·out, which is the same: out is rounded, and for a query that sees little what is left is nothing.
                const float mean = sum_of(along);
                for (int64_t j = 0; j < some; j += LANES)
                    store(slope + j, load(weight + j) * (load(slope + j) - mean));
            }
            multiply_block(of_values, wide, (matrix){weights, 1, some}, g, wide, seen, wide / LANES, rows, 1);
            // The queries have the scaling in them; keys have not.
            multiply_block(of_keys, wide, (matrix){slopes, 1, some}, query, wide, seen, wide / LANES, rows, 1);
            multiply_block(of_query, wide, (matrix){slopes, some, 1}, keys, wide, rows, wide / LANES, seen, 0);
            for (int64_t i = 0; i < rows; i++) {
                number *line = to->query + ((s->start + first + i) * in->heads + head) * d;
                for (int64_t j = 0; j < d; j += LANES)
                    keep(line + j, d - j, load(of_query + i * wide + j) * in->scaling);
            }
        }
    hand_over(to->key, of_keys, wide, family->keys, s, key_head, in->key_heads, d);
    hand_over(to->value, of_values, wide, family->values, s, key_head, in->key_heads, d);
}

#endif
