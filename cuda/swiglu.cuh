/* act[m,f] = R(silu(gate·m_gate)·up), in f32 before R. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_swiglu {
    cu_type type;
    int M, F;
    const void *gate, *up; /* [M, ld] */
    int64_t ld;
    float m_gate;
    void *act; /* [M, F] */
};

fh1_status cu_swiglu_fwd(cu_ctx *k, const cu_swiglu *a);

} // namespace CU_NS
