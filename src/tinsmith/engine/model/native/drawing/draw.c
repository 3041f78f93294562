// Next tokens drawn from rows of logits that nothing is cut from: what `Distribution` and `Race` of `sampling/drawing/`
// compute with torch's operations, in one pass over each row and with the same random numbers.
//
// A row is one thread's, from the first logit to the token, so that its bits follow neither the number of threads nor
// the other rows.

#include "../vectors.h"

#include <float.h>

// As in `tiles/softmax.py`: a draw picks a bucket of the vocabulary first and then a token of it, and each bucket is
// summed by itself.
#define BUCKET 256
// Logits that are worth waking another thread for.
#define WORTH_THREADS 16384
// The weight of what is as far below the largest as this counts as zero: no draw reaches it.
#define FARTHEST -87.0f

// SplitMix64, see `randomness.py`.
static const uint64_t GOLDEN = 0x9E3779B97F4A7C15;

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

// A race of exponentials, argmax weight / E, and how far it has come. The first of equal ones wins.
typedef struct {
    uint64_t key;
    double best;
    int64_t winner;
} Race;

static inline Race begin_race(uint64_t key, uint64_t number)
{
    return (Race){mix(key ^ mix(number * GOLDEN)), -1.0, 0};
}

static inline void enter(Race *race, int64_t place, double weight)
{
    const uint64_t bits = mix(race->key + (uint64_t)(place + 1) * GOLDEN) >> 11;
    const double u = ((double)(int64_t)bits + 0.5) * 0x1p-53;
    // E = -log u is 1 - u at least: only for the few that this lets win a logarithm is taken.
    if (weight <= race->best * (1.0 - u)) return;
    const double ratio = weight / -log(u);
    if (ratio > race->best) race->best = ratio, race->winner = place;
}

// Logits from a place on, of which so many are left; behind them tokens that can't be drawn.
static inline vec load_left(const float *place, int64_t left)
{
    if (left >= LANES) return load(place);
    vec x = (vec){0} - INFINITY;
    memcpy(&x, place, left * sizeof(float));
    return x;
}

// The largest of a row; NaN where one is NaN.
static float peak_of(const float *logits, int64_t vocab)
{
    vec peak = (vec){0} - INFINITY;
    mask is_nan = {0};
    for (int64_t i = 0; i < vocab; i += LANES) {
        const vec x = load_left(logits + i, vocab - i);
        is_nan |= x != x;
        peak = choose(x > peak, x, peak);
    }
    float found = peak[0];
    for (int lane = 0; lane < LANES; lane++) {
        if (is_nan[lane]) return NAN;
        found = peak[lane] > found ? peak[lane] : found;
    }
    return found;
}

// exp((logit - peak) / temperature) of up to 256 tokens, in float32; returns their sum.
static double weigh(const float *logits, int64_t count, float peak, float temperature, float *weights)
{
    const vec zero = {0};
    double sum = 0.0;
    for (int64_t i = 0; i < count; i += LANES) {
        const vec x = (load_left(logits + i, count - i) - peak) / temperature;
        store(weights + i, choose(x > FARTHEST, exponential(x), zero));
    }
    const int64_t filled = (count + LANES - 1) / LANES * LANES;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < filled; i++) sum += (double)weights[i];
    return sum;
}

static inline int64_t bucket_size(int64_t start, int64_t vocab)
{
    return vocab - start < BUCKET ? vocab - start : BUCKET;
}

static int64_t draw_row(const float *logits, int64_t vocab, double temperature, uint64_t key, double *logprob)
{
    const float peak = peak_of(logits, vocab);
    *logprob = NAN;
    if (!isfinite(peak)) return -1;
    const int is_greedy = temperature == 0.0;
    const double scale = is_greedy ? 1.0 : temperature;
    // Rounded to 0 a tiny temperature would make 0 / 0 of the largest itself.
    const float divisor = scale < FLT_MIN ? FLT_MIN : (float)scale;
    float weights[BUCKET];
    double total = 0.0;
    Race buckets = begin_race(key, 1), inside = begin_race(key, 2);
    for (int64_t start = 0; start < vocab; start += BUCKET) {
        const double mass = weigh(logits + start, bucket_size(start, vocab), peak, divisor, weights);
        total += mass;
        enter(&buckets, start / BUCKET, mass);
    }
    int64_t token = 0;
    if (is_greedy) {
        while (logits[token] != peak) token++;
    } else {
        // Weighed again rather than kept: a large vocabulary's weights would leave the cache.
        const int64_t start = buckets.winner * BUCKET, count = bucket_size(start, vocab);
        weigh(logits + start, count, peak, divisor, weights);
        for (int64_t i = 0; i < count; i++) enter(&inside, i, weights[i]);
        token = start + inside.winner;
    }
    *logprob = ((double)logits[token] - (double)peak) / scale - log(total);
    return token;
}

// Tokens of rows [rows][vocab], -1 where the largest logit is not finite, and their logprobs in the distribution that
// each was drawn from. `bases` and `positions` choose a row's random numbers, temperature 0 takes the likeliest.
void draw(const float *logits, const double *temperatures, const uint64_t *bases, const int64_t *positions,
          int64_t *tokens, double *logprobs, int64_t rows, int64_t vocab, int64_t threads)
{
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * vocab > WORTH_THREADS)
    for (int64_t row = 0; row < rows; row++)
        tokens[row] = draw_row(logits + row * vocab, vocab, temperatures[row],
                               mix(bases[row] + (uint64_t)positions[row] * GOLDEN), logprobs + row);
}
