#pragma once

#include "reference/real.h"

#ifdef REF_FAULTY
/* Matrix products as wrong engines form them: TF32 inputs, a bf16 accumulator, the last term lost. M rows of x. */
bool REF(ref_faulty_linear_wanted)(int64_t M);
/* y[M,N] = x·Wᵀ + bias (NULL: none), rounded, with the fault that the running engine has. */
fh1_status REF(ref_faulty_linear)(int64_t M, const real *x, const fh1_tensor *w, const real *bias, fh1_round r,
                                  real *y);
#endif
