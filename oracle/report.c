#include "oracle/report.h"

#include "oracle/compare.h"
#include "oracle/report_impl.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *fh1_verdict_name(fh1_verdict v)
{
    static const char *const names[] = {"PASS", "FAIL", "MISTRUSTED", "SKIP"};
    return (unsigned)v < 4 ? names[v] : "?";
}

char *fh1_report_printable(const char *text)
{
    size_t size = 4 * strlen(text) + 1; /* an escape takes four bytes for one */
    char *copy = malloc(size);
    if (copy) fh1_printable(text, copy, size);
    return copy;
}

fh1_status fh1_report_new(fh1_report_form form, bool verbose, FILE *out, fh1_report **report)
{
    fh1_report *r = *report = calloc(1, sizeof *r);
    if (!r) return fh1_no_memory(sizeof *r, "a report");
    r->form = form;
    r->verbose = verbose;
    r->out = out;
    r->colour = form == FH1_REPORT_TABLE && !getenv("NO_COLOR") && isatty(fileno(out));
    return NULL;
}

static void clear_subject(fh1_report_subject *s)
{
    free(s->name);
    free(s->shown);
    *s = (fh1_report_subject){0};
}

void fh1_report_free(fh1_report *r)
{
    if (!r) return;
    clear_subject(&r->subject);
    free(r->first_subject);
    free(r->groups);
    free(r);
}

static fh1_status keep(fh1_report_subject *s, const fh1_tap_result *t)
{
    if (s->n_shown == s->cap_shown) {
        size_t cap = s->cap_shown ? 2 * s->cap_shown : 16;
        fh1_tap_result *grown = realloc(s->shown, cap * sizeof *grown);
        if (!grown) return fh1_no_memory(cap * sizeof *grown, "the results of a report");
        s->shown = grown;
        s->cap_shown = cap;
    }
    s->shown[s->n_shown] = *t;
    s->shown[s->n_shown++].subject = NULL; /* the caller's string may be gone when it is told */
    return NULL;
}

static fh1_status open_subject(fh1_report_subject *s, const char *name)
{
    size_t size = strlen(name) + 1;
    s->name = malloc(size);
    if (!s->name) return fh1_no_memory(size, "the name of a subject");
    memcpy(s->name, name, size);
    s->open = true;
    s->most_free = (double)NAN;
    return NULL;
}

static fh1_status add(fh1_report *r, const fh1_tap_result *t)
{
    fh1_report_subject *s = &r->subject;
    if (!s->open) FH1_TRY(open_subject(s, t->subject));
    if (t->verdict == FH1_FAIL || t->verdict == FH1_MISTRUSTED) FH1_TRY(keep(s, t));
    s->count[t->verdict]++;
    if (t->verdict == FH1_SKIP && !s->skip_reason[0]) memcpy(s->skip_reason, t->reason, sizeof s->skip_reason);

    bool judged = t->verdict == FH1_PASS || t->verdict == FH1_FAIL;
    bool worse = !s->worst.tap[0] || (!isnan(s->worst.margin) && !fh1_within(t->margin, s->worst.margin));
    if (judged && !isnan(t->free_rms) && (isnan(s->most_free) || !fh1_within(t->free_rms, s->most_free)))
        s->most_free = t->free_rms;
    if (judged && worse) {
        s->worst = *t;
        s->worst.subject = NULL;
    }
    if (r->form == FH1_REPORT_JSON) return fh1_report_json_tap(r, t);
    if (r->verbose) fh1_report_table_tap(r, t);
    return NULL;
}

fh1_status fh1_report_add(fh1_report *r, const fh1_tap_result *t)
{
    assert((unsigned)t->verdict < 4 && t->rank >= 0 && t->rank <= FH1_MAX_RANK && t->subject);
    if (r->subject.open && strcmp(r->subject.name, t->subject) != 0)
        fh1_report_end_subject(r, r->subject.name, NULL, 0);
    fh1_status s = add(r, t);
    if (s) r->broken = true;
    return s;
}

/* Lowest step, then lowest order; of equals the one that came first. */
static const fh1_tap_result *first_divergence(const fh1_report_subject *s)
{
    const fh1_tap_result *first = NULL;
    for (size_t i = 0; i < s->n_shown; i++) {
        const fh1_tap_result *t = &s->shown[i];
        if (t->verdict != FH1_FAIL) continue;
        if (!first || t->step < first->step || (t->step == first->step && t->order < first->order)) first = t;
    }
    return first;
}

static fh1_verdict verdict_of(const int64_t count[4])
{
    return count[FH1_FAIL] ? FH1_FAIL : count[FH1_PASS] ? FH1_PASS : FH1_MISTRUSTED;
}

/* Compare what came with what was wanted. */
static void weigh_expectation(fh1_report_ending *e, const char *tap, int64_t step)
{
    char came[160];
    if (!tap) return;
    if (e->first && strcmp(e->first->tap, tap) == 0 && e->first->step == step) {
        e->expected_fail = true;
        return;
    }
    if (e->first) snprintf(came, sizeof came, "%s at step %lld", e->first->tap, (long long)e->first->step);
    else snprintf(came, sizeof came, "none, verdict %s", fh1_verdict_name(e->verdict));
    snprintf(e->unmet, sizeof e->unmet, "wanted first divergence %.96s at step %lld, found %s", tap, (long long)step,
             came);
}

/* The group of a label: what stands before the first blank or colon, or all of it. NULL without memory. */
static fh1_report_group *find_group(fh1_report *r, const char *label)
{
    char name[sizeof r->groups->name];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(label, " :"), label);
    for (size_t i = 0; i < r->n_groups; i++)
        if (strcmp(r->groups[i].name, name) == 0) return &r->groups[i];

    fh1_report_group *grown = realloc(r->groups, (r->n_groups + 1) * sizeof *grown);
    if (!grown) return NULL;
    r->groups = grown;
    fh1_report_group *g = &grown[r->n_groups++];
    *g = (fh1_report_group){0};
    memcpy(g->name, name, sizeof name);
    return g;
}

static void count_subject(fh1_report *r, const fh1_report_ending *e)
{
    const fh1_report_subject *s = &r->subject;
    bool good = e->expected_fail || (e->verdict == FH1_PASS && !e->unmet[0]);
    fh1_report_group *g = find_group(r, e->label);
    if (g) {
        g->subjects++;
        g->good += good;
        for (int v = 0; v < 4; v++) g->count[v] += s->count[v];
    } else {
        r->broken = true;
    }
    r->subjects++;
    r->passes += s->count[FH1_PASS] + e->expected_fail;
    r->expected_failures += e->expected_fail;
    r->mistrusted_subjects += e->verdict == FH1_MISTRUSTED;
    r->failed |= e->unmet[0] || (e->verdict == FH1_FAIL && !e->expected_fail);
    if (e->unmet[0] && !r->unmet[0]) snprintf(r->unmet, sizeof r->unmet, "%.120s: %.270s", e->label, e->unmet);
    if (e->first && !e->expected_fail && !r->has_first) {
        r->has_first = true;
        r->first = *e->first;
        r->first_subject = s->name ? fh1_report_printable(s->name) : NULL;
        r->broken |= !r->first_subject;
    }
}

void fh1_report_end_subject(fh1_report *r, const char *label, const char *expect_tap, int64_t expect_step)
{
    fh1_report_ending e = {.label = label};
    e.verdict = verdict_of(r->subject.count);
    e.first = first_divergence(&r->subject);
    weigh_expectation(&e, expect_tap, expect_step);
    count_subject(r, &e);
    if (r->form == FH1_REPORT_TABLE && fh1_report_table_subject(r, &e)) r->broken = true;
    clear_subject(&r->subject);
}

fh1_verdict fh1_report_verdict(const fh1_report *r)
{
    return r->failed ? FH1_FAIL : r->passes ? FH1_PASS : FH1_MISTRUSTED;
}

int fh1_report_finish(fh1_report *r, const char *version, const char *repro)
{
    if (r->subject.open) fh1_report_end_subject(r, r->subject.name, NULL, 0);
    fh1_status s = r->form == FH1_REPORT_JSON ? fh1_report_json_summary(r, version, repro)
                                              : fh1_report_table_summary(r, version, repro);
    if (s || r->broken || fflush(r->out) != 0 || ferror(r->out)) return FH1_E_INTERNAL;
    return fh1_report_verdict(r) == FH1_PASS ? 0 : 1;
}
