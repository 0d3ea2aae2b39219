/* One token per row. The state is read and written once, so this is a matter of bytes in flight: LANES lanes share a
 * row of the state in 16-byte pieces, and every warp has ROWS of them under way before it touches the first. B and C of
 * a lane's columns stay in registers for all its rows. */
#include "cuda/ssd_step.cuh"

#include "cuda/gate.cuh"

namespace CU_NS
{
namespace
{

constexpr int WARPS = 4, ROWS = 4;

/* Four neighbouring columns as f32; `p` aligned to four elements. */
CU_FN float4 four(const float *p)
{
    return *reinterpret_cast<const float4 *>(p);
}
CU_FN float4 four(const bf16 *p)
{
    const uint2 q = *reinterpret_cast<const uint2 *>(p);
    const float2 a = unpack_bf16(q.x), b = unpack_bf16(q.y);
    return make_float4(a.x, a.y, b.x, b.y);
}

/* The token m of row, for head h: pointers to its x, B and C. */
template <typename T> struct columns {
    const T *x, *B, *C;
};
template <typename T> CU_FN columns<T> columns_of(const cu_ssd &a, int64_t m, int h)
{
    const T *xbc = static_cast<const T *>(a.xbc) + m * a.ldx;
    const T *B = xbc + static_cast<int64_t>(a.H) * a.P + static_cast<int64_t>(h / (a.H / a.G)) * a.N;
    return {xbc + static_cast<int64_t>(h) * a.P, B, B + static_cast<int64_t>(a.G) * a.N};
}

/* y, and what the gate makes of it. */
template <typename T> CU_FN void output(const cu_ssd_step &a, int64_t m, int64_t i, float y)
{
    const int64_t d = static_cast<int64_t>(a.s.H) * a.s.P;
    const T *z = a.z ? static_cast<const T *>(a.z) + m * a.ldz + i : nullptr;
    store_gated(static_cast<T *>(a.s.y), static_cast<T *>(a.gated), m * d + i, z, a.m_z, y);
}

/* Any N: a warp per row of the state. grid (P / WARPS, H, rows) */
template <typename T> __global__ void __launch_bounds__(32 * WARPS) ssd_step_any(cu_ssd_step a)
{
    const cu_ssd &s = a.s;
    const int lane = threadIdx.x & 31, p = blockIdx.x * WARPS + (threadIdx.x >> 5), h = blockIdx.y, row = blockIdx.z;
    const int64_t m = s.t.row_begin[row];
    if (p >= s.P || m == s.t.row_begin[row + 1]) return; /* whole warps leave */
    const columns<T> k = columns_of<T>(s, m, h);
    const bool fresh = s.t.start[m] >= 0;
    const float dt = s.dt[m * s.H + h], x = load(k.x + p), decay = expf(dt * s.A[h]);
    float *S = s.state + ((static_cast<int64_t>(s.slot[row]) * s.H + h) * s.P + p) * s.N, sum = 0;
    for (int n = lane; n < s.N; n += 32) {
        const float v = fmaf(dt * x, load(k.B + n), fresh ? 0.f : decay * S[n]);
        S[n] = v;
        sum = fmaf(v, load(k.C + n), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) output<T>(a, m, static_cast<int64_t>(h) * s.P + p, fmaf(s.D[h], x, sum));
}

CU_FN float4 advance(float4 S, float decay, float in, float4 B)
{
    return make_float4(fmaf(in, B.x, decay * S.x), fmaf(in, B.y, decay * S.y), fmaf(in, B.z, decay * S.z),
                       fmaf(in, B.w, decay * S.w));
}

CU_FN float dot(float4 a, float4 b, float sum)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* N = 4·LANES·PIECES. grid (P / rows of a block, H, rows) */
template <typename T, int LANES, int PIECES> __global__ void __launch_bounds__(32 * WARPS) ssd_step(cu_ssd_step a)
{
    constexpr int SIDE = 32 / LANES; /* rows of the state side by side in a warp */
    const cu_ssd &s = a.s;
    const int lane = threadIdx.x & 31, part = lane % LANES, h = blockIdx.y, row = blockIdx.z;
    const int p0 = (blockIdx.x * WARPS + (threadIdx.x >> 5)) * (ROWS * SIDE) + lane / LANES;
    const int64_t m = s.t.row_begin[row];
    if (m == s.t.row_begin[row + 1]) return; /* the whole block */
    const bool fresh = s.t.start[m] >= 0;
    const columns<T> k = columns_of<T>(s, m, h);
    float *state = s.state + (static_cast<int64_t>(s.slot[row]) * s.H + h) * s.P * static_cast<int64_t>(s.N);
    float4 S[ROWS][PIECES], B[PIECES], C[PIECES];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const int p = p0 + r * SIDE; /* an empty state is not read: it may never have been written */
            S[r][i] = p < s.P && !fresh ? four(state + static_cast<int64_t>(p) * s.N + 4 * (part + i * LANES))
                                        : make_float4(0.f, 0.f, 0.f, 0.f);
        }
#pragma unroll
    for (int i = 0; i < PIECES; ++i)
        B[i] = four(k.B + 4 * (part + i * LANES)), C[i] = four(k.C + 4 * (part + i * LANES));
    const float dt = s.dt[m * s.H + h], decay = fresh ? 0.f : expf(dt * s.A[h]), D = s.D[h];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const int p = p0 + r * SIDE;
        const float x = p < s.P ? load(k.x + p) : 0.f;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const float4 v = advance(S[r][i], decay, dt * x, B[i]);
            if (p < s.P)
                *reinterpret_cast<float4 *>(state + static_cast<int64_t>(p) * s.N + 4 * (part + i * LANES)) = v;
            sum = dot(v, C[i], sum);
        }
#pragma unroll
        for (int o = LANES / 2; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
        if (part == 0 && p < s.P) output<T>(a, m, static_cast<int64_t>(h) * s.P + p, fmaf(D, x, sum));
    }
}

/* Four elements at a time, of the state and of B and C. */
template <typename T> bool aligned(const cu_ssd &s)
{
    return s.ldx % 4 == 0 && s.H * static_cast<int64_t>(s.P) % 4 == 0 &&
           reinterpret_cast<uintptr_t>(s.xbc) % (4 * sizeof(T)) == 0 && reinterpret_cast<uintptr_t>(s.state) % 16 == 0;
}

template <typename T, int LANES, int PIECES> void launch_pieces(cu_ctx *k, const cu_ssd_step &a)
{
    const int rows = WARPS * ROWS * (32 / LANES);
    const dim3 grid(static_cast<unsigned>((a.s.P + rows - 1) / rows), static_cast<unsigned>(a.s.H),
                    static_cast<unsigned>(a.s.t.B));
    LAUNCH((ssd_step<T, LANES, PIECES>), grid, 32 * WARPS, 0, k->stream, a);
}

template <typename T> void launch(cu_ctx *k, const cu_ssd_step &a)
{
    const bool wide = k->path != CU_GENERAL && aligned<T>(a.s);
    const dim3 grid(static_cast<unsigned>((a.s.P + WARPS - 1) / WARPS), static_cast<unsigned>(a.s.H),
                    static_cast<unsigned>(a.s.t.B));
    if (wide && a.s.N == 32) launch_pieces<T, 8, 1>(k, a);
    else if (wide && a.s.N == 64) launch_pieces<T, 16, 1>(k, a);
    else if (wide && a.s.N == 128) launch_pieces<T, 32, 1>(k, a);
    else if (wide && a.s.N == 256) launch_pieces<T, 32, 2>(k, a);
    else LAUNCH(ssd_step_any<T>, grid, 32 * WARPS, 0, k->stream, a);
}

} // namespace

fh1_status cu_ssd_step_fwd(cu_ctx *k, const cu_ssd_step *a)
{
    if (a->s.t.M == 0 || a->s.H == 0 || a->s.P == 0) return NULL;
    if (a->s.type == CU_BF16) launch<bf16>(k, *a);
    else launch<float>(k, *a);
    return cu_launched("ssd_step");
}

} // namespace CU_NS
