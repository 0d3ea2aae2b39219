#pragma once

#include "oracle/gauge.h"

/* The gauge of rmsnorm.h: sum of squares, root and reciprocal are shared by the row; x·r and ·w round per element.
 * x [M,D], w [D] or data == NULL: none, g [M,D] assigned. FH1_E_INTERNAL without memory. */
fh1_status ref_rmsnorm_gauge(const fh1_profile *contract, int64_t M, int64_t D, const double *x, const fh1_tensor *w,
                             double eps, const fh1_gauge *g);
/* Adds to g [M,D] what errors `in` [M,D] of x do to a norm without a weight: the Jacobian (1 - a·aᵀ)/r, a = x/(√D·r),
 * by absolute values, and products of two errors in worst. Near zero, where r is √eps, the norm makes much of them. */
void ref_rmsnorm_input_gauge(int64_t M, int64_t D, const double *x, double eps, const fh1_gauge *in,
                             const fh1_gauge *g);
