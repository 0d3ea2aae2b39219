/* y = R(alpha·(x·Wᵀ) + b) for any number of rows of bf16 on tensor cores, for where there is no cuBLASLt or where it
 * would round the bias (gemm_mma.cuh). Tiles of 128 x 128, 8 warps of 64 x 32; small products take tiles of 64 x 64 so
 * that more multiprocessors have one. */
#include "cuda/gemm_mma.cuh"

namespace CU_NS
{

fh1_status cu_gemm_tiled_fwd(cu_ctx *k, const cu_linear *a)
{
    if (a->M == 0 || a->N == 0) return NULL;
    if (!cu_linear_mma(k, a))
        return fh1_fail(FH1_E_INTERNAL, "the tiled product does not take rows of %d numbers of this kind", a->K);
    const int64_t tiles = (static_cast<int64_t>(a->M) + 127) / 128 * ((static_cast<int64_t>(a->N) + 127) / 128);
    if (tiles < k->sms) return gemm_mma<64, 64, 4, 1, 5>(k, a, 2, "gemm_tiled");
    return gemm_mma<128, 128, 2, 4, 3>(k, a, 2, "gemm_tiled");
}

} // namespace CU_NS
