/* Which kernel multiplies (linear.cuh lists them), and the general one.
 *
 * General: a block makes a tile of BM x 64 outputs, 256 threads with BM/16 x 4 sums each; x and W come through shared
 * memory in slices of 32 along K, transposed, so that the threads of a warp read neighbours. Elements are loaded one by
 * one, so any K, any row length and any alignment will do. */
#include "cuda/blas.h"
#include "cuda/linear.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

enum { TILE_N = 64, TILE_K = 32, THREADS = 256 };

/* Rows r < ROWS of a slice: to[k][r] = from[(row + r)·ld + k0 + k], zero outside. */
template <int ROWS, typename T>
CU_FN void load_slice(float (*to)[ROWS + 1], const T *from, int64_t ld, int64_t row, int64_t rows, int k0, int K)
{
    for (int e = threadIdx.x; e < ROWS * TILE_K; e += THREADS) {
        const int r = e / TILE_K, k = e % TILE_K;
        const bool in = row + r < rows && k0 + k < K;
        to[k][r] = in ? load(from + (row + r) * ld + k0 + k) : 0.f;
    }
}

template <typename T, int BM> __global__ void __launch_bounds__(THREADS) linear_general_kernel(cu_linear a)
{
    SHARED(float, xs, [TILE_K][BM + 1]);
    SHARED(float, ws, [TILE_K][TILE_N + 1]);
    const int tn = threadIdx.x % 16, tm = threadIdx.x / 16;
    const int64_t n0 = static_cast<int64_t>(blockIdx.x) * TILE_N, m0 = static_cast<int64_t>(blockIdx.y) * BM;
    float acc[BM / 16][4] = {};
    for (int k0 = 0; k0 < a.K; k0 += TILE_K) {
        load_slice<BM>(xs, static_cast<const T *>(a.x), a.ldx, m0, a.M, k0, a.K);
        load_slice<TILE_N>(ws, static_cast<const T *>(a.w), a.K, n0, a.N, k0, a.K);
        __syncthreads();
        /* no multiplication past K: the zero that stands there times an infinity would be NaN */
        const int n_k = min(static_cast<int>(TILE_K), a.K - k0);
        for (int k = 0; k < n_k; ++k) {
            float w[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) w[j] = ws[k][tn + 16 * j];
#pragma unroll
            for (int i = 0; i < BM / 16; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) acc[i][j] = fmaf(xs[k][tm + 16 * i], w[j], acc[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < BM / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int64_t m = m0 + tm + 16 * i, n = n0 + tn + 16 * j;
            if (m >= a.M || n >= a.N) continue;
            const float v = a.alpha * acc[i][j] + (a.b ? a.b[n] : 0.f);
            if (a.y_type == CU_F32) store(static_cast<float *>(a.y) + m * a.ldy + n, v);
            else store(static_cast<bf16 *>(a.y) + m * a.ldy + n, v);
        }
    }
}

template <typename T, int BM> fh1_status general(cu_ctx *k, const cu_linear *a)
{
    const dim3 grid((a->N + TILE_N - 1) / TILE_N, (a->M + BM - 1) / BM);
    LAUNCH((linear_general_kernel<T, BM>), grid, THREADS, 0, k->stream, *a);
    return cu_launched("linear_general");
}

bool aligned16(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

} // namespace

bool cu_linear_aligned(const cu_linear *a)
{
    const int v = static_cast<int>(16 / cu_size(a->type));
    return aligned16(a->x) && aligned16(a->w) && a->K % v == 0 && a->ldx % v == 0;
}

bool cu_linear_mma(const cu_ctx *k, const cu_linear *a)
{
    return k->arch >= 80 && a->type == CU_BF16 && a->K > 0 && cu_linear_aligned(a);
}

fh1_status cu_linear_general_fwd(cu_ctx *k, const cu_linear *a)
{
    if (a->M == 0 || a->N == 0) return NULL;
    if (a->type == CU_F32) return a->M <= 32 ? general<float, 16>(k, a) : general<float, 64>(k, a);
    return a->M <= 32 ? general<bf16, 16>(k, a) : general<bf16, 64>(k, a);
}

/* From 5 rows on the tensor cores should be ahead of the GEMV, whose additions and conversions grow with M while the
 * bytes do not: an estimate, not measured yet (docs/gpu). */
fh1_status cu_linear_fwd(cu_ctx *k, const cu_linear *a)
{
    if (a->M == 0 || a->N == 0) return NULL;
    if (k->path == CU_GENERAL) return cu_linear_general_fwd(k, a);
    const bool mma = cu_linear_mma(k, a);
    if (a->M <= (mma ? 4 : CU_GEMV_ROWS)) return cu_gemv_fwd(k, a);
    if (mma && a->M <= CU_SKINNY_ROWS) return cu_gemm_skinny_fwd(k, a);
    bool done = false;
    FH1_TRY(cu_blas_linear_fwd(k, a, &done));
    if (done) return NULL;
    return mma ? cu_gemm_tiled_fwd(k, a) : cu_linear_general_fwd(k, a);
}

} // namespace CU_NS
