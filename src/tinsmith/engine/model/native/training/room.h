// A thread's memory between calls, so that it is not new pages every time.

#ifndef TINSMITH_ROOM_H
#define TINSMITH_ROOM_H

#include <stdint.h>
#include <stdlib.h>

// Bytes that a thread keeps when it leaves; what is larger goes back.
#define KEPT (1 << 22)

static _Thread_local char *room;
static _Thread_local int64_t room_size;

// Whole pages, for this thread until it takes more or leaves; NULL where there is no memory.
static inline char *take_room(int64_t bytes)
{
    if (bytes > room_size) {
        free(room);
        // More than now, as the next one may want a bit more.
        const int64_t size = (bytes + bytes / 4 + 4095) / 4096 * 4096;
        room = aligned_alloc(4096, (size_t)size);
        room_size = room ? size : 0;
    }
    return room;
}

static inline void leave_room(void)
{
    if (room_size <= KEPT) return;
    free(room);
    room = NULL;
    room_size = 0;
}

// The next so many bytes of a room, from a line of the cache on.
static inline void *part_of_room(char **at, int64_t bytes)
{
    void *found = *at;
    *at += (bytes + 63) / 64 * 64;
    return found;
}

#endif
