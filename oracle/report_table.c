/* The report as a console table. */
#include "oracle/report_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_SHOWN 8 /* failing taps of a subject, unless verbose */

static const char *colour(const fh1_report *r, fh1_verdict v)
{
    static const char *const codes[] = {"\033[32m", "\033[31m", "\033[33m", "\033[36m"};
    return r->colour ? codes[v] : "";
}

static const char *plain(const fh1_report *r)
{
    return r->colour ? "\033[0m" : "";
}

/* "0.41", "-" for NaN: a number that was not computed. */
static const char *number(double v, char buf[32])
{
    if (isnan(v)) snprintf(buf, 32, "-");
    else snprintf(buf, 32, "%.3g", v);
    return buf;
}

static const char *place(const fh1_tap_result *t, char buf[200])
{
    fh1_tensor index = {.rank = t->rank}; /* an index prints like a shape */
    memcpy(index.shape, t->where, sizeof index.shape);
    return fh1_shape_text(&index, buf, 200);
}

static const char *tap_name(const fh1_tap_result *t, char buf[4 * FH1_TAP_NAME_SIZE])
{
    return fh1_printable(t->tap, buf, 4 * FH1_TAP_NAME_SIZE);
}

void fh1_report_table_tap(fh1_report *r, const fh1_tap_result *t)
{
    char name[4 * FH1_TAP_NAME_SIZE], a[32], b[32], c[32], reason[4 * sizeof t->reason];
    fprintf(r->out, "  %s%-10s%s step %-3lld %-40s", colour(r, t->verdict), fh1_verdict_name(t->verdict), plain(r),
            (long long)t->step, tap_name(t, name));
    if (t->verdict == FH1_PASS || t->verdict == FH1_FAIL)
        fprintf(r->out, " margin %-9s rms_ratio %-9s max_err %-9s", number(t->margin, a), number(t->rms_ratio, b),
                number(t->max_err, c));
    fprintf(r->out, "%s%s\n", t->reason[0] ? " " : "", fh1_printable(t->reason, reason, sizeof reason));
}

static void print_failure(fh1_report *r, const fh1_tap_result *t, bool first)
{
    char name[4 * FH1_TAP_NAME_SIZE], at[200], a[32], b[32], c[32], d[32], reason[4 * sizeof t->reason];
    fprintf(r->out, "    %s%s%s step %lld at %s%s\n", colour(r, FH1_FAIL), tap_name(t, name), plain(r),
            (long long)t->step, place(t, at), first ? "   <- first divergence" : "");
    fprintf(r->out, "        margin %-9s max_err %-9s allowed %-9s rms_ratio %s\n", number(t->margin, a),
            number(t->max_err, b), number(t->allowed, c), number(t->rms_ratio, d));
    if (t->reason[0]) fprintf(r->out, "        %s\n", fh1_printable(t->reason, reason, sizeof reason));
}

/* Step, order, then arrival: the elements are pointers into one array. */
static int by_divergence(const void *a, const void *b)
{
    const fh1_tap_result *x = *(fh1_tap_result *const *)a, *y = *(fh1_tap_result *const *)b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* The kept results with verdict v, sorted, at most MOST_SHOWN of them. */
static fh1_status print_kept(fh1_report *r, fh1_verdict v)
{
    const fh1_report_subject *s = &r->subject;
    if (!s->count[v]) return NULL;
    const fh1_tap_result **list = malloc(s->n_shown * sizeof *list);
    if (!list) return fh1_no_memory(s->n_shown * sizeof *list, "a list of failures");
    size_t n = 0;
    for (size_t i = 0; i < s->n_shown; i++)
        if (s->shown[i].verdict == v) list[n++] = &s->shown[i];
    qsort(list, n, sizeof *list, by_divergence);
    for (size_t i = 0; i < n; i++) {
        if (i == MOST_SHOWN && !r->verbose) {
            fprintf(r->out, "    and %zu more; --verbose shows all\n", n - i);
            break;
        }
        if (v == FH1_FAIL) print_failure(r, list[i], i == 0);
        else if (!r->verbose) fh1_report_table_tap(r, list[i]); /* verbose has shown it already */
    }
    free(list);
    return NULL;
}

/* What follows label and number of taps. */
static void print_ending(fh1_report *r, const fh1_report_ending *e)
{
    const fh1_report_subject *s = &r->subject;
    char name[4 * FH1_TAP_NAME_SIZE], a[32], b[32], reason[4 * sizeof s->skip_reason];
    if (e->first)
        fprintf(r->out, "  %lld FAIL, %s %s step %lld", (long long)s->count[FH1_FAIL],
                e->expected_fail ? "as wanted at" : "first divergence", tap_name(e->first, name),
                (long long)e->first->step);
    else if (s->worst.tap[0])
        fprintf(r->out, "  free rms %-8s worst margin %s %s step %lld", number(s->most_free, b),
                number(s->worst.margin, a), tap_name(&s->worst, name), (long long)s->worst.step);
    if (s->count[FH1_MISTRUSTED]) fprintf(r->out, "  %lld MISTRUSTED", (long long)s->count[FH1_MISTRUSTED]);
    if (s->count[FH1_SKIP])
        fprintf(r->out, "  %lld SKIP (%s)", (long long)s->count[FH1_SKIP],
                s->skip_reason[0] ? fh1_printable(s->skip_reason, reason, sizeof reason) : "no reason given");
    fprintf(r->out, "\n");
}

fh1_status fh1_report_table_subject(fh1_report *r, const fh1_report_ending *e)
{
    const fh1_report_subject *s = &r->subject;
    fh1_verdict shown = e->unmet[0] ? FH1_FAIL : e->expected_fail ? FH1_PASS : e->verdict;
    int64_t taps = 0;
    for (int v = 0; v < 4; v++) taps += s->count[v];

    char *label = fh1_report_printable(e->label), *unmet = fh1_report_printable(e->unmet);
    fh1_status status = NULL;
    if (label && unmet) {
        int width = 40 + 4 - (int)strlen(fh1_verdict_name(shown)); /* of the label: "MISTRUSTED" eats into it */
        fprintf(r->out, "%s%s%s  %-*s %5lld taps", colour(r, shown), fh1_verdict_name(shown), plain(r), width, label,
                (long long)taps);
        print_ending(r, e);
        if (*unmet) fprintf(r->out, "    %s\n", unmet);
        if (!e->expected_fail) status = print_kept(r, FH1_FAIL);
        if (!status) status = print_kept(r, FH1_MISTRUSTED);
    } else {
        status = fh1_no_memory(4 * strlen(e->label), "the line of a subject");
    }
    free(label);
    free(unmet);
    return status;
}

fh1_status fh1_report_table_summary(fh1_report *r, const char *version, const char *repro)
{
    fh1_verdict verdict = fh1_report_verdict(r);
    char name[4 * sizeof r->groups->name], tap[4 * FH1_TAP_NAME_SIZE];
    fprintf(r->out, "\n");
    for (size_t i = 0; i < r->n_groups; i++) {
        const fh1_report_group *g = &r->groups[i];
        fprintf(r->out, "%-12s %5lld subjects, %lld good; taps:", fh1_printable(g->name, name, sizeof name),
                (long long)g->subjects, (long long)g->good);
        for (int v = 0; v < 4; v++)
            fprintf(r->out, "  %lld %s", (long long)g->count[v], fh1_verdict_name((fh1_verdict)v));
        fprintf(r->out, "\n");
    }
    fprintf(r->out, "fh1 %s  %s%s%s  %lld subjects", version, colour(r, verdict), fh1_verdict_name(verdict), plain(r),
            (long long)r->subjects);
    if (r->expected_failures) fprintf(r->out, ", %lld failed as wanted", (long long)r->expected_failures);
    if (r->mistrusted_subjects) fprintf(r->out, ", %lld MISTRUSTED", (long long)r->mistrusted_subjects);
    fprintf(r->out, "\n");
    if (verdict == FH1_PASS) return NULL;

    if (r->has_first)
        fprintf(r->out, "first divergence  %s step %lld (%s)\n", tap_name(&r->first, tap), (long long)r->first.step,
                r->first_subject ? r->first_subject : "");
    char *line = fh1_report_printable(repro);
    if (!line) return fh1_no_memory(strlen(repro), "the repro line");
    fprintf(r->out, "repro  %s\n", line);
    free(line);
    return NULL;
}
