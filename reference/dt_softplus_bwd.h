#pragma once

#include "reference/real.h"

/* Backward of dt_softplus.h: with v = raw + bias and s = softplus(v) before the clamp,
 *   draw = ddt · [lo ≤ s ≤ hi] · (v ≤ 20 ? σ(v) : 1),   dbias[h] += Σ_t draw[t,h]
 * The bracket passes at equality with a limit (torch.clamp and the kernels of mamba agree). A NaN passes it too.
 * raw [T,ldr] (H columns used), bias [H], ddt [T,H]; draw [T,lddraw] (H columns) assigned, dbias [H] added to; both may
 * be NULL. draw may be ddt or raw where the strides agree. dbias: partial sums of 64 tokens in `real`, added up in f64.
 */
void REF(ref_dt_softplus_bwd)(int64_t T, int64_t H, const real *raw, int64_t ldr, const fh1_tensor *bias, double lo,
                              double hi, const real *ddt, real *draw, int64_t lddraw, real *dbias);
