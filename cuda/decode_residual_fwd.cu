/* The decode products that end in the residual stream (decode_linear.cuh): out_proj with o_proj, and down_proj. A warp,
 * or several of one block with a part of K each (gemv.cuh), makes R columns of x: nobody else reads or writes those, so
 * the sum may go back in place. */
#include "cuda/decode.cuh"

namespace CU_NS
{
namespace
{

enum { R = CU_GEMV_R };

/* One product that is added to x. */
struct branch {
    const void *in, *w; /* [M, K], [D, K] */
    const float *b;
    float scale;
    void *out; /* [M, D] or NULL: R(in·Wᵀ + b) */
    int K;
};
struct residual_product {
    int M, D;
    branch one, two; /* `two` only where the kernel has two */
    void *x;
};

template <typename T, bool VEC, int M>
CU_FN float branch_sums(const branch &p, const gemv_turn &t, int rows, float *part)
{
    const T *w[R];
#pragma unroll
    for (int r = 0; r < R; ++r) w[r] = static_cast<const T *>(p.w) + (t.first + r) * p.K;
    float acc[R][M] = {};
    gemv_dot<T, VEC>(w, (1u << t.n) - 1, static_cast<const T *>(p.in), p.K, rows, gemv_split<T>(p.K, t.splits, t.part),
                     gemv_split<T>(p.K, t.splits, t.part + 1), acc);
    return gemv_combine(gemv_collect(acc), t.splits, part);
}

/* The branch as it is stored. */
template <typename T> CU_FN float branch_value(const branch &p, float sum, int64_t n, int64_t at)
{
    const float v = rounded<T>(sum + (p.b ? p.b[n] : 0.f));
    if (p.out) store(static_cast<T *>(p.out) + at, v);
    return v;
}

template <typename T, bool VEC, int M, bool TWO>
__global__ void __launch_bounds__(CU_DECODE_THREADS, CU_GEMV_PER_SM) residual_product_kernel(residual_product a)
{
    SHARED(float, part, [CU_DECODE_THREADS]);
    const int lane = threadIdx.x & 31, m = lane % M;
    const gemv_span range = gemv_range(a.D);
    for (int64_t at = range.from; at < range.to;) {
        const gemv_turn t = gemv_turn_at<R>(at, range.to);
        at = t.next;
        const float one = branch_sums<T, VEC, M>(a.one, t, a.M, part);
        float two = 0.f;
        if constexpr (TWO) two = branch_sums<T, VEC, M>(a.two, t, a.M, part);
        if (t.part || lane / M >= t.n || m >= a.M) continue;
        const int64_t n = t.first + lane / M, i = static_cast<int64_t>(m) * a.D + n;
        T *x = static_cast<T *>(a.x) + i;
        float sum = branch_value<T>(a.one, one, n, i) * a.one.scale;
        if constexpr (TWO) sum += branch_value<T>(a.two, two, n, i) * a.two.scale;
        store(x, load(x) + sum);
    }
}

template <typename T, bool VEC, int M, bool TWO> fh1_status launch(cu_ctx *k, const residual_product *a)
{
    LAUNCH((residual_product_kernel<T, VEC, M, TWO>), cu_gemv_blocks(k, a->D, R), CU_DECODE_THREADS, 0, k->stream, *a);
    return cu_launched("residual_product");
}
template <typename T, bool VEC, int M> fh1_status launch_one(cu_ctx *k, const residual_product *a)
{
    return launch<T, VEC, M, false>(k, a);
}
template <typename T, bool VEC, int M> fh1_status launch_two(cu_ctx *k, const residual_product *a)
{
    return launch<T, VEC, M, true>(k, a);
}

bool vectors(cu_type t, const branch *p)
{
    return aligned16(p->in) && aligned16(p->w) && p->K % static_cast<int>(16 / cu_size(t)) == 0;
}

branch from_row(cu_type t, const branch *p, int64_t m, int D)
{
    branch r = *p;
    r.in = cu_at(t, p->in, m * p->K);
    r.out = cu_at(t, p->out, m * D);
    return r;
}

fh1_status in_groups(cu_ctx *k, cu_type t, const residual_product *a, bool two)
{
    if (a->D == 0) return NULL;
    for (int m = 0; m < a->M; m += CU_DECODE_ROWS) {
        residual_product g = *a;
        g.M = a->M - m < CU_DECODE_ROWS ? a->M - m : static_cast<int>(CU_DECODE_ROWS);
        g.one = from_row(t, &a->one, m, a->D);
        g.two = from_row(t, &a->two, m, a->D);
        g.x = cu_at(t, a->x, static_cast<int64_t>(m) * a->D);
        const bool vec = k->path != CU_GENERAL && vectors(t, &g.one) && (!two || vectors(t, &g.two));
        if (two) FH1_TRY(CU_DECODE_CALL(launch_two, t, vec, g.M, k, &g));
        else FH1_TRY(CU_DECODE_CALL(launch_one, t, vec, g.M, k, &g));
    }
    return NULL;
}

} // namespace

fh1_status cu_out_o_fwd(cu_ctx *k, const cu_out_o *a)
{
    const branch mixer = {a->gated, a->out, a->out_b, a->m_mixer, a->mixer, a->d_ssm},
                 attn = {a->context, a->o, a->o_b, a->m_attn, a->attn, a->d_attn};
    const residual_product p = {a->M, a->D, mixer, attn, a->x};
    return in_groups(k, a->type, &p, true);
}

fh1_status cu_down_residual_fwd(cu_ctx *k, const cu_down_residual *a)
{
    const branch down = {a->act, a->w, a->b, a->m_down, a->down, a->F};
    const residual_product p = {a->M, a->D, down, branch{}, a->x};
    return in_groups(k, a->type, &p, false);
}

} // namespace CU_NS
