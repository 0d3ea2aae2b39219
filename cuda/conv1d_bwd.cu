/* Backward of the causal convolution, p = x·u[segment] as in conv1d.cuh, z_t = b + Σ_k w[k]·p_{t-(K-1)+k}:
 *   g_t = dy_t·silu'(z_t),   db += Σ g_t,   dw[k] += Σ_t g_t·p_{t-(K-1)+k},   dp_s = Σ_k w[k]·g_{s+(K-1)-k} + kept
 * over the tokens t that see column s: those of its document in its row, and of the call. `kept` is what the window
 * after the call gives back to the last K-1 columns; dx = u·dp.
 *
 * A thread has one channel and a part of the packed tokens, whatever rows they belong to: it walks over the tokens that
 * see its columns, K-1 beyond its part, computes z again and hands g to the last K columns. Sums for dw and db go to
 * the scratch, [parts, K + 1, c], and are added up in order. Nobody else writes a part's columns. */
#include "cuda/backward.cuh"

#include "cuda/ordered_sum.cuh"
#include "cuda/silu.h"

namespace CU_NS
{
namespace
{

constexpr int THREADS = 128, LEAST = 32;

CU_FN int64_t channels(const cu_conv1d_bwd_args &a)
{
    return a.d_ssm + 2 * static_cast<int64_t>(a.GN);
}
CU_FN float segment(const cu_conv1d_bwd_args &a, int64_t c)
{
    return c < a.d_ssm ? a.m_x : c < a.d_ssm + a.GN ? a.m_B : a.m_C;
}

/* One channel of one row, tokens begin .. end. */
struct line {
    int64_t c, begin, end;
    int row;
    float u;
    const float *window; /* of the channel, or NULL: zeros */
};

CU_FN line line_of(const cu_conv1d_bwd_args &a, int64_t c, int row)
{
    line r = {c, a.t.row_begin[row], a.t.row_begin[row + 1], row, segment(a, c), nullptr};
    const int slot = a.slot ? a.slot[row] : row;
    if (a.window) r.window = a.window + (slot * channels(a) + c) * (a.K - 1);
    return r;
}

/* The first column that t's taps may reach: its document's first one, or the window's. */
CU_FN int64_t reach(const cu_conv1d_bwd_args &a, const line &r, int64_t t)
{
    const int start = a.t.start[t];
    return start >= 0 ? start : r.begin - (a.K - 1);
}

CU_FN float column(const cu_conv1d_bwd_args &a, const line &r, int64_t s)
{
    if (s >= r.begin) return a.x[s * a.ldx + r.c] * r.u;
    return r.window ? r.window[(a.K - 1) + (s - r.begin)] : 0.f;
}

/* What the window after the call gives to column s, which may be one of the window before. */
CU_FN float kept(const cu_conv1d_bwd_args &a, const line &r, int64_t s)
{
    const int64_t oldest = r.end - (a.K - 1);
    if (!a.dwindow_out || s < oldest) return 0.f;
    if (r.end > r.begin && s < reach(a, r, r.end - 1)) return 0.f; /* what it holds there is a constant zero */
    return a.dwindow_out[(r.row * channels(a) + r.c) * (a.K - 1) + (s - oldest)];
}

CU_FN void put(const cu_conv1d_bwd_args &a, const line &r, int64_t s, float dp)
{
    if (a.dx) a.dx[s * a.lddx + r.c] = (dp + kept(a, r, s)) * r.u;
}

CU_FN float slope(float z)
{
    float d;
    (void)silu_both(z, &d);
    return d;
}

/* g_t, every tap read where it stands. */
CU_FN float gradient(const cu_conv1d_bwd_args &a, const line &r, int64_t t)
{
    const int64_t from = reach(a, r, t);
    float z = a.b ? a.b[r.c] : 0.f;
    for (int k = 0; k < a.K; ++k) {
        const int64_t s = t - (a.K - 1) + k;
        if (s >= from) z = fmaf(a.w[r.c * a.K + k], column(a, r, s), z);
    }
    return a.dy[t * channels(a) + r.c] * slope(z);
}

/* dp_s but for what is kept. */
CU_FN float spread(const cu_conv1d_bwd_args &a, const line &r, int64_t s)
{
    float sum = 0;
    for (int k = a.K - 1; k >= 0; --k) {
        const int64_t t = s + (a.K - 1) - k;
        if (t < r.begin || t >= r.end || reach(a, r, t) > s) continue;
        sum = fmaf(a.w[r.c * a.K + k], gradient(a, r, t), sum);
    }
    return sum;
}

/* Any K, tokens t0 .. t1 of one row; the part's sums where they go. */
CU_FN void any_taps(const cu_conv1d_bwd_args &a, const line &r, int64_t t0, int64_t t1, float *part)
{
    const int64_t c = channels(a);
    for (int64_t t = t0; t < t1; ++t) {
        put(a, r, t, spread(a, r, t));
        if (!part) continue;
        const int64_t from = reach(a, r, t);
        const float g = gradient(a, r, t);
        for (int k = 0; k < a.K; ++k) {
            const int64_t s = t - (a.K - 1) + k;
            if (s >= from) part[k * c] = fmaf(g, column(a, r, s), part[k * c]);
        }
        part[a.K * c] += g;
    }
}

/* K known: taps, the last K columns and what has reached them so far stay in registers. */
template <int K>
CU_FN void sliding_taps(const cu_conv1d_bwd_args &a, const line &r, int64_t t0, int64_t t1, float (&sum)[K + 1])
{
    const int64_t stop = r.end < t1 + K - 1 ? r.end : t1 + K - 1, first = reach(a, r, t0);
    const float bias = a.b ? a.b[r.c] : 0.f;
    float w[K], p[K], dp[K];
#pragma unroll
    for (int k = 0; k < K; ++k) w[k] = a.w[r.c * K + k], p[k] = dp[k] = 0.f;
#pragma unroll
    for (int k = 1; k < K; ++k)
        if (t0 - K + k >= first) p[k] = column(a, r, t0 - K + k); /* before `first` nothing may be read */
    for (int64_t t = t0; t < stop; ++t) {
        const int64_t from = reach(a, r, t);
        float z = bias;
#pragma unroll
        for (int k = 0; k < K - 1; ++k) p[k] = p[k + 1], dp[k] = dp[k + 1];
        p[K - 1] = column(a, r, t), dp[K - 1] = 0.f;
#pragma unroll
        for (int k = 0; k < K; ++k) z = t - (K - 1) + k >= from ? fmaf(w[k], p[k], z) : z; /* selected: no NaN passes */
        const float g = a.dy[t * channels(a) + r.c] * slope(z);
#pragma unroll
        for (int k = 0; k < K; ++k) {
            if (t - (K - 1) + k < from) continue;
            dp[k] = fmaf(w[k], g, dp[k]);
            if (t < t1) sum[k] = fmaf(g, p[k], sum[k]);
        }
        if (t < t1) sum[K] += g;
        if (t - (K - 1) >= t0) put(a, r, t - (K - 1), dp[0]);
    }
#pragma unroll
    for (int k = 1; k < K; ++k) {
        const int64_t s = stop - K + k;
        if (s >= t0 && s < t1) put(a, r, s, dp[k]);
    }
}

/* grid (channels, parts). K = 0: any. `part` [parts, K + 1, c], or NULL */
template <int K> __global__ void __launch_bounds__(THREADS, 6) conv1d_bwd(cu_conv1d_bwd_args a, int tokens, float *part)
{
    const int64_t c = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x, n = channels(a);
    if (c >= n) return;
    const int64_t begin = static_cast<int64_t>(blockIdx.y) * tokens;
    const int64_t end = begin + tokens < a.t.M ? begin + tokens : a.t.M;
    if (part) part += blockIdx.y * (a.K + 1) * n + c;
    if (part && K == 0)
        for (int k = 0; k <= a.K; ++k) part[k * n] = 0.f;
    float sum[K + 1] = {};
    for (int64_t t = begin; t < end;) {
        const line r = line_of(a, c, a.t.row[t]);
        const int64_t stop = r.end < end ? r.end : end;
        if constexpr (K > 0) sliding_taps<K>(a, r, t, stop, sum);
        else any_taps(a, r, t, stop, part);
        t = stop;
    }
    if (!part || K == 0) return;
#pragma unroll
    for (int k = 0; k <= K; ++k) part[k * n] = sum[k];
}

/* One tap of one channel, or its bias, a thread. */
__global__ void __launch_bounds__(THREADS) conv1d_dw(cu_conv1d_bwd_args a, int parts)
{
    const int64_t n = channels(a), i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= n * (a.K + 1)) return;
    const int64_t k = i / n, c = i - k * n;
    float *to = k < a.K ? a.dw ? a.dw + c * a.K + k : nullptr : a.db ? a.db + c : nullptr;
    if (to) *to = static_cast<float>(*to + ordered_sum(a.scratch + i, parts, n * (a.K + 1)));
}

/* The columns of the windows before the call. grid (channels, rows) */
__global__ void __launch_bounds__(THREADS) conv1d_dwindow(cu_conv1d_bwd_args a)
{
    const int64_t c = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (c >= channels(a)) return;
    const line r = line_of(a, c, static_cast<int>(blockIdx.y));
    float *to = a.dwindow + (r.row * channels(a) + c) * (a.K - 1);
    for (int i = 0; i < a.K - 1; ++i) {
        const int64_t s = r.begin - (a.K - 1) + i;
        to[i] = spread(a, r, s) + kept(a, r, s);
    }
}

int parts_of(const cu_conv1d_bwd_args *a)
{
    return cu_parts(a->t.M, LEAST);
}

void launch(cu_ctx *k, const cu_conv1d_bwd_args &a, int64_t c)
{
    const int tokens = cu_part_tokens(a.t.M, LEAST);
    const dim3 grid(static_cast<unsigned>((c + THREADS - 1) / THREADS), static_cast<unsigned>(parts_of(&a)));
    float *part = a.dw || a.db ? a.scratch : nullptr;
    const int K = k->path == CU_GENERAL ? 0 : a.K;
    if (K == 4) LAUNCH(conv1d_bwd<4>, grid, THREADS, 0, k->stream, a, tokens, part);
    else if (K == 3) LAUNCH(conv1d_bwd<3>, grid, THREADS, 0, k->stream, a, tokens, part);
    else if (K == 2) LAUNCH(conv1d_bwd<2>, grid, THREADS, 0, k->stream, a, tokens, part);
    else LAUNCH(conv1d_bwd<0>, grid, THREADS, 0, k->stream, a, tokens, part);
}

} // namespace

size_t cu_conv1d_bwd_scratch(const cu_conv1d_bwd_args *a)
{
    if (!a->dw && !a->db) return 0;
    const size_t c = static_cast<size_t>(a->d_ssm) + 2 * static_cast<size_t>(a->GN);
    return sizeof(float) * static_cast<size_t>(parts_of(a)) * static_cast<size_t>(a->K + 1) * c;
}

fh1_status cu_conv1d_bwd(cu_ctx *k, const cu_conv1d_bwd_args *a)
{
    const int64_t c = a->d_ssm + 2 * static_cast<int64_t>(a->GN);
    if (c == 0) return NULL;
    if (a->t.M > 0) {
        launch(k, *a, c);
        FH1_TRY(cu_launched("conv1d_bwd"));
    }
    if (a->t.M > 0 && (a->dw || a->db)) {
        const int64_t n = c * (a->K + 1);
        LAUNCH(conv1d_dw, static_cast<unsigned>((n + THREADS - 1) / THREADS), THREADS, 0, k->stream, *a, parts_of(a));
        FH1_TRY(cu_launched("conv1d_dw"));
    }
    if (!a->dwindow || a->K < 2 || a->t.B == 0) return NULL;
    const dim3 grid(static_cast<unsigned>((c + THREADS - 1) / THREADS), static_cast<unsigned>(a->t.B));
    LAUNCH(conv1d_dwindow, grid, THREADS, 0, k->stream, *a);
    return cu_launched("conv1d_dwindow");
}

} // namespace CU_NS
