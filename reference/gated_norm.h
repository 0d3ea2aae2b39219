#pragma once

#include "reference/real.h"

/* Gate and norm of the mixer, y [M,d], z [M, ldz], out [M,d] assigned (may be y):
 *   w absent:              out = y · R(silu z)
 *   norm_before_gate no:   g = y · silu z;  out = w · g / sqrt(mean_group(g²) + eps)
 *   norm_before_gate yes:  out = w · y / sqrt(mean_group(y²) + eps) · silu z
 * then R(FH1_RP_GATED). The mean is over the d/G channels of a group, never over the whole width. */
fh1_status REF(ref_gated_norm_fwd)(int64_t M, int64_t d, int64_t G, const real *y, const real *z, int64_t ldz,
                                   const fh1_tensor *w, double eps, bool norm_before_gate, const fh1_profile *p,
                                   real *out);
