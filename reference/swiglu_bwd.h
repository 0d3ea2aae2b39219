#pragma once

#include "reference/real.h"

/* Backward of ref_swiglu_fwd, act = silu(g)·up with g = gate·m_gate:
 *   dgate = dact·up·silu'(g)·m_gate,   dup = dact·silu(g),   silu'(g) = σ(g)·(1 + g·(1 - σ(g)))
 * All [M,F]; dgate and dup assigned (NULL: not wanted), one of them may be dact. */
void REF(ref_swiglu_bwd)(int64_t M, int64_t F, const real *gate, double m_gate, const real *up, const real *dact,
                         real *dgate, real *dup);
