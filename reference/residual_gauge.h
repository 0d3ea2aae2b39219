#pragma once

#include "oracle/gauge.h"

/* The gauges of residual.h: both branches (b == NULL: one, the MLP's), their sum, the residual sum. a, b [n], x [n] as
 * it was before, g [n] assigned. */
void ref_residual_gauge(const fh1_profile *contract, int64_t n, const double *a, double m_a, const double *b,
                        double m_b, const double *x, const fh1_gauge *g);
