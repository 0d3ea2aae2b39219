/* Backward of the scan. With e_t = dy_t, a_t = exp(dt_t·A), S_t the states of the forward pass, all per row and head:
 *   dS_t = e_t ⊗ C_t + a_{t+1}·dS_{t+1}          + dstate_out at the last token
 *   dC_t = S_tᵀ e_t,  dB_t = dt_t·dS_tᵀ x_t      summed over the heads of the group
 *   dx_t = dt_t·dS_t B_t + D·e_t,                dD += Σ e·x
 *   ddt_t = x_tᵀ dS_t B_t + A·q_t,               q_t = a_t·⟨dS_t, S_{t-1}⟩
 *   dA_log += A·Σ dt_t·q_t,                      dstate = a_0·dS_0
 * Nothing passes the first token of a document, in either direction: it is selected away, not multiplied by zero.
 *
 * Four steps: what each chunk adds to the state after it and to the derivative by the state before it, if those on the
 * other side were zero; a pass over the chunks of a row in both directions, which leaves the states themselves; each
 * chunk from the states on both sides (ssd_chunk_bwd.cu); sums over blocks and over chunks, in order. */
#include "cuda/ssd_bwd.cuh"

#include "cuda/ordered_sum.cuh"

namespace CU_NS
{
namespace
{

constexpr int THREADS = SSD_BWD_THREADS, CHUNK = SSD_BWD_CHUNK, AHEAD = 4; /* chunks read before they are needed */

CU_FN int64_t element(const cu_ssd_scan_bwd_args &a, int64_t at, int h)
{
    return (at * a.H + h) * a.P * static_cast<int64_t>(a.N);
}

/* A tile of [P, N] to memory. */
CU_FN void store_tile(const cu_ssd_scan_bwd_args &a, float *to, int p0, int n0, const ssd_bwd_place &l,
                      const float (&v)[4][4])
{
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int p = p0 + l.i + r, n = n0 + l.j + q;
            if (p < a.P && n < a.N) to[static_cast<int64_t>(p) * a.N + n] = v[r][q];
        }
}

/* The rows of a tile times `scale`; rows whose scale is 0 must not be looked at. */
CU_FN void scaled_rows(float *to, const float *from, int64_t ld, const float *scale, int columns)
{
#pragma unroll 4
    for (int e = static_cast<int>(threadIdx.x); e < 64 * 64; e += THREADS) {
        const int r = e >> 6, c = e & 63;
        to[r * SSD_BWD_LD + c] = scale[r] != 0.f && c < columns ? from[r * ld + c] * scale[r] : 0.f;
    }
}

/* One tile of both: Σ_j exp(c_end - c_j) dt_j x_j ⊗ B_j over the last segment, Σ_i exp(c_i) e_i ⊗ C_i over the first
 * one where that goes on. grid (tiles of P · tiles of N · H, chunks of a row, rows) */
__global__ void __launch_bounds__(THREADS, 3) ssd_bwd_ends(cu_ssd_scan_bwd_args a, ssd_bwd_space w)
{
    SHARED(float, left, [SSD_BWD_TILE]);
    SHARED(float, right, [SSD_BWD_TILE]);
    SHARED(float, dt, [CHUNK]);
    SHARED(float, scale, [2][CHUNK]);
    SHARED(double, c, [CHUNK]);
    const ssd_bwd_span s = ssd_bwd_span_of(a, static_cast<int>(blockIdx.z), blockIdx.y);
    if (s.begin >= s.end) return;
    const int tiles_n = (a.N + 63) / 64, h = static_cast<int>(blockIdx.x) % a.H;
    const int tile = static_cast<int>(blockIdx.x) / a.H, p0 = 64 * (tile / tiles_n), n0 = 64 * (tile % tiles_n);
    const int g = h / (a.H / a.G), n = static_cast<int>(s.end - s.begin), i = static_cast<int>(threadIdx.x);
    const int64_t last = a.t.start[s.end - 1];
    ssd_bwd_steps(a, s.begin, n, h, dt);
    __syncthreads();
    ssd_bwd_sums(dt, a.A[h], n, c);
    __syncthreads();
    if (i < CHUNK) {
        const bool in = i < n;
        scale[0][i] = in && s.begin + i >= last ? expf(static_cast<float>(c[n - 1] - c[i])) * dt[i] : 0.f;
        scale[1][i] = in && a.t.start[s.begin + i] < s.begin ? expf(static_cast<float>(c[i])) : 0.f;
    }
    if (tile == 0 && i == 0) w.left[s.at * a.H + h] = last < s.begin ? expf(static_cast<float>(c[n - 1])) : -1.f;
    __syncthreads();
    const ssd_bwd_place l = ssd_bwd_place_of();
    float sum[4][4] = {};
    scaled_rows(left, ssd_bwd_x(a, s.begin, h) + p0, a.ldx, scale[0], a.P - p0);
    ssd_bwd_rows(right, ssd_bwd_B(a, s.begin, g) + n0, a.ldx, n, a.N - n0);
    __syncthreads();
    const int skip = last > s.begin ? static_cast<int>(last - s.begin) : 0;
    ssd_bwd_multiply(left + skip * SSD_BWD_LD, right + skip * SSD_BWD_LD, n - skip, l, sum);
    store_tile(a, w.state + element(a, s.at, h), p0, n0, l, sum);
    __syncthreads();
    const int64_t first = a.t.start[s.begin] < s.begin ? ssd_bwd_segment(a, s.begin, s.end) - s.begin : 0;
    scaled_rows(left, ssd_bwd_dy(a, s.begin, h) + p0, static_cast<int64_t>(a.H) * a.P, scale[1], a.P - p0);
    ssd_bwd_rows(right, ssd_bwd_C(a, s.begin, g) + n0, a.ldx, n, a.N - n0);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[r][q] = 0.f;
    ssd_bwd_multiply(left, right, first, l, sum);
    store_tile(a, w.dstate + element(a, s.at, h), p0, n0, l, sum);
}

CU_FN float carry(float S, float left, float add)
{
    return left < 0.f ? add : fmaf(left, S, add);
}

/* What `sum` holds for each chunk is exchanged for what comes in, chunks from `at` on, `step` apart; returns what comes
 * out at last. */
CU_FN float exchange(const cu_ssd_scan_bwd_args &a, const ssd_bwd_space &w, float *sum, int64_t at, int64_t step,
                     int64_t chunks, int h, int64_t e, float S)
{
    for (int64_t i0 = 0; i0 < chunks; i0 += AHEAD) {
        float add[AHEAD], left[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (i0 + i < chunks) {
                const int64_t now = at + (i0 + i) * step;
                add[i] = sum[element(a, now, h) + e], left[i] = w.left[now * a.H + h];
            }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (i0 + i < chunks) {
                sum[element(a, at + (i0 + i) * step, h) + e] = S;
                S = carry(S, left[i], add[i]);
            }
    }
    return S;
}

/* An element of the state a thread, over all chunks of the row. grid (P·N / THREADS, H, rows) */
__global__ void __launch_bounds__(THREADS) ssd_bwd_carry(cu_ssd_scan_bwd_args a, ssd_bwd_space w)
{
    const int row = static_cast<int>(blockIdx.z), h = static_cast<int>(blockIdx.y);
    const int64_t e = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (e >= static_cast<int64_t>(a.P) * a.N) return;
    const int64_t begin = a.t.row_begin[row], end = a.t.row_begin[row + 1];
    const int64_t at = begin / CHUNK + row, chunks = (end - begin + CHUNK - 1) / CHUNK;
    const bool goes_on = begin < end && a.t.start[begin] < 0;
    const int slot = a.slot ? a.slot[row] : row;
    (void)exchange(a, w, w.state, at, 1, chunks, h, e, a.state && goes_on ? a.state[element(a, slot, h) + e] : 0.f);
    const float after = a.dstate_out ? a.dstate_out[element(a, row, h) + e] : 0.f;
    const float before = exchange(a, w, w.dstate, at + chunks - 1, -1, chunks, h, e, after);
    if (a.dstate) a.dstate[element(a, row, h) + e] = before;
}

/* dB and dC of one token and group, from the blocks' shares. */
__global__ void __launch_bounds__(THREADS) ssd_bwd_groups(cu_ssd_scan_bwd_args a, ssd_bwd_space w)
{
    const int64_t row = static_cast<int64_t>(a.G) * a.N, all = a.t.M * row;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= all) return;
    const int64_t t = i / row, e = i - t * row;
    float *to = a.dxbc + t * a.lddx + static_cast<int64_t>(a.H) * a.P + e;
    float B = w.dB[i], C = w.dC[i];
    for (int part = 1; part < w.parts; ++part) B += w.dB[part * all + i], C += w.dC[part * all + i];
    to[0] = B, to[row] = C;
}

__global__ void __launch_bounds__(THREADS) ssd_bwd_heads(cu_ssd_scan_bwd_args a, ssd_bwd_space w)
{
    const int h = static_cast<int>(blockIdx.x * THREADS + threadIdx.x);
    if (h >= a.H) return;
    const double dA = ordered_sum(w.dA + h, w.chunks, a.H), dD = ordered_sum(w.dD + h, w.chunks, a.H);
    if (a.dA_log) a.dA_log[h] = static_cast<float>(a.dA_log[h] + a.A[h] * dA);
    if (a.dD) a.dD[h] = static_cast<float>(a.dD[h] + dD);
}

unsigned blocks(int64_t n)
{
    return static_cast<unsigned>((n + THREADS - 1) / THREADS);
}

fh1_status ends(cu_ctx *k, const cu_ssd_scan_bwd_args &a, const ssd_bwd_space &w)
{
    const int64_t tiles = static_cast<int64_t>((a.P + 63) / 64) * ((a.N + 63) / 64) * a.H;
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>((a.t.longest + CHUNK - 1) / CHUNK),
                    static_cast<unsigned>(a.t.B));
    LAUNCH(ssd_bwd_ends, grid, THREADS, 0, k->stream, a, w);
    return cu_launched("ssd_bwd_ends");
}

fh1_status sums(cu_ctx *k, const cu_ssd_scan_bwd_args &a, const ssd_bwd_space &w)
{
    if (w.parts > 1 && a.dxbc) {
        LAUNCH(ssd_bwd_groups, blocks(static_cast<int64_t>(a.t.M) * a.G * a.N), THREADS, 0, k->stream, a, w);
        FH1_TRY(cu_launched("ssd_bwd_groups"));
    }
    if (!a.dA_log && !a.dD) return NULL;
    LAUNCH(ssd_bwd_heads, blocks(a.H), THREADS, 0, k->stream, a, w);
    return cu_launched("ssd_bwd_heads");
}

} // namespace

size_t ssd_bwd_cut(const cu_ssd_scan_bwd_args *a, ssd_bwd_space *w)
{
    const size_t H = static_cast<size_t>(a->H), M = static_cast<size_t>(a->t.M);
    const size_t state = H * static_cast<size_t>(a->P) * static_cast<size_t>(a->N);
    const size_t GN = static_cast<size_t>(a->G) * static_cast<size_t>(a->N);
    const int heads = a->H / a->G;
    w->chunks = a->t.M / CHUNK + a->t.B;
    w->parts = (heads + SSD_BWD_HEADS - 1) / SSD_BWD_HEADS;
    const size_t chunks = static_cast<size_t>(w->chunks), shares = w->parts > 1 ? w->parts * M * GN : 0;
    float *p = a->scratch;
    size_t n = 0;
    const struct {
        float **at;
        size_t n;
    } piece[] = {{&w->state, chunks * state},
                 {&w->dstate, chunks * state},
                 {&w->dA, chunks * H},
                 {&w->dD, chunks * H},
                 {&w->left, chunks * H},
                 {&w->dB, shares},
                 {&w->dC, shares}};
    for (const auto &i : piece) {
        *i.at = p ? p + n : nullptr;
        n += i.n;
    }
    return n * sizeof(float);
}

size_t cu_ssd_scan_bwd_scratch(const cu_ssd_scan_bwd_args *a)
{
    ssd_bwd_space w;
    return a->H == 0 || a->P == 0 ? 0 : ssd_bwd_cut(a, &w);
}

fh1_status cu_ssd_scan_bwd(cu_ctx *k, const cu_ssd_scan_bwd_args *a)
{
    if (a->H == 0 || a->P == 0 || a->t.B == 0) return NULL;
    ssd_bwd_space w;
    ssd_bwd_cut(a, &w);
    if (a->t.M > 0) {
        const size_t bytes = 2 * static_cast<size_t>(w.chunks) * static_cast<size_t>(a->H) * sizeof(float);
        CU_TRY(cudaMemsetAsync(w.dA, 0, bytes, k->stream), "the sums of ssd_scan_bwd"); /* nobody's chunks too */
        FH1_TRY(ends(k, *a, w));
    }
    const dim3 grid(blocks(static_cast<int64_t>(a->P) * a->N), static_cast<unsigned>(a->H),
                    static_cast<unsigned>(a->t.B));
    if (a->N > 0 && (a->t.M > 0 || a->dstate)) {
        LAUNCH(ssd_bwd_carry, grid, THREADS, 0, k->stream, *a, w);
        FH1_TRY(cu_launched("ssd_bwd_carry"));
    }
    if (a->t.M == 0) return NULL;
    FH1_TRY(cu_ssd_chunk_bwd(k, a, &w));
    return sums(k, *a, w);
}

} // namespace CU_NS
