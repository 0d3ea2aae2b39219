/* dt[m,h] = clamp(softplus(raw·m_dt + bias[h]), lo, hi) in f32, stored in f32. softplus keeps what is below an ulp
 * of 1. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_dt_softplus {
    cu_type type;
    int M, H;
    const void *raw; /* [M, ld] in_proj's last H columns */
    int64_t ld;
    float m_dt;        /* ssm_multipliers 4 */
    const float *bias; /* [H] */
    float lo, hi;      /* time_step_limit; hi may be infinite */
    float *dt;         /* [M, H] */
};

/* log(1 + e^v). Above 20 the difference to v is below half an ulp of v; far below zero log1p keeps e^v itself. */
CU_FN float softplus(float v)
{
    return v > 20.f ? v : log1pf(expf(v));
}

fh1_status cu_dt_softplus_fwd(cu_ctx *k, const cu_dt_softplus *a);

} // namespace CU_NS
