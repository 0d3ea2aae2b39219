#pragma once

#include "reference/real.h"

/* x = R(x + R(R(a·m_a) + R(b·m_b))): both branches are added first, then the residual. x [n] in place. */
void REF(ref_residual_mix)(int64_t n, const real *a, double m_a, const real *b, double m_b, const fh1_profile *p,
                           real *x);
/* x = R(x + R(a·m_a)), the residual of the MLP. */
void REF(ref_residual_add)(int64_t n, const real *a, double m_a, const fh1_profile *p, real *x);
