#pragma once

#include "reference/real.h"

/* What one residual sum takes up, [n] each, with its multiplier; NULL: not here. a, b are the mixers' outputs (b only
 * beside a), mlp that of the MLP, or the only branch of Falcon-Mamba. */
typedef struct {
    const real *a, *b, *mlp;
    double m_a, m_b, m_mlp;
} REF(ref_branches);

/* x = R(x + s) in place, with s the sum of the branches from left to right:
 *     s = R(R(R(a·m_a) + R(b·m_b)) + R(mlp·m_mlp))
 * where only two of them are, or one, without the rounding of a sum that is not there. */
void REF(ref_residual_fwd)(int64_t n, const REF(ref_branches) * b, const fh1_profile *p, real *x);
