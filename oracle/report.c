#include "oracle/report.h"

#include "oracle/compare.h"
#include "oracle/report_impl.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

fh1_status fh1_report_new(fh1_report_form form, bool verbose, FILE *out, fh1_report **report)
{
    fh1_report *r = *report = calloc(1, sizeof *r);
    if (!r) return fh1_no_memory(sizeof *r, "a report");
    r->form = form;
    r->verbose = verbose;
    r->out = out;
    r->first = FH1_NO_TAP;
    r->colour = form == FH1_REPORT_TABLE && !getenv("NO_COLOR") && isatty(fileno(out));
    return NULL;
}

void fh1_report_past(fh1_report *r, const fh1_history *past, const char *time)
{
    r->past = past;
    snprintf(r->time, sizeof r->time, "%s", time);
}

void fh1_report_free(fh1_report *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->n_list; i++) fh1_report_subject_free(&r->list[i]);
    free(r->list);
    fh1_report_words_free(&r->words);
    free(r->groups);
    free(r->version);
    free(r->repro);
    free(r);
}

/* The subject that takes results, NULL between two of them. */
static fh1_report_subject *current(const fh1_report *r)
{
    return r->open ? &r->list[r->n_list - 1] : NULL;
}

static fh1_status open_subject(fh1_report *r, const char *name)
{
    if (r->n_list == r->cap_list) {
        size_t cap = r->cap_list ? 2 * r->cap_list : 16;
        fh1_report_subject *grown = realloc(r->list, cap * sizeof *grown);
        if (!grown) return fh1_no_memory(cap * sizeof *grown, "the subjects of a report");
        r->list = grown;
        r->cap_list = cap;
    }
    fh1_report_subject s = {.group = -1, .first = FH1_NO_TAP, .worst = FH1_NO_TAP, .most_free = (double)NAN};
    s.skip_reason = "";
    s.raw = strdup(name);
    s.name = fh1_report_printable(name);
    if (!s.raw || !s.name) {
        fh1_report_subject_free(&s);
        return fh1_no_memory(strlen(name), "the name of a subject");
    }
    r->list[r->n_list++] = s;
    r->open = true;
    return NULL;
}

/* First divergence and largest margin, as results arrive: of equals the one that came first. */
static void weigh(fh1_report_subject *s)
{
    const size_t at = s->n_taps - 1;
    const fh1_report_tap *t = &s->taps[at], *first = s->first == FH1_NO_TAP ? NULL : &s->taps[s->first];
    const bool judged = t->verdict == FH1_PASS || t->verdict == FH1_FAIL;
    s->count[t->verdict]++;
    s->n_notes += t->note[0] != 0;
    if (t->verdict == FH1_SKIP && !s->skip_reason[0]) s->skip_reason = t->reason;
    if (t->verdict == FH1_FAIL &&
        (!first || t->step < first->step || (t->step == first->step && t->order < first->order)))
        s->first = at;
    if (!judged) return;
    if (!isnan(t->free_rms) && (isnan(s->most_free) || !fh1_within(t->free_rms, s->most_free)))
        s->most_free = t->free_rms;
    if (s->worst == FH1_NO_TAP || fh1_report_worse(t->margin, s->taps[s->worst].margin)) s->worst = at;
}

static fh1_status add(fh1_report *r, const fh1_tap_result *t)
{
    if (!r->open) FH1_TRY(open_subject(r, t->subject));
    fh1_report_subject *s = current(r);
    FH1_TRY(fh1_report_keep(r, s, t));
    weigh(s);
    if (r->form == FH1_REPORT_JSON) return fh1_report_json_tap(r->out, s, &s->taps[s->n_taps - 1]);
    if (r->verbose) fh1_report_table_tap(r, &s->taps[s->n_taps - 1]);
    return NULL;
}

fh1_status fh1_report_add(fh1_report *r, const fh1_tap_result *t)
{
    assert((unsigned)t->verdict < 4 && t->rank >= 0 && t->rank <= FH1_MAX_RANK && t->subject);
    if (r->open && strcmp(current(r)->raw, t->subject) != 0) fh1_report_end_subject(r, current(r)->raw, NULL, 0);
    fh1_status s = add(r, t);
    if (s) r->broken = true;
    return s;
}

static fh1_status keep_suspects(fh1_report_subject *s, const fh1_suspect *list, int n)
{
    fh1_suspect *copy = malloc(((size_t)n + 1) * sizeof *copy);
    if (!copy) return fh1_no_memory(((size_t)n + 1) * sizeof *copy, "suspects");
    for (int i = 0; i < n; i++) {
        copy[i].score = list[i].score;
        fh1_printable(list[i].fault, copy[i].fault, sizeof copy[i].fault);
        fh1_printable(list[i].evidence, copy[i].evidence, sizeof copy[i].evidence);
    }
    free(s->suspects);
    s->suspects = copy;
    s->n_suspects = n;
    return NULL;
}

static fh1_status keep_repro(fh1_report_subject *s, const char *repro)
{
    free(s->repro);
    s->repro = fh1_report_printable(repro);
    return s->repro ? NULL : fh1_no_memory(strlen(repro), "a repro line");
}

fh1_status fh1_report_suspects(fh1_report *r, const fh1_suspect *list, int n, const char *repro)
{
    assert(n >= 0 && (list || n == 0));
    fh1_status s = NULL;
    if (!r->open) return NULL; /* nothing was judged: there is nothing to explain */
    if (list) s = keep_suspects(current(r), list, n);
    if (!s && repro) s = keep_repro(current(r), repro);
    if (s) r->broken = true;
    return s;
}

/* Compare what came with what was wanted. */
static void weigh_expectation(fh1_report_subject *s, const char *tap, int64_t step)
{
    char came[160], wanted[4 * FH1_TAP_NAME_SIZE];
    const fh1_report_tap *first = s->first == FH1_NO_TAP ? NULL : &s->taps[s->first];
    if (!tap) return;
    fh1_printable(tap, wanted, sizeof wanted);
    if (first && strcmp(first->tap, wanted) == 0 && first->step == step) {
        s->expected_fail = true;
        return;
    }
    if (first) snprintf(came, sizeof came, "%s at step %lld", first->tap, (long long)first->step);
    else snprintf(came, sizeof came, "none, verdict %s", fh1_verdict_name(s->verdict));
    snprintf(s->unmet, sizeof s->unmet, "wanted first divergence %.96s at step %lld, found %s", wanted, (long long)step,
             came);
}

/* The group of a label: what stands before the first blank or colon, or all of it. -1 without memory. */
static int find_group(fh1_report *r, const char *label)
{
    char name[sizeof r->groups->name];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(label, " :"), label);
    for (size_t i = 0; i < r->n_groups; i++)
        if (strcmp(r->groups[i].name, name) == 0) return (int)i;

    fh1_report_group *grown = realloc(r->groups, (r->n_groups + 1) * sizeof *grown);
    if (!grown) return -1;
    r->groups = grown;
    fh1_report_group *g = &grown[r->n_groups++];
    *g = (fh1_report_group){0};
    memcpy(g->name, name, sizeof name);
    return (int)r->n_groups - 1;
}

static void count_subject(fh1_report *r, fh1_report_subject *s)
{
    const bool good = s->expected_fail || (s->verdict == FH1_PASS && !s->unmet[0]);
    s->group = find_group(r, s->label);
    if (s->group < 0) {
        r->broken = true;
    } else {
        fh1_report_group *g = &r->groups[s->group];
        g->subjects++;
        g->good += good;
        for (int v = 0; v < 4; v++) g->count[v] += s->count[v];
    }
    r->passes += s->count[FH1_PASS] + s->expected_fail;
    r->n_notes += s->n_notes;
    r->expected_failures += s->expected_fail;
    r->mistrusted_subjects += s->verdict == FH1_MISTRUSTED;
    r->failed |= s->unmet[0] || (s->verdict == FH1_FAIL && !s->expected_fail);
    if (s->unmet[0] && !r->unmet[0]) snprintf(r->unmet, sizeof r->unmet, "%.110s: %.390s", s->label, s->unmet);
    if (s->first != FH1_NO_TAP && !s->expected_fail && r->first == FH1_NO_TAP) r->first = (size_t)(s - r->list);
}

void fh1_report_end_subject(fh1_report *r, const char *label, const char *expect_tap, int64_t expect_step)
{
    if (!r->open && open_subject(r, label)) { /* nothing was reported: the expectation is weighed all the same */
        r->broken = true;
        return;
    }
    fh1_report_subject *s = current(r);
    s->label = fh1_report_printable(label);
    if (!s->label) { /* then it is no subject of the report, which is broken */
        r->broken = true;
        fh1_report_subject_free(s);
        r->n_list--;
        r->open = false;
        return;
    }
    s->verdict = s->count[FH1_FAIL] ? FH1_FAIL : s->count[FH1_PASS] ? FH1_PASS : FH1_MISTRUSTED;
    weigh_expectation(s, expect_tap, expect_step);
    count_subject(r, s);
    if (r->form == FH1_REPORT_TABLE && fh1_report_table_subject(r, s)) r->broken = true;
    r->open = false;
}

int fh1_report_finish(fh1_report *r, const char *version, const char *repro)
{
    if (r->open) fh1_report_end_subject(r, current(r)->raw, NULL, 0);
    r->version = fh1_report_printable(version);
    r->repro = fh1_report_printable(repro);
    if (!r->version || !r->repro) return FH1_E_INTERNAL;
    if (r->form == FH1_REPORT_TABLE) fh1_report_table_summary(r);
    else if (fh1_report_json_summary(r, r->out)) return FH1_E_INTERNAL;
    if (r->broken || fflush(r->out) != 0 || ferror(r->out)) return FH1_E_INTERNAL;
    return fh1_report_verdict(r) == FH1_PASS ? 0 : 1;
}

fh1_status fh1_report_write(const fh1_report *r, fh1_report_kind kind, FILE *out)
{
    assert(!r->open && r->version && r->repro);
    static fh1_status (*const tell[])(const fh1_report *, FILE *) = {
        [FH1_REPORT_LINES] = fh1_report_lines,       [FH1_REPORT_JUNIT] = fh1_report_junit,
        [FH1_REPORT_MARKDOWN] = fh1_report_markdown, [FH1_REPORT_HTML] = fh1_report_html,
        [FH1_REPORT_HISTORY] = fh1_report_history,
    };
    FH1_TRY(tell[kind](r, out));
    if (fflush(out) != 0 || ferror(out)) return fh1_fail(FH1_E_INTERNAL, "the report cannot be written");
    return NULL;
}
