/* Backward of the step sizes: a warp's lanes side by side over heads, the warps of a block over its part of the tokens.
 *   v = raw·m_dt + bias,  g = ddt·σ(v) where lo <= softplus(v) <= hi, else 0;  draw = m_dt·g,  dbias += Σ g
 * The limits are held against the value that the forward pass holds against them: a step at a limit lets the gradient
 * through, and so does a NaN. Above 20, where the forward takes v itself, σ is 1. */
#include "cuda/backward.cuh"

#include "cuda/dt_softplus.cuh"
#include "cuda/ordered_sum.cuh"

namespace CU_NS
{
namespace
{

constexpr int WARPS = 8, LEAST = 16, THREADS = 128;

/* ddt·σ(v); selected: what is cut off is no product. */
CU_FN float through(const cu_dt_softplus_bwd_args &a, float v, float ddt)
{
    const float y = softplus(v), e = expf(-fabsf(v));
    if (y < a.lo || y > a.hi) return 0.f;
    return v > 20.f ? ddt : ddt * ((v < 0.f ? e : 1.f) / (1.f + e));
}

/* grid (heads / 32, parts) */
__global__ void __launch_bounds__(32 * WARPS) dt_softplus_bwd(cu_dt_softplus_bwd_args a, int tokens, float *part)
{
    SHARED(float, red, [WARPS][32]);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t h = static_cast<int64_t>(blockIdx.x) * 32 + lane;
    const int64_t begin = static_cast<int64_t>(blockIdx.y) * tokens;
    const int64_t end = begin + tokens < a.M ? begin + tokens : a.M;
    float sum = 0;
    if (h < a.H)
        for (int64_t m = begin + warp; m < end; m += WARPS) {
            const float v = a.raw[m * a.ld + h] * a.m_dt + a.bias[h]; /* as the forward pass computes it */
            const float g = through(a, v, a.ddt[m * a.H + h]);
            if (a.draw) a.draw[m * a.lddraw + h] = g * a.m_dt;
            sum += g;
        }
    red[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || h >= a.H || !part) return;
    for (int w = 1; w < WARPS; ++w) sum += red[w][lane];
    part[static_cast<int64_t>(blockIdx.y) * a.H + h] = sum;
}

__global__ void __launch_bounds__(THREADS) dt_softplus_dbias(int H, int parts, const float *part, float *dbias)
{
    const int h = static_cast<int>(blockIdx.x * THREADS + threadIdx.x);
    if (h < H) dbias[h] = static_cast<float>(dbias[h] + ordered_sum(part + h, parts, H));
}

} // namespace

size_t cu_dt_softplus_bwd_scratch(const cu_dt_softplus_bwd_args *a)
{
    return a->dbias ? sizeof(float) * static_cast<size_t>(cu_parts(a->M, LEAST)) * static_cast<size_t>(a->H) : 0;
}

fh1_status cu_dt_softplus_bwd(cu_ctx *k, const cu_dt_softplus_bwd_args *a)
{
    if (a->M == 0 || a->H == 0) return NULL;
    const int tokens = cu_part_tokens(a->M, LEAST), parts = cu_parts(a->M, LEAST);
    const dim3 grid(static_cast<unsigned>((a->H + 31) / 32), static_cast<unsigned>(parts));
    LAUNCH(dt_softplus_bwd, grid, 32 * WARPS, 0, k->stream, *a, tokens, a->dbias ? a->scratch : nullptr);
    FH1_TRY(cu_launched("dt_softplus_bwd"));
    if (!a->dbias) return NULL;
    LAUNCH(dt_softplus_dbias, static_cast<unsigned>((a->H + THREADS - 1) / THREADS), THREADS, 0, k->stream, a->H, parts,
           a->scratch, a->dbias);
    return cu_launched("dt_softplus_dbias");
}

} // namespace CU_NS
