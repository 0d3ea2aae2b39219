/* Suspects on all their ways out, and the forms for a CI: JUnit must be XML whatever a file is called and red exactly
 * where the exit code is 1; Markdown must keep its cells. */
#include "tests/report_fixture.h"

#include "oracle/fault.h"

#include <ctype.h>

/* ---- a reader of XML that knows tags, attributes and entities ---- */

static bool entity(const char **p)
{
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(*p, known[i], strlen(known[i])) == 0) {
            *p += strlen(known[i]);
            return true;
        }
    return false;
}

/* Text up to `stop`, which is not taken; control characters and bare marks are mistakes. */
static bool text_until(const char **p, char stop)
{
    while (**p && **p != stop) {
        if (**p == '<' || ((unsigned char)**p < 32 && **p != '\n')) return false;
        if (strncmp(*p, "\xef\xbf\xbf", 3) == 0 || strncmp(*p, "]]>", 3) == 0) return false;
        if (**p != '&') ++*p;
        else if (!entity(p)) return false;
    }
    return true;
}

static bool attributes(const char **p)
{
    while (**p == ' ') {
        while (**p == ' ') ++*p;
        while (islower((unsigned char)**p)) ++*p;
        if (strncmp(*p, "=\"", 2) != 0) return false;
        *p += 2;
        if (!text_until(p, '"') || **p != '"') return false;
        ++*p;
    }
    return true;
}

static bool well_formed(const char *p)
{
    char open[16][32];
    int depth = 0;
    if (strncmp(p, "<?xml", 5) != 0 || !(p = strchr(p, '\n'))) return false;
    while (*p) {
        if (!text_until(&p, '<')) return false;
        if (!*p) break;
        const bool closing = p[1] == '/';
        p += closing ? 2 : 1;
        size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyz-");
        if (n == 0 || n > 31 || (!closing && depth == 16)) return false;
        if (closing && (depth == 0 || strlen(open[depth - 1]) != n || strncmp(open[--depth], p, n) != 0)) return false;
        if (!closing) snprintf(open[depth++], sizeof *open, "%.*s", (int)n, p);
        p += n;
        if (!attributes(&p)) return false;
        if (!closing && strncmp(p, "/>", 2) == 0) depth--, p++;
        if (*p++ != '>') return false;
    }
    return depth == 0;
}

START_TEST(the_reader_of_xml_is_strict)
{
    const char *const good = "<?xml?>\n<a b=\"c &lt; d\"><e/>f &amp; g</a>\n";
    const char *const bad[] = {"<?xml?>\n<a><b></a></b>\n",   "<?xml?>\n<a b=\"<\"/>\n", "<?xml?>\n<a>&x;</a>\n",
                               "<?xml?>\n<a>\x1b</a>\n",      "<?xml?>\n<a>\n",          "<?xml?>\n<a b=c/>\n",
                               "<?xml?>\n<a>\xef\xbf\xbf</a>"};
    ck_assert(well_formed(good));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(!well_formed(bad[i]), "%s", bad[i]);
}
END_TEST

/* ---- suspects ---- */

static const fh1_suspect causes[] = {
    {"key_multiplier_dropped", 0.99974, "the residual is k times 0.83"},
    {"mamba.D[3]", 0.25, "times 1.01"},
    {"unknown", 0, "no known fault explains this: one head, every token"},
};

/* One subject that fails with these suspects, in a form; with `wanted` it fails as wanted. */
static char *told(fh1_report_form form, const fh1_suspect *list, int n, const char *repro, bool wanted, int *code)
{
    FILE *sink;
    char *text;
    size_t size;
    fh1_report *r = quiet_report(form, false, &sink, &text, &size);
    add(r, "s", "mid", 0, 0, FH1_PASS, 0.5);
    add(r, "s", "mid", 1, 0, FH1_FAIL, 3);
    ck_assert_ptr_null(fh1_report_suspects(r, list, n, repro));
    fh1_report_end_subject(r, "trace s", wanted ? "model.layers.1.mid" : NULL, 0);
    *code = fh1_report_finish(r, "0.1.0", "fh1 check m --trace s");
    fh1_report_free(r);
    fclose(sink);
    return text;
}

START_TEST(the_first_suspect_is_a_sentence)
{
    static const char *const sentences[] = {
        "explained to 99.97 % by key_multiplier_dropped (see MU2 ml-explore/mlx-lm#1622)\n",
        "explained to 25 % by mamba.D[3]: times 1.01\n",
        "no known fault explains this: one head, every token\n",
    };
    int code;
    for (int i = 0; i < 3; i++) {
        char *text = told(FH1_REPORT_TABLE, &causes[i], 1, NULL, false, &code);
        has(text, sentences[i]);
        has(text, "repro  fh1 check m --trace s\n");
        free(text);
        text = told(FH1_REPORT_TABLE, &causes[i], 1, NULL, true, &code); /* nobody asks why a wanted failure fails */
        lacks(text, sentences[i]);
        free(text);
    }
    char *text = told(FH1_REPORT_TABLE, NULL, 0, NULL, false, &code);
    lacks(text, "explain");
    free(text);
}
END_TEST

START_TEST(suspects_and_repro_reach_the_summary)
{
    int code;
    char *text = told(FH1_REPORT_JSON, causes, 3, "fh1 repro '--op=rope'", false, &code);
    has(text, "\"suspects\":[{\"fault\":\"key_multiplier_dropped\",\"score\":0.99974,\"evidence\":\"the residual is k "
              "times 0.83\"},{\"fault\":\"mamba.D[3]\",\"score\":0.25,");
    has(text, "\"repro\":\"fh1 repro '--op=rope'\"");
    ck_assert_int_eq(code, 1);
    free(text);
    text = told(FH1_REPORT_JSON, causes, 3, "fh1 repro '--op=rope'", true, &code);
    has(text, "\"suspects\":[],\"repro\":\"fh1 check m --trace s\"");
    ck_assert_int_eq(code, 0);
    free(text);
}
END_TEST

START_TEST(a_repro_alone_keeps_the_suspects)
{
    FILE *sink;
    char *text;
    size_t size;
    fh1_report *r = quiet_report(FH1_REPORT_JSON, false, &sink, &text, &size);
    ck_assert_ptr_null(fh1_report_suspects(r, causes, 1, "nothing is open")); /* and nothing happens */
    add(r, "s", "mid", 1, 0, FH1_FAIL, 3);
    ck_assert_ptr_null(fh1_report_suspects(r, causes, 2, NULL));
    ck_assert_ptr_null(fh1_report_suspects(r, NULL, 0, "fh1 repro 'x'"));
    ck_assert_int_eq(fh1_report_finish(r, "0.1.0", "fh1"), 1);
    fh1_report_free(r);
    fclose(sink);
    has(text, "\"fault\":\"mamba.D[3]\"");
    has(text, "\"repro\":\"fh1 repro 'x'\"");
    free(text);
}
END_TEST

/* ---- JUnit, Markdown, lines ---- */

/* A pass, a failure with suspects, a wanted failure, a missed expectation, all with hostile names, and a skip. */
static fh1_report *mixed(FILE **sink, char **text, size_t *size)
{
    fh1_report *r = quiet_report(FH1_REPORT_JSON, false, sink, text, size);
    add(r, "good", "mid", 0, 0, FH1_PASS, 0.5);
    add(r, "good", "loss", -1, 0, FH1_SKIP, (double)NAN);
    fh1_report_end_subject(r, "trace good", NULL, 0);
    add(r, HOSTILE, HOSTILE, -1, 0, FH1_FAIL, 9);
    add(r, HOSTILE, "mid", 2, 1, FH1_FAIL, (double)INFINITY);
    fh1_suspect cause = {.score = 0.5, .fault = "<b>", .evidence = HOSTILE};
    ck_assert_ptr_null(fh1_report_suspects(r, &cause, 1, "fh1 repro '" HOSTILE "'"));
    fh1_report_end_subject(r, "trace " HOSTILE, NULL, 0);
    add(r, "w", "mid", 0, 0, FH1_FAIL, 9);
    fh1_report_end_subject(r, "faults wanted", "model.layers.0.mid", 0);
    add(r, "u", "mid", 0, 0, FH1_PASS, 0.5);
    fh1_report_end_subject(r, "faults unmet", "model.layers.0.mid", 0);
    ck_assert_int_eq(fh1_report_finish(r, "0.1.0", "fh1 check " HOSTILE), 1);
    return r;
}

START_TEST(junit_is_xml_and_red_where_the_exit_code_is)
{
    FILE *sink;
    char *text, *xml;
    size_t size;
    fh1_report *r = mixed(&sink, &text, &size);
    xml = written(r, FH1_REPORT_JUNIT);
    ck_assert_msg(well_formed(xml), "%s", xml);
    has(xml, "<testsuites name=\"fh1\" tests=\"7\" failures=\"3\" errors=\"0\" skipped=\"1\" time=\"0\">");
    has(xml, "<testsuite name=\"trace good\" tests=\"2\" failures=\"0\"");
    has(xml, "<testcase classname=\"trace good\" name=\"step 0 model.layers.0.mid\" time=\"0\"/>");
    has(xml, "<skipped message=\"SKIP: one element\"/>");
    has(xml, "message=\"one element: margin 9 at [3, 7], error 0.009, allowed 0.001\">first divergence");
    has(xml, "explained to 50 % by &lt;b&gt;");
    has(xml, "fails as wanted, margin 9");
    has(xml, "name=\"expectation\"");
    ck_assert_int_eq(occurrences(xml, "<failure "), 3);
    ck_assert_int_eq(occurrences(xml, "<system-out>repro: "), 2);
    free(xml);
    fh1_report_free(r);
    fclose(sink);
    free(text);
}
END_TEST

START_TEST(junit_of_a_mistrusted_run_is_an_error)
{
    for (int pass = 0; pass < 2; pass++) {
        FILE *sink;
        char *text;
        size_t size;
        fh1_report *r = quiet_report(FH1_REPORT_JSON, false, &sink, &text, &size);
        add(r, "m", "mid", 0, 0, FH1_MISTRUSTED, 0);
        if (pass) add(r, "p", "mid", 0, 0, FH1_PASS, 0.5); /* then the run passes, and so must its JUnit */
        ck_assert_int_eq(fh1_report_finish(r, "0.1.0", "fh1"), pass ? 0 : 1);
        char *xml = written(r, FH1_REPORT_JUNIT);
        ck_assert(well_formed(xml));
        ck_assert_int_eq(occurrences(xml, "<error type=\"mistrusted\""), pass ? 0 : 1);
        ck_assert_int_eq(occurrences(xml, "<skipped message=\"MISTRUSTED: "), 1);
        free(xml);
        fh1_report_free(r);
        fclose(sink);
        free(text);
    }
}
END_TEST

/* Bars outside of code spans and without a backslash. */
static int cells(const char *line, const char *end)
{
    int n = 0;
    for (const char *p = line; p < end; p++) n += *p == '|' && (p == line || p[-1] != '\\');
    return n;
}

START_TEST(markdown_keeps_its_rows)
{
    FILE *sink;
    char *text;
    size_t size;
    fh1_report *r = mixed(&sink, &text, &size);
    char *md = written(r, FH1_REPORT_MARKDOWN);
    has(md, "### \xe2\x9d\x8c fh1 0.1.0: FAIL\n");
    has(md, "**First divergence:** ");
    has(md, "fails as wanted");
    has(md, "wanted first divergence model.layers.0.mid at step 0, found none, verdict PASS");
    for (const char *line = md, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        if (*line == '|') ck_assert_msg(cells(line, end) == 7, "%.*s", (int)(end - line), line);
    }
    /* Outside of code spans and blocks no tag of the name may stand: in front of each there is code or an entity. */
    ck_assert_int_eq(occurrences(md, "\n<script"), 0);
    ck_assert_int_eq(occurrences(md, "<summary>trace a\\x0ab&quot;"), 1);
    ck_assert(strstr(md, "| `` trace a\\x0ab") != NULL &&
              strlen(md) < 65536);                             /* a name with a backtick: two around it */
    const char raw[] = "| FAIL | trace a|b | 1 | 0 | 0 | 0 |"; /* planted: what cells() is there for */
    ck_assert_int_ne(cells(raw, raw + strlen(raw)), 7);
    free(md);
    fh1_report_free(r);
    fclose(sink);
    free(text);
}
END_TEST

START_TEST(a_thousand_subjects_fit_into_a_comment)
{
    FILE *sink;
    char *text, name[64];
    size_t size;
    fh1_report *r = quiet_report(FH1_REPORT_JSON, false, &sink, &text, &size);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "trace subject-%d", i);
        for (int layer = 0; layer < 30; layer++) add(r, name, "mid", layer, 0, i % 2 ? FH1_FAIL : FH1_PASS, 1 + i);
    }
    ck_assert_int_eq(fh1_report_finish(r, "0.1.0", "fh1 check"), 1);
    char *md = written(r, FH1_REPORT_MARKDOWN), *lines = written(r, FH1_REPORT_LINES);
    ck_assert_uint_lt(strlen(md), 65536);
    has(md, "and 475 more\n");
    fflush(sink);
    ck_assert_str_eq(lines, text); /* what --json has printed meanwhile */
    free(md);
    free(lines);
    fh1_report_free(r);
    fclose(sink);
    free(text);
}
END_TEST

START_TEST(a_full_disk_is_told)
{
    FILE *sink, *full = fopen("/dev/full", "w");
    char *text;
    size_t size;
    if (!full) return; /* no such device outside of Linux */
    fh1_report *r = mixed(&sink, &text, &size);
    for (fh1_report_kind k = FH1_REPORT_LINES; k <= FH1_REPORT_HISTORY; k++) {
        const fh1_status s = fh1_report_write(r, k, full);
        ck_assert(s && s->code == FH1_E_INTERNAL);
    }
    fclose(full);
    fh1_report_free(r);
    fclose(sink);
    free(text);
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("forms");
    tcase_add_test(c, the_reader_of_xml_is_strict);
    tcase_add_test(c, the_first_suspect_is_a_sentence);
    tcase_add_test(c, suspects_and_repro_reach_the_summary);
    tcase_add_test(c, a_repro_alone_keeps_the_suspects);
    tcase_add_test(c, junit_is_xml_and_red_where_the_exit_code_is);
    tcase_add_test(c, junit_of_a_mistrusted_run_is_an_error);
    tcase_add_test(c, markdown_keeps_its_rows);
    tcase_add_test(c, a_thousand_subjects_fit_into_a_comment);
    tcase_add_test(c, a_full_disk_is_told);
    Suite *s = suite_create("report_forms");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
