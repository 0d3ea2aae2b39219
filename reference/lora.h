#pragma once

#include "reference/real.h"

/* What adapters add to the output y of a product, in place:
 *   LoRA   y = R(y + Σ s·(B·(A·x) + b))
 *   DoRA   y = R(y + ((f-1)·R(y - bias) + f·(B·(A·x))·s))
 * with y = R(W·x + bias) on entry. As PEFT computes it on a 16-bit base: the low-rank path is not rounded, the sum is,
 * at FH1_RP_LINEAR. x [M,in], y [M,out]; `bias` of the base or data NULL. FH1_E_INTERNAL without memory. */
fh1_status REF(ref_lora_add)(int64_t M, const real *x, const fh1_lora *lora, const fh1_tensor *bias,
                             const fh1_profile *p, real *y);

/* The same for rows of an embedding table, y [M,D] = rows of the table on entry, rounded at FH1_RP_EMBED:
 *   y = R(y + Σ s·(B·A[:,id]))   or   R(f·y + f·(B·A[:,id])·s) */
fh1_status REF(ref_lora_embed)(int64_t M, const int64_t *ids, const fh1_lora *lora, const fh1_profile *p, real *y);
