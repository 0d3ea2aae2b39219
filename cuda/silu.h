/* silu on the device, for every kernel that gates. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

/* v·sigmoid(v) = v / (1 + exp(-v)). Below 0 by exp(v), which cannot overflow: -100 is -100·exp(-100) and not -0. -1024
 * and below give -0, NaN and -inf give NaN, as -inf / (1 + inf) does. */
CU_FN float silu(float v)
{
    const float e = expf(-fabsf(v));
    return v < 0.f ? v * e / (1.f + e) : v / (1.f + e);
}

/* silu(v), and its derivative σ(v)·(1 + v·(1 - σ(v))), from one exponential. */
CU_FN float silu_both(float v, float *slope)
{
    const float e = expf(-fabsf(v)), part = 1.f / (1.f + e), rest = e * part; /* σ(|v|) and 1 - σ(|v|) */
    const float sigma = v < 0.f ? rest : part, other = v < 0.f ? part : rest;
    *slope = sigma * fmaf(v, other, 1.f);
    return v < 0.f ? v * e / (1.f + e) : v / (1.f + e);
}

} // namespace CU_NS
