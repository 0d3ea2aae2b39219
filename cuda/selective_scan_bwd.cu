/* Backward of the selective scan. With e_t = dy_t, a_t = exp(dt_t·A), S_t the states of the forward pass, per row and
 * channel, [N] each:
 *   dS_t = e_t·C_t + a_{t+1}·dS_{t+1}            + dstate_out at the last token
 *   dC_t = Σ_i S_t e_t,   dB_t = Σ_i dt_t x_t dS_t,   dx_t = dt_t·Σ_n dS_t B_t + D e_t,   dD += Σ e x
 *   ddt_t = x_t·Σ_n dS_t B_t + Σ_n A q_t,   q_t = a_t dS_t S_{t-1},   dA_log += A·Σ_t dt_t q_t,   dstate = a_0 dS_0
 * Nothing passes the first token of a document, in either direction: it is selected away.
 *
 * Three steps: the forward kernel leaves the states before every few tokens; then a block walks back over the tokens of
 * a row with a few channels, from one of those states to the next: forward again, the states of the few tokens in
 * registers, and back; its channels' shares of dB and dC, and rows' shares of dA and dD, are added up in order. */
#include "cuda/backward.cuh"
#include "cuda/ordered_sum.cuh"
#include "cuda/selective_tile.cuh"

namespace CU_NS
{
namespace
{

constexpr int THREADS = CU_SELECTIVE_THREADS, WARPS = THREADS / 32;

/* The scratch, in floats. */
struct space {
    int64_t marks, parts; /* states kept; blocks that share the channels */
    float *mark;          /* [marks, I, N] */
    float *dB, *dC;       /* [parts, M, N] */
    float *dA, *dD;       /* [B, I, N], [B, I] */
};

/* The few tokens between two marks. */
template <typename CUT> struct few {
    static constexpr int CHANNELS = THREADS / CUT::LANES, WIDTH = CUT::LANES * CUT::PER;
    float (*B)[WIDTH], (*C)[WIDTH], (*x)[CHANNELS], (*dt)[CHANNELS], (*dy)[CHANNELS];
    int *fresh; /* the token begins a document */
};

template <typename CUT>
CU_FN void read_tokens(const cu_selective_scan_bwd_args &a, int64_t base, int n, int n0, const few<CUT> &s)
{
    constexpr int WIDTH = few<CUT>::WIDTH, CHANNELS = few<CUT>::CHANNELS;
    const int c0 = static_cast<int>(blockIdx.x) * CHANNELS, first = static_cast<int>(threadIdx.x);
    for (int e = first; e < n * WIDTH; e += THREADS) {
        const int t = e / WIDTH, c = e % WIDTH;
        const bool in = n0 + c < a.N;
        s.B[t][c] = in ? a.B[(base + t) * a.ldbc + n0 + c] : 0.f;
        s.C[t][c] = in ? a.C[(base + t) * a.ldbc + n0 + c] : 0.f;
    }
    for (int e = first; e < n * CHANNELS; e += THREADS) {
        const int t = e / CHANNELS, c = e % CHANNELS;
        const bool in = c0 + c < a.I;
        s.x[t][c] = in ? a.x[(base + t) * a.ldx + c0 + c] : 0.f;
        s.dt[t][c] = in ? a.dt[(base + t) * a.I + c0 + c] : 0.f;
        s.dy[t][c] = in ? a.dy[(base + t) * a.I + c0 + c] : 0.f;
    }
    if (first < n) s.fresh[first] = a.t.start[base + first] == base + first;
}

/* A thread: its columns and what it sums up over the tokens of the row. */
template <typename CUT> struct walker {
    selective_place<CUT> p;
    int columns, n0;
    float A[CUT::PER], dS[CUT::PER];
    double dA[CUT::PER], dD;
    float D;
};

/* before[t]: the state that token t finds. */
template <typename CUT>
CU_FN void forward(const few<CUT> &s, const walker<CUT> &w, int n, float (&S)[CUT::PER],
                   float (&before)[CUT::EVERY][CUT::PER])
{
#pragma unroll
    for (int t = 0; t < CUT::EVERY; ++t) {
#pragma unroll
        for (int i = 0; i < CUT::PER; ++i) before[t][i] = S[i];
        if (t + 1 >= n) continue; /* the last one's successor is nobody's */
        float B[CUT::PER];
        selective_columns<CUT>(s.B[t], w.p, B);
        const float dt = s.dt[t][w.p.local], in = dt * s.x[t][w.p.local];
        const bool fresh = s.fresh[t];
#pragma unroll
        for (int i = 0; i < CUT::PER; ++i)
            S[i] = fmaf(in, B[i], fresh ? 0.f : fast_exp2(dt * (w.A[i] * LOG2_E)) * S[i]);
    }
}

/* One token on the way back. dB and dC: this thread's shares; returns Σ dS·B and Σ A·q over its columns. */
template <typename CUT>
CU_FN float2 back(const few<CUT> &s, walker<CUT> &w, int t, const float (&before)[CUT::PER], float (&dB)[CUT::PER],
                  float (&dC)[CUT::PER])
{
    float B[CUT::PER], C[CUT::PER], by_B = 0, by_q = 0;
    selective_columns<CUT>(s.B[t], w.p, B);
    selective_columns<CUT>(s.C[t], w.p, C);
    const float dt = s.dt[t][w.p.local], x = s.x[t][w.p.local], e = s.dy[t][w.p.local], in = dt * x;
    const bool fresh = s.fresh[t];
#pragma unroll
    for (int i = 0; i < CUT::PER; ++i) {
        const float decay = fast_exp2(dt * (w.A[i] * LOG2_E)), kept = fresh ? 0.f : decay * before[i];
        w.dS[i] = fmaf(e, C[i], w.dS[i]);
        dC[i] = fmaf(in, B[i], kept) * e;
        dB[i] = w.dS[i] * in;
        if (selective_column<CUT>(w.p, i) < w.columns) { /* columns beside may hold inf·0 */
            const float q = fresh ? 0.f : w.dS[i] * kept;
            by_B = fmaf(w.dS[i], B[i], by_B);
            by_q = fmaf(w.A[i], q, by_q);
            w.dA[i] += static_cast<double>(dt) * q;
        }
        w.dS[i] = fresh ? 0.f : decay * w.dS[i];
    }
    w.dD += static_cast<double>(e) * x;
    return make_float2(by_B, by_q);
}

/* Shares of the channels of a warp, for the lanes of its first channel: to shared memory. */
template <typename CUT, int WIDTH>
CU_FN void share(const selective_place<CUT> &p, float (&v)[CUT::PER], float (*to)[CUT::EVERY][WIDTH], int t)
{
#pragma unroll
    for (int i = 0; i < CUT::PER; ++i)
#pragma unroll
        for (int o = CUT::LANES; o < 32; o <<= 1) v[i] += __shfl_xor_sync(0xffffffffu, v[i], o);
    if ((threadIdx.x & 31) >= CUT::LANES) return;
#pragma unroll
    for (int i = 0; i < CUT::PER; ++i) to[threadIdx.x >> 5][t][selective_column<CUT>(p, i)] = v[i];
}

/* dx and ddt of token t; later pieces of a wide state add to those of the first. */
template <typename CUT>
CU_FN void put_token(const cu_selective_scan_bwd_args &a, const few<CUT> &s, const walker<CUT> &w, int64_t base, int t,
                     float2 sums)
{
    const float by_B = selective_sum<CUT>(sums.x), by_q = selective_sum<CUT>(sums.y);
    if (w.p.part || !w.p.on) return;
    const float dt = s.dt[t][w.p.local], x = s.x[t][w.p.local];
    float *dx = a.dx ? a.dx + (base + t) * a.lddx + w.p.channel : nullptr;
    float *ddt = a.ddt ? a.ddt + (base + t) * a.I + w.p.channel : nullptr;
    if (dx) *dx = w.n0 ? fmaf(dt, by_B, *dx) : fmaf(dt, by_B, w.D * s.dy[t][w.p.local]);
    if (ddt) *ddt = w.n0 ? fmaf(x, by_B, by_q) + *ddt : fmaf(x, by_B, by_q);
}

/* The warps' shares of n tokens, in order, to the block's. */
template <typename CUT, int WIDTH>
CU_FN void put_shares(const cu_selective_scan_bwd_args &a, const float (*from)[CUT::EVERY][WIDTH], int64_t base, int n,
                      int n0, float *to)
{
    for (int e = static_cast<int>(threadIdx.x); e < n * WIDTH; e += THREADS) {
        const int t = e / WIDTH, c = e % WIDTH;
        float sum = from[0][t][c];
#pragma unroll
        for (int warp = 1; warp < WARPS; ++warp) sum += from[warp][t][c];
        if (n0 + c < a.N) to[(static_cast<int64_t>(blockIdx.x) * a.t.M + base + t) * a.N + n0 + c] = sum;
    }
}

/* Columns n0 .. of the state. grid (channels, rows) */
template <typename CUT>
__global__ void __launch_bounds__(THREADS) selective_scan_bwd(cu_selective_scan_bwd_args a, int n0, space k)
{
    constexpr int CHANNELS = few<CUT>::CHANNELS, WIDTH = few<CUT>::WIDTH, EVERY = CUT::EVERY, PER = CUT::PER;
    SHARED(float, B, [EVERY][WIDTH]);
    SHARED(float, C, [EVERY][WIDTH]);
    SHARED(float, x, [EVERY][CHANNELS]);
    SHARED(float, dt, [EVERY][CHANNELS]);
    SHARED(float, dy, [EVERY][CHANNELS]);
    SHARED(int, fresh, [EVERY]);
    SHARED(float, dB_of, [WARPS][EVERY][WIDTH]);
    SHARED(float, dC_of, [WARPS][EVERY][WIDTH]);
    const few<CUT> s = {B, C, x, dt, dy, fresh};
    const int row = static_cast<int>(blockIdx.y);
    const int64_t begin = a.t.row_begin[row], end = a.t.row_begin[row + 1], chunks = (end - begin + EVERY - 1) / EVERY;
    walker<CUT> w = {selective_place_of<CUT>(a.I), a.N - n0, n0, {}, {}, {}, 0, 0};
    const int64_t state = (static_cast<int64_t>(row) * a.I + w.p.channel) * a.N + n0;
#pragma unroll
    for (int i = 0; i < PER; ++i) {
        const int c = selective_column<CUT>(w.p, i);
        const bool in = w.p.on && c < w.columns;
        w.A[i] = in ? a.A[static_cast<int64_t>(w.p.channel) * a.N + n0 + c] : 0.f;
        w.dS[i] = in && a.dstate_out ? a.dstate_out[state + c] : 0.f;
    }
    w.D = w.p.on ? a.D[w.p.channel] : 0.f;
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
        const int64_t base = begin + chunk * EVERY, mark = begin / EVERY + row + chunk;
        const int n = static_cast<int>(end - base < EVERY ? end - base : EVERY);
        read_tokens<CUT>(a, base, n, n0, s);
        __syncthreads();
        float S[PER], before[EVERY][PER];
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            const int c = selective_column<CUT>(w.p, i);
            const bool in = w.p.on && c < w.columns;
            S[i] = in ? k.mark[(mark * a.I + w.p.channel) * a.N + n0 + c] : 0.f;
        }
        forward<CUT>(s, w, n, S, before);
#pragma unroll
        for (int t = EVERY - 1; t >= 0; --t) {
            if (t >= n) continue; /* all threads */
            float dB[PER], dC[PER];
            const float2 sums = back<CUT>(s, w, t, before[t], dB, dC);
            put_token<CUT>(a, s, w, base, t, sums);
            share<CUT, WIDTH>(w.p, dB, dB_of, t);
            share<CUT, WIDTH>(w.p, dC, dC_of, t);
        }
        __syncthreads();
        if (a.dB) put_shares<CUT, WIDTH>(a, dB_of, base, n, n0, k.dB);
        if (a.dC) put_shares<CUT, WIDTH>(a, dC_of, base, n, n0, k.dC);
    }
#pragma unroll
    for (int i = 0; i < PER; ++i) {
        const int c = selective_column<CUT>(w.p, i);
        if (!w.p.on || c >= w.columns) continue;
        k.dA[state + c] = static_cast<float>(w.dA[i]);
        if (a.dstate) a.dstate[state + c] = w.dS[i];
    }
    if (w.p.on && w.p.part == 0 && n0 == 0)
        k.dD[static_cast<int64_t>(row) * a.I + w.p.channel] = static_cast<float>(w.dD);
}

/* dB or dC of one token from the blocks' shares. */
__global__ void __launch_bounds__(THREADS)
    selective_shares(int64_t M, int N, const float *part, int64_t parts, float *out, int64_t ld)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i < M * N) out[i / N * ld + i % N] = static_cast<float>(ordered_sum(part + i, parts, M * N));
}

/* Parameters from the rows' shares: += by · Σ; by NULL: 1. */
__global__ void __launch_bounds__(THREADS)
    selective_rows(int64_t n, const float *part, int64_t rows, const float *by, float *out)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= n) return;
    const double sum = ordered_sum(part + i, rows, n);
    out[i] = static_cast<float>(out[i] + (by ? by[i] * sum : sum));
}

unsigned blocks(int64_t n)
{
    return static_cast<unsigned>((n + THREADS - 1) / THREADS);
}

int channels_of(int N)
{
    return THREADS / (N <= 16   ? cu_selective_narrow::LANES
                      : N <= 64 ? cu_selective_middle::LANES
                                : cu_selective_wide::LANES);
}

/* Cuts the scratch up; returns bytes. */
size_t cut(const cu_selective_scan_bwd_args *a, space *w)
{
    const size_t I = static_cast<size_t>(a->I), N = static_cast<size_t>(a->N), M = static_cast<size_t>(a->t.M);
    const size_t B = static_cast<size_t>(a->t.B);
    w->marks = a->t.M / cu_selective_every(a->N) + a->t.B;
    w->parts = (a->I + channels_of(a->N) - 1) / channels_of(a->N);
    const size_t shares = static_cast<size_t>(w->parts) * M * N;
    float *p = a->scratch;
    size_t n = 0;
    const struct {
        float **at;
        size_t n;
    } piece[] = {{&w->mark, static_cast<size_t>(w->marks) * I * N},
                 {&w->dB, a->dB ? shares : 0},
                 {&w->dC, a->dC ? shares : 0},
                 {&w->dA, B * I * N},
                 {&w->dD, B * I}};
    for (const auto &i : piece) {
        *i.at = p ? p + n : nullptr;
        n += i.n;
    }
    return n * sizeof(float);
}

template <typename CUT> void launch(cu_ctx *k, const cu_selective_scan_bwd_args &a, int n0, const space &w)
{
    const dim3 grid(static_cast<unsigned>(w.parts), static_cast<unsigned>(a.t.B));
    LAUNCH(selective_scan_bwd<CUT>, grid, THREADS, 0, k->stream, a, n0, w);
}

/* Columns n0 and those behind it. */
fh1_status piece(cu_ctx *k, const cu_selective_scan_bwd_args &a, int n0, const space &w)
{
    cu_selective f = {};
    f.type = CU_F32;
    f.t = a.t;
    f.I = a.I, f.N = a.N;
    f.x = a.x, f.ldx = a.ldx;
    f.B = a.B, f.C = a.C, f.ldbc = a.ldbc;
    f.dt = a.dt, f.A = a.A, f.D = a.D;
    f.state = const_cast<float *>(a.state); /* only read */
    f.slot = a.slot;
    FH1_TRY(cu_selective_marks(k, &f, n0, w.mark));
    if (a.N <= 16) launch<cu_selective_narrow>(k, a, n0, w);
    else if (a.N <= 64) launch<cu_selective_middle>(k, a, n0, w);
    else launch<cu_selective_wide>(k, a, n0, w);
    return cu_launched("selective_scan_bwd");
}

fh1_status shares(cu_ctx *k, const cu_selective_scan_bwd_args &a, const float *part, int64_t parts, float *out)
{
    const int64_t n = static_cast<int64_t>(a.t.M) * a.N;
    if (!out || n == 0) return NULL;
    LAUNCH(selective_shares, blocks(n), THREADS, 0, k->stream, static_cast<int64_t>(a.t.M), a.N, part, parts, out,
           a.lddbc);
    return cu_launched("selective_shares");
}

fh1_status parameter(cu_ctx *k, const cu_selective_scan_bwd_args &a, int64_t n, const float *part, const float *by,
                     float *out)
{
    if (!out || n == 0) return NULL;
    LAUNCH(selective_rows, blocks(n), THREADS, 0, k->stream, n, part, static_cast<int64_t>(a.t.B), by, out);
    return cu_launched("selective_rows");
}

} // namespace

size_t cu_selective_scan_bwd_scratch(const cu_selective_scan_bwd_args *a)
{
    space w;
    return a->I == 0 || a->N == 0 ? 0 : cut(a, &w);
}

fh1_status cu_selective_scan_bwd(cu_ctx *k, const cu_selective_scan_bwd_args *a)
{
    if (a->I == 0 || a->N == 0 || a->t.B == 0) return NULL;
    space w;
    cut(a, &w);
    for (int n0 = 0; n0 < a->N; n0 += CU_SELECTIVE_COLUMNS) FH1_TRY(piece(k, *a, n0, w));
    FH1_TRY(shares(k, *a, w.dB, w.parts, a->dB));
    FH1_TRY(shares(k, *a, w.dC, w.parts, a->dC));
    FH1_TRY(parameter(k, *a, static_cast<int64_t>(a->I) * a->N, w.dA, a->A, a->dA_log));
    return parameter(k, *a, a->I, w.dD, NULL, a->dD);
}

} // namespace CU_NS
