/* One token per row: the scan of ssd_scan.cuh with M = B, a warp per state row, everything in f32 registers. With z the
 * gate follows in the same kernel where there is no norm: y becomes R(R(y)·silu(z·m_z)). */
#pragma once

#include "cuda/ssd_scan.cuh"

namespace CU_NS
{

struct cu_ssd_step {
    cu_ssd s;
    const void *z; /* [B, ldz] of s.type, or NULL: no gate */
    int64_t ldz;
    float m_z;   /* ssm_multipliers 0 */
    void *gated; /* [B, H·P]; s.y may be NULL then */
};

fh1_status cu_ssd_step_fwd(cu_ctx *k, const cu_ssd_step *a);

} // namespace CU_NS
