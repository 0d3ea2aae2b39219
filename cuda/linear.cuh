/* y[M,N] = R(alpha · x·Wᵀ + b) over stored x and W, summed in f32; alpha and b enter in f32, one rounding at the end.
 *
 * Which kernel does it (cu_linear_fwd; CU_GENERAL forces the first):
 *   general  linear_fwd.cu       any shape, both types; f32 is f32 multiplications and additions, never TF32
 *   gemv     gemv_fwd.cu         M <= 8: a warp or a part of one block per few rows of W, which is read once
 *   skinny   gemm_skinny_fwd.cu  bf16, M <= 64: tensor cores, W streamed in equal shares by all multiprocessors
 *   tiled    gemm_tiled_fwd.cu   bf16, any M: tensor cores, 128 x 128 tiles; where there is no cuBLASLt
 *   library  blas.cu             M > 64 (bf16), M > 8 (f32): cuBLASLt with its tuned algorithm */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_linear {
    cu_type type; /* of x and w */
    int M, N, K;
    const void *x;
    int64_t ldx;    /* elements from row to row */
    const void *w;  /* [N, K] dense */
    const float *b; /* [N], or NULL */
    float alpha;    /* the input multiplier, lm_head_multiplier, or 1 */
    void *y;
    int64_t ldy;
    cu_type y_type; /* CU_F32 (logits), or `type` */
};

/* Chooses: the general kernel, a GEMV (M small), the skinny tensor-core kernel, or cuBLASLt with its tuned algorithm.
 * M = 0 does nothing. */
fh1_status cu_linear_fwd(cu_ctx *k, const cu_linear *a);

/* The single paths, for tests and for measuring one against the other. A shape that a path does not take is
 * FH1_E_INTERNAL; ask before. */
enum { CU_GEMV_ROWS = 8, CU_SKINNY_ROWS = 64 };

bool cu_linear_aligned(const cu_linear *a); /* rows of x and w start at multiples of 16 bytes and are that long */
bool cu_linear_mma(const cu_ctx *k, const cu_linear *a); /* the tensor-core kernels can take it */

fh1_status cu_linear_general_fwd(cu_ctx *k, const cu_linear *a);
fh1_status cu_gemv_fwd(cu_ctx *k, const cu_linear *a);        /* M <= CU_GEMV_ROWS */
fh1_status cu_gemm_skinny_fwd(cu_ctx *k, const cu_linear *a); /* M <= CU_SKINNY_ROWS and cu_linear_mma */
fh1_status cu_gemm_tiled_fwd(cu_ctx *k, const cu_linear *a);  /* cu_linear_mma */

} // namespace CU_NS
