// What a training pass computes of a decoder layer beside products and attention, and its gradients, one pass over
// memory each: RMSNorm with the sum before it, the rotation of heads with their norm, SwiGLU; and the head's softmax.
//
// Rows are computed one by one, in the same order whatever the number of threads. All matrices lie row by row in one
// piece.
#include "../vectors.h"

#define EACH(i, count)                                                                                                 \
    _Pragma("omp parallel for num_threads(threads) if (threads > 1)") for (int64_t i = 0; i < (count); i++)

// The numbers from a place on, zeros behind the last of them.
static inline vec load_some(const float *place, int64_t count)
{
    if (count >= LANES) return load(place);
    vec some = {0};
    memcpy(&some, place, (size_t)count * sizeof(float));
    return some;
}

static inline void store_some(float *place, int64_t count, vec value)
{
    if (count >= LANES)
        store(place, value);
    else
        memcpy(place, &value, (size_t)count * sizeof(float));
}

// What a row is multiplied with: (mean of x² + epsilon)^-1/2.
static inline float norm_factor(vec squares, int64_t n, float epsilon)
{
    return 1.0f / sqrtf(sum_of(squares) / (float)n + epsilon);
}

// sum = x + delta, where there is a delta; y = weight·sum·factor. See `norms.py`.
void add_norm(float *sum, float *y, float *factor, const float *x, const float *delta, const float *weight,
              int64_t rows, int64_t n, float epsilon, int64_t threads)
{
    EACH(row, rows)
    {
        const float *in = x + row * n;
        vec squares = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            vec v = load_some(in + i, n - i);
            if (delta) store_some(sum + row * n + i, n - i, v += load_some(delta + row * n + i, n - i));
            squares += v * v;
        }
        const float r = factor[row] = norm_factor(squares, n, epsilon);
        if (delta) in = sum + row * n;
        for (int64_t i = 0; i < n; i += LANES)
            store_some(y + row * n + i, n - i, load_some(in + i, n - i) * r * load_some(weight + i, n - i));
    }
}

// Of `add_norm` with respect to its sum, with g that of y and `carried` that of the sum.
void add_norm_gradient(float *to, const float *g, const float *carried, const float *sum, const float *weight,
                       const float *factor, int64_t rows, int64_t n, int64_t threads)
{
    EACH(row, rows)
    {
        const int64_t start = row * n;
        const float r = factor[row];
        vec along = {0};
        for (int64_t i = 0; i < n; i += LANES)
            along += load_some(g + start + i, n - i) * load_some(weight + i, n - i) * load_some(sum + start + i, n - i);
        const float back = sum_of(along) * r * r * r / (float)n;
        for (int64_t i = 0; i < n; i += LANES) {
            const int64_t left = n - i, at = start + i;
            const vec own = load_some(g + at, left) * load_some(weight + i, left) * r;
            store_some(to + at, left, own - load_some(sum + at, left) * back + load_some(carried + at, left));
        }
    }
}

// Each head's RMSNorm, where there is a weight, and its rotation by the angles of its row: a half a becomes
// a·cos - b·sin, the other one b becomes b·cos + a·sin (Su et al. 2021, arXiv:2104.09864, equation 34). x and y are
// [rows, heads, d], cosines and sines [rows, d].
void turn(float *y, float *factor, const float *x, const float *weight, const float *cosines, const float *sines,
          int64_t rows, int64_t heads, int64_t d, float epsilon, int64_t threads)
{
    const int64_t half = d / 2;
    EACH(row, rows)
    {
        const float *cos = cosines + row * d, *sin = sines + row * d;
        for (int64_t head = row * heads; head < (row + 1) * heads; head++) {
            const float *in = x + head * d;
            float *out = y + head * d, r = 1.0f;
            if (weight) {
                vec squares = {0};
                for (int64_t i = 0; i < d; i += LANES) squares += load_some(in + i, d - i) * load_some(in + i, d - i);
                r = factor[head] = norm_factor(squares, d, epsilon);
            }
            for (int64_t i = 0, j = half; i < half; i += LANES, j += LANES) {
                const int64_t left = half - i;
                vec a = load_some(in + i, left), b = load_some(in + j, left);
                if (weight) {
                    a = a * r * load_some(weight + i, left);
                    b = b * r * load_some(weight + j, left);
                }
                store_some(out + i, left, a * load_some(cos + i, left) - b * load_some(sin + i, left));
                store_some(out + j, left, b * load_some(cos + j, left) + a * load_some(sin + j, left));
            }
        }
    }
}

// Of `turn` with respect to x, which is read only where there is a weight.
void turn_gradient(float *to, const float *g, const float *x, const float *weight, const float *factor,
                   const float *cosines, const float *sines, int64_t rows, int64_t heads, int64_t d, int64_t threads)
{
    const int64_t half = d / 2;
    EACH(row, rows)
    {
        const float *cos = cosines + row * d, *sin = sines + row * d;
        for (int64_t head = row * heads; head < (row + 1) * heads; head++) {
            const float *in = x + head * d, *of = g + head * d;
            float *out = to + head * d;
            vec along = {0};
            for (int64_t i = 0, j = half; i < half; i += LANES, j += LANES) {
                const int64_t left = half - i;
                const vec ga = load_some(of + i, left), gb = load_some(of + j, left);
                vec a = ga * load_some(cos + i, left) + gb * load_some(sin + j, left);
                vec b = gb * load_some(cos + j, left) - ga * load_some(sin + i, left);
                if (weight) {
                    a *= load_some(weight + i, left);
                    b *= load_some(weight + j, left);
                    along += a * load_some(in + i, left) + b * load_some(in + j, left);
                }
                store_some(out + i, left, a);
                store_some(out + j, left, b);
            }
            if (!weight) continue;
            const float r = factor[head], back = sum_of(along) * r * r * r / (float)d;
            for (int64_t i = 0; i < d; i += LANES)
                store_some(out + i, d - i, load_some(out + i, d - i) * r - load_some(in + i, d - i) * back);
        }
    }
}

// s = 1 / (1 + e^-x) and 1 - s, both to the last digits.
static inline void logistic(vec x, vec *s, vec *rest)
{
    const vec zero = {0}, size = choose(x < zero, -x, x);
    // Where `exponential` no longer falls, it is nothing beside one.
    const vec e = choose(size > zero + 87.0f, zero, exponential(-size)), large = 1.0f / (e + 1.0f), small = e * large;
    *s = choose(x < zero, small, large);
    *rest = choose(x < zero, large, small);
}

// y = silu(gate)·up with silu(x) = x·s (Shazeer 2020, arXiv:2002.05202, equation 5).
void swiglu(float *y, const float *gate, const float *up, int64_t count, int64_t threads)
{
    EACH(block, (count + LANES - 1) / LANES)
    {
        const int64_t i = block * LANES, left = count - i;
        const vec x = load_some(gate + i, left);
        vec s, rest;
        logistic(x, &s, &rest);
        store_some(y + i, left, x * s * load_some(up + i, left));
    }
}

// With g the gradient of y: up gets g·silu(gate), gate gets g·up·s·(1 + gate·(1 - s)).
void swiglu_gradient(float *of_gate, float *of_up, const float *g, const float *gate, const float *up, int64_t count,
                     int64_t threads)
{
    EACH(block, (count + LANES - 1) / LANES)
    {
        const int64_t i = block * LANES, left = count - i;
        const vec x = load_some(gate + i, left), own = load_some(g + i, left);
        vec s, rest;
        logistic(x, &s, &rest);
        store_some(of_up + i, left, own * x * s);
        store_some(of_gate + i, left, own * load_some(up + i, left) * s * (x * rest + 1.0f));
    }
}

// Each row z of logits becomes e^(z - peak), with its largest number in `peak` and the sum of what it becomes in
// `total`. A block's sum comes to the row's as one, so that a large vocabulary costs no digits.
void exponentials(float *z, float *peak, float *total, int64_t rows, int64_t n, int64_t threads)
{
    const int64_t whole = n / LANES * LANES, block = 64 * LANES;
    const vec zero = {0};
    EACH(row, rows)
    {
        float *own = z + row * n, most = -INFINITY, sum = 0.0f;
        vec largest = zero - INFINITY, last = zero - INFINITY;
        for (int64_t i = 0; i < whole; i += LANES) {
            const vec x = load(own + i);
            largest = choose(x > largest, x, largest);
        }
        memcpy(&last, own + whole, (size_t)(n - whole) * sizeof(float));
        largest = choose(last > largest, last, largest);
        for (int lane = 0; lane < LANES; lane++) most = largest[lane] > most ? largest[lane] : most;
        for (int64_t start = 0; start < n; start += block) {
            vec part = zero;
            for (int64_t i = start; i < start + block && i < n; i += LANES) {
                const vec x = (i < whole ? load(own + i) : last) - most;
                // Where `exponential` no longer falls, it is nothing beside the largest.
                const vec e = choose(x < zero - 87.0f, zero, exponential(x));
                store_some(own + i, n - i, e);
                part += e;
            }
            sum += sum_of(part);
        }
        peak[row] = most;
        total[row] = sum;
    }
}
