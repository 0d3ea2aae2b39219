/* n[m] = R(w · x·rsqrt(mean x² + eps)), everything before R in f32. Before it, optionally, the residual sum
 * x[m] = R(x + a·m_a + b·m_b), whose stored value is what is normalised: rounded, or f32 where the stream is `wide`. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_rmsnorm {
    cu_type type;
    int M, D;
    bool wide;     /* x is f32 whatever `type` is */
    void *x;       /* [M, D] residual stream; assigned where `a` is given, else only read */
    const void *a; /* [M, D] branch output, or NULL: no sum */
    float m_a;
    const void *b; /* [M, D] second branch, or NULL */
    float m_b;
    const float *w; /* [D], or NULL: none */
    float eps;
    void *n;          /* [M, D], or NULL: only the sum is wanted; may be x where no sum is */
    int64_t ldx, ldn; /* elements from row to row of x and n; 0: D. With branches D */
};

fh1_status cu_rmsnorm_fwd(cu_ctx *k, const cu_rmsnorm *a);

} // namespace CU_NS
