/* Step sizes of the mixer: a thread per token and head. */
#include "cuda/dt_softplus.cuh"

#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

constexpr int THREADS = 128;

template <typename T> __global__ void __launch_bounds__(THREADS) dt_softplus(cu_dt_softplus a)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= static_cast<int64_t>(a.M) * a.H) return;
    const int64_t m = i / a.H;
    const int h = static_cast<int>(i - m * a.H);
    float v = softplus(load(static_cast<const T *>(a.raw) + m * a.ld + h) * a.m_dt + a.bias[h]);
    if (v < a.lo) v = a.lo; /* comparisons, not fmaxf: a NaN stays one */
    if (v > a.hi) v = a.hi;
    a.dt[i] = v;
}

} // namespace

fh1_status cu_dt_softplus_fwd(cu_ctx *k, const cu_dt_softplus *a)
{
    const int64_t n = static_cast<int64_t>(a->M) * a->H;
    if (n == 0) return NULL;
    const unsigned blocks = static_cast<unsigned>((n + THREADS - 1) / THREADS);
    if (a->type == CU_BF16) LAUNCH(dt_softplus<bf16>, blocks, THREADS, 0, k->stream, *a);
    else LAUNCH(dt_softplus<float>, blocks, THREADS, 0, k->stream, *a);
    return cu_launched("dt_softplus");
}

} // namespace CU_NS
