#pragma once

#include "oracle/gauge.h"

/* The gauge of gated_norm.h, all three forms. y [M,d], z [M,ldz], w [d] or data == NULL, g [M,d] assigned.
 * z_err [M,d] dense or NULL: error of z, which the mup vector's product has rounded after the last tap.
 * FH1_E_INTERNAL without memory. */
fh1_status ref_gated_norm_gauge(const fh1_profile *contract, int64_t M, int64_t d, int64_t G, const double *y,
                                const double *z, int64_t ldz, const fh1_gauge *z_err, const fh1_tensor *w, double eps,
                                bool norm_before_gate, const fh1_gauge *g);
