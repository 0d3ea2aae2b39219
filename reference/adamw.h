#pragma once

#include "oracle/backward.h" /* fh1_adamw: the formula */
#include "reference/real.h"

/* One step of AdamW on n elements, in the order of operations of torch.optim.AdamW on the CPU (single tensor, not
 * fused): w·(1 - lr·decay), then m by lerp, then v, then √v/√(1 - beta2^t) + eps, then w. Scalars are computed in f64
 * and rounded to `real` once, at the tensor they meet. g read (multiplied by grad_scale first), w, m, v updated. */
void REF(ref_adamw)(int64_t n, const fh1_adamw *o, const real *g, real *w, real *m, real *v);

/* Σ g² in f64, n elements, in pieces of a fixed size. */
double REF(ref_sum_of_squares)(int64_t n, const real *g);
