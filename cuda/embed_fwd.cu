/* The table lookup: a block per token, 16 bytes a thread where rows are aligned. */
#include "cuda/embed.cuh"
#include "cuda/vec16.h"

namespace CU_NS
{
namespace
{

/* X: what the stream is stored in */
template <typename T, typename X, int N>
__global__ void embed_k(int D, const int *id, const T *table, float m_emb, T *y, X *x)
{
    const int64_t m = blockIdx.x, from = static_cast<int64_t>(id[m]) * D, to = m * D;
    for (int i = static_cast<int>(threadIdx.x) * N; i < D; i += static_cast<int>(blockDim.x) * N) {
        float v[N];
        load_n(table + from + i, v);
        if (y) store_n(y + to + i, v);
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] *= m_emb;
        store_n(x + to + i, v);
    }
}

template <typename T, typename X> fh1_status embed(cu_ctx *k, const cu_embed *a)
{
    constexpr int N = vec16<T>();
    const T *table = static_cast<const T *>(a->table);
    T *y = static_cast<T *>(a->y);
    X *x = static_cast<X *>(a->x);
    const size_t row = static_cast<size_t>(a->D) * sizeof(T);
    const unsigned grid = static_cast<unsigned>(a->M);
    if (k->path == CU_AUTO && aligned16(table, row) && aligned16(y, row) && aligned16(x, row))
        LAUNCH((embed_k<T, X, N>), grid, block_for(a->D / N, 256), 0, k->stream, a->D, a->id, table, a->m_emb, y, x);
    else LAUNCH((embed_k<T, X, 1>), grid, block_for(a->D, 256), 0, k->stream, a->D, a->id, table, a->m_emb, y, x);
    return cu_launched("embed");
}

} // namespace

fh1_status cu_embed_fwd(cu_ctx *k, const cu_embed *a)
{
    if (a->M <= 0 || a->D <= 0) return NULL;
    if (a->type != CU_BF16) return embed<float, float>(k, a);
    return a->wide ? embed<bf16, float>(k, a) : embed<bf16, bf16>(k, a);
}

} // namespace CU_NS
