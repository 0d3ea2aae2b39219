/* The one comparison, and the errors and means that go into it. */
#include "oracle/compare.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

#define INF ((double)INFINITY)
#define NOT ((double)NAN)

/* True if `within` accepts nothing that involves NaN, and otherwise orders as it should. */
static bool is_strict(bool (*within)(double, double))
{
    bool no_nan = !within(NOT, 1) && !within(0, NOT) && !within(NOT, NOT) && !within(NOT, INF);
    bool order = within(0, 0) && within(1, 1) && within(1, 2) && within(1, INF) && !within(2, 1) && !within(INF, 1) &&
                 !within(nextafter(1, 2), 1);
    return no_nan && order;
}

static bool lets_nan_pass(double err, double allowed)
{
    return !(err > allowed);
}
static bool excludes_equal(double err, double allowed)
{
    return err < allowed;
}

START_TEST(nan_is_never_within)
{
    ck_assert(is_strict(fh1_within));
    ck_assert(!is_strict(lets_nan_pass));
    ck_assert(!is_strict(excludes_equal));
}
END_TEST

START_TEST(classes_must_agree)
{
    static const double values[] = {0, -0.0, 1, -1e300, 5e-324, INFINITY, -INFINITY, NAN};
    static const int class[] = {0, 0, 0, 0, 0, 1, 2, 3};
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(fh1_class(values[i]), class[i]);
        for (int j = 0; j < 8; j++) {
            double e = fh1_error_of(values[i], values[j]);
            if (class[i] != class[j] || class[i] == 3) ck_assert(e == INF);
            else if (class[i]) ck_assert(e == 0);
            else ck_assert(e == fabs(values[i] - values[j]));
        }
    }
    ck_assert(fh1_error_of(0.0, -0.0) == 0);
    ck_assert(isnan(fabs(INF - INF))); /* planted: the plain difference of equal infinities */
}
END_TEST

START_TEST(means_and_maximum)
{
    fh1_rms r = {0};
    ck_assert(fh1_rms_err(&r) == 0 && fh1_rms_ref(&r) == 0);
    fh1_rms_add(&r, 3, 6, 10);
    fh1_rms_add(&r, 4, -8, 11);
    fh1_rms_add(&r, 4, 0, 12);
    ck_assert(r.max_err == 4 && r.argmax == 11 && r.n == 3); /* the first of equals */
    ck_assert(fh1_within(fabs(fh1_rms_err(&r) - sqrt(41.0 / 3)), 1e-15));
    ck_assert(fh1_within(fabs(fh1_rms_ref(&r) - sqrt(100.0 / 3)), 1e-14));
}
END_TEST

START_TEST(zero_errors_have_a_place_too)
{
    fh1_rms r = {0};
    fh1_rms_add(&r, 0, 1, 5);
    fh1_rms_add(&r, 0, 1, 6);
    ck_assert(r.max_err == 0 && r.argmax == 5);
}
END_TEST

START_TEST(a_bad_element_cannot_hide_in_a_mean)
{
    fh1_rms r = {0};
    fh1_rms_add(&r, 1, 1, 0);
    fh1_rms_add(&r, NOT, 1, 1);
    fh1_rms_add(&r, 2, 1, 2);
    ck_assert(r.max_err == INF && r.argmax == 1);
    ck_assert(!fh1_within(fh1_rms_err(&r), 1e300));

    fh1_rms huge = {0}; /* an infinite truth must not make the relative error of the rest vanish */
    fh1_rms_add(&huge, 1, 1, 0);
    fh1_rms_add(&huge, 0, INF, 1);
    fh1_rms_add(&huge, 0, 1e200, 2);
    fh1_rms_add(&huge, 0, NOT, 3);
    ck_assert(!fh1_within(fh1_rms_err(&huge) / fh1_rms_ref(&huge), 0.5));
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("compare");
    tcase_add_test(c, nan_is_never_within);
    tcase_add_test(c, classes_must_agree);
    tcase_add_test(c, means_and_maximum);
    tcase_add_test(c, zero_errors_have_a_place_too);
    tcase_add_test(c, a_bad_element_cannot_hide_in_a_mean);
    Suite *s = suite_create("compare");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
