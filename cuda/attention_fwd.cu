/* Attention of many tokens: the choice of a kernel, and the general one, that any A, Hq/Hkv and type can take.
 *
 * General kernel: a warp owns one token and one query head and walks over the keys that the token sees, 32 at a time:
 * each lane makes the score of one key, the running maximum and sum (online softmax, f32) are kept by all lanes alike,
 * and each lane adds p·v to the elements of the output that it owns. No key outside of the visible range is read at
 * all. */
#include "cuda/attention.cuh"

#include "cuda/attention_impl.h"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

/* Shared memory of one warp: the query in f32, the sum of p·v, the p of 32 keys. */
struct warp_smem {
    float *q, *o, *p;
};

__host__ __device__ inline size_t carve(warp_smem *s, unsigned char *base, int A, int warps, int warp)
{
    cu_carve c(base);
    const size_t n = static_cast<size_t>(A), all = static_cast<size_t>(warps), w = static_cast<size_t>(warp);
    float *q = c.take<float>(all * n), *o = c.take<float>(all * n), *p = c.take<float>(all * 32);
    if (base) {
        s->q = q + w * n;
        s->o = o + w * n;
        s->p = p + w * 32;
    }
    return c.off;
}

/* grid (M, ceil(Hq / warps)) */
template <typename T> __global__ void __launch_bounds__(128, 4) attention_kernel(cu_attention a, float scale)
{
    DYN_SMEM(raw);
    const int warps = static_cast<int>(blockDim.x) / 32, A = a.A;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int m = static_cast<int>(blockIdx.x), h = static_cast<int>(blockIdx.y) * warps + warp;
    if (h >= a.Hq) return; /* a whole warp, and nothing below is collective beyond a warp */
    warp_smem sm = {};
    carve(&sm, raw, A, warps, warp);
    const T *q = static_cast<const T *>(a.q) + m * a.ldq + static_cast<int64_t>(h) * A;
    for (int i = lane; i < A; i += 32) {
        sm.q[i] = load(q + i);
        sm.o[i] = 0.f;
    }
    __syncwarp();
    const int row = a.t.row[m], first = a.t.first[m], end = a.t.past[row] + m - a.t.row_begin[row] + 1;
    const int kv = h / (a.Hq / a.Hkv);
    const T *key = static_cast<const T *>(a.kv.key), *value = static_cast<const T *>(a.kv.value);
    float max = -INFINITY, sum = 0.f;
    for (int s0 = first; s0 < end; s0 += 32) {
        const int s = s0 + lane, n = min(32, end - s0);
        float score = -INFINITY;
        if (s < end) {
            const T *k = key + cu_kv_at(a.kv, row, kv, s);
            float dot = 0.f;
            for (int i = 0; i < A; ++i) dot += sm.q[i] * load(k + i);
            score = dot * scale;
        }
        const float m1 = fmaxf(max, warp_max(score)), ref = softmax_ref(m1), keep = expf(max - ref);
        const float p = s < end ? expf(score - ref) : 0.f;
        max = m1;
        sum = sum * keep + warp_sum(p);
        sm.p[lane] = p;
        __syncwarp();
        for (int i = lane; i < A; i += 32) {
            float o = sm.o[i] * keep;
            for (int j = 0; j < n; ++j) o += sm.p[j] * load(value + cu_kv_at(a.kv, row, kv, s0 + j) + i);
            sm.o[i] = o;
        }
        __syncwarp();
    }
    T *out = static_cast<T *>(a.out) + (static_cast<int64_t>(m) * a.Hq + h) * A;
    for (int i = lane; i < A; i += 32) store(out + i, sm.o[i] / sum);
}

template <typename T> fh1_status launch(const cu_ctx *k, const cu_attention &a)
{
    const int warps = a.A <= 1024 ? 4 : 1; /* of the widest head of all, one fits */
    const size_t smem = carve(nullptr, nullptr, a.A, warps, 0);
    if (smem > 48 * 1024)
        CU_TRY(cudaFuncSetAttribute(attention_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(smem)),
               "shared memory of the general attention");
    const dim3 grid(static_cast<unsigned>(a.t.M), static_cast<unsigned>((a.Hq + warps - 1) / warps));
    LAUNCH((attention_kernel<T>), grid, static_cast<unsigned>(warps * 32), smem, k->stream, a, attention_scale(a.A));
    return cu_launched("attention");
}

} // namespace

fh1_status attention_general(const cu_ctx *k, const cu_attention &a)
{
    return a.type == CU_BF16 ? launch<bf16>(k, a) : launch<float>(k, a);
}

fh1_status cu_attention_fwd(cu_ctx *k, const cu_attention *a)
{
    if (a->t.M == 0 || a->Hq == 0) return NULL;
    if (k->path == CU_GENERAL || !attention_mma_takes(*a)) return attention_general(k, *a);
    if (attention_wgmma_takes(k, *a)) return attention_wgmma(k, *a);
    return attention_mma(k, *a);
}

} // namespace CU_NS
