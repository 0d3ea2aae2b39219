/* What a kernel of the state writes for one channel: its output, and where a gate follows without a norm, the input of
 * out_proj, from the output as it is stored. */
#pragma once

#include "cuda/silu.h"
#include "cuda/warp_ops.h"

namespace CU_NS
{

/* y[i] = R(v), gated[i] = R(R(v)·silu(z·m_z)). y NULL: not wanted; z NULL: no gate. */
template <typename T> CU_FN void store_gated(T *y, T *gated, int64_t i, const T *z, float m_z, float v)
{
    if (y) store(y + i, v);
    if (z) store(gated + i, rounded<T>(v) * silu(load(z) * m_z));
}

} // namespace CU_NS
