// The step of a model whose weights are bfloat16, for processors that multiply tiles of it (Intel's AMX).

#include <stdint.h>

#include "../vectors.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#include "../bfloat16.h"

#include "tiled/adapters.h"
#include "tiled/attention.h"
#include "step.h"

// Of the Linux kernel: a process asks for the tiles once, before it uses them (Documentation/arch/x86/xstate.rst).
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

int64_t offers_bfloat16(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; }
void decode_bfloat16(const Model *model, const Pass *pass) { run(model, pass); }
void project_bfloat16(const Product *head, const Pass *pass, float *logits) { project_rows(head, pass, logits); }

#else

int64_t offers_bfloat16(void) { return 0; }

#endif
