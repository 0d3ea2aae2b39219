/* y = R(alpha·(x·Wᵀ) + b) for up to 64 rows of bf16: a stream of W through tensor cores (gemm_mma.cuh). Tiles of 64
 * rows of W by all rows of x, 4 warps of 16 rows of W each; 5 or 6 slices in flight, 8 KiB of W in each, by two or
 * three blocks per multiprocessor, are about twice what covers the latency of the memory. */
#include "cuda/gemm_mma.cuh"

namespace CU_NS
{

fh1_status cu_gemm_skinny_fwd(cu_ctx *k, const cu_linear *a)
{
    if (a->M == 0 || a->N == 0) return NULL;
    if (a->M > CU_SKINNY_ROWS || !cu_linear_mma(k, a))
        return fh1_fail(FH1_E_INTERNAL, "the skinny product does not take %d rows of %d numbers", a->M, a->K);
    if (a->M <= 8) return gemm_mma<64, 8, 4, 1, 6>(k, a, 3, "gemm_skinny");
    if (a->M <= 16) return gemm_mma<64, 16, 4, 1, 6>(k, a, 3, "gemm_skinny");
    if (a->M <= 32) return gemm_mma<64, 32, 4, 1, 6>(k, a, 2, "gemm_skinny");
    return gemm_mma<64, 64, 4, 1, 5>(k, a, 2, "gemm_skinny");
}

} // namespace CU_NS
