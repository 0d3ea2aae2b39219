#pragma once

#include "reference/real.h"

/* Backward of ref_linear_fwd, y = x·Wᵀ + b:
 *   dx[m,k] = Σ_n dy[m,n]·W[n,k],   dw[n,k] += Σ_m dy[m,n]·x[m,k],   db[n] += Σ_m dy[m,n]
 * x [M,K] (read for dw only), W [N,K] dense in its stored type, dy [M,N]; dx [M,K] assigned, or added to where `add`
 * says so; dw [N,K] and db [N] added to; NULL: not wanted. No output overlaps an input. FH1_E_INTERNAL without
 * memory. */
fh1_status REF(ref_linear_bwd)(int64_t M, const real *x, const fh1_tensor *w, const real *dy, bool add, real *dx,
                               real *dw, real *db);
