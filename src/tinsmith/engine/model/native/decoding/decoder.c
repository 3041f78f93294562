// The step of a model whose weights are float32, and what both steps have in common.

#include "../float32.h"

#include "plain/adapters.h"
#include "plain/attention.h"
#include "step.h"

int64_t lanes(void) { return LANES; }
int64_t widest_head(void) { return WIDEST_HEAD; }
int64_t most_tokens(void) { return MOST_TOKENS; }

void decode(const Model *model, const Pass *pass) { run(model, pass); }
void project(const Product *head, const Pass *pass, float *logits) { project_rows(head, pass, logits); }
