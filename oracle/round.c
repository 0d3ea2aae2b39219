#include "oracle/round.h"

#include "oracle/reached.h"

#include <math.h>

float fh1_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) /* infinity and NaN: same payload, the exponent field of f32 */
        return fh1_bits_f32(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x400u) /* rebias the exponent from 15 to 127 */
        return fh1_bits_f32(sign | ((magnitude << 13) + ((127u - 15u) << 23)));
    float v = (float)magnitude * 0x1p-24f; /* subnormals and zero: an integer times 2^-24, exact */
    return fh1_bits_f32(sign | fh1_f32_bits(v));
}

uint16_t fh1_f32_to_f16(float v)
{
    uint32_t u = fh1_f32_bits(v);
    uint32_t sign = u >> 16 & 0x8000u;
    uint32_t m = u & 0x7fffffffu;
    FH1_REACHED(m == 0x477fefffu); /* the last that stays finite */
    FH1_REACHED(m == 0x477ff000u);
    FH1_REACHED(m == 0x387fffffu); /* below the smallest normal */
    FH1_REACHED(m == 0x33000000u); /* half of the smallest */
    FH1_REACHED(m == 0x33000001u);
    if (m > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (m >> 13 & 0x3ffu)); /* quiet NaN */
    if (m >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);                     /* from 65520, the tie above 65504 */
    if (m >= 0x38800000u) { /* from 2^-14: normal; a carry out of the mantissa is the next exponent */
        m -= (127u - 15u) << 23;
        return (uint16_t)(sign | (m + 0xfffu + (m >> 13 & 1u)) >> 13);
    }
    if (m <= 0x33000000u) return (uint16_t)sign; /* up to 2^-25, half the smallest: ties to zero */
    /* Subnormal: count units of 2^-24. The significand 1.x has its last bit at 2^(e-23). */
    uint32_t e = m >> 23; /* 102 .. 112 */
    uint32_t significand = (m & 0x7fffffu) | 0x800000u;
    uint32_t shift = 126u - e; /* 14 .. 24 */
    uint32_t half = 1u << (shift - 1u);
    uint32_t odd = significand >> shift & 1u;
    return (uint16_t)(sign | (significand + half - 1u + odd) >> shift);
}

/* v in f32, rounded to odd: truncated, and the last bit set if anything was lost. A value so
 * rounded lies on the same side of every tie of a type with at least two bits less as v does, so
 * that rounding it again gives what one rounding of v would. Also for subnormals: f32 has 16 bits
 * below the smallest bf16 and reaches far below f16. */
static float to_odd_f32(double v)
{
    float f = (float)v;
    uint32_t u = fh1_f32_bits(f);
    double back = (double)f;
    u -= fabs(back) > fabs(v); /* undo a rounding away from zero, infinity to FLT_MAX included */
    u |= back != v;            /* a NaN stays one */
    return fh1_bits_f32(u);
}

uint16_t fh1_f64_to_bf16(double v)
{
    return fh1_f32_to_bf16(to_odd_f32(v));
}

uint16_t fh1_f64_to_f16(double v)
{
    return fh1_f32_to_f16(to_odd_f32(v));
}

/* f32 with 10 mantissa bits, 13 fewer; exponents as f32. */
static float to_tf32(float v)
{
    uint32_t u = fh1_f32_bits(v);
    if ((u & 0x7fffffffu) > 0x7f800000u) return fh1_bits_f32((u | 0x400000u) & ~0x1fffu);
    return fh1_bits_f32((u + 0xfffu + (u >> 13 & 1u)) & ~0x1fffu);
}

float fh1_round_f32(fh1_round r, float v)
{
    switch (r) {
    case FH1_ROUND_BF16: return fh1_bf16_to_f32(fh1_f32_to_bf16(v));
    case FH1_ROUND_F16: return fh1_f16_to_f32(fh1_f32_to_f16(v));
    case FH1_ROUND_TF32: return to_tf32(v);
    case FH1_ROUND_NONE:
    case FH1_ROUND_Q8_0:
    case FH1_ROUND_F32: break;
    }
    return v;
}

double fh1_round_f64(fh1_round r, double v)
{
    switch (r) {
    case FH1_ROUND_F32: return (double)(float)v;
    case FH1_ROUND_BF16: return (double)fh1_bf16_to_f32(fh1_f64_to_bf16(v));
    case FH1_ROUND_F16: return (double)fh1_f16_to_f32(fh1_f64_to_f16(v));
    case FH1_ROUND_TF32: return (double)to_tf32(to_odd_f32(v));
    case FH1_ROUND_NONE:
    case FH1_ROUND_Q8_0: break;
    }
    return v;
}

void fh1_round_q8_0(double *v)
{
    double most = 0;
    for (int i = 0; i < 32; i++) most = fmax(most, fabs(v[i]));
    const double scale = (double)fh1_f16_to_f32(fh1_f32_to_f16((float)(most / 127)));
    for (int i = 0; i < 32; i++) v[i] = most > 0 ? scale * rint(v[i] * (127 / most)) : v[i];
}
