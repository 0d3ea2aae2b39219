/* Rotation of queries and keys in place, and append to the pages of the row (cuda/rope.cuh).
 *
 * One block per token: its threads first make the A/2 cosines and sines of the token in shared memory, once for all
 * heads, then walk over the pairs of all heads of q and k, VEC pairs at a time, and copy v.
 *
 * The angle position·inv_freq is a product of two f64 that can be as large as 2^53, where the rounding of the product
 * alone would be half a radian. So it is kept as hi + lo (fma gives lo exactly) and reduced by multiples of π/2 given
 * in three parts: hi - n·P1 is exact in one fma (a multiple of 2^-52 below 2), the rest is good to about 2^-52. The
 * cosine and sine of what remains are f64 polynomials, rounded once to f32. */
#include "cuda/rope.cuh"

#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

enum { THREADS = 128 };

/* cos and sin of p·f for an integer p up to 2^53 in size. */
__device__ inline void cos_sin(double p, double f, double *c, double *s)
{
    const double P1 = 0x1.921fb54442d18p+0, P2 = 0x1.1a62633145c07p-54, P3 = -0x1.f1976b7ed8fbcp-110; /* π/2 */
    const double hi = p * f, lo = fma(p, f, -hi);
    if (!(fabs(hi) < 0x1p62)) { /* no angle: NaN, or beyond what an integer holds */
        *c = *s = hi - hi;
        return;
    }
    const double n = rint(hi * 0x1.45f306dc9c883p-1);
    double r = fma(-n, P1, hi);
    r = fma(-n, P2, r) + fma(-n, P3, lo);
    const double x = r * r; /* |r| is a little over π/4 at most, or over π/2 where the quotient is beyond 2^52 */
    double sp = 1 / 355687428096000.0;
    sp = fma(sp, x, -1 / 1307674368000.0);
    sp = fma(sp, x, 1 / 6227020800.0);
    sp = fma(sp, x, -1 / 39916800.0);
    sp = fma(sp, x, 1 / 362880.0);
    sp = fma(sp, x, -1 / 5040.0);
    sp = fma(sp, x, 1 / 120.0);
    sp = fma(sp, x, -1 / 6.0);
    sp = fma(sp * x, r, r);
    double cp = 1 / 20922789888000.0;
    cp = fma(cp, x, -1 / 87178291200.0);
    cp = fma(cp, x, 1 / 479001600.0);
    cp = fma(cp, x, -1 / 3628800.0);
    cp = fma(cp, x, 1 / 40320.0);
    cp = fma(cp, x, -1 / 720.0);
    cp = fma(cp, x, 1 / 24.0);
    cp = fma(cp, x, -0.5);
    cp = fma(cp, x, 1.0);
    const int quadrant = static_cast<int>(static_cast<int64_t>(n) & 3);
    const double a = quadrant & 1 ? sp : cp, b = quadrant & 1 ? cp : sp;
    *c = quadrant == 1 || quadrant == 2 ? -a : a;
    *s = quadrant >= 2 ? -b : b;
}

/* N stored elements as f32 and back: 16 bytes at once, or one. */
template <typename T, int N> __device__ inline void load_n(float (&x)[N], const T *p)
{
    if constexpr (N == 1) x[0] = load(p);
    else if constexpr (sizeof(T) == 4) {
        const float4 v = *reinterpret_cast<const float4 *>(p);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
        const uint4 v = *reinterpret_cast<const uint4 *>(p);
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 pair = unpack_bf16(w[i]);
            x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
        }
    }
}

template <typename T, int N> __device__ inline void store_n(T *p, const float (&x)[N])
{
    if constexpr (N == 1) store(p, x[0]);
    else if constexpr (sizeof(T) == 4) *reinterpret_cast<float4 *>(p) = make_float4(x[0], x[1], x[2], x[3]);
    else {
        uint4 v;
        v.x = pack_bf16(x[0], x[1]), v.y = pack_bf16(x[2], x[3]);
        v.z = pack_bf16(x[4], x[5]), v.w = pack_bf16(x[6], x[7]);
        *reinterpret_cast<uint4 *>(p) = v;
    }
}

/* N pairs (i, i + half), scaled by `mul`, in place; also to `copy` unless NULL. */
template <typename T, int N>
__device__ inline void rotate(T *x, T *copy, int half, float mul, const float *cosine, const float *sine)
{
    float lo[N], hi[N], a[N], b[N];
    load_n<T, N>(lo, x);
    load_n<T, N>(hi, x + half);
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const float u = lo[j] * mul, v = hi[j] * mul;
        a[j] = u * cosine[j] - v * sine[j];
        b[j] = v * cosine[j] + u * sine[j];
    }
    store_n<T, N>(x, a);
    store_n<T, N>(x + half, b);
    if (!copy) return;
    store_n<T, N>(copy, a);
    store_n<T, N>(copy + half, b);
}

/* grid M; dynamic shared memory: A/2 cosines, A/2 sines. VEC elements of T are one access: 1, or 16 bytes. */
template <typename T, int VEC> __global__ void __launch_bounds__(THREADS) rope_kernel(cu_rope a)
{
    DYN_SMEM(raw);
    cu_carve carve(raw);
    const int half = a.A / 2, m = static_cast<int>(blockIdx.x), tid = static_cast<int>(threadIdx.x);
    float *cosine = carve.take<float>(static_cast<size_t>(half)), *sine = carve.take<float>(static_cast<size_t>(half));
    const double place = static_cast<double>(a.t.position[m]), position = a.transposed ? -place : place;
    for (int i = tid; i < half; i += THREADS) {
        double c, s;
        cos_sin(position, a.inv_freq[i], &c, &s);
        cosine[i] = static_cast<float>(c * static_cast<double>(a.scale));
        sine[i] = static_cast<float>(s * static_cast<double>(a.scale));
    }
    __syncthreads();
    const int chunks = half / VEC; /* per head */
    T *q = static_cast<T *>(a.q) + m * a.ldq;
    for (int j = tid; j < a.Hq * chunks; j += THREADS) {
        const int i = j % chunks * VEC;
        rotate<T, VEC>(q + static_cast<int64_t>(j / chunks) * a.A + i, static_cast<T *>(nullptr), half, 1.f, cosine + i,
                       sine + i);
    }
    if (a.Hkv == 0) return;
    const int row = a.t.row[m], slot = a.t.past[row] + m - a.t.row_begin[row];
    T *k = static_cast<T *>(a.k) + m * a.ldk, *key = static_cast<T *>(a.kv.key);
    for (int j = tid; j < a.Hkv * chunks; j += THREADS) {
        const int i = j % chunks * VEC, h = j / chunks;
        T *copy = key ? key + cu_kv_at(a.kv, row, h, slot) + i : nullptr;
        rotate<T, VEC>(k + static_cast<int64_t>(h) * a.A + i, copy, half, a.m_key, cosine + i, sine + i);
    }
    if (!key) return;
    const T *v = static_cast<const T *>(a.v) + m * a.ldv;
    T *value = static_cast<T *>(a.kv.value);
    const int per_head = a.A / VEC;
    for (int j = tid; j < a.Hkv * per_head; j += THREADS) {
        const int i = j % per_head * VEC, h = j / per_head;
        const T *from = v + static_cast<int64_t>(h) * a.A + i;
        T *to = value + cu_kv_at(a.kv, row, h, slot) + i;
        if constexpr (VEC == 1) *to = *from;
        else *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
    }
}

/* Whether every row of x starts at a multiple of 16 bytes. */
bool aligned16(const void *x, int64_t ld, size_t size)
{
    return reinterpret_cast<uintptr_t>(x) % 16 == 0 && static_cast<uint64_t>(ld) * size % 16 == 0;
}

template <typename T> fh1_status launch(const cu_ctx *k, const cu_rope &a)
{
    constexpr int VEC = 16 / sizeof(T);
    const size_t half = static_cast<size_t>(a.A) / 2;
    cu_carve carve(nullptr);
    carve.take<float>(half);
    carve.take<float>(half);
    bool wide = k->path != CU_GENERAL && half % VEC == 0 && aligned16(a.q, a.ldq, sizeof(T));
    if (a.Hkv) wide = wide && aligned16(a.k, a.ldk, sizeof(T));
    if (a.Hkv && a.kv.key)
        wide = wide && aligned16(a.v, a.ldv, sizeof(T)) && aligned16(a.kv.key, 0, 1) && aligned16(a.kv.value, 0, 1);
    const dim3 grid(static_cast<unsigned>(a.t.M));
    if (wide) LAUNCH((rope_kernel<T, VEC>), grid, THREADS, carve.off, k->stream, a);
    else LAUNCH((rope_kernel<T, 1>), grid, THREADS, carve.off, k->stream, a);
    return cu_launched("rope");
}

} // namespace

fh1_status cu_rope_fwd(cu_ctx *k, const cu_rope *a)
{
    if (a->t.M == 0 || a->Hq + a->Hkv == 0) return NULL;
    return a->type == CU_BF16 ? launch<bf16>(k, *a) : launch<float>(k, *a);
}

} // namespace CU_NS
