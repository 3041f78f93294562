// Causal attention of packed sequences, and its gradients.
//
// A sequence's queries are those of its own tokens; its keys may begin with tokens of another sequence that it shares.
// Some queries are taken at once, with the keys up to the last of them: their scores are near while they are used, and
// what lies behind the diagonal is hardly computed. The gradients compute them again from the queries' log-sum-exp
// (Dao et al. 2022, arXiv:2205.14135, algorithm 4, without its blocks of keys: a row of scores fits).
//
// The order of all sums follows from the sequence itself, not from its neighbours or the number of threads.

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
    const float *query, *key, *value;
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

// Lines of one head, d numbers each with zeros behind them.
static inline void copy_line(float *to, const float *from, int64_t d, int64_t wide)
{
    memcpy(to, from, (size_t)d * sizeof(float));
    memset(to + d, 0, (size_t)(wide - d) * sizeof(float));
}

// A sequence's keys or values of one head, [n, d] and its transpose [d, n], both filled up with zeros; either may be
// NULL.
static void gather(float *lines, float *columns, const float *from, const sequence *s, int64_t head, int64_t heads,
                   int64_t d)
{
    const int64_t n = s->before + s->count, wide = padded(d), length = padded(n);
    for (int64_t i = 0; lines && i < n; i++)
        copy_line(lines + i * wide, from + (place_of(s, i) * heads + head) * d, d, wide);
    // As many lines at once as fill a register: columns lie far apart, and each is written once.
    for (int64_t i = 0; columns && i < length; i += LANES) {
        const float *line[LANES];
        for (int64_t l = 0; l < LANES; l++) line[l] = i + l < n ? from + (place_of(s, i + l) * heads + head) * d : NULL;
        for (int64_t j = 0; j < d; j++) {
            vec column = {0};
            for (int64_t l = 0; l < LANES && line[l]; l++) column[l] = line[l][j];
            store(columns + j * length + i, column);
        }
    }
}

// e^(x - y), nothing where that is nothing beside one.
static inline vec power(vec x, float y)
{
    const vec zero = {0}, z = x - y;
    return choose(z < zero - 87.0f, zero, exponential(z));
}

// A row of scores becomes e^(score - largest), zero from `seen` to `keys`; returns the largest and their sum.
static inline float soften(float *row, int64_t seen, int64_t keys, float *total)
{
    float peak = -INFINITY;
    for (int64_t i = seen; i < keys; i++) row[i] = -INFINITY;
    vec largest = load(row);
    for (int64_t i = LANES; i < keys; i += LANES) {
        const vec x = load(row + i);
        largest = choose(x > largest, x, largest);
    }
    for (int lane = 0; lane < LANES; lane++) peak = largest[lane] > peak ? largest[lane] : peak;
    vec sum = {0};
    for (int64_t i = 0; i < keys; i += LANES) {
        const vec e = power(load(row + i), peak);
        store(row + i, e);
        sum += e;
    }
    *total = sum_of(sum);
    return peak;
}

static int attend_sequence(float *out, float *sums, const input *in, const sequence *s, int64_t key_head)
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
            const int64_t seen = s->before + first + rows, some = padded(seen);
            float totals[QUERIES];
            for (int64_t i = 0; i < rows; i++) {
                const float *line = in->query + ((s->start + first + i) * in->heads + head) * d;
                for (int64_t j = 0; j < d; j++) query[i * d + j] = line[j] * in->scaling;
            }
            multiply_block(scores, some, (matrix){query, d, 1}, keys, length, rows, some / LANES, d, 0);
            for (int64_t i = 0; i < rows; i++) {
                const float peak = soften(scores + i * some, s->before + first + i + 1, some, totals + i);
                sums[(s->start + first + i) * in->heads + head] = peak + logf(totals[i]);
            }
            multiply_block(mixed, wide, (matrix){scores, some, 1}, values, wide, rows, wide / LANES, seen, 0);
            for (int64_t i = 0; i < rows; i++) {
                float *line = out + ((s->start + first + i) * in->heads + head) * d;
                const float share = 1.0f / totals[i];
                for (int64_t j = 0; j < d; j++) line[j] = mixed[i * wide + j] * share;
            }
        }
    leave_room();
    return 1;
}

// What `attention_gradient` is told, and where it leaves the gradients of queries, keys and values.
typedef struct {
    const float *g, *out, *sums;
    float *query, *key, *value;
} gradient;

// The gradients of one head's keys and values go to the sequence's tokens: its own are fresh, those of a head that it
// shares are added to.
static void scatter(float *to, const float *lines, const sequence *s, int64_t head, int64_t heads, int64_t d)
{
    const int64_t wide = padded(d);
    for (int64_t i = 0; i < s->before + s->count; i++) {
        float *line = to + (place_of(s, i) * heads + head) * d;
        for (int64_t j = 0; j < d; j++) line[j] = lines[i * wide + j] + (i < s->before ? line[j] : 0.0f);
    }
}

static int differentiate_sequence(const gradient *to, const input *in, const sequence *s, int64_t key_head)
{
    const int64_t d = in->d, n = s->before + s->count, wide = padded(d), length = padded(n);
    const int64_t shared = in->heads / in->key_heads;
    float *columns = take_room(2 * d * length + 3 * n * wide + QUERIES * (2 * length + 3 * wide));
    if (!columns) return 0;
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
            float along[QUERIES];
            for (int64_t i = 0; i < rows; i++) {
                const int64_t at = ((s->start + first + i) * in->heads + head) * d;
                copy_line(query + i * wide, in->query + at, d, wide);
                copy_line(g + i * wide, to->g + at, d, wide);
                float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                for (int64_t j = 0; j < d; j++) sum += to->g[at + j] * to->out[at + j];
                along[i] = sum;
                for (int64_t j = 0; j < d; j++) query[i * wide + j] *= in->scaling;
            }
            multiply_block(weights, some, (matrix){query, wide, 1}, columns, length, rows, some / LANES, d, 0);
            multiply_block(slopes, some, (matrix){g, wide, 1}, value_columns, length, rows, some / LANES, d, 0);
            for (int64_t i = 0; i < rows; i++) {
                float *weight = weights + i * some, *slope = slopes + i * some;
                const float sum = to->sums[(s->start + first + i) * in->heads + head];
                for (int64_t j = s->before + first + i + 1; j < some; j++) weight[j] = -INFINITY, slope[j] = 0.0f;
                for (int64_t j = 0; j < some; j += LANES) {
                    const vec p = power(load(weight + j), sum);
                    store(weight + j, p);
                    store(slope + j, p * (load(slope + j) - along[i]));
                }
            }
            multiply_block(of_values, wide, (matrix){weights, 1, some}, g, wide, seen, wide / LANES, rows, 1);
            // The queries have the scaling in them; keys have not.
            multiply_block(of_keys, wide, (matrix){slopes, 1, some}, query, wide, seen, wide / LANES, rows, 1);
            multiply_block(of_query, wide, (matrix){slopes, some, 1}, keys, wide, rows, wide / LANES, seen, 0);
            for (int64_t i = 0; i < rows; i++) {
                float *line = to->query + ((s->start + first + i) * in->heads + head) * d;
                for (int64_t j = 0; j < d; j++) line[j] = of_query[i * wide + j] * in->scaling;
            }
        }
    scatter(to->key, of_keys, s, key_head, in->key_heads, d);
    scatter(to->value, of_values, s, key_head, in->key_heads, d);
    leave_room();
    return 1;
}

// out [T, heads, d], and of each query the logarithm of its scores' exponentials, [T, heads]. Returns whether there was
// memory.
int64_t packed_attention(float *out, float *sums, const input *in, const sequence *sequences, int64_t count,
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
int64_t packed_attention_gradient(const gradient *to, const input *in, const sequence *sequences,
                                  const int64_t *families, int64_t count, int64_t threads)
{
    int64_t well = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) collapse(2) schedule(dynamic) reduction(min : well)
    for (int64_t i = 0; i < count; i++)
        for (int64_t head = 0; head < in->key_heads; head++)
            for (int64_t s = families[i]; s < families[i + 1]; s++)
                if (!differentiate_sequence(to, in, sequences + s, head)) well = 0;
    return well;
}
