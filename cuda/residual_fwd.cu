/* The residual sum on its own: the general path and the op; in the model rmsnorm_fwd.cu does it. */
#include "cuda/residual.cuh"
#include "cuda/vec16.h"

namespace CU_NS
{
namespace
{

template <typename T, int N> __global__ void residual_k(int64_t n, const T *a, float m_a, const T *b, float m_b, T *x)
{
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * N;
    for (int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N; i < n; i += step) {
        float v[N], s[N];
        load_n(x + i, v);
        load_n(a + i, s);
#pragma unroll
        for (int j = 0; j < N; ++j) s[j] *= m_a;
        if (b) {
            float t[N];
            load_n(b + i, t);
#pragma unroll
            for (int j = 0; j < N; ++j) s[j] += t[j] * m_b;
        }
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] += s[j];
        store_n(x + i, v);
    }
}

template <typename T> fh1_status residual(cu_ctx *k, const cu_residual *r)
{
    constexpr int N = vec16<T>();
    const T *a = static_cast<const T *>(r->a), *b = static_cast<const T *>(r->b);
    T *x = static_cast<T *>(r->x);
    const size_t bytes = static_cast<size_t>(r->n) * sizeof(T);
    const bool wide = k->path == CU_AUTO && aligned16(a, bytes) && aligned16(b, bytes) && aligned16(x, bytes);
    const int64_t work = wide ? r->n / N : r->n, blocks = (work + 255) / 256, most = 8 * static_cast<int64_t>(k->sms);
    const unsigned grid = static_cast<unsigned>(blocks < most ? blocks : most);
    if (wide) LAUNCH((residual_k<T, N>), grid, block_for(work, 256), 0, k->stream, r->n, a, r->m_a, b, r->m_b, x);
    else LAUNCH((residual_k<T, 1>), grid, block_for(work, 256), 0, k->stream, r->n, a, r->m_a, b, r->m_b, x);
    return cu_launched("residual");
}

} // namespace

fh1_status cu_residual_fwd(cu_ctx *k, const cu_residual *a)
{
    if (a->n <= 0) return NULL;
    return a->type == CU_BF16 ? residual<bf16>(k, a) : residual<float>(k, a);
}

} // namespace CU_NS
