// The same of layers whose numbers are bfloat16, for processors that round to it.

#include <stdint.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "../bfloat16.h"

#define NAMED(name) name##_bfloat16

#include "attention.h"
#include "layers.h"

int64_t has_bfloat16_layers(void) { return 1; }
#else
int64_t has_bfloat16_layers(void) { return 0; }
#endif
