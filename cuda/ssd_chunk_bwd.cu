/* The scan's backward pass inside one chunk, from the state S before it and the derivative dS by the state after it.
 * Over one segment of tokens, with L_ij = exp(c_i - c_j) for j <= i, else 0, e = dy, and the group's B and C:
 *   X_ij = L_ij (C_i·B_j),   Y_ij = L_ij dt_j (e_i·x_j)
 *   z_j = Σ_i X_ij e_i + out_j·dS B_j,                       dx_j = dt_j z_j + D e_j,  ddt_j = x_j·z_j + A q_j
 *   dC_i = Σ_j Y_ij B_j + in_i·Sᵀ e_i,   dB_j = Σ_i Y_ij C_i + dt_j out_j·dSᵀ x_j
 * where in_i = exp(c_i) if the segment goes on from before the chunk, out_j = exp(c_end - c_j) if it reaches its end,
 * else 0 (and S or dS is not looked at). q_t = a_t⟨dS_t, S_{t-1}⟩ holds every way from a token before t to one from t
 * on: q_t = Σ_{j<t<=i} X_ij dt_j (e_i·x_j) + Σ_{i>=t} in_i C_i·Sᵀe_i + Σ_{j<t} dt_j out_j x_j·dS B_j + exp(c_end)⟨dS,
 * S⟩ summed as it stands, without differences: prefixes along rows, then along columns. A block has up to four heads of
 * one group, one after the other, and the products C·B in registers for all of them. */
#include "cuda/ssd_bwd.cuh"

#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

constexpr int THREADS = SSD_BWD_THREADS, CHUNK = SSD_BWD_CHUNK, LD = SSD_BWD_LD, ROW = 17;

struct tiles {
    float *a, *b, *X, *Y; /* [64, LD] each */
    double *c;
    float *dt, *in, *out;  /* [64] */
    float *from_S, *to_dS; /* [64] the second and third sum of q */
    float *ddt, *quarter;  /* [64], [4, 64] */
    float *row, *red;      /* [64, 17], [32] */
};

size_t __host__ __device__ carve(tiles *s, unsigned char *base)
{
    cu_carve c(base);
    s->c = c.take<double>(CHUNK);
    s->a = c.take<float>(SSD_BWD_TILE), s->b = c.take<float>(SSD_BWD_TILE);
    s->X = c.take<float>(SSD_BWD_TILE), s->Y = c.take<float>(SSD_BWD_TILE);
    s->dt = c.take<float>(CHUNK), s->in = c.take<float>(CHUNK), s->out = c.take<float>(CHUNK);
    s->from_S = c.take<float>(CHUNK), s->to_dS = c.take<float>(CHUNK);
    s->ddt = c.take<float>(CHUNK), s->quarter = c.take<float>(4 * CHUNK);
    s->row = c.take<float>(CHUNK * ROW), s->red = c.take<float>(32);
    return c.off;
}

/* A segment of one chunk: n tokens from t0 on. */
struct segment {
    int64_t t0, at;
    int n;
    bool goes_on, reaches_end; /* sees S; is seen by dS */
    int h, g;
    const float *S, *dS; /* [P, N] of the head */
    ssd_bwd_place l;
};

typedef float quad[4][4];

CU_FN void clear(quad &v)
{
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int q = 0; q < 4; ++q) v[r][q] = 0.f;
}

/* What the 16 threads of a row of the tile have of it is added to to[row], in their order. Between two calls
 * there is a barrier, and one before `to` is read. */
CU_FN void add_row_sums(const tiles &s, const float (&v)[4], const ssd_bwd_place &l, float *to)
{
#pragma unroll
    for (int r = 0; r < 4; ++r) s.row[(l.i + r) * ROW + l.j / 4] = v[r];
    __syncthreads();
    if (threadIdx.x >= CHUNK) return;
    float sum = to[threadIdx.x];
#pragma unroll
    for (int q = 0; q < 16; ++q) sum += s.row[threadIdx.x * ROW + q];
    to[threadIdx.x] = sum;
}

/* C·B of the segment's tokens, [i,j]. */
CU_FN void scores(const cu_ssd_scan_bwd_args &a, const tiles &s, const segment &m, quad &CB)
{
    clear(CB);
    for (int n0 = 0; n0 < a.N; n0 += 64) {
        __syncthreads();
        ssd_bwd_columns(s.a, ssd_bwd_C(a, m.t0, m.g) + n0, a.ldx, m.n, a.N - n0);
        ssd_bwd_columns(s.b, ssd_bwd_B(a, m.t0, m.g) + n0, a.ldx, m.n, a.N - n0);
        __syncthreads();
        ssd_bwd_multiply(s.a, s.b, a.N - n0, m.l, CB);
    }
}

/* Steps and decays of one head. */
CU_FN void decays(const cu_ssd_scan_bwd_args &a, const tiles &s, const segment &m)
{
    const int i = static_cast<int>(threadIdx.x);
    __syncthreads();
    ssd_bwd_steps(a, m.t0, m.n, m.h, s.dt);
    __syncthreads();
    ssd_bwd_sums(s.dt, a.A[m.h], m.n, s.c);
    __syncthreads();
    if (i >= CHUNK) return;
    s.in[i] = m.goes_on && i < m.n ? expf(static_cast<float>(s.c[i])) : 0.f;
    s.out[i] = m.reaches_end && i < m.n ? expf(static_cast<float>(s.c[m.n - 1] - s.c[i])) : 0.f;
    s.from_S[i] = s.to_dS[i] = s.ddt[i] = 0.f;
}

/* X and Y to their tiles. Returns this thread's share of dD. */
CU_FN float pairs(const cu_ssd_scan_bwd_args &a, const tiles &s, const segment &m, const quad &CB)
{
    quad ex = {};
    for (int p0 = 0; p0 < a.P; p0 += 64) {
        __syncthreads();
        ssd_bwd_columns(s.a, ssd_bwd_dy(a, m.t0, m.h) + p0, static_cast<int64_t>(a.H) * a.P, m.n, a.P - p0);
        ssd_bwd_columns(s.b, ssd_bwd_x(a, m.t0, m.h) + p0, a.ldx, m.n, a.P - p0);
        __syncthreads();
        ssd_bwd_multiply(s.a, s.b, a.P - p0, m.l, ex);
    }
    float dD = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int i = m.l.i + r, j = m.l.j + q;
            const bool seen = j <= i && i < m.n;
            const float L = seen ? expf(static_cast<float>(s.c[i] - s.c[j])) : 0.f;
            const float X = seen ? L * CB[r][q] : 0.f, Y = seen ? L * (s.dt[j] * ex[r][q]) : 0.f;
            s.X[i * LD + j] = X, s.Y[i * LD + j] = Y;
            if (i == j) dD += ex[r][q];
        }
    return dD;
}

/* x of the thread's row r of the tile; read where it is needed, registers are short. */
CU_FN float input(const cu_ssd_scan_bwd_args &a, const segment &m, int r, int p)
{
    return m.l.i + r < m.n && p < a.P ? ssd_bwd_x(a, m.t0 + m.l.i + r, m.h)[p] : 0.f;
}

/* dx, and x·z for ddt; the share of q that goes through dS. */
CU_FN void inputs(const cu_ssd_scan_bwd_args &a, const tiles &s, const segment &m)
{
    const ssd_bwd_place &l = m.l;
    for (int p0 = 0; p0 < a.P; p0 += 64) {
        quad z = {};
        for (int n0 = 0; n0 < a.N && m.reaches_end; n0 += 64) {
            __syncthreads();
            ssd_bwd_columns(s.a, ssd_bwd_B(a, m.t0, m.g) + n0, a.ldx, m.n, a.N - n0);
            ssd_bwd_columns(s.b, m.dS + static_cast<int64_t>(p0) * a.N + n0, a.N, a.P - p0, a.N - n0);
            __syncthreads();
            ssd_bwd_multiply(s.a, s.b, a.N - n0, l, z);
        }
        float sum[4] = {};
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                z[r][q] *= s.out[l.i + r];
                sum[r] = fmaf(input(a, m, r, p0 + l.j + q), z[r][q], sum[r]);
            }
#pragma unroll
        for (int r = 0; r < 4; ++r) sum[r] *= s.dt[l.i + r];
        if (m.reaches_end) add_row_sums(s, sum, l, s.to_dS); /* behind the barriers above */
        __syncthreads();
        ssd_bwd_rows(s.b, ssd_bwd_dy(a, m.t0, m.h) + p0, static_cast<int64_t>(a.H) * a.P, m.n, a.P - p0);
        __syncthreads();
        ssd_bwd_multiply(s.X, s.b, m.n, l, z);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            sum[r] = 0;
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                sum[r] = fmaf(input(a, m, r, p0 + l.j + q), z[r][q], sum[r]);
                if (a.dxbc && l.i + r < m.n && p0 + l.j + q < a.P)
                    a.dxbc[(m.t0 + l.i + r) * a.lddx + static_cast<int64_t>(m.h) * a.P + p0 + l.j + q] =
                        fmaf(s.dt[l.i + r], z[r][q], a.D[m.h] * s.b[(l.i + r) * LD + l.j + q]);
            }
        }
        add_row_sums(s, sum, l, s.ddt);
    }
}

/* Where a block's share of dB or dC goes, and how far tokens lie apart. */
struct share {
    float *to;
    int64_t ld;
    bool add; /* to what heads before this one left */
};

CU_FN void put(const segment &m, const share &w, int n0, int N, const quad &v)
{
    if (!w.to) return;
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int n = n0 + m.l.j + q;
            if (m.l.i + r >= m.n || n >= N) continue;
            float *to = w.to + (m.t0 + m.l.i + r) * w.ld + n;
            *to = w.add ? *to + v[r][q] : v[r][q];
        }
}

/* dC, and the share of q that comes from S. */
CU_FN void outputs(const cu_ssd_scan_bwd_args &a, const tiles &s, const segment &m, const share &w)
{
    const ssd_bwd_place &l = m.l;
    for (int n0 = 0; n0 < a.N; n0 += 64) {
        quad d = {};
        for (int p0 = 0; p0 < a.P && m.goes_on; p0 += 64) {
            __syncthreads();
            ssd_bwd_columns(s.a, ssd_bwd_dy(a, m.t0, m.h) + p0, static_cast<int64_t>(a.H) * a.P, m.n, a.P - p0);
            ssd_bwd_rows(s.b, m.S + static_cast<int64_t>(p0) * a.N + n0, a.N, a.P - p0, a.N - n0);
            __syncthreads();
            ssd_bwd_multiply(s.a, s.b, a.P - p0, l, d);
        }
        float sum[4] = {};
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                d[r][q] *= s.in[l.i + r];
                if (m.goes_on && l.i + r < m.n && n0 + l.j + q < a.N)
                    sum[r] = fmaf(ssd_bwd_C(a, m.t0 + l.i + r, m.g)[n0 + l.j + q], d[r][q], sum[r]);
            }
        if (m.goes_on) add_row_sums(s, sum, l, s.from_S); /* behind the barriers above */
        __syncthreads();
        ssd_bwd_rows(s.b, ssd_bwd_B(a, m.t0, m.g) + n0, a.ldx, m.n, a.N - n0);
        __syncthreads();
        ssd_bwd_multiply_rows(s.Y, s.b, m.n, l, d);
        put(m, w, n0, a.N, d);
    }
}

/* dB */
CU_FN void keys(const cu_ssd_scan_bwd_args &a, const tiles &s, const segment &m, const share &w)
{
    const ssd_bwd_place &l = m.l;
    for (int n0 = 0; n0 < a.N; n0 += 64) {
        quad d = {};
        for (int p0 = 0; p0 < a.P && m.reaches_end; p0 += 64) {
            __syncthreads();
            ssd_bwd_columns(s.a, ssd_bwd_x(a, m.t0, m.h) + p0, a.ldx, m.n, a.P - p0);
            ssd_bwd_rows(s.b, m.dS + static_cast<int64_t>(p0) * a.N + n0, a.N, a.P - p0, a.N - n0);
            __syncthreads();
            ssd_bwd_multiply(s.a, s.b, a.P - p0, l, d);
        }
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int q = 0; q < 4; ++q) d[r][q] *= s.out[l.i + r] * s.dt[l.i + r];
        __syncthreads();
        ssd_bwd_rows(s.b, ssd_bwd_C(a, m.t0, m.g) + n0, a.ldx, m.n, a.N - n0);
        __syncthreads();
        ssd_bwd_multiply(s.Y, s.b, m.n, l, d);
        put(m, w, n0, a.N, d);
    }
}

/* exp(c_end)⟨dS, S⟩, the same in every thread. */
CU_FN float through(const cu_ssd_scan_bwd_args &a, const tiles &s, const segment &m)
{
    float sum = 0;
    if (m.goes_on && m.reaches_end)
        for (int64_t e = threadIdx.x; e < static_cast<int64_t>(a.P) * a.N; e += THREADS)
            sum = fmaf(m.dS[e], m.S[e], sum);
    return block_sum(sum, s.red) * s.in[m.n - 1];
}

/* W_ij = X_ij dt_j (e_i·x_j) = Y_ij (C_i·B_j) below the diagonal into the tile of X, each row the sums of the columns
 * before. */
CU_FN void prefixes(const tiles &s, const segment &m, const quad &CB)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int i = m.l.i + r, j = m.l.j + q;
            s.X[i * LD + j] = j < i && i < m.n ? s.Y[i * LD + j] * CB[r][q] : 0.f;
        }
    __syncthreads();
    for (int i = warp; i < m.n; i += THREADS / 32) {
        float2 *row = reinterpret_cast<float2 *>(s.X + i * LD) + lane;
        const float2 v = *row;
        float sum = v.x + v.y;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const float below = __shfl_up_sync(0xffffffffu, sum, o);
            if (lane >= o) sum += below;
        }
        float before = __shfl_up_sync(0xffffffffu, sum, 1);
        if (lane == 0) before = 0.f;
        *row = make_float2(before, before + v.x);
    }
    __syncthreads();
}

/* ddt, and the chunk's shares of dA and dD. */
CU_FN void steps(const cu_ssd_scan_bwd_args &a, const ssd_bwd_space &w, const tiles &s, const segment &m,
                 const quad &CB, float dD)
{
    const float whole = through(a, s, m);
    prefixes(s, m, CB);
    const int t = threadIdx.x & 63, piece = threadIdx.x >> 6;
    float sum = 0;
    for (int i = 16 * piece; i < 16 * piece + 16 && i < m.n; ++i) {
        if (i >= t) sum += s.X[i * LD + t] + s.from_S[i];
        else sum += s.to_dS[i];
    }
    s.quarter[piece * CHUNK + t] = sum;
    __syncthreads();
    float share = 0;
    if (piece == 0 && t < m.n) {
        const float q =
            s.quarter[t] + s.quarter[CHUNK + t] + s.quarter[2 * CHUNK + t] + s.quarter[3 * CHUNK + t] + whole;
        if (a.ddt) a.ddt[(m.t0 + t) * a.H + m.h] = fmaf(a.A[m.h], q, s.ddt[t]);
        share = s.dt[t] * q;
    }
    share = block_sum(share, s.red);
    dD = block_sum(dD, s.red);
    if (threadIdx.x == 0) w.dA[m.at * a.H + m.h] += share, w.dD[m.at * a.H + m.h] += dD;
}

CU_FN void one_head(const cu_ssd_scan_bwd_args &a, const ssd_bwd_space &w, const tiles &s, const segment &m,
                    const quad &CB, const share &dB, const share &dC)
{
    decays(a, s, m);
    const float dD = pairs(a, s, m, CB);
    inputs(a, s, m);
    outputs(a, s, m, dC);
    keys(a, s, m, dB);
    steps(a, w, s, m, CB, dD);
}

/* grid (parts · G, chunks of a row, rows) */
__global__ void __launch_bounds__(THREADS, 2) ssd_chunk_bwd(cu_ssd_scan_bwd_args a, ssd_bwd_space w)
{
    DYN_SMEM(base);
    tiles s;
    carve(&s, base);
    const ssd_bwd_span span = ssd_bwd_span_of(a, static_cast<int>(blockIdx.z), blockIdx.y);
    if (span.begin >= span.end) return;
    const int g = static_cast<int>(blockIdx.x) % a.G, part = static_cast<int>(blockIdx.x) / a.G, heads = a.H / a.G;
    const int first = part * SSD_BWD_HEADS, last = min(first + SSD_BWD_HEADS, heads);
    const int64_t GN = static_cast<int64_t>(a.G) * a.N, at = part * a.t.M * GN + static_cast<int64_t>(g) * a.N;
    float *own = a.dxbc ? a.dxbc + static_cast<int64_t>(a.H) * a.P + static_cast<int64_t>(g) * a.N : nullptr;
    for (int64_t t0 = span.begin, t1; t0 < span.end; t0 = t1) {
        t1 = ssd_bwd_segment(a, t0, span.end);
        segment m = {t0,      span.at, static_cast<int>(t1 - t0), a.t.start[t0] < t0, t1 == span.end, 0, g,
                     nullptr, nullptr, ssd_bwd_place_of()};
        quad CB;
        scores(a, s, m, CB);
        for (int i = first; i < last; ++i) {
            m.h = g * heads + i;
            m.S = w.state + (span.at * a.H + m.h) * a.P * static_cast<int64_t>(a.N);
            m.dS = w.dstate + (span.at * a.H + m.h) * a.P * static_cast<int64_t>(a.N);
            const bool alone = w.parts == 1;
            const share dB = {alone ? own : w.dB + at, alone ? a.lddx : GN, i > first};
            const share dC = {alone ? own ? own + GN : nullptr : w.dC + at, alone ? a.lddx : GN, i > first};
            one_head(a, w, s, m, CB, dB, dC);
        }
    }
}

} // namespace

fh1_status cu_ssd_chunk_bwd(cu_ctx *k, const cu_ssd_scan_bwd_args *a, const ssd_bwd_space *w)
{
    const dim3 grid(static_cast<unsigned>(w->parts * a->G), static_cast<unsigned>((a->t.longest + CHUNK - 1) / CHUNK),
                    static_cast<unsigned>(a->t.B));
    tiles s;
    const size_t bytes = carve(&s, nullptr);
    CU_TRY(cudaFuncSetAttribute(ssd_chunk_bwd, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
           "the shared memory of ssd_chunk_bwd");
    LAUNCH(ssd_chunk_bwd, grid, THREADS, bytes, k->stream, *a, *w);
    return cu_launched("ssd_chunk_bwd");
}

} // namespace CU_NS
