/* The selective scan over many tokens. A block has a few channels of one row and walks over its tokens in tiles: B, C,
 * x and dt of a tile lie in shared memory, the next ones are on their way meanwhile. Every channel's state stays in the
 * registers of its lanes. */
#include "cuda/gate.cuh"
#include "cuda/selective_tile.cuh"

namespace CU_NS
{
namespace
{

constexpr int THREADS = CU_SELECTIVE_THREADS;

/* What a thread carries of the next tile. */
template <typename CUT> struct ahead {
    static constexpr int CHANNELS = THREADS / CUT::LANES, WIDTH = CUT::LANES * CUT::PER;
    static constexpr int BC = CUT::TILE * WIDTH / THREADS, X = (CUT::TILE * CHANNELS + THREADS - 1) / THREADS;
    float B[BC], C[BC], x[X], dt[X];
    int fresh;
};

template <typename CUT> struct tile {
    static constexpr int CHANNELS = ahead<CUT>::CHANNELS, WIDTH = ahead<CUT>::WIDTH;
    float (*B)[WIDTH], (*C)[WIDTH], (*x)[CHANNELS], (*dt)[CHANNELS];
    int *fresh; /* the token begins a document */
};

/* Tokens base .. end at most TILE, columns from n0 on; zeros beside. */
template <typename T, typename CUT>
CU_FN void fetch(const cu_selective &a, int64_t base, int64_t end, int n0, ahead<CUT> &k)
{
    constexpr int WIDTH = ahead<CUT>::WIDTH, CHANNELS = ahead<CUT>::CHANNELS, TILE = CUT::TILE;
    const int c0 = static_cast<int>(blockIdx.x) * CHANNELS;
#pragma unroll
    for (int i = 0; i < ahead<CUT>::BC; ++i) {
        const int e = static_cast<int>(threadIdx.x) + i * THREADS, n = n0 + e % WIDTH;
        const int64_t t = base + e / WIDTH;
        const bool in = t < end && n < a.N;
        k.B[i] = in ? load(static_cast<const T *>(a.B) + t * a.ldbc + n) : 0.f;
        k.C[i] = in ? load(static_cast<const T *>(a.C) + t * a.ldbc + n) : 0.f;
    }
#pragma unroll
    for (int i = 0; i < ahead<CUT>::X; ++i) {
        const int e = static_cast<int>(threadIdx.x) + i * THREADS, c = c0 + e % CHANNELS;
        const int64_t t = base + e / CHANNELS;
        const bool in = t < end && c < a.I;
        k.x[i] = in ? load(static_cast<const T *>(a.x) + t * a.ldx + c) : 0.f;
        k.dt[i] = in ? a.dt[t * a.I + c] : 0.f;
    }
    const int64_t t = base + threadIdx.x;
    k.fresh = threadIdx.x < TILE && t < end && a.t.start[t] == t;
}

template <typename CUT> CU_FN void put(const ahead<CUT> &k, const tile<CUT> &s)
{
    constexpr int WIDTH = ahead<CUT>::WIDTH, CHANNELS = ahead<CUT>::CHANNELS, TILE = CUT::TILE;
#pragma unroll
    for (int i = 0; i < ahead<CUT>::BC; ++i) {
        const int e = static_cast<int>(threadIdx.x) + i * THREADS;
        s.B[e / WIDTH][e % WIDTH] = k.B[i], s.C[e / WIDTH][e % WIDTH] = k.C[i];
    }
#pragma unroll
    for (int i = 0; i < ahead<CUT>::X; ++i) {
        const int e = static_cast<int>(threadIdx.x) + i * THREADS;
        if (e < TILE * CHANNELS) s.x[e / CHANNELS][e % CHANNELS] = k.x[i], s.dt[e / CHANNELS][e % CHANNELS] = k.dt[i];
    }
    if (threadIdx.x < TILE) s.fresh[threadIdx.x] = k.fresh;
}

/* y of a tile to memory, neighbouring channels together. */
template <typename T, typename CUT>
CU_FN void put_out(const cu_selective &a, const float (*y)[ahead<CUT>::CHANNELS], int64_t base, int n)
{
    constexpr int CHANNELS = ahead<CUT>::CHANNELS;
    const int c0 = static_cast<int>(blockIdx.x) * CHANNELS;
    for (int e = static_cast<int>(threadIdx.x); e < n * CHANNELS; e += THREADS) {
        const int c = c0 + e % CHANNELS;
        const int64_t t = base + e / CHANNELS;
        if (c >= a.I) continue;
        const T *z = a.z ? static_cast<const T *>(a.z) + t * a.ldz + c : nullptr;
        store_gated(static_cast<T *>(a.y), static_cast<T *>(a.gated), t * a.I + c, z, 1.f,
                    y[e / CHANNELS][e % CHANNELS]);
    }
}

/* Where a thread's part of the state lies: element i at [column(i)]. */
template <typename CUT>
CU_FN int64_t state_at(const cu_selective &a, const selective_place<CUT> &p, int64_t slot, int n0)
{
    return (slot * a.I + p.channel) * a.N + n0;
}

/* One token for the columns of a thread; returns its share of S·C. */
template <typename CUT>
CU_FN float advance(const tile<CUT> &s, const selective_place<CUT> &p, int t, int columns, const float (&A)[CUT::PER],
                    float (&S)[CUT::PER])
{
    float B[CUT::PER], C[CUT::PER], sum = 0;
    selective_columns<CUT>(s.B[t], p, B);
    selective_columns<CUT>(s.C[t], p, C);
    const float dt = s.dt[t][p.local], in = dt * s.x[t][p.local];
    const bool fresh = s.fresh[t];
#pragma unroll
    for (int i = 0; i < CUT::PER; ++i) {
        /* selected: nothing passes a document's start */
        S[i] = fmaf(in, B[i], fresh ? 0.f : fast_exp2(dt * A[i]) * S[i]);
        if (selective_column<CUT>(p, i) < columns) sum = fmaf(S[i], C[i], sum);
    }
    return sum;
}

/* grid (channels, rows). MARKS: states are kept on the way, and nothing else is written. */
template <typename T, typename CUT, bool MARKS>
__global__ void __launch_bounds__(THREADS) selective_scan(cu_selective a, int n0, float *marks)
{
    constexpr int CHANNELS = ahead<CUT>::CHANNELS, WIDTH = ahead<CUT>::WIDTH, TILE = CUT::TILE, PER = CUT::PER;
    SHARED(float, B, [TILE][WIDTH]);
    SHARED(float, C, [TILE][WIDTH]);
    SHARED(float, x, [TILE][CHANNELS]);
    SHARED(float, dt, [TILE][CHANNELS]);
    SHARED(float, y, [TILE][CHANNELS]);
    SHARED(int, fresh, [TILE]);
    const tile<CUT> s = {B, C, x, dt, fresh};
    const int row = static_cast<int>(blockIdx.y), columns = a.N - n0;
    const int64_t begin = a.t.row_begin[row], end = a.t.row_begin[row + 1];
    if (begin == end) return; /* the whole block */
    const selective_place<CUT> p = selective_place_of<CUT>(a.I);
    const int64_t at = state_at(a, p, a.slot ? a.slot[row] : row, n0);
    const bool goes_on = p.on && a.state && a.t.start[begin] < 0; /* an empty state is not read */
    float S[PER], A[PER];
#pragma unroll
    for (int i = 0; i < PER; ++i) {
        const int n = selective_column<CUT>(p, i);
        S[i] = goes_on && n < columns ? a.state[at + n] : 0.f;
        A[i] = p.on && n < columns ? a.A[static_cast<int64_t>(p.channel) * a.N + n0 + n] * LOG2_E : 0.f;
    }
    const float D = p.on && !MARKS ? a.D[p.channel] : 0.f;
    ahead<CUT> next;
    fetch<T, CUT>(a, begin, end, n0, next);
    for (int64_t base = begin; base < end; base += TILE) {
        const int n = static_cast<int>(end - base < TILE ? end - base : TILE);
        put<CUT>(next, s);
        __syncthreads();
        if (base + TILE < end) fetch<T, CUT>(a, base + TILE, end, n0, next);
        for (int t = 0; t < n; ++t) {
            if (MARKS && t % CUT::EVERY == 0) { /* a tile begins at a multiple */
                const int64_t mark = begin / CUT::EVERY + row + (base - begin + t) / CUT::EVERY;
#pragma unroll
                for (int i = 0; i < PER; ++i) {
                    const int c = selective_column<CUT>(p, i);
                    if (p.on && c < columns) marks[state_at(a, p, mark, n0) + c] = S[i];
                }
            }
            const float sum = advance<CUT>(s, p, t, columns, A, S);
            if (MARKS) continue;
            const float all = selective_sum<CUT>(sum);
            if (p.part == 0) y[t][p.local] = fmaf(D, s.x[t][p.local], all);
        }
        __syncthreads();
        if (!MARKS) put_out<T, CUT>(a, y, base, n);
    }
    if constexpr (!MARKS) {
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            const int n = selective_column<CUT>(p, i);
            if (p.on && n < columns) a.state[at + n] = S[i];
        }
    }
}

/* Any N: a warp per channel, lanes over N, the state where it is stored. grid (channels, rows) */
template <typename T> __global__ void __launch_bounds__(THREADS) selective_any(cu_selective a)
{
    const int lane = threadIdx.x & 31, i = static_cast<int>(blockIdx.x) * (THREADS / 32) + (threadIdx.x >> 5);
    const int row = static_cast<int>(blockIdx.y);
    if (i >= a.I) return; /* whole warps leave */
    const float *A = a.A + static_cast<int64_t>(i) * a.N;
    float *S = a.state + (static_cast<int64_t>(a.slot[row]) * a.I + i) * a.N;
    for (int64_t t = a.t.row_begin[row]; t < a.t.row_begin[row + 1]; ++t) {
        const T *B = static_cast<const T *>(a.B) + t * a.ldbc, *C = static_cast<const T *>(a.C) + t * a.ldbc;
        const float dt = a.dt[t * a.I + i], x = load(static_cast<const T *>(a.x) + t * a.ldx + i);
        const bool fresh = a.t.start[t] == t;
        float sum = 0;
        for (int n = lane; n < a.N; n += 32) {
            const float s = fmaf(dt * x, load(B + n), fresh ? 0.f : fast_exp2(dt * (A[n] * LOG2_E)) * S[n]);
            S[n] = s;
            sum = fmaf(s, load(C + n), sum);
        }
        sum = warp_sum(sum);
        const T *z = a.z ? static_cast<const T *>(a.z) + t * a.ldz + i : nullptr;
        if (lane == 0)
            store_gated(static_cast<T *>(a.y), static_cast<T *>(a.gated), t * a.I + i, z, 1.f, fmaf(a.D[i], x, sum));
    }
}

dim3 grid_of(const cu_selective &a, int channels)
{
    return dim3(static_cast<unsigned>((a.I + channels - 1) / channels), static_cast<unsigned>(a.t.B));
}

template <typename T, typename CUT> void launch(cu_ctx *k, const cu_selective &a)
{
    LAUNCH((selective_scan<T, CUT, false>), grid_of(a, THREADS / CUT::LANES), THREADS, 0, k->stream, a, 0, nullptr);
}

template <typename CUT> void launch_marks(cu_ctx *k, const cu_selective &a, int n0, float *marks)
{
    LAUNCH((selective_scan<float, CUT, true>), grid_of(a, THREADS / CUT::LANES), THREADS, 0, k->stream, a, n0, marks);
}

template <typename T> void choose(cu_ctx *k, const cu_selective &a)
{
    if (a.N <= 16) launch<T, cu_selective_narrow>(k, a);
    else if (a.N <= 64) launch<T, cu_selective_middle>(k, a);
    else launch<T, cu_selective_wide>(k, a);
}

} // namespace

fh1_status cu_selective_general_fwd(cu_ctx *k, const cu_selective *a)
{
    if (a->t.M == 0 || a->I == 0) return NULL;
    const dim3 grid = grid_of(*a, THREADS / 32);
    if (a->type == CU_BF16) LAUNCH(selective_any<bf16>, grid, THREADS, 0, k->stream, *a);
    else LAUNCH(selective_any<float>, grid, THREADS, 0, k->stream, *a);
    return cu_launched("selective_any");
}

fh1_status cu_selective_scan_fwd(cu_ctx *k, const cu_selective *a)
{
    if (a->t.M == 0 || a->I == 0) return NULL;
    if (k->path == CU_GENERAL || a->N > CU_SELECTIVE_COLUMNS) return cu_selective_general_fwd(k, a);
    if (a->type == CU_BF16) choose<bf16>(k, *a);
    else choose<float>(k, *a);
    return cu_launched("selective_scan");
}

int cu_selective_every(int N)
{
    return N <= 16 ? cu_selective_narrow::EVERY : N <= 64 ? cu_selective_middle::EVERY : cu_selective_wide::EVERY;
}

fh1_status cu_selective_marks(cu_ctx *k, const cu_selective *a, int n0, float *marks)
{
    if (a->t.M == 0 || a->I == 0 || a->N == 0) return NULL;
    if (a->N <= 16) launch_marks<cu_selective_narrow>(k, *a, n0, marks);
    else if (a->N <= 64) launch_marks<cu_selective_middle>(k, *a, n0, marks);
    else launch_marks<cu_selective_wide>(k, *a, n0, marks);
    return cu_launched("selective_marks");
}

} // namespace CU_NS
