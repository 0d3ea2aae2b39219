/* The gate of the MLP backwards: with g = gate·m_gate and σ its sigmoid,
 *   dup = dact·g·σ,  dgate = dact·up·σ·(1 + g·(1 - σ))·m_gate;
 * and the branches of a residual sum, which only scale. */
#include "cuda/backward.cuh"
#include "cuda/vec16.h"

namespace CU_NS
{
namespace
{

/* Both outputs may lie where the inputs do: a thread reads what it writes first. */
__global__ void __launch_bounds__(256) swiglu_bwd_k(cu_swiglu_bwd_args a)
{
    const int64_t m = blockIdx.x, i = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
    if (i >= a.F) return;
    const float g = a.gate[m * a.ld + i] * a.m_gate, up = a.up[m * a.ld + i], d = a.dact[m * a.F + i];
    /* σ and 1 - σ, each without cancellation */
    const float e = expf(-fabsf(g)), large = 1.f / (1.f + e), small = e / (1.f + e);
    const float s = g < 0.f ? small : large, rest = g < 0.f ? large : small;
    if (a.dgate) a.dgate[m * a.ldd + i] = d * up * (s * (1.f + g * rest)) * a.m_gate;
    if (a.dup) a.dup[m * a.ldd + i] = d * (g * s);
}

__global__ void __launch_bounds__(256) residual_bwd_k(cu_residual_bwd_args a)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= a.n) return;
    const float d = a.dx[i];
    if (a.da) a.da[i] = d * a.m_a;
    if (a.db) a.db[i] = d * a.m_b;
}

} // namespace

fh1_status cu_swiglu_bwd(cu_ctx *k, const cu_swiglu_bwd_args *a)
{
    if (a->M <= 0 || a->F <= 0) return NULL;
    const unsigned block = block_for(a->F, 256);
    const dim3 grid(static_cast<unsigned>(a->M), (static_cast<unsigned>(a->F) + block - 1) / block);
    LAUNCH(swiglu_bwd_k, grid, block, 0, k->stream, *a);
    return cu_launched("swiglu_bwd");
}

fh1_status cu_residual_bwd(cu_ctx *k, const cu_residual_bwd_args *a)
{
    if (a->n <= 0) return NULL;
    LAUNCH(residual_bwd_k, static_cast<unsigned>((a->n + 255) / 256), 256, 0, k->stream, *a);
    return cu_launched("residual_bwd");
}

} // namespace CU_NS
