/* Attention backwards, probabilities made again from scores, tile by tile of 32 queries x 32 keys; with p the
 * probability of a pair, s = q·k·A^-½ and c = Σ over its keys p·(dout·v) of a query:
 *   ds = p·(dout·v - c),  dq = A^-½ Σ_keys ds·k,  dk = A^-½ Σ_queries ds·q,  dv = Σ_queries p·dout
 * Three kernels: what a query needs (maximum, reciprocal sum, c), dq, then dk and dv. The last two make 128 columns of
 * the head in a block; the query heads of a group are added up in their order. Pairs that do not see each other are
 * left out by selection, so that a NaN stays in its document. */
#include "cuda/attention_impl.h"
#include "cuda/backward.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

enum { TILE = 32, WIDTH = 128, THREADS = 256, ROWS = TILE * TILE / THREADS };

struct tiles {
    float (*a)[TILE + 1], (*b)[TILE + 1];
};

/* s[i] = a row (warp + 8 i) · b row (lane), n columns; rows outside are zeros. */
CU_FN void dots(const tiles &t, const float *a, int64_t lda, int64_t a_rows, const float *b, int64_t ldb,
                int64_t b_rows, int n, float (&s)[ROWS])
{
    const int lane = static_cast<int>(threadIdx.x) % TILE, warp = static_cast<int>(threadIdx.x) / TILE;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) s[i] = 0.f;
    for (int c0 = 0; c0 < n; c0 += TILE) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const int r = warp + 8 * i;
            const bool in = c0 + lane < n;
            t.a[r][lane] = in && r < a_rows ? a[r * lda + c0 + lane] : 0.f;
            t.b[r][lane] = in && r < b_rows ? b[r * ldb + c0 + lane] : 0.f;
        }
        __syncthreads();
        const int most = min(static_cast<int>(TILE), n - c0);
        for (int c = 0; c < most; ++c) {
            const float v = t.b[lane][c];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) s[i] = fmaf(t.a[warp + 8 * i][c], v, s[i]);
        }
        __syncthreads();
    }
}

/* First key that token m sees. */
CU_FN int64_t first_key(const cu_attention_bwd_args &g, int64_t m)
{
    return static_cast<int64_t>(g.t.row_begin[g.t.row[m]]) + g.t.first[m];
}

/* The tile of keys that holds the first one that a token of this tile of queries sees; all lanes get it. */
CU_FN int64_t first_tile(const cu_attention_bwd_args &g, int64_t m0)
{
    const int64_t m = m0 + threadIdx.x % TILE;
    int key = static_cast<int>(m < g.t.M ? first_key(g, m) : g.past + m0);
#pragma unroll
    for (int o = 16; o; o >>= 1) key = min(key, __shfl_xor_sync(0xffffffffu, key, o));
    return key / TILE * TILE;
}

/* Which of this thread's pairs of the tile see each other. */
CU_FN void seen(const cu_attention_bwd_args &g, int64_t m0, int64_t s0, bool (&in)[ROWS])
{
    const int64_t s = s0 + threadIdx.x % TILE;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        const int64_t m = m0 + threadIdx.x / TILE + 8 * i;
        in[i] = m < g.t.M && s <= g.past + m && s >= first_key(g, m);
    }
}

CU_FN bool any(const bool (&in)[ROWS])
{
    bool v = false;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) v = v || in[i];
    return v;
}

struct stats {
    float *most, *inv, *c; /* [M, Hq] each */
};

__host__ __device__ inline stats stats_of(const cu_attention_bwd_args &g)
{
    const int64_t n = static_cast<int64_t>(g.t.M) * g.Hq;
    return {g.scratch, g.scratch + n, g.scratch + 2 * n};
}

CU_FN const float *head_of(const float *p, int64_t kv_head, int h)
{
    return p + h * kv_head;
}

/* Scores (unscaled) and dout·v of the tile; none of it where no pair sees the other: false, for all threads. */
CU_FN bool tile_of(const cu_attention_bwd_args &g, const tiles &t, int h, int64_t m0, int64_t s0, bool (&in)[ROWS],
                   float (&s)[ROWS], float (&dp)[ROWS])
{
    seen(g, m0, s0, in);
    if (!__syncthreads_or(any(in))) return false;
    const int kv = h / (g.Hq / g.Hkv);
    const int64_t width = static_cast<int64_t>(g.Hq) * g.A, at = static_cast<int64_t>(h) * g.A;
    const int64_t queries = g.t.M - m0, keys = g.past + static_cast<int64_t>(g.t.M) - s0;
    dots(t, g.q + m0 * g.ldq + at, g.ldq, queries, head_of(g.k, g.kv_head, kv) + s0 * g.ldkv, g.ldkv, keys, g.A, s);
    dots(t, g.dout + m0 * width + at, width, queries, head_of(g.v, g.kv_head, kv) + s0 * g.ldkv, g.ldkv, keys, g.A, dp);
    return true;
}

/* grid (tiles of queries, Hq). A warp owns whole rows of a tile: every lane ends with the numbers of its rows. */
__global__ void __launch_bounds__(THREADS) attention_stats_bwd_k(cu_attention_bwd_args g, float scale)
{
    SHARED(float, as, [TILE][TILE + 1]);
    SHARED(float, bs, [TILE][TILE + 1]);
    const tiles t = {as, bs};
    const int64_t m0 = static_cast<int64_t>(blockIdx.x) * TILE;
    const int64_t last = m0 + TILE < g.t.M ? m0 + TILE : g.t.M;
    const int h = static_cast<int>(blockIdx.y);
    float most[ROWS], sum[ROWS] = {}, c[ROWS] = {};
#pragma unroll
    for (int i = 0; i < ROWS; ++i) most[i] = -INFINITY;
    for (int64_t s0 = first_tile(g, m0); s0 < g.past + last; s0 += TILE) {
        bool in[ROWS];
        float s[ROWS], dp[ROWS];
        if (!tile_of(g, t, h, m0, s0, in, s, dp)) continue;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const float score = in[i] ? s[i] * scale : -INFINITY;
            const float to = fmaxf(most[i], warp_max(score)), ref = softmax_ref(to), keep = expf(most[i] - ref);
            const float p = in[i] ? expf(score - ref) : 0.f;
            most[i] = to;
            sum[i] = sum[i] * keep + warp_sum(p);
            c[i] = c[i] * keep + warp_sum(in[i] ? p * dp[i] : 0.f);
        }
    }
    const stats out = stats_of(g);
    if (threadIdx.x % TILE) return;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        const int64_t m = m0 + threadIdx.x / TILE + 8 * i, at = m * g.Hq + h;
        if (m >= g.t.M) continue;
        out.most[at] = softmax_ref(most[i]);
        out.inv[at] = 1.f / sum[i];
        out.c[at] = c[i] / sum[i];
    }
}

/* p and ds of this thread's pairs, 0 where they do not see each other. */
CU_FN void pairs(const cu_attention_bwd_args &g, int h, int64_t m0, float scale, const bool (&in)[ROWS],
                 const float (&s)[ROWS], const float (&dp)[ROWS], float (&p)[ROWS], float (&ds)[ROWS])
{
    const stats st = stats_of(g);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        const int64_t at = (m0 + threadIdx.x / TILE + 8 * i) * g.Hq + h;
        p[i] = in[i] ? expf(s[i] * scale - st.most[at]) * st.inv[at] : 0.f;
        ds[i] = in[i] ? p[i] * (dp[i] - st.c[at]) : 0.f;
    }
}

/* acc[i][j] += Σ_r w(r, warp + 8 i)·x[r, column + lane + 32 j], `rows` of x; weights of 0 select. */
template <bool TRANSPOSED>
CU_FN void accumulate(const float (*w)[TILE + 1], const float *x, int64_t ld, int rows, int column, int A,
                      float (&acc)[ROWS][ROWS])
{
    const int lane = static_cast<int>(threadIdx.x) % TILE, warp = static_cast<int>(threadIdx.x) / TILE;
    for (int r = 0; r < rows; ++r) {
        float v[ROWS];
#pragma unroll
        for (int j = 0; j < ROWS; ++j) {
            const int e = column + lane + TILE * j;
            v[j] = e < A ? x[r * ld + e] : 0.f;
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const float f = TRANSPOSED ? w[r][warp + 8 * i] : w[warp + 8 * i][r];
            if (f != 0.f) {
#pragma unroll
                for (int j = 0; j < ROWS; ++j) acc[i][j] = fmaf(f, v[j], acc[i][j]);
            }
        }
    }
}

/* Rows row0 + warp + 8 i below `rows`, scaled, to [.., ld]. */
CU_FN void put(const float (&acc)[ROWS][ROWS], float scale, int64_t row0, int64_t rows, int column, int A, float *to,
               int64_t ld)
{
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < ROWS; ++j) {
            const int64_t r = row0 + threadIdx.x / TILE + 8 * i;
            const int e = column + static_cast<int>(threadIdx.x) % TILE + TILE * j;
            if (r < rows && e < A) to[r * ld + e] = scale * acc[i][j];
        }
}

CU_FN int rows_of(int64_t from, int64_t end)
{
    return end - from < TILE ? static_cast<int>(end - from) : static_cast<int>(TILE);
}

/* grid (tiles of queries, Hq, pieces of WIDTH columns) */
__global__ void __launch_bounds__(THREADS, 1) attention_dq_k(cu_attention_bwd_args g, float scale)
{
    SHARED(float, as, [TILE][TILE + 1]);
    SHARED(float, bs, [TILE][TILE + 1]);
    SHARED(float, w, [TILE][TILE + 1]);
    const tiles t = {as, bs};
    const int64_t m0 = static_cast<int64_t>(blockIdx.x) * TILE;
    const int64_t last = m0 + TILE < g.t.M ? m0 + TILE : g.t.M, keys = g.past + last;
    const int h = static_cast<int>(blockIdx.y), column = static_cast<int>(blockIdx.z) * WIDTH;
    const float *k = head_of(g.k, g.kv_head, h / (g.Hq / g.Hkv));
    float acc[ROWS][ROWS] = {};
    for (int64_t s0 = first_tile(g, m0); s0 < keys; s0 += TILE) {
        bool in[ROWS];
        float s[ROWS], dp[ROWS], p[ROWS], ds[ROWS];
        if (!tile_of(g, t, h, m0, s0, in, s, dp)) continue;
        pairs(g, h, m0, scale, in, s, dp, p, ds);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) w[threadIdx.x / TILE + 8 * i][threadIdx.x % TILE] = ds[i];
        __syncthreads();
        accumulate<false>(w, k + s0 * g.ldkv, g.ldkv, rows_of(s0, keys), column, g.A, acc);
        __syncthreads();
    }
    put(acc, scale, m0, g.t.M, column, g.A, g.dq + static_cast<int64_t>(h) * g.A, g.lddq);
}

/* Behind the last token that can see key s: the end of its row. */
CU_FN int64_t queries_end(const cu_attention_bwd_args &g, int64_t s)
{
    return s < g.past ? g.t.M : g.t.row_begin[g.t.row[s - g.past] + 1];
}

/* grid (tiles of keys, Hkv, pieces of WIDTH columns) */
__global__ void __launch_bounds__(THREADS, 1) attention_dkv_k(cu_attention_bwd_args g, float scale)
{
    SHARED(float, as, [TILE][TILE + 1]);
    SHARED(float, bs, [TILE][TILE + 1]);
    SHARED(float, wp, [TILE][TILE + 1]);
    SHARED(float, ws, [TILE][TILE + 1]);
    const tiles t = {as, bs};
    const int64_t s0 = static_cast<int64_t>(blockIdx.x) * TILE, keys = g.past + static_cast<int64_t>(g.t.M);
    const int64_t last = s0 + TILE < keys ? s0 + TILE : keys, end = queries_end(g, last - 1);
    const int kv = static_cast<int>(blockIdx.y), column = static_cast<int>(blockIdx.z) * WIDTH, group = g.Hq / g.Hkv;
    const int64_t width = static_cast<int64_t>(g.Hq) * g.A, from = s0 < g.past ? 0 : (s0 - g.past) / TILE * TILE;
    float dk[ROWS][ROWS] = {}, dv[ROWS][ROWS] = {};
    for (int h = kv * group; h < (kv + 1) * group; ++h) {
        const int64_t at = static_cast<int64_t>(h) * g.A;
        for (int64_t m0 = from; m0 < end; m0 += TILE) {
            bool in[ROWS];
            float s[ROWS], dp[ROWS], p[ROWS], ds[ROWS];
            if (!tile_of(g, t, h, m0, s0, in, s, dp)) continue;
            pairs(g, h, m0, scale, in, s, dp, p, ds);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                wp[threadIdx.x / TILE + 8 * i][threadIdx.x % TILE] = p[i];
                ws[threadIdx.x / TILE + 8 * i][threadIdx.x % TILE] = ds[i];
            }
            __syncthreads();
            const int n = rows_of(m0, g.t.M);
            accumulate<true>(ws, g.q + m0 * g.ldq + at, g.ldq, n, column, g.A, dk);
            accumulate<true>(wp, g.dout + m0 * width + at, width, n, column, g.A, dv);
            __syncthreads();
        }
    }
    if (g.dk) put(dk, scale, s0, keys, column, g.A, g.dk + kv * g.dkv_head, g.lddkv);
    if (g.dv) put(dv, 1.f, s0, keys, column, g.A, g.dv + kv * g.dkv_head, g.lddkv);
}

} // namespace

size_t cu_attention_bwd_scratch(const cu_attention_bwd_args *a)
{
    return 3 * static_cast<size_t>(a->t.M) * static_cast<size_t>(a->Hq) * sizeof(float);
}

fh1_status cu_attention_bwd(cu_ctx *k, const cu_attention_bwd_args *a)
{
    const float scale = attention_scale(a->A);
    const int64_t keys = a->past + static_cast<int64_t>(a->t.M);
    const unsigned queries = static_cast<unsigned>((a->t.M + TILE - 1) / TILE);
    const unsigned pieces = static_cast<unsigned>((a->A + WIDTH - 1) / WIDTH);
    const unsigned hq = static_cast<unsigned>(a->Hq), hkv = static_cast<unsigned>(a->Hkv);
    if (queries) {
        LAUNCH(attention_stats_bwd_k, dim3(queries, hq), THREADS, 0, k->stream, *a, scale);
        FH1_TRY(cu_launched("attention_stats_bwd"));
    }
    if (queries && a->dq) {
        LAUNCH(attention_dq_k, dim3(queries, hq, pieces), THREADS, 0, k->stream, *a, scale);
        FH1_TRY(cu_launched("attention_dq"));
    }
    if (!keys || (!a->dk && !a->dv)) return NULL;
    const unsigned tiles_of_keys = static_cast<unsigned>((keys + TILE - 1) / TILE);
    LAUNCH(attention_dkv_k, dim3(tiles_of_keys, hkv, pieces), THREADS, 0, k->stream, *a, scale);
    return cu_launched("attention_dkv");
}

} // namespace CU_NS
