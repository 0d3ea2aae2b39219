#pragma once

#include "oracle/gauge.h"
#include "reference/residual.h"

/* The gauge of residual.h: each branch, their sums, the residual sum. x [n] as it was before, g [n] assigned. */
void ref_residual_gauge(const fh1_profile *contract, int64_t n, const ref_branches_f64 *b, const double *x,
                        const fh1_gauge *g);
