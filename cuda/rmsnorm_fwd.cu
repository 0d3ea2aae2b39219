/* The norm, with the residual sum before it: a block per row. The fast kernel keeps the row in registers, 16 bytes a
 * piece; the general one passes over it twice and reads its own sums back. Both normalise the sum as it is stored. */
#include "cuda/rmsnorm.cuh"
#include "cuda/vec16.h"

namespace CU_NS
{
namespace
{

/* X: what the stream is stored in */
template <typename T, typename X> struct rows {
    int D;
    int64_t ldx, ldn;
    X *x;
    const T *a, *b;
    float m_a, m_b, eps;
    const float *w;
    T *n;
};

/* v[] as stored after the sum, which is written; without a branch x as it is. Branches first, as residual_fwd.cu. */
template <int N, typename T, typename X> CU_FN void sum_of(const rows<T, X> &r, int64_t at, float (&v)[N])
{
    load_n(r.x + at, v);
    if (!r.a) return;
    float s[N];
    load_n(r.a + at, s);
#pragma unroll
    for (int j = 0; j < N; ++j) s[j] *= r.m_a;
    if (r.b) {
        float t[N];
        load_n(r.b + at, t);
#pragma unroll
        for (int j = 0; j < N; ++j) s[j] += t[j] * r.m_b;
    }
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = rounded<X>(v[j] + s[j]);
    store_n(r.x + at, v);
}

/* A quotient and a root that are correctly rounded, unlike rsqrtf: one per row. */
CU_FN float reciprocal_root(float sum, int D, float eps)
{
    return 1.f / sqrtf(sum / static_cast<float>(D) + eps);
}

/* PER pieces of a row in each thread. */
template <typename T, typename X, int PER> __global__ void __launch_bounds__(1024) rmsnorm_row_k(rows<T, X> r)
{
    constexpr int N = vec16<T>();
    SHARED(float, red, [32]);
    const int64_t row = static_cast<int64_t>(blockIdx.x) * r.ldx, to = static_cast<int64_t>(blockIdx.x) * r.ldn;
    const int step = static_cast<int>(blockDim.x) * N, first = static_cast<int>(threadIdx.x) * N;
    float v[PER][N] = {}, sum = 0.f;
#pragma unroll
    for (int p = 0; p < PER; ++p)
        if (first + p * step < r.D) {
            sum_of(r, row + first + p * step, v[p]);
#pragma unroll
            for (int j = 0; j < N; ++j) sum += v[p][j] * v[p][j];
        }
    if (!r.n) return; /* the same for all threads */
    const float scale = reciprocal_root(block_sum(sum, red), r.D, r.eps);
#pragma unroll
    for (int p = 0; p < PER; ++p) {
        const int i = first + p * step;
        if (i >= r.D) continue;
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            const float4 w = r.w ? *reinterpret_cast<const float4 *>(r.w + i + j) : make_float4(1.f, 1.f, 1.f, 1.f);
            v[p][j] = w.x * (v[p][j] * scale);
            v[p][j + 1] = w.y * (v[p][j + 1] * scale);
            v[p][j + 2] = w.z * (v[p][j + 2] * scale);
            v[p][j + 3] = w.w * (v[p][j + 3] * scale);
        }
        store_n(r.n + to + i, v[p]);
    }
}

template <typename T, typename X> __global__ void rmsnorm_k(rows<T, X> r)
{
    SHARED(float, red, [32]);
    const int64_t row = static_cast<int64_t>(blockIdx.x) * r.ldx, to = static_cast<int64_t>(blockIdx.x) * r.ldn;
    float sum = 0.f;
    for (int i = static_cast<int>(threadIdx.x); i < r.D; i += static_cast<int>(blockDim.x)) {
        float v[1];
        sum_of(r, row + i, v);
        sum += v[0] * v[0];
    }
    if (!r.n) return;
    const float scale = reciprocal_root(block_sum(sum, red), r.D, r.eps);
    for (int i = static_cast<int>(threadIdx.x); i < r.D; i += static_cast<int>(blockDim.x))
        store(r.n + to + i, (r.w ? r.w[i] : 1.f) * (load(r.x + row + i) * scale));
}

template <typename T, typename X> fh1_status rmsnorm(cu_ctx *k, const cu_rmsnorm *a)
{
    constexpr int N = vec16<T>();
    const rows<T, X> r = {a->D,
                          a->ldx ? a->ldx : a->D,
                          a->ldn ? a->ldn : a->D,
                          static_cast<X *>(a->x),
                          static_cast<const T *>(a->a),
                          static_cast<const T *>(a->b),
                          a->m_a,
                          a->m_b,
                          a->eps,
                          a->w,
                          static_cast<T *>(a->n)};
    const size_t row = static_cast<size_t>(a->D) * sizeof(T);
    const bool wide = k->path == CU_AUTO && a->D % N == 0 && aligned16(a->x, static_cast<size_t>(r.ldx) * sizeof(X)) &&
                      aligned16(a->a, row) && aligned16(a->b, row) &&
                      aligned16(a->n, static_cast<size_t>(r.ldn) * sizeof(T)) && aligned16(a->w);
    const unsigned grid = static_cast<unsigned>(a->M);
    const int pieces = a->D / N;
    /* few rows: all threads that a row can use; many: half of them with two pieces each, so that more rows are resident
     */
    if (wide && pieces <= 1024 && (a->M <= 2 * k->sms || pieces <= 64))
        LAUNCH((rmsnorm_row_k<T, X, 1>), grid, block_for(pieces, 1024), 0, k->stream, r);
    else if (wide && pieces <= 2048)
        LAUNCH((rmsnorm_row_k<T, X, 2>), grid, block_for((pieces + 1) / 2, 1024), 0, k->stream, r);
    else LAUNCH((rmsnorm_k<T, X>), grid, block_for(a->D, 512), 0, k->stream, r);
    return cu_launched("rmsnorm");
}

} // namespace

fh1_status cu_rmsnorm_fwd(cu_ctx *k, const cu_rmsnorm *a)
{
    if (a->M <= 0 || a->D <= 0 || (!a->n && !a->a)) return NULL;
    if (a->type != CU_BF16) return rmsnorm<float, float>(k, a);
    return a->wide ? rmsnorm<bf16, float>(k, a) : rmsnorm<bf16, bf16>(k, a);
}

} // namespace CU_NS
