// What the head's softmax takes of logits, in one pass over memory.
#include "../vectors.h"
#include "rows.h"

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
