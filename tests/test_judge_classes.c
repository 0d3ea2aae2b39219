/* What the judge's rules do beside comparing: classes of values, sizes that over- or underflow, taps that cannot be
 * judged, and the figures of a report. */
#include "tests/judge_rules_fixture.h"

#include <float.h>

/* --- classes --- */

enum { BY_GAUGE, BY_EMULATED, BY_SHARE, N_RULES };

/* 4 tokens of 40, honest, and something is allowed. */
static tap *honest(int rule)
{
    if (rule == BY_EMULATED) return chain(4, 40, 0, 1e-3);
    tap *p = tap_new(4, 40, rule == BY_SHARE ? "exact" : "fp32");
    if (rule == BY_GAUGE) gauge_is(p, 1e-3, 1e-6, 0);
    return p;
}

static int64_t counted(const tap *p)
{
    int64_t n = 0;
    for (int i = 0; i < FH1_MARGIN_BINS; i++) n += p->r.histogram[i];
    return n;
}

START_TEST(classes_decide_first)
{
    const double nan = (double)NAN, inf = (double)INFINITY;
    const struct {
        double judged, local;
        const char *reason;
    } of[] = {{nan, 1, "NaN"},      {nan, nan, "NaN"},           {inf, 1, "infinite where truth is finite"},
              {1, inf, "infinite"}, {-inf, inf, "infinite"},     {1, nan, "infinite"},
              {nan, inf, "NaN"},    {-inf, -DBL_MAX, "infinite"}};
    for (int i = 0; i < N_OF(of) * 3; i++)
        for (int rule = 0; rule < N_RULES; rule++) {
            tap *p = honest(rule);
            const int64_t at = i % 3 * 79; /* first, middle and last but one */
            p->judged[at] = of[i / 3].judged, p->local[at] = of[i / 3].local;
            p->judged[100] = 3; /* a large error elsewhere is no more than that */
            expect(p, FH1_FAIL, of[i / 3].reason, at);
            ck_assert(isinf(p->r.margin));
            p->judged[100] = 1;
            expect(p, FH1_FAIL, of[i / 3].reason, at);
            const bool measured = isfinite(of[i / 3].local); /* beyond every bin */
            ck_assert_int_eq(p->r.histogram[FH1_MARGIN_BINS - 1], measured);
            ck_assert_int_eq(counted(p), 159 + measured);
            ck_assert(isinf(p->r.token_margin[at / 40]) == measured);
            p->skip[at] = true; /* padding may hold anything */
            expect(p, FH1_PASS, NULL, -1);
            ck_assert_int_eq(counted(p), 159);
            free(p);
        }
}
END_TEST

START_TEST(one_element_of_another_class)
{
    for (int rule = 0; rule < N_RULES; rule++) {
        tap *p = honest(rule);
        p->t.n_tokens = p->t.width = p->t.n_units = p->t.n_columns = 1;
        p->local[0] = (double)NAN; /* nothing is left to measure, but something to tell */
        expect(p, FH1_FAIL, "infinite", 0);
        p->local[0] = (double)INFINITY;
        expect(p, FH1_FAIL, "infinite", 0);
        p->judged[0] = (double)INFINITY;
        expect(p, FH1_SKIP, "nothing finite", 0);
        free(p);
    }
}
END_TEST

/* --- infinities and sizes that would make a bound infinite, and everything pass --- */

START_TEST(no_bound_becomes_infinite)
{
    const double inf = (double)INFINITY;
    for (int rule = 0; rule < N_RULES; rule++) {
        tap *p = honest(rule);
        p->judged[5] = p->local[5] = -inf; /* shared with truth: right, and nothing to measure */
        p->worst[5] = p->variance[5] = p->shared[5] = (double)NAN;
        expect(p, FH1_PASS, NULL, -1);
        ck_assert_int_eq(counted(p), 159);
        p->judged[77] = 2; /* not excused by it */
        expect(p, FH1_FAIL, NULL, 77);
        free(p);
    }
    tap *p = honest(BY_EMULATED); /* an emulated pipeline that overflowed is no yardstick */
    for (int i = 0; i < MAX; i++) p->emulated2[i] = i % 3 ? inf : (double)NAN;
    expect(p, FH1_PASS, NULL, -1);
    p->judged[77] = 1.001;
    expect(p, FH1_FAIL, NULL, 77);
    free(p);
}
END_TEST

/* A gauge that is no number allows nothing, whatever stands around it. */
START_TEST(a_gauge_that_is_no_number)
{
    for (int i = 0; i < 3; i++) {
        tap *p = tap_new(2, 10, "fp32");
        gauge_is(p, 1e-3, 1e-6, 0);
        const int64_t at = i == 0 ? 0 : i == 1 ? 7 : 19;
        p->worst[at] = (double)NAN;
        p->judged[at] = 2;
        p->judged[3] = 1.0001;
        expect(p, FH1_FAIL, "one element", at);
        ck_assert_int_eq(p->r.histogram[FH1_MARGIN_BINS - 1], 1);
        p->worst[at] = (double)INFINITY; /* no bound at all: everything would pass */
        p->variance[at] = (double)INFINITY;
        expect(p, FH1_MISTRUSTED, "zeros would pass", -1);
        free(p);
    }
}
END_TEST

/* A gauge as the ops make one, for values whose squares, and squares of squares, are no f64. */
static tap *of_size(double scale)
{
    tap *p = tap_new(4, 40, "exact");
    gauge_is(p, 0, 0, 0);
    for (int i = 0; i < MAX; i++) {
        p->judged[i] = p->local[i] = i % 2 ? scale : -scale;
        fh1_err e = {0}; /* eight roundings: the judge allows 16 u */
        for (int k = 0; k < 8; k++) e = fh1_err_half(e, p->t.profile->u * scale);
        fh1_gauge_set(&p->gauge, i, e);
    }
    return p;
}

START_TEST(any_size_under_exact)
{
    static const double sizes[] = {1, 1e10, 1e100, 1e200, 1e290, 1e-50, 1e-100, 1e-180, 1e-280};
    for (int i = 0; i < N_OF(sizes); i++) {
        const double scale = sizes[i], ulp = fh1_dtype_ulp(FH1_F64, scale);
        tap *p = of_size(scale);
        expect(p, FH1_PASS, NULL, -1);
        ck_assert_int_eq(counted(p), 160);
        p->judged[5] += 2 * ulp;
        expect(p, FH1_PASS, NULL, 5);
        near(p->r.rel_rms, sqrt(4 * ulp / scale * ulp / scale / 160));
        p->judged[5] += 16 * ulp;
        expect(p, FH1_FAIL, "one element", 5);
        p->judged[5] = p->local[5];
        const double most = floor(12 * p->t.profile->u * scale / ulp) * ulp;
        for (int k = 0; k < 160; k++) p->judged[k] += most;   /* fine for one element, not for all */
        const bool squares = scale > 1e-140 && scale < 1e140; /* beyond, V is the bound that follows from E */
        expect(p, squares ? FH1_FAIL : FH1_PASS, squares ? "RMS of" : "", -1);
        for (int k = 0; k < 160; k++) p->judged[k] = 0;
        expect(p, FH1_FAIL, NULL, -1); /* zeros do not pass */
        for (int k = 0; k < 160; k++) p->judged[k] = p->local[k];
        p->t.far = true;
        expect(p, FH1_PASS, NULL, -1);
        p->judged[9] *= 1 - 2 * p->t.profile->relative;
        expect(p, FH1_FAIL, "share of the tap", 9);
        free(p);
    }
    for (int shared = 0; shared < 2; shared++) { /* what is shared is no part of the bound that replaces V */
        tap *p = tap_new(64, 64, "exact");
        gauge_is(p, 4e184, (double)INFINITY, shared ? 2e184 : 0);
        for (int k = 0; k < MAX; k++) p->local[k] = 1e200, p->judged[k] = 1e200 + 7.9e184;
        expect(p, FH1_FAIL, "RMS of", -1);
        near(p->r.max_err, p->judged[0] - p->local[0]);
        ck_assert(shared ? p->r.allowed > 7.6e184 : p->r.allowed < 7.6e184);
        free(p);
    }
    tap *p = of_size(1); /* one among others of the usual size */
    for (int big = 0; big < 2; big++) {
        const double scale = big ? 1e200 : 1e-200, ulp = fh1_dtype_ulp(FH1_F64, scale);
        p->local[5] = p->judged[5] = scale;
        fh1_gauge_set(&p->gauge, 5, fh1_err_round((fh1_err){0}, p->t.profile, FH1_ROUND_NONE, scale));
        p->judged[5] = scale + ulp;
        expect(p, FH1_PASS, NULL, 5);
        p->judged[5] = scale + 3 * ulp;
        expect(p, FH1_FAIL, "one element", 5);
    }
    free(p);
}
END_TEST

/* --- what cannot be judged --- */

START_TEST(zero_truth_is_mistrusted)
{
    for (int rule = 0; rule < N_RULES; rule++) {
        tap *p = honest(rule);
        for (int k = 0; k < MAX; k++) p->judged[k] = p->local[k] = 0;
        expect(p, FH1_MISTRUSTED, "truth is zero everywhere", -1);
        p->judged[77] = 0.03; /* a wrong value is not excused by it */
        expect(p, FH1_FAIL, NULL, 77);
        near(p->r.rel_rms, 0.03 / sqrt(160));              /* nothing to relate it to */
        p->judged[77] = 0, p->local[3] = p->judged[3] = 1; /* one number is enough to trust */
        expect(p, FH1_PASS, NULL, -1);
        p->skip[3] = true; /* unless it is padding */
        expect(p, FH1_MISTRUSTED, "zero", -1);
        free(p);
    }
}
END_TEST

/* Truth no larger than what is allowed: a tap of zeros would pass, so a PASS says nothing. */
START_TEST(a_vacuous_tap_is_mistrusted)
{
    for (int i = 0; i < 5; i++) {
        tap *p = honest(i == 0 ? BY_GAUGE : i == 3 ? BY_SHARE : BY_EMULATED);
        if (i == 2) gauge_is(p, 3e-3, 1, 0); /* of the last op, on top */
        if (i == 3) gauge_is(p, 1e-3, 1, 0), p->t.far = true;
        if (i == 4) gauge_is(p, 1e-3, 1, 0), p->t.far = false; /* the emulated pipeline has no say */
        double allowed = i == 2 ? 3e-3 : i == 1 ? 0 : 1e-3;
        if (i == 3) allowed *= 2;
        if (i == 1 || i == 2) allowed += fh1_rule.band_tap * (1 + 2 / sqrt(4)) * 1e-3;
        allowed = (allowed + underflow(p)) / fh1_rule.vacuous;
        for (int side = 0; side < 2; side++) {
            for (int k = 0; k < MAX; k++) p->judged[k] = p->local[k] = allowed * (side ? OUTSIDE : INSIDE);
            for (int k = 0; k < MAX; k += 2) p->judged[k] = p->local[k] = -p->local[k];
            expect(p, side ? FH1_PASS : FH1_MISTRUSTED, side ? "" : "zeros would pass", -1);
        }
        p->judged[7] = 1;
        expect(p, FH1_FAIL, NULL, 7); /* but a FAIL does */
        free(p);
    }
}
END_TEST

START_TEST(nothing_to_judge_is_skipped)
{
    for (int i = 0; i < 4; i++) {
        tap *p = chain(i == 1 ? 0 : 4, i == 2 ? 0 : 40, 9, 0.1);
        memset(p->skip, i == 0, sizeof p->skip);
        p->judged[0] = (double)NAN;
        for (int k = 0; k < MAX && i == 3; k++) p->judged[k] = p->local[k] = (double)INFINITY;
        expect(p, FH1_SKIP, i == 3 ? "nothing finite" : "no real token", 0);
        ck_assert(isnan(p->r.margin) && isnan(p->r.max_err) && isnan(p->r.rms_ratio) && isnan(p->r.rel_rms));
        ck_assert(isnan(p->r.allowed) && isnan(p->r.free_rms));
        free(p);
    }
    tap *p = chain(4, 40, 9, 0.1); /* one element left: judged again */
    memset(p->skip, 1, sizeof p->skip);
    p->skip[50] = false;
    expect(p, FH1_FAIL, "RMS of the tap", 50);
    p->t.skip = NULL; /* no list: all */
    expect(p, FH1_FAIL, "RMS of", -1);
    free(p);
}
END_TEST

/* --- figures --- */

START_TEST(figures_of_the_report)
{
    tap *p = honest(BY_GAUGE); /* no error at all: the first judged element is told */
    p->skip[0] = true;
    expect(p, FH1_PASS, NULL, 1);
    near(p->r.allowed, 1e-3 + underflow(p));
    ck_assert(fh1_within(p->r.margin, 0) && fh1_within(p->r.max_err, 0));
    free(p);
    p = chain(4, 20, 0, 0.02);
    for (int i = 0; i < MAX; i++) p->local[i] = 2, p->judged[i] = i % 2 ? 2.04 : 2.03;
    for (int i = 0; i < 8; i++) p->skip[i * 10] = true, p->judged[i * 10] = 1e9, p->local[i * 10] = -7;
    const double err = sqrt((40 * 0.04 * 0.04 + 32 * 0.03 * 0.03) / 72);
    expect(p, FH1_PASS, NULL, 1);
    near(p->r.rms_ratio, err / 0.02);
    near(p->r.rel_rms, err / 2);
    near(p->r.max_err, err);
    near(p->r.margin, err / p->r.allowed);
    ck_assert(fh1_within(fabs(p->r.free_rms - 0.125), 0));
    emulated_is(p, 0);
    expect(p, FH1_FAIL, NULL, -1);
    ck_assert(isnan(p->r.rms_ratio));
    p->t.emulated2 = NULL;
    expect(p, FH1_FAIL, "share of the tap", -1); /* fp32 has none: nothing but the underflow is left */
    near(p->r.allowed, underflow(p));
    ck_assert(isnan(p->r.rms_ratio));
    free(p);
}
END_TEST

/* Better than declared: a note, for types of 16 bits and where enough elements speak. */
START_TEST(more_exact_than_its_contract)
{
    static const struct {
        const char *profile;
        fh1_dtype type;
        double ratio;
        int64_t few;
        bool note;
    } of[] = {
        {"hf-eager-bf16", FH1_BF16, INSIDE, 0, true},  {"hf-eager-bf16", FH1_BF16, OUTSIDE, 0, false},
        {"hf-eager-fp16", FH1_F16, INSIDE, 0, true},   {"hf-eager-bf16", FH1_F32, INSIDE, 0, false},
        {"hf-eager-bf16", FH1_BF16, INSIDE, 1, false}, {"fp32", FH1_F32, INSIDE, 0, false},
        {"hf-eager-bf16", FH1_BF16, 0, 0, true},       {"hf-eager-bf16", FH1_BF16, 1 / 0.45, 0, false},
    };
    for (int i = 0; i < N_OF(of) * 3; i++) {
        tap *p = tap_new(1, fh1_rule.min_elements - of[i / 3].few, of[i / 3].profile);
        p->t.ulp_type = of[i / 3].type;
        const double emulated = i % 3 == 2 ? 0 : 0.01;
        emulated_is(p, emulated);
        if (i % 3) gauge_is(p, 0.1, 1, 0); /* whatever rule decides */
        errors_are(p, of[i / 3].ratio * fh1_rule.band_low * emulated);
        expect(p, FH1_PASS, "", -1);
        if (of[i / 3].note && emulated > 0) {
            ck_assert_msg(strstr(p->r.note, "more exact than contract") && strstr(p->r.note, of[i / 3].profile), "%s",
                          p->r.note);
            p->judged[3] = 9;
            expect(p, FH1_FAIL, NULL, 3);
        }
        if (!of[i / 3].note || emulated <= 0 || p->r.verdict == FH1_FAIL) ck_assert_str_eq(p->r.note, "");
        free(p);
    }
}
END_TEST

/* Bin k holds margins in [2^(k-12), 2^(k-11)). */
START_TEST(histogram)
{
    for (int rule = 0; rule < N_RULES; rule++)
        for (int k = -3; k < FH1_MARGIN_BINS + 4; k++)
            for (int top = 0; top < 2; top++) {
                tap *p = honest(rule);
                p->t.n_units = 1;
                if (rule == BY_GAUGE) emulated_is(p, 1); /* not asked */
                memset(p->unit, 0, sizeof p->unit);
                for (int i = 0; i < MAX; i++) p->judged[i] = p->local[i] = i ? 1 : 0; /* exact errors at 0 */
                double allowed = 1e-3 + underflow(p);
                if (rule == BY_EMULATED)
                    allowed = fh1_rule.chain_element * 1e-3 + fh1_rule.chain_ulps * fh1_dtype_ulp(FH1_F32, 0);
                if (rule == BY_SHARE) allowed = p->t.profile->relative * sqrt(159.0 / 160);
                if (rule == BY_EMULATED) allowed += underflow(p);
                p->judged[0] = allowed * ldexp(top ? INSIDE : OUTSIDE, k - 12 + top);
                const bool fails = k > 12 || (k == 12 && !top) || (k == 12 && top);
                expect(p, fails ? FH1_FAIL : FH1_PASS, NULL, -1);
                const int bin = k < 0 ? 0 : k >= FH1_MARGIN_BINS ? FH1_MARGIN_BINS - 1 : k;
                for (int i = 0; i < FH1_MARGIN_BINS; i++) /* the others have no error */
                    ck_assert_int_eq(p->r.histogram[i], (i == bin) + (i == 0) * 159);
                free(p);
            }
}
END_TEST

/* The largest margin of each range of columns. Rows of different sequences share a column. */
START_TEST(margins_by_column)
{
    static const struct {
        int64_t n, columns;
    } of[] = {{1, 1}, {5, 5}, {6, 3}, {32, 32}, {33, 33}, {60, 30}, {64, 64}, {10, 1000}};
    for (int i = 0; i < N_OF(of); i++) {
        tap *p = tap_new(of[i].n, 8, "fp32");
        gauge_is(p, 1e-2, 1, 0);
        p->t.n_columns = of[i].columns;
        double wanted[FH1_TOKEN_BINS] = {0};
        const int64_t bins = of[i].columns < FH1_TOKEN_BINS ? of[i].columns : FH1_TOKEN_BINS;
        for (int64_t r = 0; r < of[i].n; r++) {
            p->column[r] = of[i].columns - 1 - (r * 7 + 3) % of[i].columns; /* of a packed batch: not in order */
            const double err = 1e-3 * (double)(1 + (r * 13 + 5) % 9);
            p->judged[r * 8 + r % 8] = 1 + err;
            p->judged[r * 8 + (r + 1) % 8] = 1 - err / 2;
            double *at = &wanted[p->column[r] * bins / of[i].columns];
            *at = fmax(*at, err / (1e-2 + underflow(p)));
        }
        expect(p, FH1_PASS, NULL, -1);
        ck_assert_int_eq(p->r.n_token_bins, bins);
        for (int k = 0; k < FH1_TOKEN_BINS; k++) ck_assert(fh1_within(fabs(p->r.token_margin[k] - wanted[k]), 1e-9));
        p->t.column = NULL; /* a cache tap */
        expect(p, FH1_PASS, NULL, -1);
        ck_assert_int_eq(p->r.n_token_bins, 0);
        ck_assert_int_eq(counted(p), of[i].n * 8);
        free(p);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {classes_decide_first,
                                  one_element_of_another_class,
                                  no_bound_becomes_infinite,
                                  a_gauge_that_is_no_number,
                                  any_size_under_exact,
                                  zero_truth_is_mistrusted,
                                  a_vacuous_tap_is_mistrusted,
                                  nothing_to_judge_is_skipped,
                                  figures_of_the_report,
                                  more_exact_than_its_contract,
                                  histogram,
                                  margins_by_column,
                                  NULL};
    return rules_main("judge_classes", tests);
}
