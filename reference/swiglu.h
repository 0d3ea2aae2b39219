#pragma once

#include "reference/real.h"

/* act = R( R(silu(R(gate · m_gate))) · up ): the multiplier acts before silu. gate, up [M,F]; act [M,F]
 * assigned, may be gate. */
void REF(ref_swiglu_fwd)(int64_t M, int64_t F, const real *gate, double m_gate, const real *up, const fh1_profile *p,
                         real *act);
