/* suite.json: what it may say, and that every case of the golden suite can be opened. */
#include "golden/suite.h"

#include "convert/hf_config.h"
#include "tests/trace_fixture.h"

#define HEAD "{\"suite\": 1, \"cases\": ["
#define CASE(name, more) "{\"name\": \"" name "\", \"model\": \"m\", \"trace\": \"t\", " more "}"

static void begin(void)
{
    fixture_begin();
    fixture_text("m", "");
    fixture_text("t", "");
}

static fh1_status read_text(const char *text, gld_suite *s)
{
    fixture_text("suite.json", text);
    return gld_suite_read(fixture_dir, s);
}

START_TEST(test_good_suite)
{
    gld_suite s;
    char path[256];
    OK(read_text(HEAD CASE("a", "\"expect\": \"PASS\"") ", " CASE(
                     "b", "\"expect\": \"FAIL\", \"expect_tap\": \"model.layers.7.mamba.dt\", \"expect_step\": 2, "
                          "\"bug\": \"HF3\", \"note\": \"n\", \"contract\": \"fp32+mup_rounded\", \"variant\": "
                          "\"no_dt_limit\", \"adapter\": \"t\"") "]}",
                 &s));
    ck_assert_int_eq(s.n, 2);
    ck_assert_str_eq(s.cases[0].name, "a");
    ck_assert_str_eq(s.cases[0].model, fixture_path("m", path));
    ck_assert_str_eq(s.cases[0].trace, fixture_path("t", path));
    ck_assert(!s.cases[0].expect_fail);
    ck_assert_ptr_null(s.cases[0].expect_tap);
    ck_assert_ptr_null(s.cases[0].contract);
    ck_assert_ptr_null(s.cases[0].adapter);
    ck_assert_ptr_null(s.cases[0].variant);
    ck_assert(s.cases[1].expect_fail);
    ck_assert_str_eq(s.cases[1].expect_tap, "model.layers.7.mamba.dt");
    ck_assert_int_eq(s.cases[1].expect_step, 2);
    ck_assert_str_eq(s.cases[1].contract, "fp32+mup_rounded");
    ck_assert_str_eq(s.cases[1].variant, "no_dt_limit");
    ck_assert_str_eq(s.cases[1].bug, "HF3");
    ck_assert_str_eq(s.cases[1].adapter, fixture_path("t", path));
    ck_assert_str_eq(s.cases[1].note, "n");
    gld_suite_free(&s);
    gld_suite_free(&s);
}
END_TEST

static const struct {
    const char *text, *says;
} bad_suites[] = {
    {"[]", "\"suite\": 1"},
    {"{\"suite\": 2, \"cases\": []}", "\"suite\": 1"},
    {"{\"suite\": 1, \"cases\": []}", "a suite without cases"},
    {"{\"suite\": 1, \"cases\": {}}", "a suite without cases"},
    {"{\"suite\": 1, \"cases\": [{}], \"more\": 1}", "unknown key \"more\""},
    {HEAD "3]}", "case 0: a case is an object"},
    {HEAD "{}]}", "case 0: key \"name\" is missing"},
    {HEAD "{\"name\": \"\"}]}", "\"name\" has no text"},
    {HEAD "{\"name\": \"a\", \"model\": \"m\"}]}", "case 0 (a): key \"trace\" is missing"},
    {HEAD "{\"name\": \"a\", \"model\": \"m\", \"trace\": 3}]}", "\"trace\" has no text"},
    {HEAD "{\"name\": \"a\", \"model\": \"q\", \"trace\": \"t\", \"expect\": \"PASS\"}]}", "\"model\" does not exist"},
    {HEAD "{\"name\": \"a\", \"model\": \"m\", \"trace\": \"q\", \"expect\": \"PASS\"}]}", "\"trace\" does not exist"},
    {HEAD CASE("a", "\"expect\": \"PASS\"") "," CASE("a", "\"expect\": \"PASS\"") "]}",
     "case 1 (a): the name is already"},
    {HEAD CASE("a", "\"expects\": \"PASS\"") "]}", "unknown key \"expects\""},
    {HEAD CASE("a", "\"note\": \"n\"") "]}", "key \"expect\" is missing"},
    {HEAD CASE("a", "\"expect\": \"pass\"") "]}", "expected PASS or FAIL"},
    {HEAD CASE("a", "\"expect\": \"FAIL\"") "]}", "key \"expect_tap\" is missing"},
    {HEAD CASE("a", "\"expect\": \"FAIL\", \"expect_tap\": \"model.layers.0.mamba\"") "]}", "expect_tap is no tap"},
    {HEAD CASE("a", "\"expect\": \"FAIL\", \"expect_tap\": \"step0/logits\"") "]}", "expect_tap is no tap"},
    {HEAD CASE("a", "\"expect\": \"FAIL\", \"expect_tap\": \"logits\", \"expect_step\": -1") "]}",
     "expect_step is no step"},
    {HEAD CASE("a", "\"expect\": \"FAIL\", \"expect_tap\": \"logits\", \"expect_step\": 1.5") "]}",
     "expect_step is no step"},
    {HEAD CASE("a", "\"expect\": \"PASS\", \"expect_tap\": \"logits\"") "]}", "belong to \"expect\": \"FAIL\""},
    {HEAD CASE("a", "\"expect\": \"PASS\", \"expect_step\": 0") "]}", "belong to \"expect\": \"FAIL\""},
    {HEAD CASE("a", "\"expect\": \"PASS\", \"contract\": \"fp33\"") "]}", "unknown rounding profile"},
    {HEAD CASE("a", "\"expect\": \"PASS\", \"variant\": \"odd\"") "]}", "unknown variant"},
    {HEAD CASE("a", "\"expect\": \"PASS\", \"expect\": \"PASS\"") "]}", "expect"},
    {HEAD CASE("a", "\"expect\": \"PASS\""), "suite.json"},
};

START_TEST(test_bad_suites)
{
    gld_suite s;
    FAILS(read_text(bad_suites[_i].text, &s), FH1_E_INPUT, bad_suites[_i].says);
    ck_assert_ptr_null(s.cases);
    ck_assert_int_eq(s.n, 0);
}
END_TEST

START_TEST(test_missing_suite)
{
    gld_suite s;
    FAILS(gld_suite_read(fixture_dir, &s), FH1_E_INPUT, "suite.json");
    FAILS(gld_suite_read("/nowhere", &s), FH1_E_INPUT, "/nowhere/suite.json");
}
END_TEST

/* The tests run in the root of the source tree. */
START_TEST(test_golden_suite)
{
    gld_suite s;
    int64_t n_taps = 0, n_fail = 0;
    OK(gld_suite_read("golden", &s));
    ck_assert_int_ge(s.n, 12);
    for (int64_t i = 0; i < s.n; i++) {
        fh1_model m;
        gld_trace t;
        char path[4200];
        memset(&m, 0, sizeof m);
        snprintf(path, sizeof path, "%s/config.json", s.cases[i].model);
        OK(cvt_hf_config_read(path, &m.config));
        OK(gld_trace_open(s.cases[i].trace, &m, NULL, &t));
        for (int64_t j = 0; j < t.n_steps; j++) n_taps += t.steps[j].n_taps;
        n_fail += s.cases[i].expect_fail;
        if (s.cases[i].expect_fail) {
            fh1_tap_id id;
            int64_t layer;
            ck_assert(fh1_tap_parse(m.config.family, s.cases[i].expect_tap, m.config.n_layers, &id, &layer));
            ck_assert_ptr_nonnull(gld_trace_find(&t, s.cases[i].expect_step, id, layer));
        }
        gld_trace_free(&t);

        /* Planted: under the config of a wider model the same file is refused. */
        m.config.D++;
        m.config.H++;
        m.config.d_ssm++;
        FAILS(gld_trace_open(s.cases[i].trace, &m, NULL, &t), FH1_E_INPUT, "another shape than the table of taps");
    }
    ck_assert_int_gt(n_taps, s.n);
    ck_assert_int_gt(n_fail, 0);
    gld_suite_free(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("suite");
    TCase *tc = tcase_create("suite");
    tcase_add_checked_fixture(tc, begin, fixture_end);
    tcase_add_test(tc, test_good_suite);
    tcase_add_loop_test(tc, test_bad_suites, 0, N_OF(bad_suites));
    tcase_add_test(tc, test_missing_suite);
    tcase_add_test(tc, test_golden_suite);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
