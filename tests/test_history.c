/* Margins of earlier runs: the table, what counts as risen, and the files of `fh1 check`. */
#include "tests/report_fixture.h"

#include "cli/report_files.h"
#include "oracle/contract.h"

#include <unistd.h>

START_TEST(series_keep_their_order)
{
    fh1_history *h;
    int64_t n;
    char subject[32];
    ck_assert_ptr_null(fh1_history_new(&h));
    for (int run = 0; run < 3; run++)
        for (int i = 0; i < 2000; i++) {
            snprintf(subject, sizeof subject, "trace %d", i);
            ck_assert_ptr_null(fh1_history_add(h, subject, i % 2 ? "mid" : "logits", i + 0.1 * run));
        }
    for (int i = 0; i < 2000; i++) {
        snprintf(subject, sizeof subject, "trace %d", i);
        const double *v = fh1_history_series(h, subject, i % 2 ? "mid" : "logits", &n);
        ck_assert_int_eq(n, 3);
        for (int run = 0; run < 3; run++) ck_assert(v[run] == i + 0.1 * run);
        fh1_history_series(h, subject, i % 2 ? "logits" : "mid", &n);
        ck_assert_int_eq(n, 0);
    }
    fh1_history_series(h, "trace 1\nmid", "", &n); /* no other cut of the same letters */
    ck_assert_int_eq(n, 0);
    fh1_history_free(h);
    fh1_history_series(NULL, "trace 1", "mid", &n);
    ck_assert_int_eq(n, 0);
}
END_TEST

START_TEST(the_median_is_one_in_the_middle)
{
    const double odd[] = {9, 1, 5}, even[] = {8, 2, 4, 100};
    ck_assert(fh1_history_median(odd, 3) == 5 && fh1_history_median(even, 4) == 6 && fh1_history_median(even, 1) == 8);
}
END_TEST

/* The table of a run whose margin of mamba.ssd is `now` after `runs` runs at `before`. */
static char *table(double before, int64_t runs, double now)
{
    FILE *sink;
    char *text;
    size_t size;
    fh1_history *h;
    ck_assert_ptr_null(fh1_history_new(&h));
    for (int64_t i = 0; i < runs; i++) ck_assert_ptr_null(fh1_history_add(h, "trace a", "mamba.ssd", before));
    fh1_report *r = quiet_report(FH1_REPORT_TABLE, false, &sink, &text, &size);
    fh1_report_past(r, h, "2026-11-21T06:42:54Z");
    add(r, "a", "mamba.ssd", 0, 0, FH1_PASS, now / 2);
    add(r, "a", "mamba.ssd", 1, 0, FH1_PASS, now); /* the largest over the layers is what counts */
    add(r, "a", "mid", 1, 0, FH1_PASS, 0.9);       /* no history: no trend */
    fh1_report_end_subject(r, "trace a", NULL, 0);
    ck_assert_int_eq(fh1_report_finish(r, "0.1.0", "fh1"), 0); /* never a FAIL */
    char *page = written(r, FH1_REPORT_HTML), *md = written(r, FH1_REPORT_MARKDOWN);
    const bool rose = strstr(text, "note: margin of mamba.ssd rose to") != NULL;
    ck_assert(rose == (strstr(page, "class=\"rose\"") != NULL) && rose == (strstr(md, "Margins that rose") != NULL));
    ck_assert((runs > 0) == (strstr(page, "class=\"spark\"") != NULL));
    free(page);
    free(md);
    fh1_report_free(r);
    fh1_history_free(h);
    fclose(sink);
    return text;
}

START_TEST(a_margin_that_doubled_is_noted)
{
    const double rise = fh1_rule.trend_rise, least = fh1_rule.trend_least;
    const int64_t runs = fh1_rule.trend_runs;
    static const char note[] = "note: margin of mamba.ssd rose to 0.8; its median so far is 0.3\n";
    const struct {
        double before, now;
        int64_t runs;
        bool noted;
    } cases[] = {{0.3, 0.8, runs, true},
                 {0.3, 0.8, runs - 1, false},              /* two runs are no history */
                 {0.3, 0.3 * rise, runs, false},           /* not more than */
                 {0.3, 0.3 * rise * 1.01, runs, true},     /* just more */
                 {least / 100, 0.99 * least, runs, false}, /* far from any verdict */
                 {0, 0.8, runs, true},
                 {0.8, 0.3, runs, false},
                 {0.3, 0.8, 0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = table(cases[i].before, cases[i].runs, cases[i].now);
        ck_assert_msg((strstr(text, "note: margin of") != NULL) == cases[i].noted, "case %zu\n%s", i, text);
        if (i == 0) has(text, note);
        free(text);
    }
}
END_TEST

/* ---- files ---- */

static char folder[] = "/tmp/fh1-history-XXXXXX";
static char path[64];

static char *slurp(const char *p)
{
    char *text;
    size_t n;
    ck_assert_ptr_null(cvt_file_read(p, 1 << 20, &text, &n));
    return text;
}

static void put(const char *p, const char *text)
{
    FILE *f = fopen(p, "w");
    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* One run whose mid has this margin. */
static fh1_status run(const report_paths *paths, double margin)
{
    report_files files;
    FILE *sink;
    char *text;
    size_t size;
    fh1_status s = report_files_open(paths, &files);
    if (!s) {
        fh1_report *r = quiet_report(FH1_REPORT_JSON, false, &sink, &text, &size);
        if (files.past) fh1_report_past(r, files.past, files.time);
        add(r, "a", "mid", 0, 0, FH1_PASS, margin);
        add(r, "a", "logits", -1, 0, FH1_FAIL, (double)INFINITY);
        fh1_report_end_subject(r, "trace a|" HOSTILE, NULL, 0);
        fh1_report_finish(r, "0.1.0", "fh1");
        s = report_files_write(&files, r);
        fh1_report_free(r);
        fclose(sink);
        free(text);
    }
    report_files_free(&files);
    return s;
}

START_TEST(runs_append_whole_lines)
{
    const report_paths paths = {.history = path};
    snprintf(path, sizeof path, "%s/h.jsonl", folder);
    ck_assert_ptr_null(run(&paths, 0.25));
    ck_assert_ptr_null(run(&paths, 0.5));
    FILE *f = fopen(path, "a"); /* a run that was killed inside of its line */
    ck_assert(f && fputs("{\"time\":\"2026", f) >= 0 && fclose(f) == 0);
    ck_assert_ptr_null(run(&paths, 0.75));
    char *text = slurp(path);
    ck_assert_int_eq(occurrences(text, "\n"), 4);
    ck_assert_int_eq(occurrences(text, "\n{\"time\":\"2"), 3);
    ck_assert_int_eq(occurrences(text, "\"margins\":{\"mid\":0."), 3); /* an infinite one proves no trend */
    free(text);
    report_files files;
    ck_assert_ptr_null(report_files_open(&paths, &files));
    int64_t n;
    char subject[256];
    fh1_printable("trace a|" HOSTILE, subject, sizeof subject);
    const double *v = fh1_history_series(files.past, subject, "mid", &n);
    ck_assert(n == 3 && v[0] == 0.25 && v[1] == 0.5 && v[2] == 0.75);
    report_files_free(&files);
    unlink(path);
}
END_TEST

START_TEST(reports_replace_reports_and_nothing_else)
{
    static const char *const names[] = {"l", "x", "m", "h"};
    char p[4][64];
    for (int i = 0; i < 4; i++) snprintf(p[i], sizeof p[i], "%s/%s", folder, names[i]);
    const report_paths paths = {.lines = p[0], .junit = p[1], .markdown = p[2], .html = p[3]};
    for (int again = 0; again < 2; again++) ck_assert_ptr_null(run(&paths, 0.5));
    for (int i = 0; i < 4; i++) {
        put(p[i], "somebody's thesis");
        const fh1_status s = run(&paths, 0.5);
        ck_assert(s && s->code == FH1_E_INPUT && strstr(s->where, p[i]));
        char *text = slurp(p[i]);
        ck_assert_str_eq(text, "somebody's thesis");
        free(text);
        unlink(p[i]);
        ck_assert_ptr_null(run(&paths, 0.5));
    }
    const report_paths twice = {.junit = p[1], .html = p[1]};
    fh1_status s = run(&twice, 0.5);
    ck_assert(s && s->code == FH1_E_INPUT);
    for (int i = 0; i < 4; i++) unlink(p[i]);
}
END_TEST

START_TEST(a_foreign_file_is_no_history)
{
    static const char *const foreign[] = {"somebody's thesis\n", "{\"summary\":true}\n", "\x80\x00\x01", "[1,2]\n"};
    const report_paths paths = {.history = path};
    snprintf(path, sizeof path, "%s/foreign", folder);
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        put(path, foreign[i]);
        const fh1_status s = run(&paths, 0.5);
        ck_assert_msg(s && s->code == FH1_E_INPUT, "%zu", i);
        char *text = slurp(path);
        ck_assert_str_eq(text, foreign[i]);
        free(text);
    }
    put(path, ""); /* an empty one is a beginning */
    ck_assert_ptr_null(run(&paths, 0.5));
    put(path, "{\"subject\":\"s\",\"margins\":{\"mid\":[1],\"x\":\"y\",\"z\":null,\"logits\":0.5}}\nrubbish\n\n");
    ck_assert_ptr_null(run(&paths, 0.5)); /* one good line makes a history */
    unlink(path);
}
END_TEST

int main(void)
{
    if (!mkdtemp(folder)) return 1;
    TCase *c = tcase_create("history");
    tcase_add_test(c, series_keep_their_order);
    tcase_add_test(c, the_median_is_one_in_the_middle);
    tcase_add_test(c, a_margin_that_doubled_is_noted);
    tcase_add_test(c, runs_append_whole_lines);
    tcase_add_test(c, reports_replace_reports_and_nothing_else);
    tcase_add_test(c, a_foreign_file_is_no_history);
    Suite *s = suite_create("history");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    rmdir(folder);
    return failed ? 1 : 0;
}
