#pragma once

#include "reference/real.h"

/* dt[t,h] = clamp(softplus(raw[t,h] + bias[h]), lo, hi), one rounding after each of the three;
 * softplus(v) = v for v > 20, else log1p(exp v). raw [T, ldr] (H columns used), dt [T,H] assigned.
 * hi may be infinite; the limits round like the value that they clamp. */
void REF(ref_dt_softplus_fwd)(int64_t T, int64_t H, const real *raw, int64_t ldr, const fh1_tensor *bias, double lo,
                              double hi, const fh1_profile *p, real *dt);
