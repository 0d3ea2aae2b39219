#pragma once

#include "reference/real.h"

/* y[m,n] = Σ_k R(FH1_RP_LINEAR_IN, x[m,k])·W[n,k] + b[n], then R(FH1_RP_LINEAR). Where there is a bias, the profile's
 * before_bias rounds the sum in front of it.
 * x [M,K] dense, W [N,K] dense in its stored type, b [N] or data == NULL, y [M,N] assigned.
 * Up to 8 rows the weights are read as they are stored and widened in registers; above that they are
 * widened panel by panel for OpenBLAS. The pieces are fixed, so the result does not depend on threads.
 * FH1_E_INTERNAL without memory. */
fh1_status REF(ref_linear_fwd)(int64_t M, const real *x, const fh1_tensor *w, const fh1_tensor *b, const fh1_profile *p,
                               real *y);

/* s[m,n] = Σ_k |x[m,k]·W[n,k]| + |b[n]|: the scale of the rounding error of one output (docs/numerics.md).
 * Computed in `real`; used with f64. s [M,N] assigned. FH1_E_INTERNAL without memory. */
fh1_status REF(ref_linear_abs_sum)(int64_t M, const real *x, const fh1_tensor *w, const fh1_tensor *b, real *s);

/* s[m,n] = Σ_k (h[m,k]·W[n,k])²: the variance of a sum whose inputs are off by h, each for itself. As
 * ref_linear_abs_sum.
 */
fh1_status REF(ref_linear_square_sum)(int64_t M, const real *h, const fh1_tensor *w, real *s);

/* Σ a[i]·b[i] in REF_LANES interleaved partial sums, added pairwise at the end. */
real REF(ref_dot)(int64_t n, const real *a, const real *b);
