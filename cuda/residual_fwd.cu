/* The residual sum on its own: the general path and the op; in the model rmsnorm_fwd.cu does it. */
#include "cuda/residual.cuh"
#include "cuda/vec16.h"

namespace CU_NS
{
namespace
{

template <typename T> struct branch {
    const T *p; /* NULL: none */
    float m;
};

/* s += p·m, or s = p·m */
template <typename T, int N> CU_FN void add(const branch<T> &b, int64_t i, bool first, float (&s)[N])
{
    float t[N];
    if (!b.p) return;
    load_n(b.p + i, t);
#pragma unroll
    for (int j = 0; j < N; ++j) s[j] = first ? t[j] * b.m : s[j] + t[j] * b.m;
}

/* X: what the stream is stored in */
template <typename T, typename X, int N>
__global__ void residual_k(int64_t n, branch<T> a, branch<T> b, branch<T> c, X *x)
{
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * N;
    for (int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N; i < n; i += step) {
        float v[N], s[N] = {};
        load_n(x + i, v);
        add(a, i, true, s);
        add(b, i, false, s);
        add(c, i, false, s);
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] += s[j];
        store_n(x + i, v);
    }
}

template <typename T, typename X> fh1_status residual(cu_ctx *k, const cu_residual *r)
{
    constexpr int N = vec16<T>();
    const branch<T> a = {static_cast<const T *>(r->a), r->m_a}, b = {static_cast<const T *>(r->b), r->m_b},
                    c = {static_cast<const T *>(r->c), r->m_c};
    X *x = static_cast<X *>(r->x);
    const size_t bytes = static_cast<size_t>(r->n) * sizeof(T);
    const bool wide = k->path == CU_AUTO && aligned16(a.p, bytes) && aligned16(b.p, bytes) && aligned16(c.p, bytes) &&
                      aligned16(x, bytes);
    const int64_t work = wide ? r->n / N : r->n, blocks = (work + 255) / 256, most = 8 * static_cast<int64_t>(k->sms);
    const unsigned grid = static_cast<unsigned>(blocks < most ? blocks : most);
    if (wide) LAUNCH((residual_k<T, X, N>), grid, block_for(work, 256), 0, k->stream, r->n, a, b, c, x);
    else LAUNCH((residual_k<T, X, 1>), grid, block_for(work, 256), 0, k->stream, r->n, a, b, c, x);
    return cu_launched("residual");
}

} // namespace

fh1_status cu_residual_fwd(cu_ctx *k, const cu_residual *a)
{
    if (a->n <= 0) return NULL;
    if (a->type != CU_BF16) return residual<float, float>(k, a);
    return a->wide ? residual<bf16, float>(k, a) : residual<bf16, bf16>(k, a);
}

} // namespace CU_NS
