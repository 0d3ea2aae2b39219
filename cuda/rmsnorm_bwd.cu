/* The norm backwards, r = (mean x² + eps)^-½ per row:
 *   dx = r·(w∘dy) - x·r³·mean(x∘w∘dy),  dw += Σ dy∘x·r
 * A block per row makes dx and keeps r; then columns are summed over the rows. */
#include "cuda/backward.cuh"
#include "cuda/column_sum.cuh"
#include "cuda/vec16.h"

namespace CU_NS
{
namespace
{

__global__ void __launch_bounds__(512) rmsnorm_bwd_k(cu_rmsnorm_bwd_args a)
{
    SHARED(float, red, [32]);
    const float *x = a.x + blockIdx.x * a.ldx, *dy = a.dy + blockIdx.x * a.lddy;
    const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
    float squares = 0.f, dot = 0.f;
    for (int i = first; i < a.D; i += step) {
        squares += x[i] * x[i];
        dot += x[i] * ((a.w ? a.w[i] : 1.f) * dy[i]);
    }
    squares = block_sum(squares, red);
    dot = block_sum(dot, red);
    const float r = 1.f / sqrtf(squares / static_cast<float>(a.D) + a.eps);
    if (first == 0) a.scratch[blockIdx.x] = r;
    if (!a.dx) return; /* the same for all threads, and nothing collective follows */
    const float mean = r * r * (dot / static_cast<float>(a.D));
    float *dx = a.dx + blockIdx.x * a.lddx;
    for (int i = first; i < a.D; i += step) {
        const float d = r * ((a.w ? a.w[i] : 1.f) * dy[i] - x[i] * mean);
        dx[i] = a.add ? dx[i] + d : d;
    }
}

__global__ void __launch_bounds__(CU_COLUMN_THREADS) rmsnorm_weight_bwd_k(cu_rmsnorm_bwd_args a)
{
    SHARED(float, part, [CU_COLUMN_LANES][CU_COLUMNS + 1]);
    const float *x = a.x, *dy = a.dy, *r = a.scratch;
    const int64_t ldx = a.ldx, lddy = a.lddy;
    column_sum(
        a.M, a.D, 1.f, [=](int64_t m, int64_t i) { return dy[m * lddy + i] * (x[m * ldx + i] * r[m]); }, part, a.dw);
}

} // namespace

size_t cu_rmsnorm_bwd_scratch(const cu_rmsnorm_bwd_args *a)
{
    return static_cast<size_t>(a->M) * sizeof(float);
}

fh1_status cu_rmsnorm_bwd(cu_ctx *k, const cu_rmsnorm_bwd_args *args)
{
    cu_rmsnorm_bwd_args a = *args;
    if (a.M <= 0 || a.D <= 0 || (!a.dx && !a.dw)) return NULL;
    for (int64_t *ld : {&a.ldx, &a.lddy, &a.lddx})
        if (!*ld) *ld = a.D;
    LAUNCH(rmsnorm_bwd_k, static_cast<unsigned>(a.M), block_for(a.D, 512), 0, k->stream, a);
    FH1_TRY(cu_launched("rmsnorm_bwd"));
    if (!a.dw) return NULL;
    LAUNCH(rmsnorm_weight_bwd_k, column_blocks(a.D), CU_COLUMN_THREADS, 0, k->stream, a);
    return cu_launched("rmsnorm_weight_bwd");
}

} // namespace CU_NS
