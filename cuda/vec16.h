/* 16 bytes of a row at once, as f32: what the kernels that only pass over memory use where rows are aligned. */
#pragma once

#include "cuda/warp_ops.h"

namespace CU_NS
{

/* Elements in 16 bytes. */
template <typename T> static __host__ __device__ constexpr int vec16()
{
    return 16 / static_cast<int>(sizeof(T));
}

CU_FN void load16(const float *p, float (&v)[4])
{
    const float4 t = *reinterpret_cast<const float4 *>(p);
    v[0] = t.x, v[1] = t.y, v[2] = t.z, v[3] = t.w;
}
CU_FN void load16(const bf16 *p, float (&v)[8])
{
    const uint4 t = *reinterpret_cast<const uint4 *>(p);
    const float2 a = unpack_bf16(t.x), b = unpack_bf16(t.y), c = unpack_bf16(t.z), d = unpack_bf16(t.w);
    v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
}
/* As many floats as there are bf16 in 16 bytes: a stream of f32 beside branches of bf16. */
CU_FN void load16(const float *p, float (&v)[8])
{
    const float4 a = *reinterpret_cast<const float4 *>(p), b = *reinterpret_cast<const float4 *>(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
CU_FN void store16(float *p, const float (&v)[8])
{
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4 *>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
/* Rounds to nearest even. */
CU_FN void store16(float *p, const float (&v)[4])
{
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
}
CU_FN void store16(bf16 *p, const float (&v)[8])
{
    uint4 t;
    t.x = pack_bf16(v[0], v[1]);
    t.y = pack_bf16(v[2], v[3]);
    t.z = pack_bf16(v[4], v[5]);
    t.w = pack_bf16(v[6], v[7]);
    *reinterpret_cast<uint4 *>(p) = t;
}
/* One element or 16 bytes: kernels are written once for both. */
template <typename T, int N> CU_FN void load_n(const T *p, float (&v)[N])
{
    if constexpr (N == 1) v[0] = load(p);
    else load16(p, v);
}
template <typename T, int N> CU_FN void store_n(T *p, const float (&v)[N])
{
    if constexpr (N == 1) store(p, v[0]);
    else store16(p, v);
}

/* Whether 16-byte access is allowed at `p` (NULL: nothing is accessed) and, for rows, `bytes` further on. */
static inline bool aligned16(const void *p, size_t bytes = 0)
{
    return !p || (reinterpret_cast<uintptr_t>(p) % 16 == 0 && bytes % 16 == 0);
}

/* A block of whole warps for `n` pieces of work, at most `most` threads. */
static inline unsigned block_for(int64_t n, int most)
{
    return static_cast<unsigned>(n >= most ? most : n <= 32 ? 32 : (n + 31) / 32 * 32);
}

} // namespace CU_NS
