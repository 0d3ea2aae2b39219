#pragma once

#include "reference/real.h"

/* logits = R( R(h·Wᵀ) · lm_head_multiplier ), no bias. h [M,D], w [V,D], logits [M,V] assigned. */
fh1_status REF(ref_lm_head_fwd)(int64_t M, const real *h, const fh1_tensor *w, double m_lm, const fh1_profile *p,
                                real *logits);

/* Its second half, where adapters stand between: n products in place, logits = R(logits · m_lm). */
void REF(ref_lm_head_scale)(int64_t n, double m_lm, const fh1_profile *p, real *logits);
