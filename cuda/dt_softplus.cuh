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

fh1_status cu_dt_softplus_fwd(cu_ctx *k, const cu_dt_softplus *a);

} // namespace CU_NS
