/* The HTML page as text: what must stand in it, that no name of a file becomes markup, and its size. How it looks and
 * that a browser has nothing to complain about is tests/html.sh. */
#include "tests/report_fixture.h"

static char *page_of(void (*fill)(fh1_report *r), bool verbose)
{
    FILE *sink;
    char *text;
    size_t size;
    fh1_report *r = quiet_report(FH1_REPORT_JSON, verbose, &sink, &text, &size);
    fill(r);
    ck_assert_int_ne(fh1_report_finish(r, "0.1.0", "fh1 check m --trace 'a b'"), 3);
    char *page = written(r, FH1_REPORT_HTML);
    fh1_report_free(r);
    fclose(sink);
    free(text);
    return page;
}

static void one_failure(fh1_report *r)
{
    for (int step = 0; step < 2; step++)
        for (int layer = 0; layer < 3; layer++) {
            add(r, "s", "mamba.ssd", layer, step, FH1_PASS, 0.25 + 0.01 * layer);
            add(r, "s", "self_attn.k_rope", layer, step, layer == 1 && step == 1 ? FH1_FAIL : FH1_PASS,
                layer == 1 && step == 1 ? 812 : 0.999);
        }
    add(r, "s", "logits", -1, 0, FH1_MISTRUSTED, 0);
    add(r, "s", "loss", -1, 0, FH1_SKIP, (double)NAN);
    const fh1_suspect list[] = {{"key_multiplier_dropped", 0.99974, "the residual is k times 0.83"}};
    ck_assert_ptr_null(fh1_report_suspects(r, list, 1, "fh1 repro '--op=rope'"));
    fh1_report_end_subject(r, "trace one", NULL, 0);
}

START_TEST(the_page_tells_what_went_wrong)
{
    char *page = page_of(one_failure, false);
    static const char *const parts[] = {
        "<!doctype html>\n",
        "<header class=\"FAIL\"><h1>FAIL</h1>",
        "<strong class=\"tap\">model.layers.1.self_attn.k_rope</strong> step&nbsp;1 at [3, 7]: margin "
        "<strong>812</strong>",
        "explained to 99.97 % by key_multiplier_dropped (see MU2 ml-explore/mlx-lm#1622)",
        "<code>fh1 repro &#39;--op=rope&#39;</code>",
        "<td class=\"n f3\">812",
        "<a href=\"https://github.com/ml-explore/mlx-lm/issues/1622\">ml-explore/mlx-lm#1622</a>",
        "Margin by layer",
        "<tr><th scope=\"row\">self_attn.k_rope<td><td class=\"c5\" title=\"model.layers.0.self_attn.k_rope step 0 at "
        "[3, 7]: "
        "error 0.000999, allowed 0.001\">0.99<td class=\"f3 first\"",
        "<tr><th scope=\"row\">mamba.ssd<td><td class=\"c3\"",
        ">0.25<td class=\"c4\"",
        "<td class=\"mis\" title=\"one element\">?",
        "<td class=\"skip\" title=\"one element\">&ndash;",
        "Margin by step",
        "Relative RMS error by layer",
        "Margin over tokens",
        "class=\"hist\"",
        "2^0 to 2^1: 1</title>",
        "What fails, in the order of computation",
        "<script>",
    };
    const char *at = page;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const char *found = i == 9 ? strstr(page, parts[i]) : strstr(at, parts[i]); /* mamba.ssd stands below k_rope */
        ck_assert_msg(found != NULL, "'%s' is missing", parts[i]);
        if (i != 9 && i != 10) at = found;
    }
    free(page);
}
END_TEST

static void hostile_names(fh1_report *r)
{
    add(r, HOSTILE, HOSTILE, -1, 0, FH1_FAIL, (double)NAN);
    add(r, HOSTILE, HOSTILE, -1, 1, FH1_FAIL, (double)INFINITY);
    const fh1_suspect list[] = {{"<b>", (double)NAN, HOSTILE}, {"x", 7, "x#1 /#2 a/b#"}};
    ck_assert_ptr_null(fh1_report_suspects(r, list, 2, "fh1 " HOSTILE));
    fh1_report_end_subject(r, "trace " HOSTILE, "x" HOSTILE, 3);
}

/* Where something is fetched from, but for the links to threads and to parts of the page. */
static int fetches(const char *page)
{
    return occurrences(page, " src=") + occurrences(page, "url(") + occurrences(page, "@import") +
           occurrences(page, "<link") - occurrences(page, "<link rel=\"icon\" href=\"data:,\">") +
           occurrences(page, " href=\"http") - occurrences(page, "<a href=\"https://github.com/");
}

START_TEST(names_do_not_become_markup_and_nothing_is_fetched)
{
    char *page = page_of(hostile_names, false);
    ck_assert_int_eq(occurrences(page, "<script"), 1);
    ck_assert_int_eq(occurrences(page, "<b>"), 0);
    ck_assert_ptr_null(strpbrk(page, "\x1b\xff"));
    has(page, "a\\x0ab&quot;\\\\x1b[31m");
    ck_assert_int_eq(fetches(page), 0);
    ck_assert_int_eq(fetches("<img src=\"x\">") + fetches("<a href=\"http://x\">") + fetches("<link rel=x>"),
                     3); /* planted */
    lacks(page, "nan%");
    free(page);
}
END_TEST

/* As many taps as a suite of 300 subjects and 44 layers would have. */
static void many(fh1_report *r)
{
    static const char *const taps[] = {"mamba.ssd", "mamba.dt", "mid", "self_attn.k_rope", "feed_forward.act"};
    char name[64];
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "group%d case-%d", i % 4, i);
        for (int layer = 0; layer < 44; layer++)
            for (int k = 0; k < 5; k++) add(r, name, taps[k], layer, 0, i == 77 ? FH1_FAIL : FH1_PASS, (i + 1) / 301.0);
    }
}

START_TEST(a_large_run_stays_below_ten_megabytes)
{
    char *few = page_of(many, false), *all = page_of(many, true);
    ck_assert_uint_lt(strlen(few), 1000000);
    ck_assert_uint_lt(strlen(all), 10000000);
    /* Every subject has its row; details have the one that fails and the worst of each group. */
    for (int i = 0; i < 300; i++) {
        char label[32];
        snprintf(label, sizeof label, "case-%d<", i);
        ck_assert_msg(strstr(few, label) != NULL, "%s", label);
    }
    ck_assert_int_eq(occurrences(few, "<details class=\"subject\""), 5);
    ck_assert_int_eq(occurrences(few, "<details class=\"subject\" id=\"s77\" open>"), 1);
    ck_assert_int_gt(occurrences(all, "<details class=\"subject\""), 20);
    has(all, " did not fit on this page");
    lacks(few, " did not fit on this page");
    free(few);
    free(all);
}
END_TEST

static void nothing(fh1_report *r)
{
    fh1_report_end_subject(r, "trace empty", NULL, 0);
}

START_TEST(a_run_without_taps_has_a_page)
{
    char *page = page_of(nothing, false);
    has(page, "<h1>MISTRUSTED</h1>");
    lacks(page, "<svg");
    free(page);
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("html");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, the_page_tells_what_went_wrong);
    tcase_add_test(c, names_do_not_become_markup_and_nothing_is_fetched);
    tcase_add_test(c, a_large_run_stays_below_ten_megabytes);
    tcase_add_test(c, a_run_without_taps_has_a_page);
    Suite *s = suite_create("report_html");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
