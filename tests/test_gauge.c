/* The algebra of gauges against brute force: errors of many random roundings stay inside E and have the variance V. */
#include "oracle/compare.h"
#include "oracle/gauge.h"
#include "oracle/random.h"

#include <check.h>
#include <float.h>
#include <stdlib.h>

#define N_OF(array) ((int)(sizeof(array) / sizeof *(array)))

static const fh1_profile *contract(int i)
{
    static const char *const names[] = {"exact", "fp32", "hf-eager-bf16", "hf-eager-fp16"};
    const fh1_profile *p = fh1_profile_find(names[i]);
    ck_assert_ptr_nonnull(p);
    return p;
}
enum { EXACT, FP32, BF16, FP16, N_CONTRACTS };

/* Equal but for the last digits. */
static void near(double value, double wanted)
{
    ck_assert_msg(fh1_within(fabs(value - wanted), 0x1p-40 * fabs(wanted)), "%.17g, expected %.17g", value, wanted);
}

static void same(fh1_err a, fh1_err b)
{
    near(a.worst, b.worst), near(a.variance, b.variance), near(a.shared, b.shared);
}

/* What a random value of the stream would be off by after one operation of f32 arithmetic and a rounding. */
static double rounded(fh1_round r, double v)
{
    return fh1_round_f64(r, (double)(float)v);
}

/* --- storage --- */

START_TEST(arrays)
{
    fh1_gauge g;
    ck_assert_ptr_null(fh1_gauge_new(7, &g));
    for (int i = 0; i < 7; i++) same(fh1_gauge_at(&g, i), (fh1_err){0});
    for (int i = 0; i < 7; i++) fh1_gauge_set(&g, i, (fh1_err){1 + i, 10 + i, 100 + i});
    for (int i = 0; i < 7; i++) same(fh1_gauge_at(&g, i), (fh1_err){1 + i, 10 + i, 100 + i});
    fh1_gauge_free(&g);
    ck_assert_ptr_null(g.worst);
    fh1_gauge_free(&g); /* and what was never made */
    ck_assert_ptr_null(fh1_gauge_new(0, &g));
    ck_assert_ptr_nonnull(g.worst);
    fh1_gauge_free(&g);
#ifndef __SANITIZE_ADDRESS__                                    /* whose malloc ends the program instead */
    ck_assert_ptr_nonnull(fh1_gauge_new(INT64_C(1) << 55, &g)); /* no memory is a status, not a crash */
    fh1_gauge_free(&g);
#endif
}
END_TEST

/* --- the bound --- */

/* 2·n·(one tail of a normal) <= alpha, and not much less: the bound is the least round one. */
START_TEST(sigmas)
{
    static const int64_t of[] = {1, 2, 160, 4096, 1000000, INT64_C(100000000000)};
    for (int i = 0; i < N_OF(of); i++) {
        const double s = fh1_gauge_sigmas(of[i]), chance = (double)of[i] * erfc(s / sqrt(2));
        ck_assert(fh1_within(chance, fh1_rule.alpha));
        ck_assert(!fh1_within((double)of[i] * erfc(s * 0.9 / sqrt(2)), fh1_rule.alpha));
        near(s * s, 2 * log((double)of[i] / fh1_rule.alpha));
        if (i) ck_assert(s > fh1_gauge_sigmas(of[i - 1]));
    }
    near(fh1_gauge_sigmas(0), fh1_gauge_sigmas(1));
    near(fh1_gauge_sigmas(-5), fh1_gauge_sigmas(1));
}
END_TEST

START_TEST(allowed)
{
    near(fh1_gauge_allowed((fh1_err){10, 4, 1}, 3), 7);
    near(fh1_gauge_allowed((fh1_err){6.5, 4, 1}, 3), 6.5);
    near(fh1_gauge_allowed((fh1_err){7, 0, 1}, 3), 1);
    near(fh1_gauge_allowed((fh1_err){0}, 3), 0);
    near(fh1_gauge_allowed((fh1_err){1e-162, 0, 0}, 3), 1e-162); /* V underflowed */
    const double inf = (double)INFINITY, nan = (double)NAN;
    near(fh1_gauge_allowed((fh1_err){5, inf, 1}, 3), 5); /* E holds where V overflowed */
    near(fh1_gauge_allowed((fh1_err){5, nan, 1}, 3), 5);
    near(fh1_gauge_allowed((fh1_err){inf, 4, 1}, 3), 7);
    ck_assert(isnan(fh1_gauge_allowed((fh1_err){nan, 4, 1}, 3))); /* which nothing is within */
}
END_TEST

/* --- one line of a gauge for one line of an op --- */

START_TEST(algebra)
{
    const fh1_err a = {3, 2, 1}, b = {0.5, 0.25, 0.125};
    same(fh1_err_add(a, b), (fh1_err){3.5, 2.25, 1.125});
    same(fh1_err_scale(a, -4), (fh1_err){12, 32, 4});
    same(fh1_err_scale(a, 0), (fh1_err){0});
    same(fh1_err_half(a, 0.6), (fh1_err){3.6, 2 + 0.36 / 3, 1});
    same(fh1_err_shared(2), (fh1_err){2, 0, 2});
    same(fh1_err_product(a, -5, b, 7), (fh1_err){3 * 7 + 0.5 * 5 + 1.5, 2 * 49 + 0.25 * 25, 7 + 0.625});
}
END_TEST

/* The worst case of a product is reached at a corner, and never passed. */
START_TEST(a_product_reaches_its_worst_case)
{
    const fh1_stream s = fh1_stream_open(1, "product");
    for (uint64_t i = 0; i < 400; i++) {
        const double va = fh1_random_normal(s, i), vb = fh1_random_normal(s, i + 1000);
        const fh1_err a = {fh1_random_uniform(s, i + 2000), 0, 0}, b = {fh1_random_uniform(s, i + 3000), 0, 0};
        double most = 0;
        for (int x = -4; x <= 4; x++)
            for (int y = -4; y <= 4; y++)
                most = fmax(most, fabs((va + a.worst * x / 4) * (vb + b.worst * y / 4) - va * vb));
        near(fh1_err_product(a, va, b, vb).worst, most);
    }
}
END_TEST

/* --- one rounding --- */

static const fh1_round kinds[] = {FH1_ROUND_NONE, FH1_ROUND_F32, FH1_ROUND_BF16, FH1_ROUND_F16};

/* Random values over the binades, and next to the powers of two: a rounding stays inside, and comes close. The operands
 * of the last operation are off already, by `before`. */
START_TEST(one_rounding_stays_inside)
{
    const fh1_stream s = fh1_stream_open(2, "rounding");
    for (int k = 0; k < N_OF(kinds) * 2; k++) {
        double largest = 0, sum = 0, predicted = 0;
        const int n = 4000;
        for (uint64_t i = 0; i < (uint64_t)n; i++) {
            const int exponent = (int)fh1_random_below(s, i, 24) - 12;
            double v = ldexp(1 + fh1_random_uniform(s, i + 10000), exponent);
            if (i % 4 == 3) v = ldexp(1 + 0x1p-9 * (fh1_random_uniform(s, i + 10000) - 0.5), exponent);
            if (i % 2) v = -v;
            const double before = k / 4 ? fabs(v) * 0x1p-10 : 0,
                         shift = before * (2 * fh1_random_uniform(s, i + 20000) - 1);
            const fh1_err e = fh1_err_round((fh1_err){before, 0, 0}, contract(FP32), kinds[k % 4], v);
            const double err = fabs(rounded(kinds[k % 4], v + shift) - v);
            ck_assert_msg(fh1_within(err, e.worst), "%d: %.17g is off by %.17g of %.17g", k, v, err, e.worst);
            largest = fmax(largest, err / e.worst);
            sum += (err - 0) * (err - 0) / e.variance / n;
            predicted = e.shared;
        }
        ck_assert_msg(largest > 0.9, "%d: at most %g of the worst case", k, largest);
        ck_assert(fh1_within(predicted, 0)); /* nothing is shared */
        if (k < 4) ck_assert_msg(sum > 0.3 && sum < 1.1, "%d: %g of the variance", k, sum);
    }
}
END_TEST

/* Half an ulp where the value may stand: across a power of two, below the normal range, at zero. */
START_TEST(halves_of_an_ulp)
{
    static const struct {
        fh1_round r;
        double before, v, half; /* of the rounding to r, u·(|v| + before) comes on top */
    } of[] = {
        {FH1_ROUND_BF16, 0, 1, 0x1p-8},
        {FH1_ROUND_BF16, 0, -1.99, 0x1p-8},
        {FH1_ROUND_BF16, 0, 2, 0x1p-7},
        {FH1_ROUND_BF16, 0.02, -1.99, 0x1p-7}, /* it may stand beyond */
        {FH1_ROUND_BF16, 0.02, 0, 0x1p-14},    /* whatever a zero may be */
        {FH1_ROUND_BF16, 0, 0, 0x1p-134},      /* half of the smallest subnormal */
        {FH1_ROUND_BF16, 0, 0x1p-130, 0x1p-134},
        {FH1_ROUND_F16, 0, 1, 0x1p-11},
        {FH1_ROUND_F16, 0, 0x1p-20, 0x1p-25},
        {FH1_ROUND_F16, 0, 1e-9, 0x1p-25},
        {FH1_ROUND_F16, 0, 60000, 16},
        {FH1_ROUND_NONE, 0.5, 3, 0},
        {FH1_ROUND_F32, 0.5, 3, 0}, /* f32 arithmetic has rounded to it */
    };
    for (int i = 0; i < N_OF(of); i++) {
        const double u = contract(FP32)->u * (fabs(of[i].v) + of[i].before);
        const fh1_err before = {of[i].before, 0.75, 0.125}, e = fh1_err_round(before, contract(BF16), of[i].r, of[i].v);
        same(e, (fh1_err){of[i].before + u + of[i].half, 0.75 + u * u / 3 + of[i].half * of[i].half / 3, 0.125});
    }
    for (int k = 0; k < N_CONTRACTS; k++) /* every contract has its own arithmetic */
        near(fh1_err_round((fh1_err){0}, contract(k), FH1_ROUND_NONE, -8).worst, 8 * (k == EXACT ? 0x1p-53 : 0x1p-24));
}
END_TEST

/* A value that f16 has not: the bound stays a number, while the class of the value tells the overflow. */
START_TEST(overflow)
{
    for (int k = 0; k < N_OF(kinds); k++) {
        const fh1_err e = fh1_err_round((fh1_err){0}, contract(FP16), kinds[k], 1e6);
        ck_assert(isfinite(e.worst) && isfinite(e.variance) && e.worst > 0);
        if (kinds[k] != FH1_ROUND_F16) continue;
        ck_assert(isinf(rounded(kinds[k], 1e6)));
        ck_assert(!fh1_within(fh1_error_of(rounded(kinds[k], 1e6), 1e6), e.worst));
    }
    const fh1_err none = fh1_err_round((fh1_err){0}, contract(FP32), FH1_ROUND_BF16, (double)INFINITY);
    ck_assert(!fh1_within(1, fh1_gauge_allowed(none, 5)) || isinf(none.worst)); /* no finite bound made of nothing */
}
END_TEST

START_TEST(functions_have_units)
{
    const fh1_err before = {1e-3, 1e-7, 1e-4};
    for (int k = 0; k < N_CONTRACTS; k++)
        for (int r = 0; r < N_OF(kinds); r++) {
            const fh1_profile *c = contract(k);
            const double v = -1.5, units = c->exp_units;
            const fh1_err e = fh1_err_function(before, c, kinds[r], units, v);
            same(e, fh1_err_round(fh1_err_half(before, units * c->u * (1.5 + before.worst)), c, kinds[r], v));
            ck_assert(e.worst > fh1_err_round(before, c, kinds[r], v).worst);
        }
    double largest = 0; /* expf of the library, in units of which it needs one */
    const fh1_stream s = fh1_stream_open(3, "exp");
    for (uint64_t i = 0; i < 4000; i++) {
        const float x = (float)(4 * fh1_random_normal(s, i));
        const double truth = exp((double)x), err = fabs((double)expf(x) - truth);
        const double bound =
            fh1_err_function((fh1_err){0}, contract(FP32), FH1_ROUND_F32, contract(FP32)->exp_units, truth).worst;
        ck_assert(fh1_within(err, bound));
        largest = fmax(largest, err / bound);
    }
    ck_assert(largest > 0.1 && largest < 0.5);
}
END_TEST

/* --- sums --- */

enum { LONGEST = 300 };

/* f32 sums of random terms in three orders. */
static double sum_of(int order, int64_t n, const float *x)
{
    if (order == 2 && n > 1) { /* pairwise */
        return (double)((float)sum_of(2, n / 2, x) + (float)sum_of(2, n - n / 2, x + n / 2));
    }
    float s = 0;
    for (int64_t i = 0; i < n; i++) s += x[order == 1 ? n - 1 - i : i];
    return (double)s;
}

START_TEST(sums_stay_inside_in_any_order)
{
    static const int64_t lengths[] = {1, 2, 7, 64, LONGEST};
    float x[LONGEST];
    for (int k = 0; k < N_OF(lengths) * 3; k++) {
        const int64_t d = lengths[k / 3];
        double ratio = 0, largest = 0;
        const int trials = 300;
        for (int trial = 0; trial < trials; trial++) {
            const fh1_stream s = fh1_stream_open((uint64_t)trial, "sum");
            double truth = 0, magnitude = 0;
            for (int64_t i = 0; i < d; i++) {
                x[i] = (float)fh1_random_normal(s, (uint64_t)i);
                truth += (double)x[i], magnitude += fabs((double)x[i]);
            }
            const fh1_err e = fh1_err_sum((fh1_err){0}, contract(FP32), d, magnitude);
            const double err = fabs(sum_of(k % 3, d, x) - truth);
            same(e, (fh1_err){(double)d * 0x1p-24 * magnitude, (double)d * 0x1p-48 * magnitude * magnitude / 3, 0});
            ck_assert(fh1_within(err, fh1_gauge_allowed(e, fh1_gauge_sigmas(trials))));
            ratio += err * err / e.variance / trials;
            largest = fmax(largest, err);
        }
        ck_assert_msg(ratio < 1, "%lld terms: %g of the variance", (long long)d, ratio);
        ck_assert_int_eq(largest > 0, d > 1);
    }
    const fh1_err before = {1, 2, 0.5};
    same(fh1_err_sum(before, contract(FP32), 0, 9), before);
    same(fh1_err_sum(before, contract(FP32), -3, 9), before);
}
END_TEST

/* A walk of d independent roundings, added in long double: its spread is V, its largest step E. This is what V means;
 * with one bit fewer, or with all roundings in one direction, it is off. */
START_TEST(variance_is_that_of_independent_roundings)
{
    enum { D = 48, TRIALS = 1500 };
    const fh1_round r = FH1_ROUND_BF16;
    for (int fault = 0; fault < 3; fault++) {
        double ratio = 0, outside = 0;
        for (uint64_t trial = 0; trial < TRIALS; trial++) {
            const fh1_stream s = fh1_stream_open(trial, "walk");
            fh1_err e = {0};
            double sum = 0;
            for (uint64_t i = 0; i < D; i++) {
                const double v = 1 + fh1_random_uniform(s, i); /* one binade: uniform in half an ulp */
                double off = rounded(r, v) - v;
                if (fault == 1) off = rounded(r, v / 2 + 64) - (v / 2 + 64); /* seven bits fewer */
                if (fault == 2) off = fabs(off);
                sum += off;
                e = fh1_err_round(e, contract(BF16), r, 1.5);
                e.worst = 0; /* of each, not of those before: they are not its operands */
            }
            ratio += sum * sum / e.variance / TRIALS;
            outside +=
                !fh1_within(fabs(sum), fh1_gauge_allowed((fh1_err){DBL_MAX, e.variance, 0}, fh1_gauge_sigmas(TRIALS)));
        }
        if (fault == 0) ck_assert_msg(ratio > 0.9 && ratio < 1.1 && outside < 1, "%g, %g outside", ratio, outside);
        else ck_assert_msg(ratio > 4, "fault %d: %g", fault, ratio);
        if (fault) ck_assert(outside > 0);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {arrays,
                                  sigmas,
                                  allowed,
                                  algebra,
                                  a_product_reaches_its_worst_case,
                                  one_rounding_stays_inside,
                                  halves_of_an_ulp,
                                  overflow,
                                  functions_have_units,
                                  sums_stay_inside_in_any_order,
                                  variance_is_that_of_independent_roundings,
                                  NULL};
    Suite *suite = suite_create("gauge");
    TCase *tc = tcase_create("gauge");
    for (int i = 0; tests[i]; i++) tcase_add_test(tc, tests[i]);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
