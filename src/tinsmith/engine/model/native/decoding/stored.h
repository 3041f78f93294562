// Where one sequence's keys and values are: in blocks of the cache.

#ifndef TINSMITH_STORED_H
#define TINSMITH_STORED_H

#include <stdint.h>

// The widest head: a multiple of all LANES.
#define WIDEST_HEAD 256

typedef struct {
    const number *keys, *values;  // of the first cell, one key head
    const int32_t *table;         // blocks
    int64_t count, block_size;
    int64_t distance;             // numbers from cell to cell
} Stored;

// The cell of a position.
static inline int64_t cell_of(const Stored *stored, int64_t at)
{
    return stored->table[at / stored->block_size] * stored->block_size + at % stored->block_size;
}

// How many cells from a position on are neighbours, below the end and so many at most.
static inline int64_t run_of(const Stored *stored, int64_t at, int64_t end, int64_t most)
{
    const int64_t left = stored->block_size - at % stored->block_size, here = left < most ? left : most;
    return here < end - at ? here : end - at;
}

#endif
