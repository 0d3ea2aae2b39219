/* Filters and the draw of one row by one block (sample.cuh says what exactly).
 *
 * The filters keep a beginning of the order (logit, id), which two numbers name: the key of the last logit, and how
 * many of those equal to it survive. They are found digit by digit from the top: a histogram of one digit of all keys
 * that agree so far (of ones for top-k, of weights for top-p), in shared memory; the bin in which the running sum
 * reaches what is wanted is the next digit. */
#pragma once

#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

typedef unsigned long long u64; /* what atomicAdd takes */

enum { THREADS = 1024, WARPS = THREADS / 32, BINS = 2048, ONE_BIT = 40, DIGITS = 3 };

/* -- weights and keys ---------------------------------------------------------------------------- */

/* Rises with the logit; -0 and 0 are one. */
CU_FN uint32_t key_of(float l)
{
    const uint32_t u = __float_as_uint(l == 0.f ? 0.f : l);
    return u >> 31 ? ~u : u | 0x80000000u;
}

/* 2^t in units of 2^-40, t = d·scale <= 0: floor(p(t - n)·2^40) >> -n with n = floor(t + 1/2), the difference rounded
 * to f32. p is Taylor's polynomial of degree 7, good to 2^-27 there, evaluated from the top. The multiply-adds are
 * fused by name: left to the compiler, one device would fuse others than the next. */
CU_FN u64 exp2_fixed(double d, double scale)
{
    if (!(d * scale > -static_cast<double>(ONE_BIT) - 1)) return 0;
    const double n = floor(fma(d, scale, 0.5));
    const float f = static_cast<float>(fma(d, scale, -n));
    float p = 1.52527338e-5f;
    p = fmaf(p, f, 1.54035304e-4f);
    p = fmaf(p, f, 1.33335581e-3f);
    p = fmaf(p, f, 9.61812911e-3f);
    p = fmaf(p, f, 5.55041087e-2f);
    p = fmaf(p, f, 2.40226507e-1f);
    p = fmaf(p, f, 6.93147181e-1f);
    p = fmaf(p, f, 1.f);
    return static_cast<u64>(p * static_cast<float>(1ull << ONE_BIT)) >> -static_cast<int>(n);
}

/* The logit of a key. */
CU_FN float logit_of(uint32_t key)
{
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

struct row {
    int V;
    const float *l;
    float most;
    double scale; /* log2(e) / temperature */
};

CU_FN u64 weight(const row &r, float l)
{
    if (l == r.most) return 1ull << ONE_BIT;
    return exp2_fixed(static_cast<double>(l) - static_cast<double>(r.most), r.scale);
}

/* -- the filters --------------------------------------------------------------------------------- */

/* Keys above `last` survive, and the first `ties` ids of those equal to it. */
struct cut {
    uint32_t last;
    int ties;
};

struct shared {
    u64 *bin;     /* [BINS] */
    u64 *of_warp; /* [WARPS] */
    u64 *found;   /* [2]: answers of one thread */
};

CU_FN u64 warp_sum_u64(u64 v)
{
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

CU_FN u64 block_sum_u64(u64 v, u64 *of_warp)
{
    v = warp_sum_u64(v);
    if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x >> 5] = v;
    __syncthreads();
    v = warp_sum_u64(of_warp[threadIdx.x & 31]);
    __syncthreads();
    return v;
}

/* The sum of all threads before this one, and of all. */
CU_FN u64 block_scan_u64(u64 v, u64 *of_warp, u64 &all)
{
    const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    u64 sum = v, before = 0;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const u64 below = __shfl_up_sync(0xffffffffu, sum, static_cast<unsigned>(o));
        if (lane >= o) sum += below;
    }
    if (lane == 31) of_warp[warp] = sum;
    __syncthreads();
    all = 0;
    for (int w = 0; w < WARPS; ++w) {
        if (w == warp) before = all;
        all += of_warp[w];
    }
    __syncthreads();
    return before + sum - v;
}

/* The bin, counted from the highest, in which the running sum reaches `want` (>= 1, at most the sum of all); what lies
 * above it comes off `want`. */
CU_FN int reach(const shared &s, u64 &want)
{
    const int t = static_cast<int>(threadIdx.x), high = BINS - 1 - 2 * t;
    u64 all;
    const u64 a = s.bin[high], b = s.bin[high - 1], before = block_scan_u64(a + b, s.of_warp, all);
    if (before < want && before + a >= want) s.found[0] = static_cast<u64>(high), s.found[1] = before;
    else if (before + a < want && before + a + b >= want)
        s.found[0] = static_cast<u64>(high - 1), s.found[1] = before + a;
    __syncthreads();
    const int bin = static_cast<int>(s.found[0]);
    want -= s.found[1];
    __syncthreads();
    return bin;
}

/* The shortest beginning of the order, within `in`, whose tokens count `want`: ones (top-k), or weights. Only the last
 * key of `in` may be there more often than `in` allows, and it comes last. */
template <bool WEIGHTS> CU_FN cut beginning(const row &r, const shared &s, cut in, u64 want)
{
    const int shift[DIGITS] = {21, 10, 0}, width[DIGITS] = {11, 11, 10};
    const int t = static_cast<int>(threadIdx.x);
    uint32_t prefix = 0, known = 0; /* digits found so far, and their bits */
#pragma unroll
    for (int d = 0; d < DIGITS; ++d) {
        s.bin[t] = 0;
        s.bin[t + THREADS] = 0;
        __syncthreads();
        for (int i = t; i < r.V; i += THREADS) {
            const uint32_t key = key_of(r.l[i]);
            if ((key & known) != prefix || key < in.last) continue;
            const u64 w = WEIGHTS ? weight(r, r.l[i]) : 1ull;
            if (w) atomicAdd(&s.bin[key >> shift[d] & ((1u << width[d]) - 1)], w);
        }
        __syncthreads();
        prefix |= static_cast<uint32_t>(reach(s, want)) << shift[d];
        known |= ((1u << width[d]) - 1) << shift[d];
    }
    cut c = {prefix, static_cast<int>(want)};
    if (WEIGHTS) { /* want is what the equal ones have to add up to */
        const u64 w = weight(r, logit_of(prefix));
        c.ties = static_cast<int>((want + w - 1) / w);
    }
    if (c.last == in.last && c.ties > in.ties) c.ties = in.ties;
    return c;
}

/* Σ w of what `c` keeps. */
CU_FN u64 kept_sum(const row &r, const shared &s, cut c)
{
    u64 sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < r.V; i += THREADS) {
        const uint32_t key = key_of(r.l[i]);
        if (key > c.last) sum += weight(r, r.l[i]);
    }
    sum = block_sum_u64(sum, s.of_warp);
    return sum + static_cast<u64>(c.ties) * weight(r, logit_of(c.last));
}

/* -- the draw ------------------------------------------------------------------------------------ */

CU_FN u64 high_product(u64 a, u64 b)
{
    const u64 a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
    const u64 mid = a1 * b0 + (a0 * b0 >> 32), low = a0 * b1 + (mid & 0xffffffffu);
    return a1 * b1 + (mid >> 32) + (low >> 32);
}

/* What of `ties` equal ones is kept where `before` come before them. */
CU_FN u64 kept(cut c, u64 before, u64 ties)
{
    const u64 most = static_cast<u64>(c.ties), left = before < most ? most - before : 0;
    return ties < left ? ties : left;
}

/* A part of the row for each warp: Σ w of what lies above the cut, and how many equal it. */
CU_FN void sum_parts(const row &r, cut c, int length, u64 *sum_of, u64 *ties_of)
{
    const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    const int64_t from = static_cast<int64_t>(warp) * length, to = from + length < r.V ? from + length : r.V;
    u64 sum = 0, ties = 0;
    for (int64_t i = from + lane; i < to; i += 32) {
        const uint32_t key = key_of(r.l[i]);
        if (key > c.last) sum += weight(r, r.l[i]);
        ties += key == c.last;
    }
    sum = warp_sum_u64(sum);
    ties = warp_sum_u64(ties);
    if (lane == 0) sum_of[warp] = sum, ties_of[warp] = ties;
    __syncthreads();
}

/* The token at which the running sum passes `random` of all: the part of the row in which that happens, then its ids, a
 * block of them at a time. */
CU_FN int drawn(const row &r, const shared &s, cut c, u64 random)
{
    const int length = (r.V + WARPS - 1) / WARPS;
    u64 *sum_of = s.bin, *ties_of = s.bin + WARPS, all = 0, ties = 0;
    sum_parts(r, c, length, sum_of, ties_of);
    const u64 w_last = weight(r, logit_of(c.last));
    for (int w = 0; w < WARPS; ++w) {
        all += sum_of[w] + kept(c, ties, ties_of[w]) * w_last;
        ties += ties_of[w];
    }
    const u64 target = high_product(random, all);
    u64 sum = 0;
    int part = 0;
    ties = 0;
    for (;; ++part) { /* ends: the sum of all is above the target */
        const u64 more = sum_of[part] + kept(c, ties, ties_of[part]) * w_last;
        if (sum + more > target) break;
        sum += more;
        ties += ties_of[part];
    }
    for (int64_t at = static_cast<int64_t>(part) * length; sum <= target; at += THREADS) {
        const int64_t i = at + threadIdx.x;
        const uint32_t key = i < r.V ? key_of(r.l[i]) : 0;
        const bool same = key == c.last && c.ties > 0;
        u64 before = ties, n = 0;
        if (c.ties > 0) before += block_scan_u64(same, s.of_warp, n);
        const u64 w = key > c.last || (same && kept(c, before, 1)) ? weight(r, r.l[i]) : 0;
        before = sum + block_scan_u64(w, s.of_warp, all);
        if (before <= target && target < before + w) s.found[0] = static_cast<u64>(i);
        sum += all;
        ties += n;
    }
    __syncthreads();
    return static_cast<int>(s.found[0]);
}

} // namespace
} // namespace CU_NS
