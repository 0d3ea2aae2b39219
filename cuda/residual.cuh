/* x[n] = R(x + a·m_a + b·m_b + c·m_c), b and c may be NULL; the sum in f32, branches first; not rounded where the
 * stream is `wide`. In the model it is part of rmsnorm.cuh. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_residual {
    cu_type type;
    int64_t n;
    const void *a, *b, *c;
    float m_a, m_b, m_c;
    bool wide; /* x is f32 whatever `type` is */
    void *x;
};

fh1_status cu_residual_fwd(cu_ctx *k, const cu_residual *a);

} // namespace CU_NS
