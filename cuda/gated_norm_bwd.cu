/* Backward of the gate and its norm, with u = z·m_z, s = silu(u), r = rsqrt(mean v² + eps) over a group:
 *   w NULL               dy = dout·s,                                dz = m_z·dout·y·silu'(u)
 *   norm after the gate  v = y·s, q = w·dout, dv = r·(q - v·r²·mean(q·v)):
 *                        dy = dv·s,    dz = m_z·dv·y·silu'(u),       dw += dout·v·r
 *   norm before          v = y, q = w·dout·s, dy = dv as above,      dz = m_z·dout·w·y·r·silu'(u),  dw += dout·s·y·r
 * With a norm a block walks over a part of the tokens, one group at a time, each thread with its own channels: their
 * share of dw stays in registers where it fits, else it is summed up in the scratch where it goes. */
#include "cuda/backward.cuh"

#include "cuda/ordered_sum.cuh"
#include "cuda/silu.h"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

constexpr int THREADS = 256, LEAST = 4;

/* Outputs may be inputs: an element is read and written by one thread. */
__global__ void __launch_bounds__(THREADS) gate_bwd(cu_gated_norm_bwd_args a)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= static_cast<int64_t>(a.M) * a.d) return;
    const int64_t m = i / a.d, j = i - m * a.d;
    float slope;
    const float s = silu_both(a.z[m * a.ldz + j] * a.m_z, &slope), y = a.y[i], g = a.dout[i];
    if (a.dy) a.dy[i] = g * s;
    if (a.dz) a.dz[m * a.lddz + j] = g * y * slope * a.m_z;
}

/* One channel of one token. */
struct element {
    float y, s, slope, g, w;
};

CU_FN element read(const cu_gated_norm_bwd_args &a, int64_t m, int64_t j)
{
    element e;
    e.s = silu_both(a.z[m * a.ldz + j] * a.m_z, &e.slope);
    e.y = a.y[m * a.d + j], e.g = a.dout[m * a.d + j], e.w = a.w[j];
    return e;
}

/* What is normalised, and the derivative by w·n. */
CU_FN float inner(const cu_gated_norm_bwd_args &a, const element &e)
{
    return a.norm_before_gate ? e.y : e.y * e.s;
}
CU_FN float outer(const cu_gated_norm_bwd_args &a, const element &e)
{
    return a.norm_before_gate ? e.g * e.s : e.g;
}

/* Writes dy and dz; returns the token's share of dw. `mean`: r²·mean(q·v) */
CU_FN float write(const cu_gated_norm_bwd_args &a, int64_t m, int64_t j, const element &e, float root, float mean)
{
    const float v = inner(a, e), q = e.w * outer(a, e), dv = root * (q - v * mean);
    if (a.dy) a.dy[m * a.d + j] = a.norm_before_gate ? dv : dv * e.s;
    if (a.dz) {
        const float ds = a.norm_before_gate ? e.g * e.w * (e.y * root) : dv * e.y;
        a.dz[m * a.lddz + j] = ds * e.slope * a.m_z;
    }
    return outer(a, e) * (v * root);
}

/* grid (groups, parts) */
template <int KEEP>
__global__ void __launch_bounds__(THREADS, 2) gated_norm_bwd(cu_gated_norm_bwd_args a, int tokens, float *part)
{
    SHARED(float, red, [32]);
    const int n = a.d / a.G;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * n, begin = static_cast<int64_t>(blockIdx.y) * tokens;
    const int64_t end = begin + tokens < a.M ? begin + tokens : a.M;
    if (part) part += static_cast<int64_t>(blockIdx.y) * a.d;
    float dw[KEEP] = {};
    for (int64_t m = begin; m < end; ++m) {
        element e[KEEP];
        float squares = 0, products = 0;
#pragma unroll
        for (int k = 0; k < KEEP; ++k) {
            const int i = threadIdx.x + k * THREADS;
            if (i >= n) continue;
            e[k] = read(a, m, first + i);
            const float v = inner(a, e[k]);
            squares = fmaf(v, v, squares), products = fmaf(e[k].w * outer(a, e[k]), v, products);
        }
        for (int i = threadIdx.x + KEEP * THREADS; i < n; i += THREADS) {
            const element t = read(a, m, first + i);
            const float v = inner(a, t);
            squares = fmaf(v, v, squares), products = fmaf(t.w * outer(a, t), v, products);
        }
        squares = block_sum(squares, red);
        products = block_sum(products, red);
        const float width = static_cast<float>(n), power = squares / width + a.eps, root = 1.f / sqrtf(power);
        const float mean = products / width / power;
#pragma unroll
        for (int k = 0; k < KEEP; ++k) {
            const int i = threadIdx.x + k * THREADS;
            if (i < n) dw[k] += write(a, m, first + i, e[k], root, mean);
        }
        for (int i = threadIdx.x + KEEP * THREADS; i < n; i += THREADS) {
            const element t = read(a, m, first + i);
            const float share = write(a, m, first + i, t, root, mean);
            if (part) part[first + i] = m == begin ? share : part[first + i] + share;
        }
    }
    if (!part) return;
#pragma unroll
    for (int k = 0; k < KEEP; ++k) {
        const int i = threadIdx.x + k * THREADS;
        if (i < n) part[first + i] = dw[k];
    }
}

__global__ void __launch_bounds__(THREADS) gated_norm_dw(int d, int parts, const float *part, float *dw)
{
    const int j = static_cast<int>(blockIdx.x * THREADS + threadIdx.x);
    if (j < d) dw[j] = static_cast<float>(dw[j] + ordered_sum(part + j, parts, d));
}

} // namespace

size_t cu_gated_norm_bwd_scratch(const cu_gated_norm_bwd_args *a)
{
    return a->w && a->dw ? sizeof(float) * static_cast<size_t>(cu_parts(a->M, LEAST)) * static_cast<size_t>(a->d) : 0;
}

fh1_status cu_gated_norm_bwd(cu_ctx *k, const cu_gated_norm_bwd_args *a)
{
    if (a->M == 0 || a->d == 0) return NULL;
    if (!a->w) {
        const int64_t n = static_cast<int64_t>(a->M) * a->d;
        LAUNCH(gate_bwd, static_cast<unsigned>((n + THREADS - 1) / THREADS), THREADS, 0, k->stream, *a);
        return cu_launched("gate_bwd");
    }
    const int tokens = cu_part_tokens(a->M, LEAST), parts = cu_parts(a->M, LEAST);
    const dim3 grid(static_cast<unsigned>(a->G), static_cast<unsigned>(parts));
    float *part = a->dw ? a->scratch : nullptr;
    if (a->d / a->G <= 4 * THREADS) LAUNCH(gated_norm_bwd<4>, grid, THREADS, 0, k->stream, *a, tokens, part);
    else LAUNCH(gated_norm_bwd<12>, grid, THREADS, 0, k->stream, *a, tokens, part);
    FH1_TRY(cu_launched("gated_norm_bwd"));
    if (!a->dw) return NULL;
    LAUNCH(gated_norm_dw, static_cast<unsigned>((a->d + THREADS - 1) / THREADS), THREADS, 0, k->stream, a->d, parts,
           part, a->dw);
    return cu_launched("gated_norm_dw");
}

} // namespace CU_NS
