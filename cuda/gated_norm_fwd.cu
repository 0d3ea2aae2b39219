/* Gate and norm of the mixer. Without a norm a thread per few elements; with one a block per group of a token, the
 * values kept in registers between the two passes where they fit, so that y and z are read once and out may be y. */
#include "cuda/gated_norm.cuh"

#include "cuda/silu.h"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

constexpr int THREADS = 256, PAIRS = 256; /* threads of the gate alone */

/* out = R(y·s), one element a thread. */
template <typename T> __global__ void __launch_bounds__(PAIRS) gate(cu_gated_norm a)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * PAIRS + threadIdx.x;
    if (i >= static_cast<int64_t>(a.M) * a.d) return;
    const int64_t m = i / a.d, j = i - m * a.d;
    const float s = silu(load(static_cast<const T *>(a.z) + m * a.ldz + j) * a.m_z);
    store(static_cast<T *>(a.out) + i, load(static_cast<const T *>(a.y) + i) * s);
}

CU_FN uint32_t gated_pair(uint32_t y, uint32_t z, float m_z)
{
    const float2 v = unpack_bf16(y), g = unpack_bf16(z);
    return pack_bf16(v.x * silu(g.x * m_z), v.y * silu(g.y * m_z));
}

/* The same for bf16, eight elements a thread; d and ldz multiples of 8, everything 16-byte aligned. */
__global__ void __launch_bounds__(PAIRS) gate8(cu_gated_norm a)
{
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * PAIRS + threadIdx.x) * 8;
    if (i >= static_cast<int64_t>(a.M) * a.d) return;
    const int64_t m = i / a.d, j = i - m * a.d;
    const uint4 y = *reinterpret_cast<const uint4 *>(static_cast<const bf16 *>(a.y) + i);
    const uint4 z = *reinterpret_cast<const uint4 *>(static_cast<const bf16 *>(a.z) + m * a.ldz + j);
    *reinterpret_cast<uint4 *>(static_cast<bf16 *>(a.out) + i) =
        make_uint4(gated_pair(y.x, z.x, a.m_z), gated_pair(y.y, z.y, a.m_z), gated_pair(y.z, z.z, a.m_z),
                   gated_pair(y.w, z.w, a.m_z));
}

/* One group of one token. KEEP values a thread stay in registers, the rest of a wider group is computed twice. */
template <typename T, int KEEP> __global__ void __launch_bounds__(THREADS) gated_norm(cu_gated_norm a)
{
    SHARED(float, red, [32]);
    const int n = a.d / a.G;
    const int64_t m = blockIdx.x / a.G, first = static_cast<int64_t>(blockIdx.x % a.G) * n;
    const T *y = static_cast<const T *>(a.y) + m * a.d + first;
    const T *z = static_cast<const T *>(a.z) + m * a.ldz + first;
    T *out = static_cast<T *>(a.out) + m * a.d + first;
    float v[KEEP], s[KEEP], sum = 0;
#pragma unroll
    for (int k = 0; k < KEEP; ++k) {
        const int i = threadIdx.x + k * THREADS;
        v[k] = i < n ? load(y + i) : 0.f;
        s[k] = i < n ? silu(load(z + i) * a.m_z) : 0.f;
        if (!a.norm_before_gate) v[k] *= s[k];
        sum = fmaf(v[k], v[k], sum);
    }
    for (int i = threadIdx.x + KEEP * THREADS; i < n; i += THREADS) {
        float t = load(y + i);
        if (!a.norm_before_gate) t *= silu(load(z + i) * a.m_z);
        sum = fmaf(t, t, sum);
    }
    const float root = 1.f / sqrtf(block_sum(sum, red) / static_cast<float>(n) + a.eps);
#pragma unroll
    for (int k = 0; k < KEEP; ++k) {
        const int i = threadIdx.x + k * THREADS;
        const float normal = v[k] * root;
        if (i < n) store(out + i, a.w[first + i] * normal * (a.norm_before_gate ? s[k] : 1.f));
    }
    for (int i = threadIdx.x + KEEP * THREADS; i < n; i += THREADS) {
        const float g = silu(load(z + i) * a.m_z), t = load(y + i), normal = (a.norm_before_gate ? t : t * g) * root;
        store(out + i, a.w[first + i] * normal * (a.norm_before_gate ? g : 1.f));
    }
}

bool eights(const cu_gated_norm &a)
{
    const uintptr_t all =
        reinterpret_cast<uintptr_t>(a.y) | reinterpret_cast<uintptr_t>(a.z) | reinterpret_cast<uintptr_t>(a.out);
    return a.type == CU_BF16 && a.d % 8 == 0 && a.ldz % 8 == 0 && all % 16 == 0;
}

template <typename T> void launch(cu_ctx *k, const cu_gated_norm &a)
{
    const int64_t n = static_cast<int64_t>(a.M) * a.d;
    const unsigned groups = static_cast<unsigned>(static_cast<int64_t>(a.M) * a.G);
    if (!a.w && k->path != CU_GENERAL && eights(a))
        LAUNCH(gate8, static_cast<unsigned>((n / 8 + PAIRS - 1) / PAIRS), PAIRS, 0, k->stream, a);
    else if (!a.w) LAUNCH(gate<T>, static_cast<unsigned>((n + PAIRS - 1) / PAIRS), PAIRS, 0, k->stream, a);
    else if (a.d / a.G <= 4 * THREADS) LAUNCH((gated_norm<T, 4>), groups, THREADS, 0, k->stream, a);
    else LAUNCH((gated_norm<T, 16>), groups, THREADS, 0, k->stream, a);
}

} // namespace

fh1_status cu_gated_norm_fwd(cu_ctx *k, const cu_gated_norm *a)
{
    if (a->M == 0 || a->d == 0) return NULL;
    if (a->type == CU_BF16) launch<bf16>(k, *a);
    else launch<float>(k, *a);
    return cu_launched("gated_norm");
}

} // namespace CU_NS
