/* exp over whole rows, for a scan that takes as many of them as products. */
#pragma once

#include "reference/lanes.h"

#if REF_BITS == 32
typedef int32_t ref_int8 __attribute__((vector_size(REF_VEC)));

REF_INLINE ref_vec ref_select(ref_int8 take_a, ref_vec a, ref_vec b)
{
    return (ref_vec)((take_a & (ref_int8)a) | (~take_a & (ref_int8)b));
}

/* 2^k for k in [-126, 127]. */
REF_INLINE ref_vec ref_power_of_2(ref_int8 k)
{
    return (ref_vec)((k + 127) << 23);
}

/* exp(v), off by less than 1.5 ulp where the result is normal; 0 and infinity where it leaves f32, NaN of NaN. The same
 * bits on every processor, which vectors of a library do not promise.
 *   v = k·ln 2 + r, |r| <= ln 2 / 2:  ln 2 in two parts, of which k times the first is exact (8 + 15 bits)
 *   exp(r) = Σ rⁿ/n! up to n = 7: the next term is r⁸/8! <= 5.2e-9, a tenth of half an ulp
 * and 2^k as two factors, since k reaches from -159 to 159. */
REF_INLINE ref_vec ref_exp_vec(ref_vec v)
{
    const ref_vec zero = {0}, lo = zero - 110, hi = zero + 110;
    const float magic = 0x1.8p23f; /* brings to whole numbers: added, it leaves no bits below 1 */
    /* beyond both ends nothing changes any more; a NaN is neither below nor above, and its integer may be anything */
    const ref_vec x = ref_select(v < lo, lo, ref_select(v > hi, hi, ref_select(v == v, v, zero)));
    const ref_vec k = (x * 0x1.715476p+0f + magic) - magic;
    const ref_vec r = (x - k * 0x1.62e4p-1f) - k * 0x1.7f7d1cp-20f;
    ref_vec p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const ref_int8 whole = __builtin_convertvector(k, ref_int8), half = whole >> 1;
    return ref_select(v == v, p * ref_power_of_2(half) * ref_power_of_2(whole - half), v);
}
#endif

/* e[i] = exp(k·v[i]) for n numbers, whole vectors of them. */
REF_INLINE void ref_exp_row(int64_t n, real k, const real *v, real *e)
{
#if REF_BITS == 32
    for (int64_t i = 0; i < n; i += REF_VEC_LEN) *(ref_vec_mem *)(e + i) = ref_exp_vec(k * ref_load(v + i));
#else
    for (int64_t i = 0; i < n; ++i) e[i] = r_exp(k * v[i]);
#endif
}

/* n rounded up to whole vectors. */
REF_INLINE int64_t ref_whole_vectors(int64_t n)
{
    return (n + REF_VEC_LEN - 1) / REF_VEC_LEN * REF_VEC_LEN;
}
