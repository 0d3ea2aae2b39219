/* The lookup backwards: a block per token. The first token with its id adds up the rows of all tokens that have it, in
 * their order; the blocks of the others do nothing. So each row of the table is written by one block, and nothing is
 * sorted. */
#include "cuda/backward.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

enum { THREADS = 256 };

__global__ void __launch_bounds__(THREADS) embed_bwd_k(cu_embed_bwd_args a)
{
    const int m = static_cast<int>(blockIdx.x), id = a.id[m], lane = static_cast<int>(threadIdx.x) & 31;
    bool earlier = false;
    for (int i = static_cast<int>(threadIdx.x); i < m; i += THREADS) earlier = earlier || a.id[i] == id;
    if (__syncthreads_or(earlier) || id == a.pad) return;
    for (int64_t d0 = 0; d0 < a.D; d0 += THREADS) { /* all lanes of a warp stay in, for the votes */
        const int64_t d = d0 + threadIdx.x;
        float sum = 0.f;
        for (int i0 = m; i0 < a.M; i0 += 32) {
            unsigned same = __ballot_sync(0xffffffffu, i0 + lane < a.M && a.id[i0 + lane] == id);
            for (; same; same &= same - 1) {
                const int64_t i = i0 + __ffs(static_cast<int>(same)) - 1;
                if (d < a.D) sum += a.dx[i * a.D + d];
            }
        }
        if (d < a.D) a.dtable[static_cast<int64_t>(id) * a.D + d] += a.m_emb * sum;
    }
}

} // namespace

fh1_status cu_embed_bwd(cu_ctx *k, const cu_embed_bwd_args *a)
{
    if (a->M <= 0 || a->D <= 0 || !a->dtable) return NULL;
    LAUNCH(embed_bwd_k, static_cast<unsigned>(a->M), THREADS, 0, k->stream, *a);
    return cu_launched("embed_bwd");
}

} // namespace CU_NS
