#pragma once

#include "reference/real.h"

/* RMSNorm: u = x / sqrt(mean(x²) + eps), y = w · R(u), then R again: two roundings, as transformers does
 * (the normalised value is cast to the model's type before the weight).
 * x, y [M,D] (y assigned, may be x), w [D] or data == NULL: no weight, y = R(u). FH1_E_INTERNAL without memory. */
fh1_status REF(ref_rmsnorm_fwd)(int64_t M, int64_t D, const real *x, const fh1_tensor *w, double eps,
                                const fh1_profile *p, real *y);
