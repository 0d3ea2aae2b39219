#pragma once

#include "reference/real.h"

#include <float.h>

/* silu(v) = v·σ(v) and its derivative silu'(v) = σ(v)·(1 + v·(1 - σ(v))). With e = exp(-v), σ = 1/(1 + e) and
 * 1 - σ = e·σ: no difference of nearly equal numbers. Where e overflows it is cut to the largest number, and e·σ is 1.
 */
typedef struct {
    real value, slope;
} REF(ref_silu_pair);

static inline REF(ref_silu_pair) REF(ref_silu_both)(real v)
{
    const real largest = REF_BITS == 64 ? (real)DBL_MAX : (real)FLT_MAX;
    const real e = r_exp(-v), on = e > largest ? 0 : 1 / (1 + e), off = (e > largest ? largest : e) * on;
    return (REF(ref_silu_pair)){v * on, on * (1 + v * off)};
}
