#pragma once

#include "reference/real.h"

/* Backward of one adapter of ref_lora_add, y += s·(B·(A·x) + b):
 *   dx += s·Aᵀ·Bᵀ·dy,   dA += s·(Bᵀ·dy)·xᵀ,   dB += s·dy·(A·x)ᵀ,   db += s·dy, each summed over the rows
 * of lora `l` alone, not of those chained behind it; its row scale `f` must be NULL (DoRA has no backward here).
 * x [M,in], dy [M,out]; dx [M,in], dA [r,in], dB [out,r], dbias [out] added to; NULL: not wanted. FH1_E_INTERNAL
 * without memory. */
fh1_status REF(ref_lora_bwd)(int64_t M, const real *x, const fh1_lora *l, const real *dy, real *dx, real *dA, real *dB,
                             real *dbias);

/* The same for ref_lora_embed, y += s·B·A[:,id]: a column of dA for each id, added up in the order of the tokens. The
 * column `pad` of dA gets nothing (PEFT looks A up with the padding_idx of the table; -1: none), while B was multiplied
 * there and dB gets its share. ids in A's [0,V), checked by the caller. */
fh1_status REF(ref_lora_embed_bwd)(int64_t M, const int64_t *ids, const fh1_lora *l, int64_t pad, const real *dy,
                                   real *dA, real *dB);
