// Memory that a thread asks for before it reads it, a little in each step of what it computes until then: a burst of
// requests would wait for itself.

#ifndef TINSMITH_ASKED_H
#define TINSMITH_ASKED_H

#include "pass.h"

// Bytes that memory brings at once.
#define LINE_BYTES 64
#define MOST_ASKED 64

// Stretches of memory, the first of which begins at `at` and ends at `end`.
typedef struct {
    const char *at, *end;
    int64_t each;   // lines in a step; 0 when all are asked for
    int64_t next, count;
    const char *begin[MOST_ASKED];
    int64_t bytes[MOST_ASKED];
} Asked;

// In each step of what is computed meanwhile.
static inline void ask_for_some(Asked *asked)
{
    const char *at = asked->at;
    for (int64_t i = 0; i < asked->each; i++) {
        __builtin_prefetch(at, 0, 2);
        at += LINE_BYTES;
        if (at < asked->end) continue;
        if (asked->next == asked->count) {
            asked->each = 0;
        } else {
            at = asked->begin[asked->next];
            asked->end = at + asked->bytes[asked->next++];
        }
    }
    asked->at = at;
}

// The adapters' B of the outputs from `last` on, as many as from `first` to there, to be asked for in so many steps: a
// processor's own guesses begin anew with every adapter.
static inline void ask_for_next(Asked *asked, const Product *product, int64_t index, int64_t first, int64_t last,
                                int64_t steps, const Pass *pass)
{
    int64_t lines = 0;
    asked->count = asked->next = asked->each = 0;
    int64_t target = 0, begin = 0;
    while (target < product->targets && last >= product->ends[target]) begin = product->ends[target++];
    if (target == product->targets || !steps) return;
    for (int64_t s = 0; s < pass->spans && asked->count < MOST_ASKED; s++) {
        const Factors *factors = pass->factors + index * pass->spans + s;
        if (!factors->a) continue;
        const int64_t row = pass->span[s].rank * (int64_t)sizeof(number);
        asked->begin[asked->count] = (const char *)factors->b[target] + (last - begin) * row;
        asked->bytes[asked->count] = (last - first) * row;
        lines += asked->bytes[asked->count++] / LINE_BYTES + 1;
    }
    if (!asked->count) return;
    asked->at = asked->begin[0], asked->end = asked->at + asked->bytes[0], asked->next = 1;
    asked->each = (lines + steps - 1) / steps;
}

#endif
