/* What the attention kernels share; not for callers. */
#pragma once

#include "cuda/attention.cuh"

namespace CU_NS
{

/* How far loops are unrolled (pragma unroll ALL): wholly on the device, where arrays must become registers; not at all
 * on the CPU, where it would only make sanitized builds slow. */
enum { ALL = CU_HOST ? 1 : 512 };

/* A^-½ */
static inline float attention_scale(int A)
{
    return static_cast<float>(1 / sqrt(static_cast<double>(A)));
}

/* What a running maximum is subtracted as: while every score is -inf (nothing seen yet, or only scores of -inf) that is
 * 0, so that exp(-inf - 0) = 0 is added and no NaN. A score of NaN passes through exp, +inf through inf - inf. */
CU_FN float softmax_ref(float max)
{
    return max == -INFINITY ? 0.f : max;
}

/* The kernels behind cu_attention_fwd and cu_attention_step_fwd; M > 0. */
fh1_status attention_general(const cu_ctx *k, const cu_attention &a);
bool attention_mma_takes(const cu_attention &a);
fh1_status attention_mma(const cu_ctx *k, const cu_attention &a);
bool attention_wgmma_takes(const cu_ctx *k, const cu_attention &a);
fh1_status attention_wgmma(const cu_ctx *k, const cu_attention &a);

} // namespace CU_NS
