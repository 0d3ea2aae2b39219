/* What a request takes on the device, before anything is allocated. */
#pragma once

#include "cuda/oracle.h"

namespace CU_NS
{

enum cu_plan_part { CU_PLAN_WEIGHTS, CU_PLAN_KV, CU_PLAN_STATE, CU_PLAN_WORK, CU_PLAN_LOGITS, CU_PLAN_PARTS };

struct cu_plan {
    cu_type type;
    int64_t B, prompt, context, n_logits;
    size_t bytes[CU_PLAN_PARTS], total;
};

/* B rows of up to `context` tokens, at most `prompt` of them in one call, logits of the last `n_logits`. */
cu_plan cu_plan_make(const fh1_config *c, cu_type type, int64_t B, int64_t prompt, int64_t context, int64_t n_logits);
/* A table in GiB. */
void cu_plan_print(const cu_plan *p, FILE *to);
/* NULL when it fits into `free_bytes`, else FH1_E_INPUT: what is needed, what there is, and what to do. */
fh1_status cu_plan_check(const cu_plan *p, size_t free_bytes);

} // namespace CU_NS
