#pragma once

#include "reference/real.h"

/* Backward of gated_norm.h. s = silu(z), per row and group r = 1/sqrt(mean(g²) + eps), mean over the d/G channels:
 *   w absent:              dy = dout·s;                                dz = dout·y·silu'(z)
 *   norm_before_gate no:   g = y·s, q = w·dout
 *                          dg = r·(q - g·r²·mean(q·g));  dy = dg·s;    dz = dg·y·silu'(z);        dw += Σ_m dout·g·r
 *   norm_before_gate yes:  g = y,   q = w·dout·s
 *                          dy = r·(q - g·r²·mean(q·g));                dz = dout·w·y·r·silu'(z);  dw += Σ_m dout·s·y·r
 * y, dout, dy [M,d]; z [M,ldz], dz [M,lddz]; w [d] or data == NULL (dw is then left alone). dy, dz assigned, dw [d]
 * added to; each may be NULL. dy may be y or dout, dz may be z where the strides agree. dw: partial sums of 16 rows in
 * `real`, added up in f64. FH1_E_INTERNAL without memory. */
fh1_status REF(ref_gated_norm_bwd)(int64_t M, int64_t d, int64_t G, const real *y, const real *z, int64_t ldz,
                                   const fh1_tensor *w, double eps, bool norm_before_gate, const real *dout, real *dy,
                                   real *dz, int64_t lddz, real *dw);
