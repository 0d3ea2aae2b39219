/* The learning rate of each step against values worked out by hand, and the numbers of the command line. */
#include "cli/train_numbers.h"
#include "cli/train_schedule.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static cli_schedule of(const char *text, double lr, double min, int64_t warmup, int64_t steps)
{
    cli_schedule s = {.lr = lr, .min = min, .warmup = warmup, .steps = steps};
    ck_assert_ptr_null(cli_schedule_parse(text, &s));
    ck_assert_ptr_null(cli_schedule_check(&s));
    return s;
}

/* A handful of additions, products and one cosine or power: 4 units of the last place are plenty. */
static bool is(const cli_schedule *s, int64_t t, double want)
{
    return fabs(cli_schedule_lr(s, t) - want) <= 4 * 0x1p-52 * s->lr;
}

START_TEST(values)
{
    cli_schedule s = of("constant", 8, 0, 4, 20);
    ck_assert(is(&s, 1, 2) && is(&s, 2, 4) && is(&s, 4, 8) && is(&s, 5, 8) && is(&s, 20, 8));
    s = of("linear", 8, 0, 0, 8);
    ck_assert(is(&s, 1, 8) && is(&s, 2, 7) && is(&s, 8, 1));
    s = of("linear", 8, 4, 2, 10);
    ck_assert(is(&s, 1, 4) && is(&s, 2, 8) && is(&s, 3, 8) && is(&s, 7, 6) && is(&s, 10, 4.5));
    s = of("cosine", 8, 0, 0, 4);
    ck_assert(is(&s, 1, 8) && is(&s, 2, 4 + sqrt(8)) && is(&s, 3, 4) && is(&s, 4, 4 - sqrt(8)));
    s = of("cosine", 8, 2, 3, 9);
    ck_assert(is(&s, 3, 8) && is(&s, 4, 8) && is(&s, 7, 5));
    s = of("inverse-power", 8, 0, 0, 100);
    ck_assert(is(&s, 1, 8) && is(&s, 16, 4) && is(&s, 81, 8.0 / 3));
    s = of("inverse-power:0.5", 8, 0, 4, 100);
    ck_assert(is(&s, 2, 4) && is(&s, 4, 8) && is(&s, 16, 4) && is(&s, 100, 1.6));
    s = of("inverse-power:1", 8, 3, 1, 100);
    ck_assert(is(&s, 2, 4) && is(&s, 3, 3) && is(&s, 100, 3));
}
END_TEST

/* Off by one step is the usual mistake; each of these would be another schedule. */
START_TEST(neighbours_are_told_apart)
{
    const cli_schedule s = of("cosine", 1, 0, 3, 10), longer = of("cosine", 1, 0, 3, 11),
                       later = of("cosine", 1, 0, 4, 10);
    for (int64_t t = 4; t <= 10; t++) {
        ck_assert(t == 4 || !is(&s, t, cli_schedule_lr(&longer, t)));
        ck_assert(t <= 5 || !is(&s, t, cli_schedule_lr(&later, t)));
        ck_assert(!is(&s, t, cli_schedule_lr(&s, t + 1)));
    }
    ck_assert(cli_schedule_lr(&s, 10) > 0); /* no step is wasted */
    ck_assert(cli_schedule_needs_steps(&s));
    const cli_schedule c = of("constant", 1, 0, 0, 10), p = of("inverse-power", 1, 0, 0, 10);
    ck_assert(!cli_schedule_needs_steps(&c) && !cli_schedule_needs_steps(&p));
}
END_TEST

START_TEST(words)
{
    static const char *const bad[] = {"",
                                      "Linear",
                                      "linear:1",
                                      "cosine:",
                                      "constant ",
                                      "inverse-power:",
                                      "inverse-power:-1",
                                      "inverse-power:x",
                                      "inverse",
                                      "inverse-power:nan",
                                      "inverse-power:1,2",
                                      "step"};
    cli_schedule s = {.lr = 1, .steps = 5};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(cli_schedule_parse(bad[i], &s) != NULL, "taken: '%s'", bad[i]);
    s.warmup = 6;
    ck_assert_ptr_nonnull(cli_schedule_check(&s));
    s.warmup = 5;
    ck_assert_ptr_null(cli_schedule_check(&s));
    s.min = 2;
    ck_assert_ptr_nonnull(cli_schedule_check(&s));
}
END_TEST

START_TEST(numbers)
{
    static const char *const bad[] = {"",    " 1", "1 ", "nan", "inf",  "1e999", "0x",
                                      "--1", "+1", "1,", "2",   "-0.5", "1.0x"};
    double v = -1, pair[2] = {-1, -1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_msg(cli_read_number("--x", bad[i], 0, 1, &v) != NULL, "taken: '%s'", bad[i]);
        ck_assert(v == -1);
    }
    ck_assert_ptr_null(cli_read_number("--x", "1e-3", 0, 1, &v));
    ck_assert(v == 1e-3);
    ck_assert_ptr_null(cli_read_pair("--x", "0.9,.999", 0, 1, pair));
    ck_assert(pair[0] == 0.9 && pair[1] == 0.999);
    static const char *const no_pair[] = {"0.9", "0.9,", ",0.9", "0.9,0.9,", "0.9 0.9", "0.9,2"};
    for (size_t i = 0; i < sizeof no_pair / sizeof *no_pair; i++)
        ck_assert_msg(cli_read_pair("--x", no_pair[i], 0, 1, pair) != NULL, "taken: '%s'", no_pair[i]);
    ck_assert(pair[0] == 0.9);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("train_schedule");
    TCase *tc = tcase_create("all");
    tcase_add_test(tc, values);
    tcase_add_test(tc, neighbours_are_told_apart);
    tcase_add_test(tc, words);
    tcase_add_test(tc, numbers);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
