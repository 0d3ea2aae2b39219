/* The causal convolution of the mixer: channels across threads, tokens of a row in tiles along the grid.
 *
 * The row's window is read by the first K-1 tokens of the row and overwritten at the end. Both are done by the blocks
 * of the row's first tile, each thread for its own channels, so that no other thread ever sees a window: a tile is
 * never shorter than K-1 tokens. The same kernel serves a prefill and a step of one token. */
#include "cuda/conv1d.cuh"

#include "cuda/silu.h"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

constexpr int THREADS = 128, TILE = 32; /* tokens a tile, at least */

/* V neighbouring elements of one token; `p` aligned to V elements. */
template <int V> CU_FN void load_columns(const float *p, float (&v)[V])
{
    if constexpr (V == 4) {
        const float4 q = *reinterpret_cast<const float4 *>(p);
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
        v[0] = *p;
    }
}
template <int V> CU_FN void load_columns(const bf16 *p, float (&v)[V])
{
    if constexpr (V == 4) {
        const uint2 q = *reinterpret_cast<const uint2 *>(p);
        const float2 a = unpack_bf16(q.x), b = unpack_bf16(q.y);
        v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
    } else {
        v[0] = load(p);
    }
}
template <int V> CU_FN void store_columns(float *p, const float (&v)[V])
{
    if constexpr (V == 4) *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
    else *p = v[0];
}
template <int V> CU_FN void store_columns(bf16 *p, const float (&v)[V])
{
    if constexpr (V == 4) *reinterpret_cast<uint2 *>(p) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
    else store(p, v[0]);
}

/* The multiplier of channel c's segment. */
CU_FN float segment(const cu_conv1d &a, int c)
{
    return c < a.d_ssm ? a.m_x : c < a.d_ssm + a.GN ? a.m_B : a.m_C;
}

/* What one thread works on: V channels from c0 of the row whose tokens are begin .. end. */
struct columns {
    int c0, begin, end;
    float *window; /* of channel c0 */
};

/* Columns p of token s, multiplied; for s before the row out of its window. */
template <typename T, int V>
CU_FN void column(const cu_conv1d &a, const columns &r, const float (&u)[V], int64_t s, float (&p)[V])
{
    if (s >= r.begin) {
        load_columns<V>(static_cast<const T *>(a.x) + s * a.ldx + r.c0, p);
#pragma unroll
        for (int v = 0; v < V; ++v) p[v] *= u[v];
    } else {
#pragma unroll
        for (int v = 0; v < V; ++v) p[v] = r.window[static_cast<int64_t>(v) * (a.K - 1) + (a.K - 1) + (s - r.begin)];
    }
}

/* The first token that t's taps may reach: its document's first one in this call, or the window's first column. */
CU_FN int64_t reach(const cu_conv1d &a, const columns &r, int64_t t)
{
    const int start = a.t.start[t];
    return start >= 0 ? start : static_cast<int64_t>(r.begin) - (a.K - 1);
}

template <typename T, int V> CU_FN void activate(const cu_conv1d &a, const columns &r, int64_t t, float (&sum)[V])
{
    const int64_t c = a.d_ssm + 2 * static_cast<int64_t>(a.GN);
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] = silu(sum[v]);
    store_columns<V>(static_cast<T *>(a.y) + t * c + r.c0, sum);
}

/* Any K: every tap is read where it stands. */
template <typename T, int V>
CU_FN void any_taps(const cu_conv1d &a, const columns &r, const float (&u)[V], int t0, int t1)
{
    for (int64_t t = t0; t < t1; ++t) {
        const int64_t from = reach(a, r, t);
        float sum[V], p[V];
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = a.b ? a.b[r.c0 + v] : 0.f;
#pragma unroll 1 /* unrolled it spills */
        for (int k = 0; k < a.K; ++k) {
            const int64_t s = t - (a.K - 1) + k;
            if (s < from) continue;
            column<T, V>(a, r, u, s, p);
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] = fmaf(a.w[static_cast<int64_t>(r.c0 + v) * a.K + k], p[v], sum[v]);
        }
        activate<T, V>(a, r, t, sum);
    }
}

/* K known: taps and the last K-1 columns stay in registers. */
template <typename T, int V, int K>
CU_FN void sliding_taps(const cu_conv1d &a, const columns &r, const float (&u)[V], int t0, int t1)
{
    float w[K][V], past[K][V], bias[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
        bias[v] = a.b ? a.b[r.c0 + v] : 0.f;
#pragma unroll
        for (int k = 0; k < K; ++k) w[k][v] = a.w[static_cast<int64_t>(r.c0 + v) * K + k], past[k][v] = 0.f;
    }
    const int64_t first = reach(a, r, t0); /* before it nothing may be read: a window may never have been written */
#pragma unroll
    for (int k = 0; k < K - 1; ++k)
        if (t0 - (K - 1) + k >= first) column<T, V>(a, r, u, static_cast<int64_t>(t0) - (K - 1) + k, past[k + 1]);
    for (int64_t t = t0; t < t1; ++t) {
        const int64_t from = reach(a, r, t);
        float sum[V];
#pragma unroll
        for (int k = 0; k < K - 1; ++k)
#pragma unroll
            for (int v = 0; v < V; ++v) past[k][v] = past[k + 1][v];
        column<T, V>(a, r, u, t, past[K - 1]);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = bias[v];
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const bool seen = t - (K - 1) + k >= from; /* selected: another document's NaN must not pass */
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] = seen ? fmaf(w[k][v], past[k][v], sum[v]) : sum[v];
        }
        activate<T, V>(a, r, t, sum);
    }
}

/* The last K-1 columns of the last token's document, oldest first. Upwards, since what stays in the window comes from
 * the right of where it goes. */
template <typename T, int V> CU_FN void next_window(const cu_conv1d &a, const columns &r, const float (&u)[V])
{
    const int64_t from = reach(a, r, r.end - 1);
    for (int i = 0; i < a.K - 1; ++i) {
        const int64_t s = static_cast<int64_t>(r.end) - (a.K - 1) + i;
        float p[V] = {};
        if (s >= from) column<T, V>(a, r, u, s, p);
#pragma unroll
        for (int v = 0; v < V; ++v) r.window[static_cast<int64_t>(v) * (a.K - 1) + i] = p[v];
    }
}

/* grid (channels, rows, tiles). K = 0: any. */
template <typename T, int V, int K> __global__ void __launch_bounds__(THREADS) conv1d(cu_conv1d a, int tile)
{
    const int64_t c = a.d_ssm + 2 * static_cast<int64_t>(a.GN);
    const int64_t c0 = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * V;
    const int row = blockIdx.y;
    columns r = {static_cast<int>(c0), a.t.row_begin[row], a.t.row_begin[row + 1], nullptr};
    const int64_t t0 = r.begin + static_cast<int64_t>(blockIdx.z) * tile;
    if (c0 >= c || t0 >= r.end) return;
    const int t1 = static_cast<int>(t0 + tile < r.end ? t0 + tile : r.end);
    if (a.K > 1) r.window = a.window + (static_cast<int64_t>(a.slot[row]) * c + c0) * (a.K - 1);
    float u[V];
#pragma unroll
    for (int v = 0; v < V; ++v) u[v] = segment(a, r.c0 + v);
    if constexpr (K > 0) sliding_taps<T, V, K>(a, r, u, static_cast<int>(t0), t1);
    else any_taps<T, V>(a, r, u, static_cast<int>(t0), t1);
    if (blockIdx.z == 0) next_window<T, V>(a, r, u);
}

template <typename T> bool aligned(const cu_conv1d &a, int64_t c)
{
    const size_t bytes = 4 * sizeof(T);
    return c % 4 == 0 && a.ldx % 4 == 0 && reinterpret_cast<uintptr_t>(a.x) % bytes == 0 &&
           reinterpret_cast<uintptr_t>(a.y) % bytes == 0;
}

template <typename T> void launch(cu_ctx *k, const cu_conv1d &a)
{
    const int64_t c = a.d_ssm + 2 * static_cast<int64_t>(a.GN);
    /* one token: a thread per channel fills the device better than wide loads would */
    const bool wide = k->path != CU_GENERAL && a.t.longest > 1 && aligned<T>(a, c);
    const int tile = a.K - 1 > TILE ? a.K - 1 : TILE, per_block = THREADS * (wide ? 4 : 1);
    const dim3 grid(static_cast<unsigned>((c + per_block - 1) / per_block), static_cast<unsigned>(a.t.B),
                    static_cast<unsigned>((a.t.longest + tile - 1) / tile));
    if (k->path == CU_GENERAL || a.K != 4)
        LAUNCH((conv1d<T, 1, 0>), dim3((c + THREADS - 1) / THREADS, grid.y, grid.z), THREADS, 0, k->stream, a, tile);
    else if (wide) LAUNCH((conv1d<T, 4, 4>), grid, THREADS, 0, k->stream, a, tile);
    else LAUNCH((conv1d<T, 1, 4>), grid, THREADS, 0, k->stream, a, tile);
}

} // namespace

fh1_status cu_conv1d_fwd(cu_ctx *k, const cu_conv1d *a)
{
    if (a->t.M == 0 || a->d_ssm + 2 * a->GN == 0) return NULL;
    if (a->type == CU_BF16) launch<bf16>(k, *a);
    else launch<float>(k, *a);
    return cu_launched("conv1d");
}

} // namespace CU_NS
