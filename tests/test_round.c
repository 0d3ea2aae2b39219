/* Rounding to the short types against a slow method that knows nothing of bit tricks: look up the two
 * neighbours of a value among all patterns of the type and take the nearer one, the even one of a tie.
 * The same check must reject truncation and rounding twice. */
#include "oracle/random.h"
#include "oracle/round.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* digits: mantissa bits after the point; e_min: exponent of the smallest normal. */
typedef struct {
    int digits, e_min;
    uint16_t infinity;
} format;

static const format bf16 = {7, -126, 0x7f80}, f16 = {10, -14, 0x7c00};

/* What the positive pattern h means, from the definition. The pattern of infinity gets the value that
 * follows the largest one, which is where ties and overflow are decided. */
static long double value_of(format f, uint16_t h)
{
    int e = h >> f.digits, m = h & ((1 << f.digits) - 1);
    if (e == 0) return ldexpl(m, f.e_min - f.digits);
    return ldexpl(m + (1 << f.digits), f.e_min + e - 1 - f.digits);
}

static uint16_t slow_narrow(format f, double v)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0, lo = 0, hi = f.infinity;
    long double a = fabsl((long double)v);
    if (a >= value_of(f, f.infinity)) return sign | f.infinity;
    while (hi - lo > 1) { /* value(lo) <= a < value(hi) */
        uint16_t mid = (uint16_t)((lo + hi) / 2);
        if (value_of(f, mid) <= a) lo = mid;
        else hi = mid;
    }
    long double below = a - value_of(f, lo), above = value_of(f, hi) - a;
    bool up = below > above || (below == above && (lo & 1));
    return (uint16_t)(sign | (up ? hi : lo));
}

typedef uint16_t (*narrow_f64)(double);
typedef uint16_t (*narrow_f32)(float);

static uint16_t bf16_truncated(float v)
{
    return (uint16_t)(fh1_f32_bits(v) >> 16);
}
static uint16_t bf16_half_up(float v)
{
    return (uint16_t)((fh1_f32_bits(v) + 0x8000u) >> 16);
}
static uint16_t bf16_twice(double v)
{
    return fh1_f32_to_bf16((float)v);
}
static uint16_t f16_twice(double v)
{
    return fh1_f32_to_f16((float)v);
}

/* Mismatches of a narrowing from f64: every midpoint between neighbours and the f64 beside it, both
 * signs, then random values of all sizes. */
static long wrong_f64(narrow_f64 narrow, format f)
{
    long wrong = 0;
    for (uint16_t h = 0; h < f.infinity; h++) {
        double mid = (double)((value_of(f, h) + value_of(f, (uint16_t)(h + 1))) / 2);
        double at[] = {mid, nextafter(mid, 0), nextafter(mid, 1e300), (double)value_of(f, h)};
        for (size_t i = 0; i < sizeof at / sizeof at[0]; i++)
            wrong += (narrow(at[i]) != slow_narrow(f, at[i])) + (narrow(-at[i]) != slow_narrow(f, -at[i]));
    }
    fh1_stream s = fh1_stream_open(1, "round f64");
    for (uint64_t i = 0; i < 40000; i++) {
        double m = 2 * fh1_random_uniform(s, 2 * i) - 1;
        double v = ldexp(m, (int)fh1_random_below(s, 2 * i + 1, 320) - 180);
        wrong += narrow(v) != slow_narrow(f, v);
    }
    return wrong;
}

static long wrong_f32(narrow_f32 narrow, format f)
{
    long wrong = 0;
    for (uint16_t h = 0; h < f.infinity; h++) {
        float mid = (float)((value_of(f, h) + value_of(f, (uint16_t)(h + 1))) / 2);
        float at[] = {mid, nextafterf(mid, 0), nextafterf(mid, INFINITY), (float)value_of(f, h)};
        for (size_t i = 0; i < sizeof at / sizeof at[0]; i++)
            for (int negative = 0; negative < 2; negative++) {
                float v = negative ? -at[i] : at[i];
                wrong += narrow(v) != slow_narrow(f, (double)v);
            }
    }
    fh1_stream s = fh1_stream_open(2, "round f32");
    for (uint64_t i = 0; i < 40000; i++) { /* random patterns: subnormals, huge ones, infinities */
        float v = fh1_bits_f32((uint32_t)fh1_random_u64(s, i));
        if (!isnan(v)) wrong += narrow(v) != slow_narrow(f, (double)v);
    }
    return wrong;
}

START_TEST(narrowing_is_nearest_even)
{
    ck_assert_int_eq(wrong_f32(fh1_f32_to_bf16, bf16), 0);
    ck_assert_int_eq(wrong_f32(fh1_f32_to_f16, f16), 0);
    ck_assert_int_eq(wrong_f64(fh1_f64_to_bf16, bf16), 0);
    ck_assert_int_eq(wrong_f64(fh1_f64_to_f16, f16), 0);
}
END_TEST

/* Where f16 changes its form: the last finite value and the tie above it, the smallest normal, half the smallest. */
START_TEST(edges_of_f16)
{
    static const uint32_t at[] = {0x477fefffu, 0x477ff000u, 0x387fffffu, 0x38800000u, 0x33000000u, 0x33000001u};
    static const uint16_t want[] = {0x7bff, 0x7c00, 0x0400, 0x0400, 0x0000, 0x0001};
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(fh1_f32_to_f16(fh1_bits_f32(at[i])), want[i]);
        ck_assert_int_eq(slow_narrow(f16, (double)fh1_bits_f32(at[i])), want[i]);
    }
}
END_TEST

START_TEST(wrong_roundings_are_rejected)
{
    ck_assert_int_gt(wrong_f32(bf16_truncated, bf16), 10000);
    ck_assert_int_gt(wrong_f32(bf16_half_up, bf16), 10000);
    ck_assert_int_gt(wrong_f64(bf16_twice, bf16), 10000);
    ck_assert_int_gt(wrong_f64(f16_twice, f16), 10000);
}
END_TEST

/* Disagreements of one pattern with the definition, and with itself after narrowing again. */
static long wrong_widening(format f, uint16_t pattern, float v, narrow_f32 back32, narrow_f64 back64)
{
    uint16_t h = pattern & 0x7fff;
    long wrong = (signbit(v) != 0) != (pattern >> 15);
    if (h > f.infinity) return wrong + !isnan(v);
    if (h == f.infinity) wrong += !isinf(v);
    else wrong += fabsl((long double)v) != value_of(f, h);
    return wrong + (back32(v) != pattern) + (back64((double)v) != pattern);
}

START_TEST(widening_is_exact_for_every_pattern)
{
    long wrong = 0, crossed = 0;
    for (uint32_t u = 0; u < 0x10000; u++) {
        uint16_t h = (uint16_t)u;
        wrong += wrong_widening(bf16, h, fh1_bf16_to_f32(h), fh1_f32_to_bf16, fh1_f64_to_bf16);
        wrong += wrong_widening(f16, h, fh1_f16_to_f32(h), fh1_f32_to_f16, fh1_f64_to_f16);
        crossed += wrong_widening(f16, h, fh1_bf16_to_f32(h), fh1_f32_to_f16, fh1_f64_to_f16) != 0;
    }
    ck_assert_int_eq(wrong, 0);
    ck_assert_int_gt(crossed, 60000); /* planted: the other type's widening */
}
END_TEST

START_TEST(nan_and_infinity_stay)
{
    static const uint32_t nans[] = {0x7f800001u, 0x7fc00000u, 0xff800001u, 0x7fffffffu, 0xffffffffu, 0x7f808000u};
    static const fh1_round kinds[] = {FH1_ROUND_NONE, FH1_ROUND_F32, FH1_ROUND_BF16, FH1_ROUND_F16, FH1_ROUND_TF32};
    for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++) {
        float v = fh1_bits_f32(nans[i]);
        ck_assert(isnan(fh1_bf16_to_f32(fh1_f32_to_bf16(v))));
        ck_assert(isnan(fh1_f16_to_f32(fh1_f32_to_f16(v))));
        ck_assert(isnan(fh1_bf16_to_f32(fh1_f64_to_bf16((double)v))));
        for (size_t k = 0; k < 5; k++) {
            ck_assert(isnan(fh1_round_f32(kinds[k], v)));
            ck_assert(isnan(fh1_round_f64(kinds[k], (double)v)));
        }
    }
    ck_assert(!isnan(fh1_bf16_to_f32(bf16_truncated(fh1_bits_f32(0x7f800001u))))); /* what truncation does */
    for (size_t k = 0; k < 5; k++) {
        ck_assert(fh1_round_f32(kinds[k], -INFINITY) == -INFINITY);
        ck_assert(fh1_round_f64(kinds[k], (double)INFINITY) == (double)INFINITY);
        ck_assert(signbit(fh1_round_f64(kinds[k], -0.0)) && fh1_round_f64(kinds[k], -0.0) == 0);
        if (k > 0) ck_assert(isinf(fh1_round_f64(kinds[k], 1e300)));
        if (k > 0) ck_assert(fh1_round_f64(kinds[k], 1e-300) == 0);
    }
}
END_TEST

/* tf32: 11 significant bits with f32's exponents; both scalings are exact. */
static double slow_tf32(double v)
{
    int e;
    double m = frexp(v, &e); /* [0.5, 1) */
    int drop = e - 11 < -136 ? -136 : e - 11;
    double r = ldexp(nearbyint(ldexp(m, e - drop)), drop);
    return fabs(r) >= 0x1p128 ? copysign((double)INFINITY, v) : r;
}

START_TEST(tf32_keeps_ten_bits)
{
    fh1_stream s = fh1_stream_open(3, "tf32");
    long wrong = 0, twice = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        float f = fh1_bits_f32((uint32_t)fh1_random_u64(s, i));
        if (!isfinite(f)) continue;
        float tie = fh1_bits_f32((fh1_f32_bits(f) & ~0x1fffu) | 0x1000u);
        double beside = nextafter((double)tie, 2 * (double)tie);
        wrong += (double)fh1_round_f32(FH1_ROUND_TF32, f) != slow_tf32((double)f);
        wrong += fh1_round_f64(FH1_ROUND_TF32, (double)f) != slow_tf32((double)f);
        wrong += (double)fh1_round_f32(FH1_ROUND_TF32, tie) != slow_tf32((double)tie);
        wrong += fh1_round_f64(FH1_ROUND_TF32, beside) != slow_tf32(beside);
        twice += (double)fh1_round_f32(FH1_ROUND_TF32, (float)beside) != slow_tf32(beside);
    }
    ck_assert_int_eq(wrong, 0);
    ck_assert_int_gt(twice, 1000); /* planted: by way of f32 it would have been wrong */
}
END_TEST

START_TEST(rounding_kinds_agree_with_the_types)
{
    fh1_stream s = fh1_stream_open(4, "kinds");
    long wrong = 0, crossed = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        double v = 100 * fh1_random_normal(s, i);
        float f = (float)v;
        double b = (double)fh1_bf16_to_f32(slow_narrow(bf16, v)), g = (double)fh1_f16_to_f32(slow_narrow(f16, v));
        wrong += fh1_round_f64(FH1_ROUND_NONE, v) != v || fh1_round_f64(FH1_ROUND_F32, v) != (double)f;
        wrong += fh1_round_f64(FH1_ROUND_BF16, v) != b || fh1_round_f64(FH1_ROUND_F16, v) != g;
        wrong += fh1_round_f32(FH1_ROUND_NONE, f) != f || fh1_round_f32(FH1_ROUND_F32, f) != f;
        wrong += fh1_round_f32(FH1_ROUND_BF16, f) != fh1_bf16_to_f32(slow_narrow(bf16, (double)f));
        wrong += fh1_round_f32(FH1_ROUND_F16, f) != fh1_f16_to_f32(slow_narrow(f16, (double)f));
        crossed += fh1_round_f64(FH1_ROUND_F16, v) != b;
    }
    ck_assert_int_eq(wrong, 0);
    ck_assert_int_gt(crossed, 5000);
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("round");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, narrowing_is_nearest_even);
    tcase_add_test(c, edges_of_f16);
    tcase_add_test(c, wrong_roundings_are_rejected);
    tcase_add_test(c, widening_is_exact_for_every_pattern);
    tcase_add_test(c, nan_and_infinity_stay);
    tcase_add_test(c, tf32_keeps_ten_bits);
    tcase_add_test(c, rounding_kinds_agree_with_the_types);
    Suite *s = suite_create("round");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
