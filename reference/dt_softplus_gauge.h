#pragma once

#include "oracle/gauge.h"

/* Gauge of dt_softplus.h: what an honest engine with `contract` may be off by. raw [T, ldr] (H columns used); raw_err
 * [T,H] its error, NULL where raw is the judged engine's own; g [T,H] assigned. At a limit the only error is the
 * limit's own rounding, unless the unclamped value lies within its error of it. Derivation: docs/numerics.md. */
void ref_dt_softplus_gauge(const fh1_profile *contract, int64_t T, int64_t H, const double *raw, int64_t ldr,
                           const fh1_tensor *bias, double lo, double hi, const fh1_gauge *raw_err, const fh1_gauge *g);
