/* What the gauges of the two kinds of scan share: errors on the grid of a 16-bit type, and sums over vectors. f64 only.
 */
#pragma once

#include "oracle/gauge.h"
#include "reference/lanes.h"

/* A 16-bit type by its half ulps; the loops below are too long for fh1_err_round. */
typedef struct {
    double at_one, least, u; /* half an ulp at 1, and of the smallest numbers */
} ref_grid;

static inline ref_grid ref_grid_of(const fh1_profile *c, fh1_round r)
{
    const fh1_dtype type = r == FH1_ROUND_F16 ? FH1_F16 : FH1_BF16;
    return (ref_grid){fh1_dtype_ulp(type, 1) / 2, fh1_dtype_ulp(type, 0) / 2, c->u};
}

/* Half an ulp where v stands: its power of two is v without the mantissa. */
REF_INLINE double ref_half_ulp_at(const ref_grid *k, double v)
{
    int64_t bits;
    double power;
    memcpy(&bits, &v, sizeof bits);
    bits &= 0x7ff0000000000000;
    memcpy(&power, &bits, sizeof power);
    return power * k->at_one > k->least ? power * k->at_one : k->least;
}

/* R(v): adding 1.5·2⁵² ulps leaves no bits below one ulp. */
REF_INLINE double ref_on_grid(const ref_grid *k, double v)
{
    const double magic = ref_half_ulp_at(k, v) * 0x3p52;
    return (v + magic) - magic;
}

/* fh1_err_round to the type: once in f32, once more to 16 bits. */
REF_INLINE fh1_err ref_err_grid(const ref_grid *k, fh1_err e, double v)
{
    const double at = fabs(v) + e.worst;
    return fh1_err_half(fh1_err_half(e, k->u * at), ref_half_ulp_at(k, at));
}

REF_INLINE ref_vec ref_vec_abs(ref_vec v)
{
    typedef int64_t bits __attribute__((vector_size(REF_VEC)));
    return (ref_vec)((bits)v & INT64_MAX);
}

REF_INLINE double ref_vec_total(ref_vec v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}
