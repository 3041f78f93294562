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

#include "sequences.h"
#ifdef TILES
#include "tiled_attention.h"
#else
#include "plain_attention.h"
#endif

// Sequences of which all but the first begin with tokens of the first.
static int differentiate_family(const gradient *to, const input *in, const sequence *sequences, int64_t count,
                                int64_t key_head)
{
    const int64_t wide = line_width(in->d), shared = count > 1 ? sequences->count * wide : 0;
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t room_of = gradient_room(in, sequences + i);
        most = room_of > most ? room_of : most;
    }
    char *rest = take_room(2 * (shared * (int64_t)sizeof(float) + 64) + most);
    if (!rest) return 0;
    lent family = {NULL, NULL};
    if (shared) {
        family.keys = part_of_room(&rest, shared * (int64_t)sizeof(float));
        family.values = part_of_room(&rest, shared * (int64_t)sizeof(float));
    }
    for (int64_t i = 0; i < count; i++) differentiate_sequence(to, in, sequences + i, key_head, &family, rest);
    if (shared) {
        write_lines(to->key, family.keys, wide, sequences->start, sequences->count, key_head, in->key_heads, in->d);
        write_lines(to->value, family.values, wide, sequences->start, sequences->count, key_head, in->key_heads, in->d);
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
