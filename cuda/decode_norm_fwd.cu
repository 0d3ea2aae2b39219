/* The decode products that start with a norm (decode_linear.cuh): in_proj | q | k | v, and gate | up with SwiGLU.
 *
 * A block normalises all rows into shared memory (its own copy: reading x again is cheaper than another launch), then
 * its 8 warps walk over their rows of W (gemv.cuh). For SwiGLU a warp takes 2 rows of gate and the same 2 of up, so
 * that it has both factors. */
#include "cuda/decode.cuh"
#include "cuda/silu.h"

namespace CU_NS
{
namespace
{

enum { R = CU_GEMV_R };

/* The sums of a turn: lane r·M + m that of row w[r] and row m of x. */
template <typename T, bool VEC, int M>
CU_FN float turn_sums(const gemv_turn &t, const T *const (&w)[R], unsigned mask, const decode_smem<T> &s, int rows,
                      int D)
{
    float acc[R][M] = {};
    gemv_dot<T, VEC>(w, mask, s.n, D, rows, gemv_split<T>(D, t.splits, t.part), gemv_split<T>(D, t.splits, t.part + 1),
                     acc);
    return gemv_combine(gemv_collect(acc), t.splits, s.red);
}

template <typename T, bool VEC, int M>
__global__ void __launch_bounds__(CU_DECODE_THREADS, CU_GEMV_PER_SM) norm_in_qkv_kernel(cu_norm_in_qkv a)
{
    DYN_SMEM(base);
    decode_smem<T> s;
    decode_carve(s, base, M, a.D);
    decode_norm<T, VEC, M>(cu_decode_norm{a.x, a.norm, a.eps, a.M, a.D, a.n}, s.n, s.red);
    const int lane = threadIdx.x & 31, r = lane / M, m = lane % M;
    const gemv_span range = gemv_range(static_cast<int64_t>(a.n_in) + a.n_qkv);
    for (int64_t at = range.from; at < range.to;) {
        const gemv_turn t = gemv_turn_at<R>(at, range.to);
        at = t.next;
        const T *w[R];
#pragma unroll
        for (int i = 0; i < R; ++i) w[i] = static_cast<const T *>(a.w) + (t.first + i) * a.D;
        const float sum = turn_sums<T, VEC, M>(t, w, (1u << t.n) - 1, s, a.M, a.D);
        const int64_t n = t.first + r;
        if (t.part || r >= t.n || m >= a.M) continue;
        const float alpha = n < a.n_in ? a.alpha_in : a.alpha_qkv;
        store(static_cast<T *>(a.y) + m * a.ldy + n, alpha * sum + (a.b ? a.b[n] : 0.f));
    }
}

template <typename T, bool VEC, int M>
__global__ void __launch_bounds__(CU_DECODE_THREADS, CU_GEMV_PER_SM) norm_gate_up_kernel(cu_norm_gate_up a)
{
    DYN_SMEM(base);
    decode_smem<T> s;
    decode_carve(s, base, M, a.D);
    decode_norm<T, VEC, M>(cu_decode_norm{a.x, a.norm, a.eps, a.M, a.D, a.n}, s.n, s.red);
    constexpr int HALF = R / 2;
    const int lane = threadIdx.x & 31, r = lane / M, m = lane % M;
    const int64_t F = a.F;
    const gemv_span range = gemv_range(F);
    for (int64_t at = range.from; at < range.to;) {
        const gemv_turn t = gemv_turn_at<HALF>(at, range.to);
        at = t.next;
        const T *w[R];
        unsigned mask = 0;
#pragma unroll
        for (int i = 0; i < R; ++i) {
            w[i] = static_cast<const T *>(a.w) + (i / HALF * F + t.first + i % HALF) * a.D;
            mask |= i % HALF < t.n ? 1u << i : 0;
        }
        const float sum = turn_sums<T, VEC, M>(t, w, mask, s, a.M, a.D);
        const bool mine = t.part == 0 && r < R && r % HALF < t.n && m < a.M;
        const int64_t f = t.first + r % HALF, n = r / HALF * F + f; /* n: row of W */
        const float v = rounded<T>(sum + (mine && a.b ? a.b[n] : 0.f)), up = __shfl_down_sync(0xffffffffu, v, HALF * M);
        if (!mine) continue;
        if (a.gate_up) store(static_cast<T *>(a.gate_up) + m * 2 * F + n, v);
        if (r < HALF) store(static_cast<T *>(a.act) + m * F + f, silu(v * a.m_gate) * up);
    }
}

template <typename K> fh1_status allow_smem(K *kernel, size_t n_bytes)
{
    if (n_bytes <= 48 << 10) return NULL;
    return cu_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(n_bytes)),
        "asking for shared memory");
}

template <typename T, bool VEC, int M> fh1_status launch_in_qkv(cu_ctx *k, const cu_norm_in_qkv *a)
{
    const unsigned blocks = cu_gemv_blocks(k, static_cast<int64_t>(a->n_in) + a->n_qkv, R);
    decode_smem<T> s;
    const size_t smem = decode_carve(s, nullptr, M, a->D);
    FH1_TRY(allow_smem(norm_in_qkv_kernel<T, VEC, M>, smem));
    LAUNCH((norm_in_qkv_kernel<T, VEC, M>), blocks, CU_DECODE_THREADS, smem, k->stream, *a);
    return cu_launched("norm_in_qkv");
}

template <typename T, bool VEC, int M> fh1_status launch_gate_up(cu_ctx *k, const cu_norm_gate_up *a)
{
    decode_smem<T> s;
    const size_t smem = decode_carve(s, nullptr, M, a->D);
    FH1_TRY(allow_smem(norm_gate_up_kernel<T, VEC, M>, smem));
    LAUNCH((norm_gate_up_kernel<T, VEC, M>), cu_gemv_blocks(k, a->F, R / 2), CU_DECODE_THREADS, smem, k->stream, *a);
    return cu_launched("norm_gate_up");
}

fh1_status too_wide(int D)
{
    return fh1_fail(FH1_E_INTERNAL, "a fused norm over rows of %d numbers, which do not fit into shared memory", D);
}

bool vectors(const cu_ctx *k, cu_type t, const void *x, const void *w, const void *n, int D)
{
    return k->path != CU_GENERAL && aligned16(x) && aligned16(w) && aligned16(n) &&
           D % static_cast<int>(16 / cu_size(t)) == 0;
}

} // namespace

fh1_status cu_norm_in_qkv_fwd(cu_ctx *k, const cu_norm_in_qkv *a)
{
    if (a->n_in + a->n_qkv == 0) return NULL;
    const int most = cu_decode_rows(a->type, a->D);
    if (most == 0) return too_wide(a->D);
    for (int m = 0; m < a->M; m += most) {
        cu_norm_in_qkv g = *a;
        g.M = a->M - m < most ? a->M - m : most;
        g.x = cu_at(a->type, a->x, static_cast<int64_t>(m) * a->D);
        g.n = cu_at(a->type, a->n, static_cast<int64_t>(m) * a->D);
        g.y = cu_at(a->type, a->y, m * a->ldy);
        const bool vec = vectors(k, g.type, g.x, g.w, g.n, g.D);
        FH1_TRY(CU_DECODE_CALL(launch_in_qkv, g.type, vec, g.M, k, &g));
    }
    return NULL;
}

fh1_status cu_norm_gate_up_fwd(cu_ctx *k, const cu_norm_gate_up *a)
{
    if (a->F == 0) return NULL;
    const int most = cu_decode_rows(a->type, a->D);
    if (most == 0) return too_wide(a->D);
    for (int m = 0; m < a->M; m += most) {
        cu_norm_gate_up g = *a;
        g.M = a->M - m < most ? a->M - m : most;
        g.x = cu_at(a->type, a->x, static_cast<int64_t>(m) * a->D);
        g.n = cu_at(a->type, a->n, static_cast<int64_t>(m) * a->D);
        g.act = cu_at(a->type, a->act, static_cast<int64_t>(m) * a->F);
        g.gate_up = cu_at(a->type, a->gate_up, 2 * static_cast<int64_t>(m) * a->F);
        const bool vec = vectors(k, g.type, g.x, g.w, g.n, g.D);
        FH1_TRY(CU_DECODE_CALL(launch_gate_up, g.type, vec, g.M, k, &g));
    }
    return NULL;
}

} // namespace CU_NS
