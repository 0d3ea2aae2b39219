/* Products of a few rows of x with rows of W by plain multiplications: what the GEMV and the fused decode kernels
 * share. A warp owns R rows of W and reads them once, 16 bytes per lane and load, several loads in flight; it keeps R·M
 * sums per lane and adds them over the lanes at the end. */
#pragma once

#include "cuda/warp_ops.h"

namespace CU_NS
{

enum { CU_GEMV_WARPS = 8, CU_GEMV_R = 4, CU_GEMV_PER_SM = 2 }; /* warps of a block, rows of a warp */

CU_FN void unpack16(uint4 v, float (&f)[8])
{
    const uint32_t u[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 p = unpack_bf16(u[i]);
        f[2 * i] = p.x;
        f[2 * i + 1] = p.y;
    }
}
CU_FN void unpack16(uint4 v, float (&f)[4])
{
    f[0] = __uint_as_float(v.x);
    f[1] = __uint_as_float(v.y);
    f[2] = __uint_as_float(v.z);
    f[3] = __uint_as_float(v.w);
}

/* The units (rows, or pairs of rows) of this block: from <= i < to. */
struct gemv_span {
    int64_t from, to;
};
CU_FN gemv_span gemv_range(int64_t n)
{
    const int64_t b = blockIdx.x, blocks = gridDim.x;
    return gemv_span{n * b / blocks, n * (b + 1) / blocks};
}

/* What this warp does next in a block that has come to unit `at` of those before `end`: units first .. first + n - 1
 * with part `part` of K; the next turn begins at `next`. A warp takes up to UNITS at a time; n may be 0. */
struct gemv_turn {
    int64_t first, next;
    int n, splits, part;
};
template <int UNITS> CU_FN gemv_turn gemv_turn_at(int64_t at, int64_t end)
{
    const int64_t left = end - at;
    const int warp = threadIdx.x >> 5;
    gemv_turn t;
    t.splits = left > UNITS * 4 ? 1 : left > UNITS * 2 ? 2 : left > UNITS ? 4 : 8;
    t.part = warp % t.splits;
    t.first = at + warp / t.splits * UNITS;
    t.next = at + CU_GEMV_WARPS / t.splits * UNITS;
    const int64_t mine = end - t.first;
    t.n = mine >= UNITS ? UNITS : mine > 0 ? static_cast<int>(mine) : 0;
    return t;
}

/* Blocks for n units, UNITS to a warp. */
static inline unsigned cu_gemv_blocks(const cu_ctx *k, int64_t n, int units)
{
    const int64_t all = (n + units - 1) / units, most = static_cast<int64_t>(CU_GEMV_PER_SM) * k->sms;
    return static_cast<unsigned>(all < most ? all : most);
}

/* One vector of W per row and the same place of the rows of x. */
template <typename T, int R, int M>
CU_FN void gemv_fma(const uint4 (&v)[R], const T *x, int ldx, int rows, int k, float (&acc)[R][M])
{
    constexpr int V = 16 / sizeof(T);
    float w[R][V];
#pragma unroll
    for (int r = 0; r < R; ++r) unpack16(v[r], w[r]);
#pragma unroll
    for (int m = 0; m < M; ++m) {
        float f[V];
        /* rows past the last are computed from the last, and thrown away */
        unpack16(*reinterpret_cast<const uint4 *>(x + (m < rows ? m : rows - 1) * ldx + k), f);
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int i = 0; i < V; ++i) acc[r][m] = fmaf(w[r][i], f[i], acc[r][m]);
    }
}

/* acc[r][m] += Σ w[r][k]·x[m·ldx + k] over this lane's part of k0 <= k < k1, for the rows r in `mask`; the others are
 * not read. VEC: w[r], x, ldx, k0 and k1 are multiples of 16 bytes. 1 <= rows <= M, and
 * M·ldx below 2^31: eight pointers would cost registers. */
template <typename T, bool VEC, int R, int M>
CU_FN void gemv_dot(const T *const (&w)[R], unsigned mask, const T *x, int ldx, int rows, int k0, int k1,
                    float (&acc)[R][M])
{
    const int lane = threadIdx.x & 31;
    if constexpr (VEC) {
        constexpr int V = 16 / sizeof(T), IN_FLIGHT = M <= 4 && sizeof(T) == 2 ? 8 : 4,
                      U = R >= IN_FLIGHT ? 1 : IN_FLIGHT / R;
        int k = k0 + lane * V;
        /* the loads in flight are those of one turn: more would cost registers */
#pragma unroll 1
        for (; k + (U - 1) * 32 * V < k1; k += U * 32 * V) {
            uint4 v[U][R];
#pragma unroll
            for (int u = 0; u < U; ++u)
#pragma unroll
                for (int r = 0; r < R; ++r)
                    v[u][r] = mask >> r & 1 ? ld_stream16(w[r] + k + u * 32 * V) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int u = 0; u < U; ++u) gemv_fma<T>(v[u], x, ldx, rows, k + u * 32 * V, acc);
        }
#pragma unroll 1
        for (; k < k1; k += 32 * V) {
            uint4 v[R];
#pragma unroll
            for (int r = 0; r < R; ++r) v[r] = mask >> r & 1 ? ld_stream16(w[r] + k) : make_uint4(0, 0, 0, 0);
            gemv_fma<T>(v, x, ldx, rows, k, acc);
        }
    } else {
#pragma unroll 1
        for (int k = k0 + lane; k < k1; k += 32) {
            float f[R];
#pragma unroll
            for (int r = 0; r < R; ++r) f[r] = mask >> r & 1 ? load(w[r] + k) : 0.f;
#pragma unroll
            for (int m = 0; m < M; ++m) {
                const float xv = load(x + (m < rows ? m : rows - 1) * ldx + k);
#pragma unroll
                for (int r = 0; r < R; ++r) acc[r][m] = fmaf(f[r], xv, acc[r][m]);
            }
        }
    }
}

/* The sums over the warp: lane r·M + m gets that of (r, m). */
template <int R, int M> CU_FN float gemv_collect(const float (&acc)[R][M])
{
    static_assert(R * M <= 32, "one lane per sum");
    const int lane = threadIdx.x & 31;
    float mine = 0.f;
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int m = 0; m < M; ++m) {
            const float s = warp_sum(acc[r][m]);
            if (lane == r * M + m) mine = s;
        }
    }
    return mine;
}

/* Part s of K for one of `splits` warps that share rows: multiples of what a warp reads at once. */
template <typename T> static __host__ __device__ inline int gemv_split(int K, int splits, int s)
{
    constexpr int step = 32 * 16 / sizeof(T);
    const int64_t steps = (K + step - 1) / step, at = steps * s / splits * step;
    return at < K ? static_cast<int>(at) : K;
}

/* Adds lane by lane over the warps that share rows, in the order of K; the first of them gets the sum. `part`:
 * CU_GEMV_WARPS·32 floats of shared memory. All threads of the block come here. */
CU_FN float gemv_combine(float v, int splits, float *part)
{
    const int warp = threadIdx.x >> 5;
    if (splits == 1) return v;
    part[threadIdx.x] = v;
    __syncthreads();
    float sum = v;
    if (warp % splits == 0)
        for (int s = 1; s < splits; ++s) sum += part[threadIdx.x + 32 * s];
    __syncthreads();
    return sum;
}

} // namespace CU_NS
