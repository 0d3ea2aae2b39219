/* What is decided before any RMS is formed: classes of values, infinities, and taps that cannot be judged. */
#include "tests/judge_rules_fixture.h"

/* --- classes --- */

START_TEST(classes_decide_first)
{
    const double nan = (double)NAN, inf = (double)INFINITY;
    const struct {
        double judged, local;
        fh1_verdict verdict;
        const char *reason;
    } of[] = {
        {nan, 1, FH1_FAIL, "NaN"},      {nan, nan, FH1_FAIL, "NaN"},       {inf, 1, FH1_FAIL, "infinite"},
        {1, inf, FH1_FAIL, "infinite"}, {-inf, inf, FH1_FAIL, "infinite"}, {1, nan, FH1_FAIL, NULL},
        {nan, inf, FH1_FAIL, "NaN"},
    };
    for (int i = 0; i < N_OF(of) * 3; i++)
        for (int rule = 0; rule < 3; rule++) { /* exact, per element, RMS */
            tap *p = rule == 0   ? tap_new(4, 40, "exact", FH1_F64)
                     : rule == 1 ? tap_new(4, 40, "fp32", FH1_F32)
                                 : uniform(4, 40, 0.5, 0.5);
            if (rule == 1) p->t.abs_sum = p->abs_sum;
            const int64_t at = i % 3 * 79; /* first, middle and last but one */
            p->judged[at] = of[i / 3].judged, p->local[at] = of[i / 3].local;
            expect(p, FH1_FAIL, of[i / 3].reason, at);
            p->skip[at] = true; /* padding may hold anything */
            expect(p, FH1_PASS, NULL, -1);
            free(p);
        }
}
END_TEST

/* --- infinities and sizes that would make a bound infinite, and everything pass --- */

START_TEST(no_bound_becomes_infinite)
{
    const double inf = (double)INFINITY;
    for (int rule = 0; rule < 3; rule++) { /* exact, per element, RMS */
        tap *p = rule == 0   ? tap_new(4, 40, "exact", FH1_F64)
                 : rule == 1 ? tap_new(4, 40, "fp32", FH1_F32)
                             : uniform(4, 40, 0, 1e-3);
        if (rule == 1) p->t.abs_sum = p->abs_sum;
        p->judged[5] = p->local[5] = inf; /* shared with truth: right, and nothing to measure */
        expect(p, FH1_PASS, NULL, -1);
        p->judged[77] = 2; /* not excused by it */
        expect(p, FH1_FAIL, NULL, 77);
        free(p);
    }
    tap *p = tap_new(4, 40, "exact", FH1_F64);
    p->judged[5] = p->local[5] = 1e200; /* its square overflows */
    expect(p, FH1_PASS, NULL, -1);
    p->judged[5] = 1.01e200;
    expect(p, FH1_FAIL, NULL, 5);
    free(p);
    p = uniform(4, 40, 0, 1e-3);
    p->emulated2[9] = inf; /* an emulated pipeline that overflowed is no yardstick */
    p->judged[77] = 2;
    expect(p, FH1_FAIL, NULL, 77);
    free(p);
}
END_TEST

/* --- what cannot be judged --- */

START_TEST(zero_truth_is_mistrusted)
{
    static const char *const profiles[] = {"exact", "fp32", "hf-eager-bf16"};
    for (int i = 0; i < 3; i++) {
        tap *p = tap_new(4, 40, profiles[i], fh1_profile_find(profiles[i])->storage);
        for (int k = 0; k < MAX; k++) p->judged[k] = p->local[k] = 0;
        expect(p, FH1_MISTRUSTED, "zero", -1);
        p->judged[77] = 1e-3; /* a wrong value is not excused by it */
        expect(p, FH1_FAIL, NULL, 77);
        p->judged[77] = 0, p->local[3] = p->judged[3] = 1; /* one number is enough to trust */
        expect(p, FH1_PASS, NULL, -1);
        free(p);
    }
}
END_TEST

START_TEST(nothing_to_judge_is_skipped)
{
    for (int i = 0; i < 3; i++) {
        tap *p = uniform(i == 1 ? 0 : 4, i == 2 ? 0 : 40, 9, 0.1);
        memset(p->skip, i == 0, sizeof p->skip);
        p->judged[0] = (double)NAN;
        expect(p, FH1_SKIP, "no real token", 0);
        ck_assert(isnan(p->r.margin) && isnan(p->r.max_err) && isnan(p->r.rms_ratio) && isnan(p->r.rel_rms));
        free(p);
    }
    tap *p = uniform(4, 40, 9, 0.1); /* one element left: judged again */
    memset(p->skip, 1, sizeof p->skip);
    p->skip[50] = false;
    expect(p, FH1_FAIL, "RMS of the tap", 50);
    free(p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("judge_classes");
    TCase *tc = tcase_create("rules");
    tcase_add_test(tc, classes_decide_first);
    tcase_add_test(tc, zero_truth_is_mistrusted);
    tcase_add_test(tc, no_bound_becomes_infinite);
    tcase_add_test(tc, nothing_to_judge_is_skipped);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
