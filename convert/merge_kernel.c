#include "convert/merge_kernel.h"

#include "oracle/clones.h"
#include "oracle/round.h"

#include <math.h>
#include <string.h>

#if FH1_HAS_CLONES
#define HAS_AVX2 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,fma")))
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
#define HAS_AVX2 0
#endif

enum { LANES = 16 }; /* the loops of this many steps become vectors at any level of optimisation */

/* ---- L · R ---- */

/* Without fused multiply-adds; same bits, as the products of two f32 are exact in f64. */
static void add_plain(int64_t r, int64_t cols, double s, const double *L, const double *R, int64_t ldr, double *C)
{
    for (int64_t j = 0; j < cols; j += LANES) {
        double a[LANES] = {0};
        int64_t n = cols - j < LANES ? cols - j : LANES;
        for (int64_t k = 0; k < r; k++) {
            const double *x = R + k * ldr + j;
            if (n == LANES)
                for (int v = 0; v < LANES; v++) a[v] += L[k] * x[v];
            else
                for (int v = 0; v < n; v++) a[v] += L[k] * x[v];
        }
        for (int v = 0; v < n; v++) C[j + v] += s * a[v];
    }
}

#if HAS_AVX2
AVX2 static void put(double *c, __m256d s, __m256d a)
{
    _mm256_storeu_pd(c, _mm256_add_pd(_mm256_loadu_pd(c), _mm256_mul_pd(s, a)));
}

/* Four rows share each load of R; cols is a multiple of 8. */
AVX2 static void add_avx2(int64_t r, int64_t cols, double scale, const double *const L[4], const double *R, int64_t ldr,
                          double *const C[4])
{
    __m256d s = _mm256_set1_pd(scale);
    for (int64_t j = 0; j < cols; j += 8) {
        __m256d a[4][2];
        for (int i = 0; i < 4; i++) a[i][0] = a[i][1] = _mm256_setzero_pd();
        for (int64_t k = 0; k < r; k++) {
            __m256d x = _mm256_loadu_pd(R + k * ldr + j), y = _mm256_loadu_pd(R + k * ldr + j + 4);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                __m256d l = _mm256_broadcast_sd(L[i] + k);
                a[i][0] = _mm256_fmadd_pd(l, x, a[i][0]);
                a[i][1] = _mm256_fmadd_pd(l, y, a[i][1]);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            put(C[i] + j, s, a[i][0]);
            put(C[i] + j + 4, s, a[i][1]);
        }
    }
}
#endif

void cvt_kernel_add_f64(int64_t rows, int64_t r, int64_t cols, double s, const double *L, const double *R, int64_t ldr,
                        double *C, int64_t ldc)
{
    int64_t i = 0;
#if HAS_AVX2
    int64_t wide = cols - cols % 8;
    for (; has_avx2() && i + 4 <= rows; i += 4) {
        const double *const l[4] = {L + i * r, L + (i + 1) * r, L + (i + 2) * r, L + (i + 3) * r};
        double *const c[4] = {C + i * ldc, C + (i + 1) * ldc, C + (i + 2) * ldc, C + (i + 3) * ldc};
        add_avx2(r, wide, s, l, R, ldr, c);
        for (int q = 0; q < 4; q++) add_plain(r, cols - wide, s, l[q], R + wide, ldr, c[q] + wide);
    }
#endif
    for (; i < rows; i++) add_plain(r, cols, s, L + i * r, R, ldr, C + i * ldc);
}

static void chain_plain(int64_t r, int64_t cols, const float *L, const float *R, int64_t ldr, float *D)
{
    for (int64_t j = 0; j < cols; j++) {
        float a = 0;
        for (int64_t k = 0; k < r; k++) a = fmaf(L[k], R[k * ldr + j], a);
        D[j] = a;
    }
}

#if HAS_AVX2
AVX2 static void chain_avx2(int64_t r, int64_t cols, const float *const L[4], const float *R, int64_t ldr,
                            float *const D[4])
{
    for (int64_t j = 0; j < cols; j += 16) {
        __m256 a[4][2];
        for (int i = 0; i < 4; i++) a[i][0] = a[i][1] = _mm256_setzero_ps();
        for (int64_t k = 0; k < r; k++) {
            __m256 x = _mm256_loadu_ps(R + k * ldr + j), y = _mm256_loadu_ps(R + k * ldr + j + 8);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                __m256 l = _mm256_broadcast_ss(L[i] + k);
                a[i][0] = _mm256_fmadd_ps(l, x, a[i][0]);
                a[i][1] = _mm256_fmadd_ps(l, y, a[i][1]);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            _mm256_storeu_ps(D[i] + j, a[i][0]);
            _mm256_storeu_ps(D[i] + j + 8, a[i][1]);
        }
    }
}
#endif

void cvt_kernel_chain_f32(int64_t rows, int64_t r, int64_t cols, const float *L, const float *R, int64_t ldr, float *D,
                          int64_t ldd)
{
    int64_t i = 0;
#if HAS_AVX2
    int64_t wide = cols - cols % 16;
    for (; has_avx2() && i + 4 <= rows; i += 4) {
        const float *const l[4] = {L + i * r, L + (i + 1) * r, L + (i + 2) * r, L + (i + 3) * r};
        float *const d[4] = {D + i * ldd, D + (i + 1) * ldd, D + (i + 2) * ldd, D + (i + 3) * ldd};
        chain_avx2(r, wide, l, R, ldr, d);
        for (int q = 0; q < 4; q++) chain_plain(r, cols - wide, l[q], R + wide, ldr, d[q] + wide);
    }
#endif
    for (; i < rows; i++) chain_plain(r, cols, L + i * r, R, ldr, D + i * ldd);
}

void cvt_kernel_products_f32(int64_t rows, int64_t r, int64_t cols, const float *L, const float *R, int64_t ldr,
                             float *D, int64_t ldd)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            float a = 0;
            for (int64_t k = 0; k < r; k++) {
                const float product = L[i * r + k] * R[k * ldr + j]; /* rounded: nothing is contracted here */
                a += product;
            }
            D[i * ldd + j] = a;
        }
}

void cvt_kernel_fma_f32(int64_t n, float s, const float *a, float *c)
{
    for (int64_t i = 0; i < n; i++) c[i] = fmaf(s, a[i], c[i]);
}

float cvt_kernel_norm_f32(const float *x, int64_t n)
{
    float a[8] = {0}, sum = 0;
    int64_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int v = 0; v < 8; v++) a[v] += x[j + v] * x[j + v];
    for (int v = 0; v < 8; v++) sum = v == 0 ? a[0] : sum + a[v];
    for (int64_t end = n - j >= 4 ? j + 4 : j; j < end; j++) sum += x[j] * x[j];
    for (; j < n; j++) sum = fmaf(x[j], x[j], sum);
    return sqrtf(sum);
}

/* ---- rounding ---- */

/* Nearest even at the 45th bit of the f64, which is the last one of a bf16 of normal size; what is left is exact in
 * f32. Numbers below 2^-126 and NaN are told by the result: they take the slow way. */
static inline bool narrow_lane(double v, uint16_t *h)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    uint64_t size = u & ~(UINT64_C(1) << 63),
             rounded = (u + UINT64_C(0xfffffffffff) + (u >> 45 & 1)) & ~UINT64_C(0x1fffffffffff);
    double d;
    memcpy(&d, &rounded, sizeof d);
    *h = (uint16_t)(fh1_f32_bits((float)d) >> 16);
    return size - UINT64_C(0x3810000000000000) > UINT64_C(0x7ff0000000000000) - UINT64_C(0x3810000000000000);
}

FH1_CLONES static void narrow_bf16(unsigned char *restrict dst, const double *restrict src, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        uint16_t h[LANES];
        uint64_t special = 0;
        int64_t m = n - i < LANES ? n - i : LANES;
        if (m == LANES)
            for (int v = 0; v < LANES; v++) special |= narrow_lane(src[i + v], &h[v]);
        if (m < LANES || special)
            for (int v = 0; v < m; v++) h[v] = fh1_f64_to_bf16(src[i + v]);
        memcpy(dst + 2 * i, h, 2 * (size_t)m);
    }
}

void cvt_kernel_narrow(void *dst, fh1_dtype t, const double *src, int64_t n)
{
    if (t == FH1_BF16) narrow_bf16(dst, src, n);
    else fh1_from_f64(dst, t, src, n);
}

FH1_CLONES static void round_bf16(float *v, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) v[i + k] = fh1_bf16_to_f32(fh1_f32_to_bf16(v[i + k]));
    for (; i < n; i++) v[i] = fh1_bf16_to_f32(fh1_f32_to_bf16(v[i]));
}

void cvt_kernel_round_f32(float *v, fh1_dtype t, int64_t n)
{
    if (t == FH1_BF16) round_bf16(v, n);
    if (t == FH1_F16)
        for (int64_t i = 0; i < n; i++) v[i] = fh1_f16_to_f32(fh1_f32_to_f16(v[i]));
}

typedef uint16_t loose16 __attribute__((aligned(1), may_alias)); /* at any byte */

/* The largest of n halves without their signs. */
FH1_CLONES static uint16_t largest16(const loose16 *p, int64_t n)
{
    uint16_t most[LANES] = {0}, all = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int v = 0; v < LANES; v++) {
            uint16_t h = p[i + v] & 0x7fff;
            most[v] = most[v] > h ? most[v] : h;
        }
    for (int v = 0; v < LANES; v++) all = all > most[v] ? all : most[v];
    for (; i < n; i++) all = all > (p[i] & 0x7fff) ? all : (uint16_t)(p[i] & 0x7fff);
    return all;
}

static int64_t not_finite16(const loose16 *p, uint16_t exponent, int64_t n)
{
    int64_t bad = 0;
    if (largest16(p, n) < exponent) return 0;
    for (int64_t i = 0; i < n; i++) bad += (p[i] & exponent) == exponent;
    return bad;
}

/* As fh1_to_f64, for the type that matters most. */
FH1_CLONES static void widen_bf16(double *restrict dst, const loose16 *src, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int v = 0; v < LANES; v++) dst[i + v] = (double)fh1_bf16_to_f32(src[i + v]);
    for (; i < n; i++) dst[i] = (double)fh1_bf16_to_f32(src[i]);
}

typedef float loose32 __attribute__((aligned(1), may_alias));

FH1_CLONES static void widen_f32(double *restrict dst, const loose32 *src, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int v = 0; v < LANES; v++) dst[i + v] = (double)src[i + v];
    for (; i < n; i++) dst[i] = (double)src[i];
}

void cvt_kernel_widen(double *dst, const void *src, fh1_dtype t, int64_t n)
{
    if (t == FH1_BF16) widen_bf16(dst, src, n);
    else if (t == FH1_F32) widen_f32(dst, src, n);
    else fh1_to_f64(dst, src, t, n);
}

int64_t cvt_kernel_not_finite(const void *p, fh1_dtype t, int64_t n)
{
    if (t == FH1_BF16) return not_finite16(p, 0x7f80, n);
    if (t == FH1_F16) return not_finite16(p, 0x7c00, n);
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        double v;
        fh1_to_f64(&v, (const char *)p + i * (fh1_dtype_bits(t) / 8), t, 1);
        bad += !isfinite(v);
    }
    return bad;
}
