// The same of layers whose numbers are bfloat16, for processors that round to it.

#include <stdint.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "../bfloat16.h"

#define NAMED(name) name##_bfloat16
#if defined(__AMX_BF16__) && defined(__linux__)
#define TILES
#endif

#include "attention.h"
#include "layers.h"

int64_t has_tiles(void);

int64_t has_bfloat16_layers(void)
{
#ifdef TILES
    return has_tiles();
#else
    return 1;
#endif
}
#else
int64_t has_bfloat16_layers(void) { return 0; }
#endif
