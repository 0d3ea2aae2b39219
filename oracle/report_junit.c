/* The report as JUnit: a testsuite per subject, a testcase per tap and step. What a CI counts as a failure is what
 * makes the exit code 1: a FAIL that was not wanted, an expectation that was missed, a whole run that is MISTRUSTED. */
#include "oracle/report_impl.h"

#include <string.h>

/* U+FFFE and U+FFFF are UTF-8, and printable to everyone but XML. */
static bool forbidden(const char *p)
{
    return memcmp(p, "\xef\xbf", 2) == 0 && (p[2] == '\xbe' || p[2] == '\xbf');
}

void fh1_report_markup(FILE *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == '&') fputs("&amp;", out);
        else if (*p == '<') fputs("&lt;", out);
        else if (*p == '>') fputs("&gt;", out);
        else if (*p == '"') fputs("&quot;", out);
        else if (*p == '\'') fputs("&#39;", out);
        else if (*p == '\xef' && p[1] && forbidden(p)) {
            fprintf(out, "\\xef\\xbf\\x%02x", (unsigned char)p[2]);
            p += 2;
        } else putc(*p, out);
    }
}

/* What stands in the counts of the root, of a suite. */
typedef struct {
    int64_t tests, failures, errors, skipped;
} counts;

static bool is_mistrusted(const fh1_report *r)
{
    return fh1_report_verdict(r) == FH1_MISTRUSTED;
}

static counts count(const fh1_report *r, const fh1_report_subject *s)
{
    counts c = {.tests = (int64_t)s->n_taps, .skipped = s->count[FH1_MISTRUSTED] + s->count[FH1_SKIP]};
    if (!s->expected_fail) c.failures = s->count[FH1_FAIL];
    c.tests += s->unmet[0] != 0;
    c.failures += s->unmet[0] != 0;
    c.tests += is_mistrusted(r);
    c.errors += is_mistrusted(r);
    return c;
}

static void put_counts(FILE *out, counts c)
{
    fprintf(out, "tests=\"%lld\" failures=\"%lld\" errors=\"%lld\" skipped=\"%lld\" time=\"0\"", (long long)c.tests,
            (long long)c.failures, (long long)c.errors, (long long)c.skipped);
}

static void attribute(FILE *out, const char *name, const char *text)
{
    fprintf(out, " %s=\"", name);
    fh1_report_markup(out, text);
    putc('"', out);
}

static void open_case(FILE *out, const fh1_report_subject *s, const char *name)
{
    fputs("    <testcase", out);
    attribute(out, "classname", s->label);
    attribute(out, "name", name);
    fputs(" time=\"0\"", out);
}

static void put_failure(FILE *out, const fh1_report_subject *s, const fh1_report_tap *t)
{
    char message[512], at[200], a[32], b[32], c[32], sentence[600];
    snprintf(message, sizeof message, "%.160s: margin %s at %s, error %s, allowed %s",
             t->reason[0] ? t->reason : "FAIL", fh1_report_number(t->margin, a), fh1_report_place(t, at),
             fh1_report_number(t->max_err, b), fh1_report_number(t->allowed, c));
    fputs(">\n      <failure type=\"FAIL\"", out);
    attribute(out, "message", message);
    if (t == &s->taps[s->first]) {
        fputs(">first divergence\n", out);
        for (int i = 0; i < s->n_suspects; i++) {
            fh1_report_markup(out, fh1_report_sentence(&s->suspects[i], sentence, sizeof sentence));
            putc('\n', out);
        }
        fputs("</failure>\n    </testcase>\n", out);
    } else {
        fputs("/>\n    </testcase>\n", out);
    }
}

static void put_tap(FILE *out, const fh1_report_subject *s, const fh1_report_tap *t)
{
    char name[4 * FH1_TAP_NAME_SIZE + 40], message[256], a[32];
    snprintf(name, sizeof name, "step %lld %s", (long long)t->step, t->tap);
    open_case(out, s, name);
    if (t->verdict == FH1_FAIL && !s->expected_fail) {
        put_failure(out, s, t);
    } else if (t->verdict == FH1_FAIL) {
        fprintf(out, ">\n      <system-out>fails as wanted, margin %s</system-out>\n    </testcase>\n",
                fh1_report_number(t->margin, a));
    } else if (t->verdict != FH1_PASS) {
        snprintf(message, sizeof message, "%s: %s", fh1_verdict_name(t->verdict), t->reason);
        fputs(">\n      <skipped", out);
        attribute(out, "message", message);
        fputs("/>\n    </testcase>\n", out);
    } else {
        fputs("/>\n", out);
    }
}

static void put_suite(const fh1_report *r, FILE *out, const fh1_report_subject *s)
{
    fputs("  <testsuite", out);
    attribute(out, "name", s->label);
    putc(' ', out);
    put_counts(out, count(r, s));
    fputs(">\n", out);
    for (size_t i = 0; i < s->n_taps; i++) put_tap(out, s, &s->taps[i]);
    if (s->unmet[0]) {
        open_case(out, s, "expectation");
        fputs(">\n      <failure type=\"FAIL\"", out);
        attribute(out, "message", s->unmet);
        fputs("/>\n    </testcase>\n", out);
    }
    if (is_mistrusted(r)) {
        open_case(out, s, "verdict");
        fputs(">\n      <error type=\"mistrusted\" message=\"no tap of this run could have shown a fault\"/>\n"
              "    </testcase>\n",
              out);
    }
    if (fh1_report_shown(s) != FH1_PASS) {
        fputs("    <system-out>repro: ", out);
        fh1_report_markup(out, fh1_report_repro(r, s));
        fputs("</system-out>\n", out);
    }
    fputs("  </testsuite>\n", out);
}

fh1_status fh1_report_junit(const fh1_report *r, FILE *out)
{
    counts all = {0};
    for (size_t i = 0; i < r->n_list; i++) {
        const counts c = count(r, &r->list[i]);
        all.tests += c.tests;
        all.failures += c.failures;
        all.errors += c.errors;
        all.skipped += c.skipped;
    }
    fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites", out);
    attribute(out, "name", "fh1");
    putc(' ', out);
    put_counts(out, all);
    fputs(">\n", out);
    for (size_t i = 0; i < r->n_list; i++) put_suite(r, out, &r->list[i]);
    fputs("</testsuites>\n", out);
    return NULL;
}
