/* The scan's general path, token by token, and the choice between the three ways. */
#include "cuda/ssd_scan.cuh"

#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

constexpr int WARPS = 8; /* rows of the state a block */

/* What a token brings for one row of the state: this lane's B and C, and two numbers. */
template <int L> struct token {
    float B[L], C[L], x, dt;
    bool fresh; /* first of a document */
};

template <typename T, int L> CU_FN void read_token(const cu_ssd &a, int64_t t, int h, int p, int lane, token<L> &k)
{
    const T *xbc = static_cast<const T *>(a.xbc) + t * a.ldx;
    const T *B = xbc + static_cast<int64_t>(a.H) * a.P + static_cast<int64_t>(h / (a.H / a.G)) * a.N;
    const T *C = B + static_cast<int64_t>(a.G) * a.N;
#pragma unroll
    for (int i = 0; i < L; ++i) {
        const int n = lane + 32 * i;
        k.B[i] = n < a.N ? load(B + n) : 0.f;
        k.C[i] = n < a.N ? load(C + n) : 0.f;
    }
    k.x = load(xbc + static_cast<int64_t>(h) * a.P + p);
    k.dt = a.dt[t * a.H + h];
    k.fresh = a.t.start[t] == t;
}

/* A warp per row p of the state, lanes over N <= 32·L, the state in registers. The next token is read while this one is
 * worked on. grid (P / WARPS, H, rows) */
template <typename T, int L> __global__ void __launch_bounds__(32 * WARPS, 1) ssd_scan(cu_ssd a)
{
    const int lane = threadIdx.x & 31, p = blockIdx.x * WARPS + (threadIdx.x >> 5), h = blockIdx.y, row = blockIdx.z;
    const int64_t t0 = a.t.row_begin[row], t1 = a.t.row_begin[row + 1];
    if (p >= a.P || t0 == t1) return; /* whole warps leave */
    const float A = a.A[h], D = a.D[h];
    float *state = a.state + ((static_cast<int64_t>(a.slot[row]) * a.H + h) * a.P + p) * a.N;
    float S[L];
    token<L> next;
    read_token<T>(a, t0, h, p, lane, next);
#pragma unroll
    for (int i = 0; i < L; ++i) S[i] = lane + 32 * i < a.N && !next.fresh ? state[lane + 32 * i] : 0.f;
    for (int64_t t = t0; t < t1; ++t) {
        const token<L> k = next;
        if (t + 1 < t1) read_token<T>(a, t + 1, h, p, lane, next);
        const float decay = expf(k.dt * A), in = k.dt * k.x;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < L; ++i) {
            S[i] = fmaf(in, k.B[i], k.fresh ? 0.f : decay * S[i]); /* selected: nothing passes a document's start */
            if (lane + 32 * i < a.N) sum = fmaf(S[i], k.C[i], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) store(static_cast<T *>(a.y) + (t * a.H + h) * a.P + p, fmaf(D, k.x, sum));
    }
#pragma unroll
    for (int i = 0; i < L; ++i)
        if (lane + 32 * i < a.N) state[lane + 32 * i] = S[i];
}

/* The same for any N, the state where it is stored. */
template <typename T> __global__ void __launch_bounds__(32 * WARPS) ssd_scan_any(cu_ssd a)
{
    const int lane = threadIdx.x & 31, p = blockIdx.x * WARPS + (threadIdx.x >> 5), h = blockIdx.y, row = blockIdx.z;
    if (p >= a.P) return;
    float *S = a.state + ((static_cast<int64_t>(a.slot[row]) * a.H + h) * a.P + p) * a.N;
    for (int64_t t = a.t.row_begin[row]; t < a.t.row_begin[row + 1]; ++t) {
        const T *xbc = static_cast<const T *>(a.xbc) + t * a.ldx;
        const T *B = xbc + static_cast<int64_t>(a.H) * a.P + static_cast<int64_t>(h / (a.H / a.G)) * a.N;
        const T *C = B + static_cast<int64_t>(a.G) * a.N;
        const float dt = a.dt[t * a.H + h], x = load(xbc + static_cast<int64_t>(h) * a.P + p);
        const float decay = expf(dt * a.A[h]);
        const bool fresh = a.t.start[t] == t;
        float sum = 0;
        for (int n = lane; n < a.N; n += 32) {
            const float s = fmaf(dt * x, load(B + n), fresh ? 0.f : decay * S[n]);
            S[n] = s;
            sum = fmaf(s, load(C + n), sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) store(static_cast<T *>(a.y) + (t * a.H + h) * a.P + p, fmaf(a.D[h], x, sum));
    }
}

template <typename T> void sequential(cu_ctx *k, const cu_ssd &a)
{
    const dim3 grid(static_cast<unsigned>((a.P + WARPS - 1) / WARPS), static_cast<unsigned>(a.H),
                    static_cast<unsigned>(a.t.B));
    if (a.N <= 32) LAUNCH((ssd_scan<T, 1>), grid, 32 * WARPS, 0, k->stream, a);
    else if (a.N <= 64) LAUNCH((ssd_scan<T, 2>), grid, 32 * WARPS, 0, k->stream, a);
    else if (a.N <= 128) LAUNCH((ssd_scan<T, 4>), grid, 32 * WARPS, 0, k->stream, a);
    else if (a.N <= 256) LAUNCH((ssd_scan<T, 8>), grid, 32 * WARPS, 0, k->stream, a);
    else LAUNCH(ssd_scan_any<T>, grid, 32 * WARPS, 0, k->stream, a);
}

/* Below this many tokens a row, a tile of a chunk would be mostly empty. */
constexpr int SHORT = 8;

cu_ssd_way choose(const cu_ctx *k, const cu_ssd &a, cu_ssd_way way)
{
    if (k->path == CU_GENERAL || !cu_ssd_tiled(&a) || !cu_ssd_stages(k, &a, false)) return CU_SSD_SEQUENTIAL;
    if (way != CU_SSD_AUTO) return way;
    if (a.t.longest <= SHORT) return CU_SSD_SEQUENTIAL;
    const int64_t blocks = static_cast<int64_t>(a.t.B) * a.H * ((a.P + 63) / 64);
    return blocks >= k->sms || !a.scratch ? CU_SSD_FUSED : CU_SSD_CHUNKS;
}

} // namespace

size_t cu_ssd_scratch(const cu_ssd *a, cu_ssd_way way, int M, int B)
{
    const bool chunks = way == CU_SSD_AUTO || way == CU_SSD_CHUNKS;
    return chunks && cu_ssd_tiled(a) ? cu_ssd_chunk_scratch(a, M, B) : 0;
}

fh1_status cu_ssd_scan_fwd(cu_ctx *k, const cu_ssd *a, cu_ssd_way way)
{
    if (a->t.M == 0 || a->H == 0 || a->P == 0) return NULL;
    way = choose(k, *a, way);
    if (way == CU_SSD_FUSED) return cu_ssd_fused_fwd(k, a);
    if (way == CU_SSD_CHUNKS) return cu_ssd_chunk_fwd(k, a);
    if (a->type == CU_BF16) sequential<bf16>(k, *a);
    else sequential<float>(k, *a);
    return cu_launched("ssd_scan");
}

} // namespace CU_NS
