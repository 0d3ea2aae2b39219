/* The greedy head (decode_linear.cuh): each lane keeps the best of the logits that it makes, each block the best of its
 * lanes, and a second kernel, one block per row of x, the best of all. "Better" is an order without ties, so the result
 * does not depend on who is compared with whom first. */
#include "cuda/decode.cuh"

#include <climits>

namespace CU_NS
{
namespace
{

enum { R = CU_GEMV_R };

/* id -1: a NaN was seen. INT_MAX: nothing yet. */
struct best {
    float v;
    int id;
};

CU_FN best better(best a, best b)
{
    if (a.id < 0 || b.id < 0) return best{a.v, -1};
    if (a.v != b.v) return a.v > b.v ? a : b;
    return a.id < b.id ? a : b;
}

CU_FN best of_logit(float v, int64_t id)
{
    return best{v, v == v ? static_cast<int>(id) : -1};
}

template <typename T, bool VEC, int M>
__global__ void __launch_bounds__(CU_DECODE_THREADS, CU_GEMV_PER_SM) head_greedy_kernel(cu_head_greedy a, best *found)
{
    DYN_SMEM(base);
    SHARED(best, lanes, [CU_DECODE_THREADS]);
    decode_smem<T> s;
    decode_carve(s, base, M, a.D);
    decode_norm<T, VEC, M>(cu_decode_norm{a.x, a.norm, a.eps, a.M, a.D, a.n}, s.n, s.red);
    const int lane = threadIdx.x & 31, m = lane % M;
    best mine = {-INFINITY, INT_MAX};
    const gemv_span range = gemv_range(a.V);
    for (int64_t at = range.from; at < range.to;) {
        const gemv_turn t = gemv_turn_at<R>(at, range.to);
        at = t.next;
        const T *w[R];
#pragma unroll
        for (int r = 0; r < R; ++r) w[r] = static_cast<const T *>(a.w) + (t.first + r) * a.D;
        float acc[R][M] = {};
        gemv_dot<T, VEC>(w, (1u << t.n) - 1, s.n, a.D, a.M, gemv_split<T>(a.D, t.splits, t.part),
                         gemv_split<T>(a.D, t.splits, t.part + 1), acc);
        const float logit = a.alpha * gemv_combine(gemv_collect(acc), t.splits, s.red);
        const int64_t v = t.first + lane / M;
        if (t.part || lane / M >= t.n || m >= a.M) continue;
        if (a.logits) a.logits[static_cast<int64_t>(m) * a.V + v] = logit;
        mine = better(mine, of_logit(logit, v));
    }
    lanes[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x >= M || static_cast<int>(threadIdx.x) >= a.M) return;
    for (int w = 0; w < CU_GEMV_WARPS; ++w)
        for (int r = 0; r < R; ++r) mine = better(mine, lanes[w * 32 + r * M + threadIdx.x]);
    found[static_cast<int64_t>(blockIdx.x) * M + threadIdx.x] = mine;
}

/* The best of `blocks` bests of row blockIdx.x, M apart. */
__global__ void __launch_bounds__(128) head_greedy_reduce_kernel(const best *found, int blocks, int M, int *token)
{
    SHARED(best, some, [128]);
    best mine = {-INFINITY, INT_MAX};
    for (int b = threadIdx.x; b < blocks; b += 128)
        mine = better(mine, found[static_cast<int64_t>(b) * M + blockIdx.x]);
    some[threadIdx.x] = mine;
    for (unsigned half = 64; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) some[threadIdx.x] = better(some[threadIdx.x], some[threadIdx.x + half]);
    }
    if (threadIdx.x == 0) token[blockIdx.x] = some[0].id;
}

template <typename T, bool VEC, int M> fh1_status launch(cu_ctx *k, const cu_head_greedy *a)
{
    decode_smem<T> s;
    const size_t smem = decode_carve(s, nullptr, M, a->D);
    if (smem > 40 << 10)
        FH1_TRY(cu_status(cudaFuncSetAttribute(head_greedy_kernel<T, VEC, M>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem)),
                          "asking for shared memory"));
    const int blocks = static_cast<int>(cu_gemv_blocks(k, a->V, R));
    best *found = static_cast<best *>(a->scratch);
    LAUNCH((head_greedy_kernel<T, VEC, M>), static_cast<unsigned>(blocks), CU_DECODE_THREADS, smem, k->stream, *a,
           found);
    FH1_TRY(cu_launched("head_greedy"));
    LAUNCH(head_greedy_reduce_kernel, static_cast<unsigned>(a->M), 128, 0, k->stream, found, blocks, M, a->token);
    return cu_launched("head_greedy_reduce");
}

} // namespace

size_t cu_head_greedy_scratch(const cu_ctx *k)
{
    return sizeof(best) * CU_DECODE_ROWS * CU_GEMV_PER_SM * static_cast<size_t>(k->sms);
}

fh1_status cu_head_greedy_fwd(cu_ctx *k, const cu_head_greedy *a)
{
    const int most = cu_decode_rows(a->type, a->D);
    if (most == 0 || a->V <= 0)
        return fh1_fail(FH1_E_INTERNAL, "a greedy head of %d rows of %d numbers: none, or too wide for shared memory",
                        a->V, a->D);
    for (int m = 0; m < a->M; m += most) {
        cu_head_greedy g = *a;
        g.M = a->M - m < most ? a->M - m : most;
        g.x = cu_at(a->type, a->x, static_cast<int64_t>(m) * a->D);
        g.n = a->norm ? cu_at(a->type, a->n, static_cast<int64_t>(m) * a->D) : NULL;
        g.token = a->token + m;
        if (a->logits) g.logits = a->logits + static_cast<int64_t>(m) * a->V;
        const bool vec = k->path != CU_GENERAL && aligned16(g.x) && aligned16(g.w) && aligned16(g.n) &&
                         g.D % static_cast<int>(16 / cu_size(g.type)) == 0;
        FH1_TRY(CU_DECODE_CALL(launch, g.type, vec, g.M, k, &g));
    }
    return NULL;
}

} // namespace CU_NS
