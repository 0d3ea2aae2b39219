#pragma once

#include "oracle/config.h"
#include "oracle/gauge.h"

/* The gauge of rope.h. Frequency and angle are computed in the contract's arithmetic: their error, that of cos and sin
 * and the rounding of the table are shared by all heads of a token; both products and their sum round per element.
 * x [T,heads,A] before the rotation; x_err [T,heads,A] or NULL: its error (k after the key multiplier); g [T,heads,A]
 * assigned. FH1_E_INTERNAL without memory. */
fh1_status ref_rope_gauge(const fh1_profile *contract, const fh1_config *c, int64_t T, int64_t heads,
                          const int64_t *position, int64_t seq_len, const double *x, const fh1_gauge *x_err,
                          const fh1_gauge *g);
