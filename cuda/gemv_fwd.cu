/* y = R(alpha·(x·Wᵀ) + b) for at most 8 rows of x (gemv.cuh). x is small and comes through the L1 cache, which W does
 * not touch. */
#include "cuda/gemv.cuh"
#include "cuda/linear.cuh"

namespace CU_NS
{
namespace
{

enum { R = CU_GEMV_R };

template <typename T, bool VEC, int M>
__global__ void __launch_bounds__(32 * CU_GEMV_WARPS, CU_GEMV_PER_SM) gemv_kernel(cu_linear a)
{
    SHARED(float, part, [32 * CU_GEMV_WARPS]);
    const int lane = threadIdx.x & 31, m = lane % M;
    const gemv_span range = gemv_range(a.N);
    for (int64_t at = range.from; at < range.to;) {
        const gemv_turn t = gemv_turn_at<R>(at, range.to);
        at = t.next;
        const T *w[R];
#pragma unroll
        for (int r = 0; r < R; ++r) w[r] = static_cast<const T *>(a.w) + (t.first + r) * a.K;
        float acc[R][M] = {};
        gemv_dot<T, VEC>(w, (1u << t.n) - 1, static_cast<const T *>(a.x), static_cast<int>(a.ldx), a.M,
                         gemv_split<T>(a.K, t.splits, t.part), gemv_split<T>(a.K, t.splits, t.part + 1), acc);
        const float sum = gemv_combine(gemv_collect(acc), t.splits, part);
        const int64_t n = t.first + lane / M;
        if (t.part || lane / M >= t.n || m >= a.M) continue;
        const float v = a.alpha * sum + (a.b ? a.b[n] : 0.f);
        if (a.y_type == CU_F32) store(static_cast<float *>(a.y) + m * a.ldy + n, v);
        else store(static_cast<bf16 *>(a.y) + m * a.ldy + n, v);
    }
}

template <typename T, int M> fh1_status launch(cu_ctx *k, const cu_linear *a)
{
    const unsigned blocks = cu_gemv_blocks(k, a->N, R);
    if (cu_linear_aligned(a)) LAUNCH((gemv_kernel<T, true, M>), blocks, 32 * CU_GEMV_WARPS, 0, k->stream, *a);
    else LAUNCH((gemv_kernel<T, false, M>), blocks, 32 * CU_GEMV_WARPS, 0, k->stream, *a);
    return cu_launched("gemv");
}

template <typename T> fh1_status with_batch(cu_ctx *k, const cu_linear *a)
{
    if (a->M == 1) return launch<T, 1>(k, a);
    if (a->M == 2) return launch<T, 2>(k, a);
    if (a->M <= 4) return launch<T, 4>(k, a);
    return launch<T, 8>(k, a);
}

} // namespace

fh1_status cu_gemv_fwd(cu_ctx *k, const cu_linear *a)
{
    if (a->M == 0 || a->N == 0) return NULL;
    if (a->M > CU_GEMV_ROWS) return fh1_fail(FH1_E_INTERNAL, "a GEMV of %d rows, %d at most", a->M, CU_GEMV_ROWS);
    if (a->ldx > INT32_MAX / CU_GEMV_ROWS) return cu_linear_general_fwd(k, a);
    return a->type == CU_F32 ? with_batch<float>(k, a) : with_batch<bf16>(k, a);
}

} // namespace CU_NS
