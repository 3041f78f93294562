// Loops that the threads of a region share piece by piece. A thread begins with pieces of its own, and when these are
// done it takes what others have not begun: a core that another process wants as well, or one that is slower, does
// less, and nobody waits for it longer than for one piece.

#ifndef TINSMITH_LOOPS_H
#define TINSMITH_LOOPS_H

#include <omp.h>
#include <stdint.h>

// Pieces of a thread's own part that are taken, by it or by others; in a line of memory of its own.
typedef struct {
    _Alignas(64) int64_t pieces;
} Taken;

// Of two loops in turns, one for each thread: a thread clears its own of the next loop while it is in this one, which
// nobody enters before the barrier between.
#define LOOPS 2

// What a thread knows of the region's loops.
typedef struct {
    Taken *taken;  // [LOOPS][threads]
    int64_t threads, self, turn;
} Team;

typedef struct {
    const Team *team;
    Taken *taken;        // [threads]
    int64_t n, whole, size, visited;
    int64_t first, last; // the piece at hand
} Loop;

// Every thread of a region calls it; `taken` holds zeros for at least as many threads as there are.
static inline Team join_team(Taken *taken)
{
    return (Team){taken, omp_get_num_threads(), omp_get_thread_num(), 0};
}

// The first of n things that are a part's, of as many parts as there are threads; a multiple of `whole`.
static inline int64_t first_of(int64_t part, int64_t parts, int64_t n, int64_t whole)
{
    return part == parts ? n : n * part / parts / whole * whole;
}

// A loop over n things in pieces of `size` at most, each of which begins at a multiple of `whole`.
static inline Loop begin_loop(int64_t n, int64_t whole, int64_t size, Team *team)
{
    Taken *taken = team->taken + team->turn * team->threads;
    team->turn = (team->turn + 1) % LOOPS;
    team->taken[team->turn * team->threads + team->self].pieces = 0;
    return (Loop){team, taken, n, whole, size, 0, 0, 0};
}

// Whether there is another piece; it is [first, last) then.
static inline int take_piece(Loop *loop)
{
    const int64_t threads = loop->team->threads;
    for (; loop->visited < threads; loop->visited++) {
        const int64_t part = (loop->team->self + loop->visited) % threads;
        const int64_t end = first_of(part + 1, threads, loop->n, loop->whole);
        const int64_t before = __atomic_fetch_add(&loop->taken[part].pieces, 1, __ATOMIC_RELAXED);
        loop->first = first_of(part, threads, loop->n, loop->whole) + before * loop->size;
        loop->last = loop->first + loop->size < end ? loop->first + loop->size : end;
        if (loop->first < end) return 1;
    }
    return 0;
}

// Waits for all pieces of all threads.
static inline void end_loop(void)
{
#pragma omp barrier
}

#endif
