/* Reports, read back: JSON lines by a JSON parser, tables as text, and the verdict on subjects that
 * should pass, fail, or fail at one certain place. */
#include "oracle/report.h"

#include <check.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A report that writes into memory. */
typedef struct {
    fh1_report *report;
    FILE *out;
    char *text;
    size_t size;
    int exit_code;
    cJSON *lines[64];
    int n_lines;
} capture;

static void start(capture *c, fh1_report_form form, bool verbose)
{
    memset(c, 0, sizeof *c);
    c->out = open_memstream(&c->text, &c->size);
    ck_assert_ptr_nonnull(c->out);
    ck_assert_ptr_null(fh1_report_new(form, verbose, c->out, &c->report));
}

/* Finishes; in JSON form every line is parsed and must be an object. */
static void finish(capture *c, fh1_report_form form)
{
    c->exit_code = fh1_report_finish(c->report, "0.1.0", "fh1 check m --trace 'a b'");
    fh1_report_free(c->report);
    fclose(c->out);
    if (form == FH1_REPORT_TABLE) return;
    for (char *line = c->text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        ck_assert_ptr_nonnull(end);
        *end = 0;
        cJSON *o = c->lines[c->n_lines++] = cJSON_Parse(line);
        ck_assert_msg(cJSON_IsObject(o), "%s", line);
    }
}

static void drop(capture *c)
{
    for (int i = 0; i < c->n_lines; i++) cJSON_Delete(c->lines[i]);
    free(c->text);
}

static const char *text_at(const cJSON *o, const char *key)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, key));
    return s ? s : "(absent)";
}

static double number_at(const cJSON *o, const char *key)
{
    return cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(o, key)); /* NaN when it is none */
}

static bool null_at(const cJSON *o, const char *key)
{
    return cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(o, key));
}

static cJSON *summary(const capture *c)
{
    return c->lines[c->n_lines - 1];
}

static void add(capture *c, const char *subject, const char *tap, int64_t step, int64_t order, fh1_verdict v,
                double margin)
{
    fh1_tap_result t = {.subject = subject, .step = step, .order = order, .verdict = v, .margin = margin};
    snprintf(t.tap, sizeof t.tap, "%s", tap);
    snprintf(t.reason, sizeof t.reason, "%s", v == FH1_PASS ? "" : "a reason");
    t.max_err = margin * 1e-3;
    t.allowed = 1e-3;
    t.rms_ratio = t.free_rms = (double)NAN;
    t.rel_rms = 1e-4;
    t.rank = 3;
    for (int i = 0; i < 3; i++) t.where[i] = i + 1;
    ck_assert_ptr_null(fh1_report_add(c->report, &t));
}

static void add_free(capture *c, const char *subject, double free_rms)
{
    fh1_tap_result t = {.subject = subject, .verdict = FH1_PASS, .tap = "mid", .margin = 0.1, .free_rms = free_rms};
    ck_assert_ptr_null(fh1_report_add(c->report, &t));
}

/* The verdict of a report over one subject with these taps. */
static fh1_verdict verdict_of(const char *verdicts, int *exit_code)
{
    capture c;
    start(&c, FH1_REPORT_JSON, false);
    for (int64_t i = 0; verdicts[i]; i++) {
        fh1_verdict v = verdicts[i] == 'P'   ? FH1_PASS
                        : verdicts[i] == 'F' ? FH1_FAIL
                        : verdicts[i] == 'M' ? FH1_MISTRUSTED
                                             : FH1_SKIP;
        add(&c, "s", "mid", 0, i, v, 0.5);
    }
    finish(&c, FH1_REPORT_JSON);
    ck_assert_int_eq(c.n_lines, (int)strlen(verdicts) + 1);
    fh1_verdict found = FH1_SKIP;
    for (fh1_verdict v = FH1_PASS; v <= FH1_SKIP; v++)
        if (strcmp(text_at(summary(&c), "verdict"), fh1_verdict_name(v)) == 0) found = v;
    *exit_code = c.exit_code;
    drop(&c);
    return found;
}

START_TEST(summary_follows_the_taps)
{
    static const struct {
        const char *taps;
        fh1_verdict verdict;
    } cases[] = {{"P", FH1_PASS},       {"PSM", FH1_PASS},      {"PPF", FH1_FAIL},
                 {"F", FH1_FAIL},       {"SF", FH1_FAIL},       {"M", FH1_MISTRUSTED},
                 {"S", FH1_MISTRUSTED}, {"SM", FH1_MISTRUSTED}, {"", FH1_MISTRUSTED}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int code;
        ck_assert_msg(verdict_of(cases[i].taps, &code) == cases[i].verdict, "'%s'", cases[i].taps);
        ck_assert_int_eq(code, cases[i].verdict == FH1_PASS ? 0 : 1);
    }
}
END_TEST

START_TEST(a_tap_line_has_the_documented_keys)
{
    static const char *const keys[] = {"subject", "tap",   "step",    "verdict", "margin",   "rms_ratio",
                                       "max_err", "where", "allowed", "rel_rms", "free_rms", "reason"};
    capture c;
    start(&c, FH1_REPORT_JSON, false);
    add(&c, "trace:a.safetensors", "model.layers.3.mamba.ssd", 2, 40, FH1_FAIL, 12.25);
    add(&c, "trace:a.safetensors", "logits", 1LL << 40, 90, FH1_PASS, (double)NAN);
    fh1_tap_result scalar = {.subject = "trace:a.safetensors",
                             .tap = "loss",
                             .max_err = (double)INFINITY,
                             .margin = 1.0 / 3,
                             .allowed = -(double)INFINITY};
    ck_assert_ptr_null(fh1_report_add(c.report, &scalar));
    finish(&c, FH1_REPORT_JSON);
    ck_assert_int_eq(c.n_lines, 4);

    const cJSON *o = c.lines[0], *item = o->child;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++, item = item->next)
        ck_assert_str_eq(item->string, keys[i]);
    ck_assert_ptr_null(item);
    ck_assert_str_eq(text_at(o, "subject"), "trace:a.safetensors");
    ck_assert_str_eq(text_at(o, "tap"), "model.layers.3.mamba.ssd");
    ck_assert_str_eq(text_at(o, "verdict"), "FAIL");
    ck_assert_str_eq(text_at(o, "reason"), "a reason");
    ck_assert(number_at(o, "step") == 2 && number_at(o, "margin") == 12.25);
    ck_assert(number_at(o, "allowed") == 1e-3 && null_at(o, "rms_ratio") && null_at(o, "free_rms"));
    const cJSON *where = cJSON_GetObjectItem(o, "where");
    ck_assert_int_eq(cJSON_GetArraySize(where), 3);
    ck_assert(cJSON_GetArrayItem(where, 2)->valuedouble == 3);

    ck_assert(null_at(c.lines[1], "margin") && null_at(c.lines[1], "max_err"));
    ck_assert_ptr_nonnull(strstr(c.text + strlen(c.text) + 1, "\"step\":1099511627776,")); /* no exponent */
    ck_assert(null_at(c.lines[2], "max_err") && null_at(c.lines[2], "allowed"));
    ck_assert(number_at(c.lines[2], "margin") == 0.333333333);
    ck_assert_int_eq(cJSON_GetArraySize(cJSON_GetObjectItem(c.lines[2], "where")), 0);
    drop(&c);
}
END_TEST

START_TEST(the_summary_has_the_documented_keys)
{
    static const char *const keys[] = {"summary", "fh1", "schema", "verdict", "first_divergence", "suspects", "repro"};
    capture c;
    start(&c, FH1_REPORT_JSON, false);
    add(&c, "s", "mid", 0, 0, FH1_PASS, 0.5);
    finish(&c, FH1_REPORT_JSON);
    const cJSON *item = summary(&c)->child;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++, item = item->next)
        ck_assert_str_eq(item->string, keys[i]);
    ck_assert(cJSON_IsTrue(cJSON_GetObjectItem(summary(&c), "summary")));
    ck_assert_str_eq(text_at(summary(&c), "fh1"), "0.1.0");
    ck_assert_str_eq(text_at(summary(&c), "repro"), "fh1 check m --trace 'a b'");
    ck_assert(number_at(summary(&c), "schema") == 1 && null_at(summary(&c), "first_divergence"));
    ck_assert(cJSON_IsArray(cJSON_GetObjectItem(summary(&c), "suspects")));
    for (int i = 0; i + 1 < c.n_lines; i++) ck_assert_ptr_null(cJSON_GetObjectItem(c.lines[i], "summary"));
    drop(&c);
}
END_TEST

START_TEST(first_divergence_is_lowest_step_then_order)
{
    capture c;
    start(&c, FH1_REPORT_JSON, false);
    add(&c, "good", "mid", 0, 0, FH1_PASS, 0.5);
    add(&c, "bad", "logits", 1, 1, FH1_FAIL, 50); /* first to come, worst, lowest order: all no reason */
    add(&c, "bad", "second", 0, 7, FH1_FAIL, 2);
    add(&c, "bad", "first", 0, 3, FH1_FAIL, 1.5);
    add(&c, "bad", "equal", 0, 3, FH1_FAIL, 9);
    add(&c, "bad", "skipped", 0, 1, FH1_SKIP, 0);
    add(&c, "worse", "earlier", 0, 0, FH1_FAIL, 9); /* another subject: not asked */
    finish(&c, FH1_REPORT_JSON);
    const cJSON *first = cJSON_GetObjectItem(summary(&c), "first_divergence");
    ck_assert_str_eq(text_at(first, "tap"), "first");
    ck_assert(number_at(first, "step") == 0);
    ck_assert_int_eq(cJSON_GetArraySize(cJSON_GetObjectItem(first, "where")), 3);
    ck_assert_int_eq(cJSON_GetArraySize(first), 3);
    ck_assert_str_eq(text_at(summary(&c), "subject"), "bad");
    ck_assert(number_at(summary(&c), "subjects") == 3);
    drop(&c);
}
END_TEST

/* One subject with FAILs at mid (step 1) and logits (step 2), of which `tap` at `step` is wanted. */
static int exit_code_wanting(const char *tap, int64_t step, bool fails, capture *c)
{
    start(c, FH1_REPORT_JSON, false);
    add(c, "wrong", "input", 0, 0, FH1_PASS, 0.5);
    add(c, "wrong", "logits", 2, 9, fails ? FH1_FAIL : FH1_PASS, 7);
    add(c, "wrong", "mid", 1, 5, fails ? FH1_FAIL : FH1_PASS, 3);
    fh1_report_end_subject(c->report, "faults wrong", tap, step);
    add(c, "right", "input", 0, 0, FH1_PASS, 0.5);
    fh1_report_end_subject(c->report, "faults right", NULL, 0);
    finish(c, FH1_REPORT_JSON);
    return c->exit_code;
}

START_TEST(a_wanted_failure_is_good_only_at_its_place)
{
    capture c;
    ck_assert_int_eq(exit_code_wanting("mid", 1, true, &c), 0);
    ck_assert_str_eq(text_at(summary(&c), "verdict"), "PASS");
    ck_assert(number_at(summary(&c), "expected_failures") == 1 && null_at(summary(&c), "first_divergence"));
    ck_assert_str_eq(text_at(c.lines[2], "verdict"), "FAIL"); /* its lines still say what was seen */
    drop(&c);

    static const struct {
        const char *tap;
        int64_t step;
        bool fails;
    } unmet[] = {{"mid", 1, false}, {"mid", 0, true}, {"mid", 2, true}, {"logits", 2, true}, {"mi", 1, true}};
    for (size_t i = 0; i < sizeof unmet / sizeof unmet[0]; i++) {
        ck_assert_int_eq(exit_code_wanting(unmet[i].tap, unmet[i].step, unmet[i].fails, &c), 1);
        ck_assert_str_eq(text_at(summary(&c), "verdict"), "FAIL");
        ck_assert(number_at(summary(&c), "expected_failures") == 0);
        ck_assert_ptr_nonnull(strstr(text_at(summary(&c), "reason"), "faults wrong: wanted first divergence"));
        ck_assert(null_at(summary(&c), "first_divergence") == !unmet[i].fails);
        drop(&c);
    }
    ck_assert_int_eq(exit_code_wanting(NULL, 0, true, &c), 1); /* a failure that nobody wanted */
    drop(&c);
}
END_TEST

START_TEST(a_failure_that_never_ran_is_unmet)
{
    capture c;
    start(&c, FH1_REPORT_JSON, false);
    fh1_report_end_subject(c.report, "faults empty", "mid", 0);
    finish(&c, FH1_REPORT_JSON);
    ck_assert_int_eq(c.exit_code, 1);
    ck_assert_str_eq(text_at(summary(&c), "verdict"), "FAIL");
    drop(&c);
}
END_TEST

static const char hostile[] = "trace:a\nb\"\\\x1b[31m\xff\xe2\x80\xae{}";

START_TEST(hostile_names_stay_inside_their_line)
{
    ck_assert_int_eq(hostile[7], '\n'); /* planted: printed as it is it would make two lines */
    for (int form = 0; form < 3; form++) {
        capture c;
        start(&c, form ? FH1_REPORT_TABLE : FH1_REPORT_JSON, form == 2);
        add(&c, hostile, hostile, 0, 0, FH1_FAIL, 2);
        fh1_report_end_subject(c.report, hostile, hostile, 1);
        finish(&c, form ? FH1_REPORT_TABLE : FH1_REPORT_JSON);
        if (form == 0) {
            ck_assert_int_eq(c.n_lines, 2);
            ck_assert_str_eq(text_at(c.lines[0], "subject"), "trace:a\\x0ab\"\\\\x1b[31m\\xff\\xe2\\x80\\xae{}");
            ck_assert_str_eq(text_at(c.lines[0], "tap"), text_at(c.lines[0], "subject"));
        } else {
            ck_assert_ptr_null(strstr(c.text, "a\nb"));
            ck_assert_ptr_null(strpbrk(c.text, "\x1b\xff"));
            ck_assert_ptr_nonnull(strstr(c.text, "trace:a\\x0ab"));
        }
        drop(&c);
    }
}
END_TEST

START_TEST(the_table_tells_subject_failures_and_summary)
{
    capture c;
    start(&c, FH1_REPORT_TABLE, false);
    for (int64_t i = 0; i < 4; i++) add(&c, "a", "mid", 0, i, FH1_PASS, 0.1);
    add(&c, "a", "model.layers.2.mamba.ssd", 0, 4, FH1_PASS, 0.41);
    add_free(&c, "a", 2.5e-6);
    add_free(&c, "a", 1e-6); /* the largest is told */
    fh1_report_end_subject(c.report, "trace mini-0.5b/t37", NULL, 0);
    for (int64_t i = 11; i >= 0; i--) add(&c, "b", i == 0 ? "the.first" : "the.rest", 4, i, FH1_FAIL, 3);
    fh1_report_end_subject(c.report, "trace odd/t1", NULL, 0);
    add(&c, "c", "mid", 0, 0, FH1_SKIP, 0);
    fh1_report_end_subject(c.report, "engine:cuda", NULL, 0);
    add(&c, "d", "mid", 3, 0, FH1_FAIL, 2);
    fh1_report_end_subject(c.report, "faults 1", "mid", 3);
    finish(&c, FH1_REPORT_TABLE);
    ck_assert_int_eq(c.exit_code, 1);
    const char *const parts[] = {
        "PASS  trace mini-0.5b/t37",
        "7 taps  free rms 2.5e-06  worst margin 0.41 model.layers.2.mamba.ssd step 0\n",
        "FAIL  trace odd/t1",
        "12 taps  12 FAIL, first divergence the.first step 4\n",
        "the.first step 4 at [1, 2, 3]   <- first divergence\n",
        "margin 3",
        "a reason\n",
        "and 4 more",
        "MISTRUSTED  engine:cuda",
        "1 SKIP (a reason)\n",
        "PASS  faults 1",
        "1 FAIL, as wanted at mid step 3\n",
        "trace            2 subjects, 1 good; taps:  7 PASS  12 FAIL  0 MISTRUSTED  0 SKIP\n",
        "engine           1 subjects, 0 good",
        "faults           1 subjects, 1 good",
        "fh1 0.1.0  FAIL  4 subjects, 1 failed as wanted, 1 MISTRUSTED\n",
        "first divergence  the.first step 4 (b)\n",
        "repro  fh1 check m --trace 'a b'\n",
    };
    const char *at = c.text;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) { /* in this order */
        const char *found = strstr(at, parts[i]);
        ck_assert_msg(found != NULL, "'%s' is missing in\n%s", parts[i], c.text);
        at = found + 1;
    }
    ck_assert_ptr_null(strchr(c.text, '\033')); /* no colours outside of a terminal */
    drop(&c);
}
END_TEST

START_TEST(verbose_shows_every_tap)
{
    size_t lines[2] = {0};
    for (int verbose = 0; verbose < 2; verbose++) {
        capture c;
        start(&c, FH1_REPORT_TABLE, verbose);
        for (int64_t i = 0; i < 20; i++) add(&c, "s", "some.tap", 0, i, i < 10 ? FH1_PASS : FH1_FAIL, 2);
        finish(&c, FH1_REPORT_TABLE);
        for (const char *p = c.text; (p = strstr(p, "some.tap")); p++) lines[verbose]++;
        ck_assert((strstr(c.text, "--verbose") == NULL) == verbose);
        drop(&c);
    }
    ck_assert_uint_eq(lines[0], 8 + 2); /* eight failures, subject line, summary */
    ck_assert_uint_eq(lines[1], 20 + 10 + 2);
}
END_TEST

START_TEST(subject_strings_may_die_after_their_call)
{
    char name[32], label[32];
    capture c;
    start(&c, FH1_REPORT_JSON, false);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "subject %d", i);
        snprintf(label, sizeof label, "group %d", i);
        add(&c, name, "mid", 0, 0, i ? FH1_FAIL : FH1_PASS, 2);
        memset(name, '#', sizeof name - 1);
        fh1_report_end_subject(c.report, label, NULL, 0);
        memset(label, '#', sizeof label - 1);
    }
    finish(&c, FH1_REPORT_JSON);
    ck_assert_str_eq(text_at(summary(&c), "subject"), "subject 1");
    drop(&c);
}
END_TEST

START_TEST(a_full_disk_is_no_pass)
{
    FILE *full = fopen("/dev/full", "w");
    fh1_report *r;
    if (!full) return; /* no such device outside of Linux */
    ck_assert_ptr_null(fh1_report_new(FH1_REPORT_JSON, false, full, &r));
    fh1_tap_result t = {.subject = "s", .tap = "mid"};
    ck_assert_ptr_null(fh1_report_add(r, &t));
    ck_assert_int_eq(fh1_report_finish(r, "0.1.0", "fh1"), 3);
    fh1_report_free(r);
    fclose(full);
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("report");
    tcase_add_test(c, summary_follows_the_taps);
    tcase_add_test(c, a_tap_line_has_the_documented_keys);
    tcase_add_test(c, the_summary_has_the_documented_keys);
    tcase_add_test(c, first_divergence_is_lowest_step_then_order);
    tcase_add_test(c, a_wanted_failure_is_good_only_at_its_place);
    tcase_add_test(c, a_failure_that_never_ran_is_unmet);
    tcase_add_test(c, hostile_names_stay_inside_their_line);
    tcase_add_test(c, the_table_tells_subject_failures_and_summary);
    tcase_add_test(c, verbose_shows_every_tap);
    tcase_add_test(c, subject_strings_may_die_after_their_call);
    tcase_add_test(c, a_full_disk_is_no_pass);
    Suite *s = suite_create("report");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
