/* Bulk conversions between float types. They widen whole weight panels, so each is a plain loop that
 * the compiler turns into vector code (clones.h); elements are reached by memcpy, since the tensors
 * of a foreign file may start at any byte. */
#include "oracle/clones.h"
#include "oracle/round.h"
#include "oracle/tensor.h"

#include <assert.h>
#include <string.h>

const char *fh1_cpu_path(void)
{
#if FH1_HAS_CLONES
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return "avx512f";
    if (__builtin_cpu_supports("avx2")) return "avx2";
#endif
    return "baseline";
}

static inline uint16_t load16(const unsigned char *p, int64_t i)
{
    uint16_t v;
    memcpy(&v, p + 2 * i, sizeof v);
    return v;
}

static inline void store16(unsigned char *p, int64_t i, uint16_t v)
{
    memcpy(p + 2 * i, &v, sizeof v);
}

static inline float load32(const unsigned char *p, int64_t i)
{
    float v;
    memcpy(&v, p + 4 * i, sizeof v);
    return v;
}

static inline void store32(unsigned char *p, int64_t i, float v)
{
    memcpy(p + 4 * i, &v, sizeof v);
}

static inline double load64(const unsigned char *p, int64_t i)
{
    double v;
    memcpy(&v, p + 8 * i, sizeof v);
    return v;
}

static inline void store64(unsigned char *p, int64_t i, double v)
{
    memcpy(p + 8 * i, &v, sizeof v);
}

FH1_CLONES static void widen_bf16_f32(float *restrict dst, const unsigned char *restrict src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = fh1_bf16_to_f32(load16(src, i));
}

FH1_CLONES static void widen_bf16_f64(double *restrict dst, const unsigned char *restrict src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = (double)fh1_bf16_to_f32(load16(src, i));
}

FH1_CLONES static void widen_f32_f64(double *restrict dst, const unsigned char *restrict src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = (double)load32(src, i);
}

FH1_CLONES static void narrow_f32_bf16(unsigned char *restrict dst, const float *restrict src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) store16(dst, i, fh1_f32_to_bf16(src[i]));
}

void fh1_to_f64(double *dst, const void *src, fh1_dtype t, int64_t n)
{
    const unsigned char *s = src;
    assert(fh1_dtype_is_float(t) && n >= 0);
    if (n == 0) return; /* the pointers may be NULL */
    switch (t) {
    case FH1_F64: memcpy(dst, src, (size_t)n * sizeof *dst); break;
    case FH1_F32: widen_f32_f64(dst, s, n); break;
    case FH1_BF16: widen_bf16_f64(dst, s, n); break;
    default:
        for (int64_t i = 0; i < n; i++) dst[i] = (double)fh1_f16_to_f32(load16(s, i));
    }
}

void fh1_to_f32(float *dst, const void *src, fh1_dtype t, int64_t n)
{
    const unsigned char *s = src;
    assert(fh1_dtype_is_float(t) && n >= 0);
    if (n == 0) return;
    switch (t) {
    case FH1_F64:
        for (int64_t i = 0; i < n; i++) dst[i] = (float)load64(s, i);
        break;
    case FH1_F32: memcpy(dst, src, (size_t)n * sizeof *dst); break;
    case FH1_BF16: widen_bf16_f32(dst, s, n); break;
    default:
        for (int64_t i = 0; i < n; i++) dst[i] = fh1_f16_to_f32(load16(s, i));
    }
}

void fh1_from_f64(void *dst, fh1_dtype t, const double *src, int64_t n)
{
    unsigned char *d = dst;
    assert(fh1_dtype_is_float(t) && n >= 0);
    if (n == 0) return;
    switch (t) {
    case FH1_F64: memcpy(dst, src, (size_t)n * sizeof *src); break;
    case FH1_F32:
        for (int64_t i = 0; i < n; i++) store32(d, i, (float)src[i]);
        break;
    case FH1_BF16: /* one rounding, not two by way of f32 */
        for (int64_t i = 0; i < n; i++) store16(d, i, fh1_f64_to_bf16(src[i]));
        break;
    default:
        for (int64_t i = 0; i < n; i++) store16(d, i, fh1_f64_to_f16(src[i]));
    }
}

void fh1_from_f32(void *dst, fh1_dtype t, const float *src, int64_t n)
{
    unsigned char *d = dst;
    assert(fh1_dtype_is_float(t) && n >= 0);
    if (n == 0) return;
    switch (t) {
    case FH1_F64:
        for (int64_t i = 0; i < n; i++) store64(d, i, (double)src[i]);
        break;
    case FH1_F32: memcpy(dst, src, (size_t)n * sizeof *src); break;
    case FH1_BF16: narrow_f32_bf16(d, src, n); break;
    default:
        for (int64_t i = 0; i < n; i++) store16(d, i, fh1_f32_to_f16(src[i]));
    }
}
