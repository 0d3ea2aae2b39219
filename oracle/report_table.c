/* The report as a console table. */
#include "oracle/report_impl.h"

#include <stdlib.h>
#include <string.h>

#define MOST_SHOWN 8 /* failing taps of a subject, risen margins of a run, unless verbose */

static const char *colour(const fh1_report *r, fh1_verdict v)
{
    static const char *const codes[] = {"\033[32m", "\033[31m", "\033[33m", "\033[36m"};
    return r->colour ? codes[v] : "";
}

static const char *plain(const fh1_report *r)
{
    return r->colour ? "\033[0m" : "";
}

void fh1_report_table_tap(const fh1_report *r, const fh1_report_tap *t)
{
    char a[32], b[32], c[32];
    fprintf(r->out, "  %s%-10s%s step %-3lld %-40s", colour(r, t->verdict), fh1_verdict_name(t->verdict), plain(r),
            (long long)t->step, t->tap);
    if (t->verdict == FH1_PASS || t->verdict == FH1_FAIL)
        fprintf(r->out, " margin %-9s rms_ratio %-9s max_err %-9s", fh1_report_number(t->margin, a),
                fh1_report_number(t->rms_ratio, b), fh1_report_number(t->max_err, c));
    fprintf(r->out, "%s%s", t->reason[0] ? " " : "", t->reason);
    fprintf(r->out, "%s%s\n", t->note[0] ? "  note: " : "", t->note);
}

static void print_failure(const fh1_report *r, const fh1_report_subject *s, const fh1_report_tap *t)
{
    char at[200], a[32], b[32], c[32], d[32], sentence[600];
    const bool first = t == &s->taps[s->first];
    fprintf(r->out, "    %s%s%s step %lld at %s%s\n", colour(r, FH1_FAIL), t->tap, plain(r), (long long)t->step,
            fh1_report_place(t, at), first ? "   <- first divergence" : "");
    fprintf(r->out, "        margin %-9s max_err %-9s allowed %-9s rms_ratio %s\n", fh1_report_number(t->margin, a),
            fh1_report_number(t->max_err, b), fh1_report_number(t->allowed, c), fh1_report_number(t->rms_ratio, d));
    if (t->reason[0]) fprintf(r->out, "        %s\n", t->reason);
    if (first && s->n_suspects)
        fprintf(r->out, "        %s\n", fh1_report_sentence(&s->suspects[0], sentence, sizeof sentence));
}

/* The results with verdict v, at most MOST_SHOWN of them. */
static fh1_status print_kept(const fh1_report *r, const fh1_report_subject *s, fh1_verdict v)
{
    const fh1_report_tap **list;
    size_t n;
    FH1_TRY(fh1_report_sorted(s, v, &list, &n));
    for (size_t i = 0; i < n; i++) {
        if (i == MOST_SHOWN && !r->verbose) {
            fprintf(r->out, "    and %zu more; --verbose shows all\n", n - i);
            break;
        }
        if (v == FH1_FAIL) print_failure(r, s, list[i]);
        else if (!r->verbose) fh1_report_table_tap(r, list[i]); /* verbose has shown it already */
    }
    free(list);
    return NULL;
}

/* Margins that rose against earlier runs: notes, at most MOST_SHOWN in the whole table. */
static fh1_status print_rises(fh1_report *r, const fh1_report_subject *s)
{
    fh1_report_kind_row *rows;
    int n;
    char a[32], b[32];
    double median;
    if (!r->past) return NULL;
    FH1_TRY(fh1_report_fold(s, &rows, &n));
    for (int i = 0; i < n; i++)
        if (fh1_report_rose(r, s, &rows[i], &median) && (r->n_rises++ < MOST_SHOWN || r->verbose))
            fprintf(r->out, "    note: margin of %s rose to %s; its median so far is %s\n", rows[i].name,
                    fh1_report_number(rows[i].worst->margin, a), fh1_report_number(median, b));
    free(rows);
    return NULL;
}

/* What follows label and number of taps. */
static void print_ending(const fh1_report *r, const fh1_report_subject *s)
{
    char a[32], b[32];
    if (s->first != FH1_NO_TAP)
        fprintf(r->out, "  %lld FAIL, %s %s step %lld", (long long)s->count[FH1_FAIL],
                s->expected_fail ? "as wanted at" : "first divergence", s->taps[s->first].tap,
                (long long)s->taps[s->first].step);
    else if (s->worst != FH1_NO_TAP)
        fprintf(r->out, "  free rms %-8s worst margin %s %s step %lld", fh1_report_number(s->most_free, b),
                fh1_report_number(s->taps[s->worst].margin, a), s->taps[s->worst].tap,
                (long long)s->taps[s->worst].step);
    if (s->count[FH1_MISTRUSTED]) fprintf(r->out, "  %lld MISTRUSTED", (long long)s->count[FH1_MISTRUSTED]);
    if (s->count[FH1_SKIP])
        fprintf(r->out, "  %lld SKIP (%s)", (long long)s->count[FH1_SKIP],
                s->skip_reason[0] ? s->skip_reason : "no reason given");
    fprintf(r->out, "\n");
}

fh1_status fh1_report_table_subject(fh1_report *r, const fh1_report_subject *s)
{
    const fh1_verdict shown = fh1_report_shown(s);
    const int width = 40 + 4 - (int)strlen(fh1_verdict_name(shown)); /* of the label: "MISTRUSTED" eats into it */
    fprintf(r->out, "%s%s%s  %-*s %5zu taps", colour(r, shown), fh1_verdict_name(shown), plain(r), width, s->label,
            s->n_taps);
    print_ending(r, s);
    if (s->unmet[0]) fprintf(r->out, "    %s\n", s->unmet);
    if (!s->expected_fail) {
        FH1_TRY(print_kept(r, s, FH1_FAIL));
        if (s->repro) fprintf(r->out, "    repro  %s\n", s->repro);
    }
    FH1_TRY(print_kept(r, s, FH1_MISTRUSTED));
    return print_rises(r, s);
}

void fh1_report_table_summary(const fh1_report *r)
{
    const fh1_verdict verdict = fh1_report_verdict(r);
    const fh1_report_subject *bad = r->first == FH1_NO_TAP ? NULL : &r->list[r->first];
    char name[4 * sizeof r->groups->name];
    fprintf(r->out, "\n");
    for (size_t i = 0; i < r->n_groups; i++) {
        const fh1_report_group *g = &r->groups[i];
        fprintf(r->out, "%-12s %5lld subjects, %lld good; taps:", fh1_printable(g->name, name, sizeof name),
                (long long)g->subjects, (long long)g->good);
        for (int v = 0; v < 4; v++)
            fprintf(r->out, "  %lld %s", (long long)g->count[v], fh1_verdict_name((fh1_verdict)v));
        fprintf(r->out, "\n");
    }
    fprintf(r->out, "fh1 %s  %s%s%s  %zu subjects", r->version, colour(r, verdict), fh1_verdict_name(verdict), plain(r),
            r->n_list);
    if (r->expected_failures) fprintf(r->out, ", %lld failed as wanted", (long long)r->expected_failures);
    if (r->mistrusted_subjects) fprintf(r->out, ", %lld MISTRUSTED", (long long)r->mistrusted_subjects);
    if (r->n_notes && !r->verbose) fprintf(r->out, ", %lld notes (--verbose)", (long long)r->n_notes);
    if (r->n_rises) fprintf(r->out, ", %lld margins rose against their history", (long long)r->n_rises);
    fprintf(r->out, "\n");
    if (verdict == FH1_PASS) return;

    if (bad)
        fprintf(r->out, "first divergence  %s step %lld (%s)\n", bad->taps[bad->first].tap,
                (long long)bad->taps[bad->first].step, bad->name);
    fprintf(r->out, "repro  %s\n", fh1_report_repro(r, bad));
}
