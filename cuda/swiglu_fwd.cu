/* The gate of the MLP: blocks of columns of one row each, 16 bytes a thread where rows are aligned. */
#include "cuda/silu.h"
#include "cuda/swiglu.cuh"
#include "cuda/vec16.h"

namespace CU_NS
{
namespace
{

template <typename T, int N>
__global__ void swiglu_k(int F, const T *gate, const T *up, int64_t ld, float m_gate, T *act)
{
    const int64_t m = blockIdx.x;
    const int64_t i = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
    if (i >= F) return;
    float g[N], u[N];
    load_n(gate + m * ld + i, g);
    load_n(up + m * ld + i, u);
#pragma unroll
    for (int j = 0; j < N; ++j) g[j] = silu(g[j] * m_gate) * u[j];
    store_n(act + m * F + i, g);
}

template <typename T> fh1_status swiglu(cu_ctx *k, const cu_swiglu *a)
{
    constexpr int N = vec16<T>();
    const T *gate = static_cast<const T *>(a->gate), *up = static_cast<const T *>(a->up);
    T *act = static_cast<T *>(a->act);
    const size_t row = static_cast<size_t>(a->F) * sizeof(T), ld = static_cast<size_t>(a->ld) * sizeof(T);
    const bool wide = k->path == CU_AUTO && aligned16(gate, ld) && aligned16(up, ld) && aligned16(act, row);
    const int work = wide ? a->F / N : a->F;
    const unsigned block = block_for(work, 256);
    const dim3 grid(static_cast<unsigned>(a->M), (static_cast<unsigned>(work) + block - 1) / block);
    if (wide) LAUNCH((swiglu_k<T, N>), grid, block, 0, k->stream, a->F, gate, up, a->ld, a->m_gate, act);
    else LAUNCH((swiglu_k<T, 1>), grid, block, 0, k->stream, a->F, gate, up, a->ld, a->m_gate, act);
    return cu_launched("swiglu");
}

} // namespace

fh1_status cu_swiglu_fwd(cu_ctx *k, const cu_swiglu *a)
{
    if (a->M <= 0 || a->F <= 0) return NULL;
    return a->type == CU_BF16 ? swiglu<bf16>(k, a) : swiglu<float>(k, a);
}

} // namespace CU_NS
