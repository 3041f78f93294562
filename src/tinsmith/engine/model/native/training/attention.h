// Causal attention of packed sequences, and its gradients; of numbers as `layers.h` has them.
//
// A sequence's queries are those of its own tokens; its keys may begin with tokens of another sequence that it shares.
// Some queries are taken at once, with the keys up to the last of them: their scores are near while they are used, and
// what lies behind the diagonal is hardly computed. The gradients compute them again from the queries' log-sum-exp
// (Dao et al. 2022, arXiv:2205.14135, algorithm 4, without its blocks of keys: a row of scores fits).
//
// The order of all sums follows from the sequence itself, not from its neighbours or the number of threads. Where
// numbers are bfloat16, exponentials are taken and rounded as in `decoding/tiled/attention.h`, which samples.

#ifndef TINSMITH_TRAINING_ATTENTION_H
#define TINSMITH_TRAINING_ATTENTION_H

#include "blocks.h"

#include <stdlib.h>

// Queries that are taken at once.
#define QUERIES 24
// Floats that a thread keeps between sequences; what a longer one needs goes back at once.
#define KEPT (1 << 20)

// `count` tokens from `start` on, behind `before` tokens of another from `lent` on.
typedef struct {
    int64_t start, count, lent, before;
} sequence;

// Queries [T, heads, d] and keys and values [T, key heads, d].
typedef struct {
    const number *query, *key, *value;
    int64_t heads, key_heads, d;
    float scaling;
} input;

static _Thread_local float *room;
static _Thread_local int64_t room_size;

// A thread's memory, for as long as it lives, so that it is not new pages every time; NULL where there is none.
static float *take_room(int64_t floats)
{
    if (floats > room_size) {
        free(room);
        // Whole pages, and more than now, as the next sequence may be a bit longer.
        const int64_t size = (floats + floats / 4 + 1023) / 1024 * 1024;
        room = aligned_alloc(4096, (size_t)size * sizeof(float));
        room_size = room ? size : 0;
    }
    return room;
}

static void leave_room(void)
{
    if (room_size <= KEPT) return;
    free(room);
    room = NULL;
    room_size = 0;
}

static inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

static inline int64_t place_of(const sequence *s, int64_t key)
{
    return key < s->before ? s->lent + key : s->start + key - s->before;
}

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

// The softmax of one query over the keys so far: the largest score, and the sum of the others' powers beside it.
typedef struct {
    float peak;
    vec total;
} softmax;

// A row of products with further keys, of which so many are seen, becomes e^(score - largest), zero from there on.
// Returns what all before is to be multiplied with, as the largest may be another one now.
static inline float soften(float *row, int64_t seen, int64_t keys, float scaling, softmax *so_far)
{
    const vec zero = {0};
    float peak = so_far->peak;
    for (int64_t i = seen > 0 ? seen : 0; i < keys; i++) row[i] = -INFINITY;
    vec largest = zero + peak;
    for (int64_t i = 0; i < keys; i += LANES) {
        const vec x = load(row + i) * scaling;
        store(row + i, x);
        largest = choose(x > largest, x, largest);
    }
    for (int lane = 0; lane < LANES; lane++) peak = largest[lane] > peak ? largest[lane] : peak;
    const float fade = exponential(zero + (so_far->peak - peak))[0];
    vec sum = zero;
    for (int64_t i = 0; i < keys; i += LANES) {
        const vec e = power_of_score(load(row + i) - peak);
        store(row + i, rounded(e));
        sum += e;
    }
    so_far->total = so_far->total * fade + sum;
    so_far->peak = peak;
    return fade;
}

static int attend_sequence(number *out, float *sums, const input *in, const sequence *s, int64_t key_head)
{
    const int64_t d = in->d, n = s->before + s->count, wide = padded(d), length = padded(n);
    const int64_t shared = in->heads / in->key_heads;
    float *keys = take_room(d * length + n * wide + QUERIES * (length + 2 * wide));
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
                for (int64_t j = 0; j < d; j += LANES) keep(out + at * d + j, d - j, load(mixed + i * wide + j) * share);
            }
        }
    leave_room();
    return 1;
}

// What `attention_gradient` is told, and where it leaves the gradients of queries, keys and values.
typedef struct {
    const number *g;
    const float *sums;
    number *query, *key, *value;
} gradient;

// The gradients of one head's keys and values of a sequence whose tokens others share, until all of them have been.
typedef struct {
    float *keys, *values;  // [count, padded d]; NULL where nobody shares them
} lent;

static void write_lines(number *to, const float *lines, int64_t token, int64_t count, int64_t head, int64_t heads,
                        int64_t d)
{
    for (int64_t i = 0; i < count; i++, lines += padded(d))
        for (int64_t j = 0; j < d; j += LANES) keep(to + ((token + i) * heads + head) * d + j, d - j, load(lines + j));
}

// What a sequence's lines [before + count, padded d] add to the gradient of keys or values.
static void hand_over(number *to, const float *lines, float *shared, const sequence *s, int64_t head, int64_t heads,
                      int64_t d)
{
    const int64_t wide = padded(d);
    if (shared && !s->before) {
        memcpy(shared, lines, (size_t)(s->count * wide) * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < s->before * wide; i += LANES) store(shared + i, load(lines + i) + load(shared + i));
    write_lines(to, lines + s->before * wide, s->start, s->count, head, heads, d);
}

static inline int64_t gradient_room(const input *in, const sequence *s)
{
    const int64_t d = in->d, n = s->before + s->count, wide = padded(d), length = padded(n);
    return 2 * d * length + 3 * n * wide + QUERIES * (2 * length + 3 * wide);
}

static void differentiate_sequence(const gradient *to, const input *in, const sequence *s, int64_t key_head,
                                   const lent *family, float *columns)
{
    const int64_t d = in->d, n = s->before + s->count, wide = padded(d), length = padded(n);
    const int64_t shared = in->heads / in->key_heads;
    float *value_columns = columns + d * length, *keys = value_columns + d * length, *of_keys = keys + n * wide;
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
                for (int64_t j = 0; j < d; j += LANES) keep(line + j, d - j, load(of_query + i * wide + j) * in->scaling);
            }
        }
    hand_over(to->key, of_keys, family->keys, s, key_head, in->key_heads, d);
    hand_over(to->value, of_values, family->values, s, key_head, in->key_heads, d);
}

// Sequences of which all but the first begin with tokens of the first.
static int differentiate_family(const gradient *to, const input *in, const sequence *sequences, int64_t count,
                                int64_t key_head)
{
    const int64_t shared = count > 1 ? sequences->count * padded(in->d) : 0;
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t room_of = gradient_room(in, sequences + i);
        most = room_of > most ? room_of : most;
    }
    float *all = take_room(2 * shared + most);
    if (!all) return 0;
    const lent family = {shared ? all : NULL, shared ? all + shared : NULL};
    for (int64_t i = 0; i < count; i++)
        differentiate_sequence(to, in, sequences + i, key_head, &family, all + 2 * shared);
    if (shared) {
        write_lines(to->key, family.keys, sequences->start, sequences->count, key_head, in->key_heads, in->d);
        write_lines(to->value, family.values, sequences->start, sequences->count, key_head, in->key_heads, in->d);
    }
    leave_room();
    return 1;
}

// out [T, heads, d], and of each query the logarithm of its scores' exponentials, [T, heads]. Returns whether there was
// memory.
int64_t NAMED(packed_attention)(number *out, float *sums, const input *in, const sequence *sequences, int64_t count,
                                int64_t threads)
{
    int64_t well = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) collapse(2) schedule(dynamic) reduction(min : well)
    for (int64_t i = 0; i < count; i++)
        for (int64_t head = 0; head < in->key_heads; head++)
            if (!attend_sequence(out, sums, in, sequences + i, head)) well = 0;
    return well;
}

// Families are sequences of which all but the first begin with tokens of the first: from `families[i]` on to
// `families[i + 1]`. A family's are computed one after the other, since they add to the same tokens.
int64_t NAMED(packed_attention_gradient)(const gradient *to, const input *in, const sequence *sequences,
                                         const int64_t *families, int64_t count, int64_t threads)
{
    int64_t well = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) collapse(2) schedule(dynamic) reduction(min : well)
    for (int64_t i = 0; i < count; i++)
        for (int64_t head = 0; head < in->key_heads; head++)
            if (!differentiate_family(to, in, sequences + families[i], families[i + 1] - families[i], head)) well = 0;
    return well;
}

#endif
