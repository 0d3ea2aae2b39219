/* n[m] = R(w · x·rsqrt(mean x² + eps)), everything before R in f32. Before it, optionally, the residual sum
 * x[m] = R(x + a·m_a + b·m_b), whose stored (rounded) value is what is normalised. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_rmsnorm {
    cu_type type;
    int M, D;
    void *x;       /* [M, D] residual stream; assigned where `a` is given, else only read */
    const void *a; /* [M, D] branch output, or NULL: no sum */
    float m_a;
    const void *b; /* [M, D] second branch, or NULL */
    float m_b;
    const float *w; /* [D] */
    float eps;
    void *n; /* [M, D], or NULL: only the sum is wanted */
};

fh1_status cu_rmsnorm_fwd(cu_ctx *k, const cu_rmsnorm *a);

} // namespace CU_NS
