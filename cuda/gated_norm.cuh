/* The gate, s = silu(z·m_z) in f32:
 *   w NULL               out = R(y·s)
 *   norm after the gate  out = R(w·n(y·s)),   n over each of the G groups of d/G channels: v·rsqrt(mean v² + eps)
 *   norm before          out = R(w·n(y)·s) */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_gated_norm {
    cu_type type;
    int M, d, G;
    const void *y; /* [M, d] */
    const void *z; /* [M, ldz] in_proj's first d columns */
    int64_t ldz;
    float m_z;      /* ssm_multipliers 0 */
    const float *w; /* [d], or NULL */
    float eps;
    bool norm_before_gate;
    void *out; /* [M, d], may be y */
};

fh1_status cu_gated_norm_fwd(cu_ctx *k, const cu_gated_norm *a);

} // namespace CU_NS
