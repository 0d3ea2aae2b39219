#pragma once

#include "reference/real.h"

/* Backward of ref_rmsnorm_fwd, with r = 1/√(mean(x²) + eps) of the row:
 *   dx = r·(w∘dy) - x·r³·mean(x∘w∘dy),   dw[i] += Σ_m dy[m,i]·x[m,i]·r[m]
 * x, dy [M,D], w [D] or data == NULL: 1; dx [M,D] assigned, may be dy; dw [D] added to; NULL: not wanted.
 * FH1_E_INTERNAL without memory.
 */
fh1_status REF(ref_rmsnorm_bwd)(int64_t M, int64_t D, const real *x, const fh1_tensor *w, double eps, const real *dy,
                                real *dx, real *dw);
