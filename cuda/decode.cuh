/* What the fused decode kernels share: the norm at the start of each block, and the choice of a kernel. */
#pragma once

#include "cuda/decode_linear.cuh"
#include "cuda/gemv.cuh"
#include "cuda/vec16.h"

namespace CU_NS
{

enum { CU_DECODE_THREADS = 32 * CU_GEMV_WARPS, CU_DECODE_SMEM = 160 << 10 }; /* what sm_80 has, too */

/* The rows that a block normalises, and where they go. */
struct cu_decode_norm {
    const void *x;     /* [rows, D] */
    const float *norm; /* NULL: x is taken as it is */
    float eps;
    int rows, D;
    void *n; /* NULL, or written by block 0 */
};

/* to[m·D + i] = R(norm[i]·x[m,i]·rsqrt(mean x[m]² + eps)), with what rmsnorm_fwd.cu does to each number. `red`:
 * CU_GEMV_WARPS·M floats. Ends with a barrier. */
template <typename T, bool VEC, int M> CU_FN void decode_norm(const cu_decode_norm &a, T *to, float *red)
{
    constexpr int V = VEC ? 16 / sizeof(T) : 1;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, step = CU_DECODE_THREADS * V;
    const T *x = static_cast<const T *>(a.x);
    T *n = blockIdx.x == 0 ? static_cast<T *>(a.n) : nullptr;
    float scale[M] = {};
    /* all rows of one column together: that many loads are in flight */
#pragma unroll 1
    for (int i = threadIdx.x * V; i < a.D; i += step) {
#pragma unroll
        for (int m = 0; m < M; ++m) {
            float f[V];
            load_n(x + static_cast<int64_t>(m < a.rows ? m : a.rows - 1) * a.D + i, f);
#pragma unroll
            for (int j = 0; j < V; ++j) scale[m] = fmaf(f[j], f[j], scale[m]);
        }
    }
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const float sum = warp_sum(scale[m]);
        if (lane == 0) red[warp * M + m] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < M; ++m) {
        float sum = 0.f;
        for (int w = 0; w < CU_GEMV_WARPS; ++w) sum += red[w * M + m];
        scale[m] = a.norm ? 1.f / sqrtf(sum / static_cast<float>(a.D) + a.eps) : 1.f;
    }
#pragma unroll 1
    for (int i = threadIdx.x * V; i < a.D; i += step) {
        float w[V];
#pragma unroll
        for (int j = 0; j < V; ++j) w[j] = a.norm ? a.norm[i + j] : 1.f;
#pragma unroll
        for (int m = 0; m < M; ++m) {
            if (m >= a.rows) break;
            const int64_t at = static_cast<int64_t>(m) * a.D + i;
            float f[V];
            load_n(x + at, f);
#pragma unroll
            for (int j = 0; j < V; ++j) f[j] = w[j] * (f[j] * scale[m]);
            store_n(to + at, f);
            if (n) store_n(n + at, f);
        }
    }
    __syncthreads();
}

/* Shared memory of a kernel that normalises: the same cut on both sides. */
template <typename T> struct decode_smem {
    T *n;
    float *red;
};
template <typename T>
__host__ __device__ inline size_t decode_carve(decode_smem<T> &s, unsigned char *base, int M, int D)
{
    cu_carve c(base);
    s.n = c.take<T>(static_cast<size_t>(M) * static_cast<size_t>(D));
    s.red = c.take<float>(
        static_cast<size_t>(CU_DECODE_THREADS > CU_GEMV_WARPS * M ? CU_DECODE_THREADS : CU_GEMV_WARPS * M));
    return c.off;
}

/* How many rows of width D one launch of such a kernel takes: 8, 4, 2, 1, or 0 where not even one fits. */
static inline int cu_decode_rows(cu_type t, int D)
{
    int rows = CU_DECODE_ROWS;
    while (rows > 0 && cu_size(t) * static_cast<size_t>(rows) * static_cast<size_t>(D) > CU_DECODE_SMEM - 8192)
        rows /= 2;
    return rows;
}

/* Element i of an array of type t. */
static inline void *cu_at(cu_type t, const void *p, int64_t i)
{
    return p ? const_cast<char *>(static_cast<const char *>(p)) + i * static_cast<int64_t>(cu_size(t)) : NULL;
}

/* Calls F<T, VEC, M>(args) for a storage type, vector or single loads, and the number of rows rounded up. */
#define CU_DECODE_CALL_M(F, T, VEC, rows, ...) \
    ((rows) == 1   ? F<T, VEC, 1>(__VA_ARGS__) \
     : (rows) == 2 ? F<T, VEC, 2>(__VA_ARGS__) \
     : (rows) <= 4 ? F<T, VEC, 4>(__VA_ARGS__) \
                   : F<T, VEC, 8>(__VA_ARGS__))
#define CU_DECODE_CALL(F, type, vec, rows, ...)                                      \
    ((type) == CU_F32 ? (vec) ? CU_DECODE_CALL_M(F, float, true, rows, __VA_ARGS__)  \
                              : CU_DECODE_CALL_M(F, float, false, rows, __VA_ARGS__) \
     : (vec) ? CU_DECODE_CALL_M(F, bf16, true, rows, __VA_ARGS__)                    \
                      : CU_DECODE_CALL_M(F, bf16, false, rows, __VA_ARGS__))

} // namespace CU_NS
