#pragma once

#include "oracle/gauge.h"

/* The gauge of linear.h: a sum of K products and the bias with S = Σ|w·x| + |b|, then R(FH1_RP_LINEAR);
 * before_bias on the sum in front of the bias.
 * x [M,K], w [N,K], b [N] or data == NULL, y [M,N] true, g [M,N] assigned. FH1_E_INTERNAL without memory. */
fh1_status ref_linear_gauge(const fh1_profile *contract, int64_t M, const double *x, const fh1_tensor *w,
                            const fh1_tensor *b, const double *y, const fh1_gauge *g);

/* The same where x was n·m, rounded to f32: an engine that names no pipeline may multiply its sum by m instead. */
fh1_status ref_linear_scaled_gauge(const fh1_profile *contract, int64_t M, const double *x, const fh1_tensor *w,
                                   const fh1_tensor *b, const double *y, const fh1_gauge *g);
