/* The reference is written once over `real` and compiled once per precision: REF_BITS is 32 or 64, set by
 * the build, and REF(name) gives each compilation its own symbols (ref_rmsnorm_fwd_f64 …). */
#pragma once

#include "oracle/clones.h"
#include "oracle/engine.h"
#include "reference/fault.h"

#include <math.h>

#ifdef REF_FAULTY
#define REF_JOIN(name, bits) name##bits##_faulty
#else
#define REF_JOIN(name, bits) name##bits
#endif

#if REF_BITS == 64
typedef double real;
#define REF(name) REF_JOIN(name, _f64)
#define REF_DTYPE FH1_F64
#define REF_LANES 16 /* partial sums of a dot product: four AVX2 registers either way */
#define r_exp exp
#define r_log log
#define r_log1p log1p
#define r_sqrt sqrt
#define r_fabs fabs
#elif REF_BITS == 32
typedef float real;
#define REF(name) REF_JOIN(name, _f32)
#define REF_DTYPE FH1_F32
#define REF_LANES 32
#define r_exp expf
#define r_log logf
#define r_log1p log1pf
#define r_sqrt sqrtf
#define r_fabs fabsf
#else
#error "REF_BITS must be 32 or 64"
#endif

/* One rounding of kind r; the common case, none, costs a test. */
static inline real r_round(fh1_round r, real v)
{
    if (r == FH1_ROUND_NONE) return v;
#if REF_BITS == 64
    return fh1_round_f64(r, v);
#else
    return fh1_round_f32(r, v);
#endif
}

/* v[i] rounded in place; returns at once where the profile does not round. */
static inline void REF(ref_round_row)(fh1_round r, int64_t n, real *v)
{
    if (r == FH1_ROUND_NONE) return;
    for (int64_t i = 0; i < n; ++i) v[i] = r_round(r, v[i]);
}

/* σ(v)·v. For large negative v, exp(-v) overflows to inf and the quotient is -0: the right limit. */
static inline real REF(ref_silu)(real v)
{
    return v / (1 + r_exp(-v));
}

/* A product in the precision of transformers: the factor is an f32 scalar, the product is formed in f32 and
 * rounded once more to r. Used where an exact engine has to repeat a rounding that the judged contract
 * declares (fh1_tap_sink.input_round). */
static inline real REF(ref_mul_declared)(fh1_round r, real v, double factor)
{
    float p = (float)v * (float)factor;
    return (real)fh1_round_f32(r, p);
}

/* Widen a small weight (norm, bias, A_log …) to real; n elements, any float type. */
static inline void REF(ref_widen)(real *dst, const fh1_tensor *t, int64_t n)
{
#if REF_BITS == 64
    fh1_to_f64(dst, t->data, t->dtype, n);
#else
    fh1_to_f32(dst, t->data, t->dtype, n);
#endif
}
