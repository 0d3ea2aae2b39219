/* The reference is written once over `real` and compiled once per precision: REF_BITS is 32, 64 or 128, set by
 * the build, and REF(name) gives each compilation its own symbols (ref_rmsnorm_fwd_f64 …).
 *
 * 128 is complex f64, forward passes only. Its numbers are real numbers with an infinitesimal step beside them, some
 * 1e-100 of i: a function of such a number carries its derivative along, Im f(x + ih) / h = f'(x) (1 + O(h²)), without
 * a difference of two values and so without cancellation (reference/complex.h). Whatever decides (comparisons, max,
 * clamp) looks at the real part. */
#pragma once

#include "oracle/clones.h"
#include "oracle/engine.h"
#include "reference/fault.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#ifdef REF_FAULTY
#define REF_JOIN(name, bits) name##bits##_faulty
#else
#define REF_JOIN(name, bits) name##bits
#endif

#if REF_BITS == 64
typedef double real, ref_part, ref_wide;
#define REF(name) REF_JOIN(name, _f64)
#define REF_DTYPE FH1_F64
#define REF_LANES 16 /* partial sums of a dot product: four AVX2 registers either way */
#define r_exp exp
#define r_log log
#define r_log1p log1p
#define r_sqrt sqrt
#define r_fabs fabs
#define r_re(v) (v)
#elif REF_BITS == 32
typedef float real, ref_part; /* ref_part: of a real part; for what has no derivative */
typedef double ref_wide;      /* of a scalar that leaves the templates */
#define REF(name) REF_JOIN(name, _f32)
#define REF_DTYPE FH1_F32
#define REF_LANES 32
#define r_exp expf
#define r_log logf
#define r_log1p log1pf
#define r_sqrt sqrtf
#define r_fabs fabsf
#define r_re(v) (v)
#elif REF_BITS == 128
typedef double _Complex real, ref_wide;
typedef double ref_part;
#define REF(name) REF_JOIN(name, _c128)
#define REF_DTYPE FH1_C128
#define REF_LANES 4
#define r_re(v) ((double)__real__(v))

static inline real r_complex(double re, double im)
{
    real v;
    __real__ v = re;
    __imag__ v = im;
    return v;
}

/* First order in the imaginary part, which is all there is of an infinitesimal: what cexp and its like would add is
 * smaller by Im² = 1e-200, and they would take ten times as long. The real parts are those of ref-f64, bit by bit. */
static inline real r_exp(real v)
{
    const double e = exp(__real__ v);
    return r_complex(e, e * __imag__ v);
}

static inline real r_log(real v)
{
    return r_complex(log(__real__ v), __imag__ v / __real__ v);
}

/* There is no clog1p; clog(1 + v) would lose the digits of a small v that log1p is there to keep. */
static inline real r_log1p(real v)
{
    return r_complex(log1p(__real__ v), __imag__ v / (1 + __real__ v));
}

static inline real r_sqrt(real v)
{
    const double s = sqrt(__real__ v);
    return r_complex(s, __imag__ v / (2 * s));
}

/* |x| of the real line, continued: cabs is not analytic. */
static inline real r_fabs(real v)
{
    return __real__ v < 0 ? -v : v;
}
#else
#error "REF_BITS must be 32, 64 or 128"
#endif

/* One rounding of kind r; the common case, none, costs a test. */
static inline real r_round(fh1_round r, real v)
{
    if (r == FH1_ROUND_NONE) return v;
#if REF_BITS == 64
    return fh1_round_f64(r, v);
#elif REF_BITS == 32
    return fh1_round_f32(r, v);
#else
    assert(!"a rounding has no derivative: complex engines run the exact profile");
    return v;
#endif
}

/* v[i] rounded in place; returns at once where the profile does not round. */
static inline void REF(ref_round_row)(fh1_round r, int64_t n, real *v)
{
    if (r == FH1_ROUND_NONE) return;
    for (int64_t i = 0; i < n; ++i) v[i] = r_round(r, v[i]);
}

/* σ(v)·v. For large negative v, exp(-v) overflows to inf and the quotient is -0: the right limit. A complex quotient
 * squares its denominator and overflows at once; from -300 on, σ(v) is exp(v) to 130 digits. */
static inline real REF(ref_silu)(real v)
{
#if REF_BITS == 128
    if (r_re(v) < -300) return v * r_exp(v);
#endif
    return v / (1 + r_exp(-v));
}

/* A product in the precision of transformers: the factor is an f32 scalar, the product is formed in f32 and
 * rounded once more to r. Used where an exact engine has to repeat a rounding that the judged contract
 * declares (fh1_tap_sink.input_round). */
static inline real REF(ref_mul_declared)(fh1_round r, real v, double factor)
{
    float p = (float)r_re(v) * (float)factor; /* never complex: an engine refuses roundings of its inputs there */
    return (real)fh1_round_f32(r, p);
}

/* Widen a small weight (norm, bias, A_log …) to real; n elements, any float type, complex ones where real is. */
static inline void REF(ref_widen)(real *dst, const fh1_tensor *t, int64_t n)
{
#if REF_BITS == 64
    fh1_to_f64(dst, t->data, t->dtype, n);
#elif REF_BITS == 32
    fh1_to_f32(dst, t->data, t->dtype, n);
#else
    if (t->dtype == FH1_C128) {
        if (n > 0) memcpy(dst, t->data, (size_t)n * sizeof *dst);
        return;
    }
    double *flat = (double *)dst + n; /* the upper half: element i is read before anything at or above it is written */
    fh1_to_f64(flat, t->data, t->dtype, n);
    for (int64_t i = 0; i < n; ++i) dst[i] = flat[i];
#endif
}

/* One element of a weight. */
static inline real REF(ref_get)(const fh1_tensor *t, int64_t i)
{
#if REF_BITS == 128
    if (t->dtype == FH1_C128) {
        real v;
        assert(fh1_is_dense(t));
        memcpy(&v, (const char *)t->data + (size_t)i * sizeof v, sizeof v);
        return v;
    }
#endif
    return (real)fh1_get(t, i);
}
