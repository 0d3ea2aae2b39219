/* Attention of one token per row, bf16 with A = 64 or 128; other shapes take the general kernel of attention_fwd.cu.
 *
 * All that counts is that keys and values are read once, at the speed of memory. A block owns one token, one key head
 * with (up to 8 of) the query heads that share it, and one part of the pages that the token sees; grid (parts, key
 * heads, tokens). Each of its 4 warps takes slices of 4 KB of keys: scores by tensor cores (products of bf16 are exact,
 * sums are f32), softmax in f32, then p·v in f32 FMA with p not rounded, each lane 8 columns of all heads.
 *
 * Parts: 2 blocks for each multiprocessor over all of them, but a page at least. How a row is cut depends on the number
 * of its own pages, not on most_keys, so that a graph with room for more keys gives the same bits. Of every 16 parts
 * the one that arrives last merges all their (o, maximum, sum), then the last of those groups merges the groups, always
 * in the order of the parts: the result does not depend on timing, and no block reads more than 16 of them.
 *
 * Scratch: [counters, zero between calls] [per token and block of heads: parts, groups; each GB × (A + 4) f32]. */
#include "cuda/attention_impl.h"

#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

enum { WARPS = 4, THREADS = 32 * WARPS, FAN = 16, MAX_PARTS = FAN * FAN, COUNTERS = 1 << 16 };

/* How the query heads of a key head and the pages of a row are divided. */
struct step_plan {
    int chunks; /* blocks for the query heads of one key head */
    int heads;  /* of one block, 8 at most */
    int parts;  /* of a row's pages, at most */
    int groups; /* of parts, at most */
};

step_plan plan_of(const cu_ctx *k, int Hq, int Hkv, int B, int most_keys)
{
    const int G = Hq / Hkv;
    step_plan p;
    p.chunks = (G + 7) / 8;
    p.heads = (G + p.chunks - 1) / p.chunks;
    const int64_t blocks = static_cast<int64_t>(B) * Hkv * p.chunks;
    const int64_t pages = (static_cast<int64_t>(most_keys) + CU_PAGE - 1) / CU_PAGE;
    int64_t parts = blocks > 0 ? (2 * static_cast<int64_t>(k->sms) + blocks - 1) / blocks : 1;
    if (parts > pages) parts = pages;
    if (parts > MAX_PARTS) parts = MAX_PARTS;
    if (parts < 1 || blocks > COUNTERS / (FAN + 1)) parts = 1;
    p.parts = static_cast<int>(parts);
    p.groups = (p.parts + FAN - 1) / FAN;
    return p;
}

/* Blocks of one multiprocessor: as many as registers allow without spilling. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <int A, int GB> [[maybe_unused]] constexpr int RESIDENT = 2;
#else
template <int A, int GB> [[maybe_unused]] constexpr int RESIDENT = A == 64 || GB <= 3 ? 3 : 2;
#endif

/* The (o, maximum, sum) of GB heads: A + 4 floats each, of which 2 keep the next one at 16 bytes. */
template <int A> constexpr int STRIDE = A + 4;

/* What each warp has found; p of a warp's slice, [GB][KEYS]; what o is multiplied with when the maximum grows, [GB];
 * the weights and the sum of a merge, [GB][FAN + 1]. */
struct step_smem {
    float *found, *p, *keep, *weight;
};

template <int A, int GB> __host__ __device__ inline size_t carve(step_smem *s, unsigned char *base)
{
    cu_carve c(base);
    float *found = c.take<float>(WARPS * GB * STRIDE<A>), *p = c.take<float>(WARPS * GB * (2048 / A));
    float *keep = c.take<float>(WARPS * GB), *weight = c.take<float>(GB * (FAN + 1));
    if (base) *s = step_smem{found, p, keep, weight};
    return c.off;
}

/* The state of a warp: row l/4 of the scores is head l/4, maximum and sum of it in every lane of the quad (the sum in
 * parts); o: 8 columns, of the keys that this lane took. */
template <int GB> struct warp_state {
    float max, sum, o[GB][8];
};

/* One slice of 2048/A keys from slot `s0`, all in one page; slots outside of [from, to) are not read. */
template <int A, int GB>
__device__ inline void slice(warp_state<GB> *w, const uint4 (&q)[A / 32], const bf16 *key, const bf16 *value, int s0,
                             int from, int to, float c, float *p, float *keep)
{
    constexpr int KEYS = 2048 / A, TILES = KEYS / 8, LANES = A / 8;
    const int lane = static_cast<int>(threadIdx.x) % 32, head = lane / 4;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    uint4 k[TILES][A / 32], v[8];
#pragma unroll ALL
    for (int n = 0; n < TILES; ++n) {
        const int s = n * 8 + lane / 4;
        const bool seen = s0 + s >= from && s0 + s < to;
#pragma unroll ALL
        for (int i = 0; i < A / 32; ++i) k[n][i] = seen ? ld_stream16(key + s * A + i * 32 + lane % 4 * 8) : zero;
    }
#pragma unroll ALL
    for (int j = 0; j < 8; ++j) {
        const int s = lane / LANES * 8 + j;
        const bool seen = s0 + s >= from && s0 + s < to;
        v[j] = seen ? ld_stream16(value + s * A + lane % LANES * 8) : zero;
    }
    float s[TILES][2], max = w->max;
#pragma unroll ALL
    for (int n = 0; n < TILES; ++n) {
        float d[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll ALL
        for (int i = 0; i < A / 32; ++i) { /* any order of the columns will do, if it is the same in q and k */
            const uint32_t a0[4] = {q[i].x, 0, q[i].y, 0}, a1[4] = {q[i].z, 0, q[i].w, 0};
            const uint32_t b0[2] = {k[n][i].x, k[n][i].y}, b1[2] = {k[n][i].z, k[n][i].w};
            mma_m16n8k16_bf16(d, a0, b0);
            mma_m16n8k16_bf16(d, a1, b1);
        }
#pragma unroll ALL
        for (int i = 0; i < 2; ++i) {
            const int at = s0 + n * 8 + lane % 4 * 2 + i;
            s[n][i] = at >= from && at < to ? d[i] : -INFINITY;
            max = fmaxf(max, s[n][i]);
        }
    }
    max = quad_max(max);
    const float ref = softmax_ref(max), grown = fast_exp2((w->max - ref) * c);
    w->max = max;
    w->sum *= grown;
    __syncwarp(); /* the lanes are done with the p of the slice before */
#pragma unroll ALL
    for (int n = 0; n < TILES; ++n) {
        const float2 x = make_float2(fast_exp2((s[n][0] - ref) * c), fast_exp2((s[n][1] - ref) * c));
        w->sum += x.x + x.y;
        if (head < GB) *reinterpret_cast<float2 *>(p + head * KEYS + n * 8 + lane % 4 * 2) = x;
    }
    if (head < GB && lane % 4 == 0) keep[head] = grown;
    __syncwarp();
#pragma unroll ALL
    for (int g = 0; g < GB; ++g) {
        const float f = keep[g];
#pragma unroll ALL
        for (int i = 0; i < 8; ++i) w->o[g][i] *= f;
    }
#pragma unroll ALL
    for (int half = 0; half < 2; ++half) {
        float4 x[GB];
#pragma unroll ALL
        for (int g = 0; g < GB; ++g)
            x[g] = *reinterpret_cast<const float4 *>(p + g * KEYS + lane / LANES * 8 + half * 4);
#pragma unroll ALL
        for (int j = 0; j < 4; ++j) {
            const uint4 u = v[half * 4 + j];
            const float2 pair[4] = {unpack_bf16(u.x), unpack_bf16(u.y), unpack_bf16(u.z), unpack_bf16(u.w)};
#pragma unroll ALL
            for (int g = 0; g < GB; ++g) {
                const float f = j == 0 ? x[g].x : j == 1 ? x[g].y : j == 2 ? x[g].z : x[g].w;
#pragma unroll ALL
                for (int i = 0; i < 4; ++i) {
                    w->o[g][2 * i] = fmaf(f, pair[i].x, w->o[g][2 * i]);
                    w->o[g][2 * i + 1] = fmaf(f, pair[i].y, w->o[g][2 * i + 1]);
                }
            }
        }
    }
}

/* The warp's lanes put together, to shared memory: per head A columns, maximum, sum. */
template <int A, int GB> __device__ inline void put_warp(warp_state<GB> *w, float *to)
{
    constexpr int LANES = A / 8;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float sum = quad_sum(w->sum);
#pragma unroll ALL
    for (int g = 0; g < GB; ++g)
#pragma unroll ALL
        for (int i = 0; i < 8; ++i) {
            float x = w->o[g][i];
#pragma unroll ALL
            for (int d = LANES; d < 32; d *= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
            if (lane < LANES) to[g * STRIDE<A> + lane * 8 + i] = x;
        }
    if (lane % 4 == 0 && lane / 4 < GB) {
        to[lane / 4 * STRIDE<A> + A] = w->max;
        to[lane / 4 * STRIDE<A> + A + 1] = sum;
    }
}

/* Merges the n <= FAN findings at x into `to`, or, where out is given, divides by the sum and stores the result. The
 * block has synchronized since x was written. */
template <int A, int GB>
__device__ inline void merge(const float *x, int n, int heads, float c, float *weight, float *to, bf16 *out)
{
    const int tid = static_cast<int>(threadIdx.x);
    float *mine = weight + tid * (FAN + 1);
    if (tid < heads) {
        const float *at = x + tid * STRIDE<A> + A;
        float max = -INFINITY, sum = 0.f;
#pragma unroll 4
        for (int j = 0; j < n; ++j) max = fmaxf(max, at[j * GB * STRIDE<A>]);
        const float ref = softmax_ref(max);
#pragma unroll 4
        for (int j = 0; j < n; ++j) {
            const float f = fast_exp2((at[j * GB * STRIDE<A>] - ref) * c);
            mine[j] = f;
            sum += at[j * GB * STRIDE<A> + 1] * f;
        }
        mine[FAN] = sum;
        if (!out) {
            to[tid * STRIDE<A> + A] = max;
            to[tid * STRIDE<A> + A + 1] = sum;
        }
    }
    __syncthreads();
    for (int i = tid; i < heads * A / 4; i += THREADS) {
        const int g = i / (A / 4), col = i % (A / 4) * 4;
        const float *w = weight + g * (FAN + 1);
        float4 o = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
        for (int j = 0; j < n; ++j) {
            const float4 v = *reinterpret_cast<const float4 *>(x + (j * GB + g) * STRIDE<A> + col);
            o.x += v.x * w[j], o.y += v.y * w[j], o.z += v.z * w[j], o.w += v.w * w[j];
        }
        if (!out) {
            *reinterpret_cast<float4 *>(to + g * STRIDE<A> + col) = o;
            continue;
        }
        const float sum = w[FAN];
        const uint2 u = make_uint2(pack_bf16(o.x / sum, o.y / sum), pack_bf16(o.z / sum, o.w / sum));
        *reinterpret_cast<uint2 *>(out + g * A + col) = u;
    }
}

/* Whether this block is the last of `n` that come here for one counter, which is zero again after the last. What the
 * others wrote before they came can be read. */
__device__ inline bool arrived_last(int *counter, int n)
{
    SHARED(int, last);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1) == n - 1;
        if (last) atomicExch(counter, 0);
    }
    __syncthreads();
    __threadfence();
    const bool mine = last != 0;
    __syncthreads(); /* `last` may be written again */
    return mine;
}

template <int A, int GB>
__global__ void __launch_bounds__(THREADS, RESIDENT<A, GB>)
    attention_step_kernel(cu_attention a, step_plan plan, float scale)
{
    constexpr int KEYS = 2048 / A, SIZE = GB * STRIDE<A>;
    DYN_SMEM(raw);
    step_smem sm = {};
    carve<A, GB>(&sm, raw);
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
    const int m = static_cast<int>(blockIdx.z), kv = static_cast<int>(blockIdx.y) / plan.chunks;
    const int chunk = static_cast<int>(blockIdx.y) % plan.chunks, part = static_cast<int>(blockIdx.x);
    const int G = a.Hq / a.Hkv, h0 = kv * G + chunk * plan.heads, heads = min(plan.heads, G - chunk * plan.heads);
    const int row = a.t.row[m], first = a.t.first[m], end = a.t.past[row] + m - a.t.row_begin[row] + 1;
    const int page0 = first / CU_PAGE, pages = (end + CU_PAGE - 1) / CU_PAGE - page0;
    const int per = (pages + plan.parts - 1) / plan.parts, parts = (pages + per - 1) / per;
    if (part >= parts) return; /* the whole block */
    const int from = max(first, (page0 + part * per) * CU_PAGE);
    const int to = min(end, (page0 + (part + 1) * per) * CU_PAGE);
    const float c = scale * 1.44269504088896340736f;

    uint4 q[A / 32];
#pragma unroll ALL
    for (int i = 0; i < A / 32; ++i)
        q[i] = lane / 4 < heads
                   ? *reinterpret_cast<const uint4 *>(static_cast<const bf16 *>(a.q) + m * a.ldq +
                                                      static_cast<int64_t>(h0 + lane / 4) * A + i * 32 + lane % 4 * 8)
                   : make_uint4(0, 0, 0, 0);
    warp_state<GB> w;
    w.max = -INFINITY;
    w.sum = 0.f;
#pragma unroll ALL
    for (int g = 0; g < GB; ++g)
#pragma unroll ALL
        for (int i = 0; i < 8; ++i) w.o[g][i] = 0.f;
    const bf16 *key = static_cast<const bf16 *>(a.kv.key), *value = static_cast<const bf16 *>(a.kv.value);
    for (int s0 = from / KEYS * KEYS + warp * KEYS; s0 < to; s0 += WARPS * KEYS) {
        const int64_t at = cu_kv_at(a.kv, row, kv, s0);
        slice<A, GB>(&w, q, key + at, value + at, s0, from, to, c, sm.p + warp * GB * KEYS, sm.keep + warp * GB);
    }
    put_warp<A, GB>(&w, sm.found + warp * SIZE);
    __syncthreads();

    bf16 *out = static_cast<bf16 *>(a.out) + (static_cast<int64_t>(m) * a.Hq + h0) * A;
    const int64_t place = static_cast<int64_t>(m) * gridDim.y + blockIdx.y;
    float *of_parts = static_cast<float *>(a.scratch) + COUNTERS + place * (plan.parts + plan.groups) * SIZE;
    float *of_groups = of_parts + static_cast<int64_t>(plan.parts) * SIZE;
    int *counter = static_cast<int *>(a.scratch) + place * (FAN + 1);
    const int group = part / FAN, groups = (parts + FAN - 1) / FAN, members = min(FAN, parts - group * FAN);
    const float *x = sm.found;
    int n = WARPS;
#pragma unroll 1
    for (int level = 0;; ++level) { /* the warps, the parts of a group, the groups */
        const bool all = level == 0 ? parts == 1 : level == 1 ? groups == 1 : true;
        float *to_place = level == 0 ? of_parts + part * SIZE : of_groups + group * SIZE;
        merge<A, GB>(x, n, heads, c, sm.weight, to_place, all ? out : nullptr);
        if (all) return;
        n = level == 0 ? members : groups;
        if (!arrived_last(counter + (level == 0 ? group : static_cast<int>(FAN)), n)) return;
        x = level == 0 ? of_parts + group * FAN * SIZE : of_groups;
    }
}

template <int A, int GB> fh1_status launch(const cu_ctx *k, const cu_attention &a, const step_plan &p)
{
    const size_t smem = carve<A, GB>(nullptr, nullptr);
    if (smem > 48 * 1024)
        CU_TRY(cudaFuncSetAttribute(attention_step_kernel<A, GB>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(smem)),
               "shared memory of the attention of one token");
    const dim3 grid(static_cast<unsigned>(p.parts), static_cast<unsigned>(a.Hkv * p.chunks),
                    static_cast<unsigned>(a.t.M));
    LAUNCH((attention_step_kernel<A, GB>), grid, THREADS, smem, k->stream, a, p, attention_scale(A));
    return cu_launched("attention_step");
}

template <int A> fh1_status launch_heads(const cu_ctx *k, const cu_attention &a)
{
    const step_plan p = plan_of(k, a.Hq, a.Hkv, a.t.M, a.t.most_keys);
    switch (p.heads) {
    case 1:
    case 2: return launch<A, 2>(k, a, p);
    case 3: return launch<A, 3>(k, a, p);
    case 4: return launch<A, 4>(k, a, p);
    case 5: return launch<A, 5>(k, a, p);
    case 6: return launch<A, 6>(k, a, p);
    default: return launch<A, 8>(k, a, p);
    }
}

bool takes(const cu_attention &a)
{
    return (a.A == 64 || a.A == 128) && a.type == CU_BF16 && a.t.M <= 65535 && a.Hq <= 65535 && a.ldq % 8 == 0 &&
           reinterpret_cast<uintptr_t>(a.q) % 16 == 0 && reinterpret_cast<uintptr_t>(a.kv.key) % 16 == 0 &&
           reinterpret_cast<uintptr_t>(a.kv.value) % 16 == 0 && reinterpret_cast<uintptr_t>(a.out) % 8 == 0;
}

} // namespace

size_t cu_attention_step_scratch(const cu_ctx *k, const cu_attention *a, int B, int most_keys)
{
    size_t most = 0; /* fewer tokens may mean more parts for each */
    for (int b = 1; b <= B; ++b) {
        const step_plan p = plan_of(k, a->Hq, a->Hkv, b, most_keys);
        const size_t parts = static_cast<size_t>(b) * static_cast<size_t>(a->Hkv) * static_cast<size_t>(p.chunks) *
                             static_cast<size_t>(p.parts + p.groups);
        const size_t n = p.parts > 1 ? parts * 8 * static_cast<size_t>(a->A + 4) : 0;
        if (n > most) most = n;
    }
    return (COUNTERS + most) * sizeof(float);
}

fh1_status cu_attention_step_fwd(cu_ctx *k, const cu_attention *a)
{
    if (a->t.M == 0 || a->Hq == 0) return NULL;
    if (k->path == CU_GENERAL || !takes(*a)) return attention_general(k, *a);
    return a->A == 64 ? launch_heads<64>(k, *a) : launch_heads<128>(k, *a);
}

} // namespace CU_NS
