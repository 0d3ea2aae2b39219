#pragma once

#include "oracle/gauge.h"

/* The gauge of lm_head.h: the product as linear_gauge.h, then · lm_head_multiplier and R(FH1_RP_LOGITS).
 * h [M,D], w [V,D], logits [M,V] true, g [M,V] assigned. FH1_E_INTERNAL without memory. */
fh1_status ref_lm_head_gauge(const fh1_profile *contract, int64_t M, const double *h, const fh1_tensor *w, double m_lm,
                             const double *logits, const fh1_gauge *g);

/* Its second half: g holds the gauge of n products, and then that of R(product · m_lm). */
void ref_lm_head_scale_gauge(const fh1_profile *contract, int64_t n, double m_lm, const double *product,
                             const fh1_gauge *g);
