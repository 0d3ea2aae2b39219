/* What every form of the report asks of the kept results. */
#include "oracle/compare.h"
#include "oracle/contract.h"
#include "oracle/fault.h"
#include "oracle/report_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *fh1_verdict_name(fh1_verdict v)
{
    static const char *const names[] = {"PASS", "FAIL", "MISTRUSTED", "SKIP"};
    return (unsigned)v < 4 ? names[v] : "?";
}

fh1_verdict fh1_report_verdict(const fh1_report *r)
{
    return r->failed ? FH1_FAIL : r->passes ? FH1_PASS : FH1_MISTRUSTED;
}

fh1_verdict fh1_report_shown(const fh1_report_subject *s)
{
    return s->unmet[0] ? FH1_FAIL : s->expected_fail ? FH1_PASS : s->verdict;
}

bool fh1_report_worse(double margin, double than)
{
    return !isnan(than) && !fh1_within(margin, than);
}

const char *fh1_report_repro(const fh1_report *r, const fh1_report_subject *s)
{
    return s && s->repro ? s->repro : r->repro;
}

const char *fh1_report_sentence(const fh1_suspect *s, char *buf, size_t size)
{
    const fh1_fault f = fh1_fault_find(s->fault);
    const char *source = f == FH1_FAULT_NONE ? "" : fh1_fault_get(f)->source;
    if (strcmp(s->fault, "unknown") == 0)
        snprintf(buf, size, "%s", s->evidence[0] ? s->evidence : "no known fault explains this");
    else if (*source) snprintf(buf, size, "explained to %.4g %% by %s (see %s)", 100 * s->score, s->fault, source);
    else
        snprintf(buf, size, "explained to %.4g %% by %s%s%s", 100 * s->score, s->fault, s->evidence[0] ? ": " : "",
                 s->evidence);
    return buf;
}

/* Step, order, then arrival: the elements are pointers into one array. */
static int by_divergence(const void *a, const void *b)
{
    const fh1_report_tap *x = *(fh1_report_tap *const *)a, *y = *(fh1_report_tap *const *)b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return x < y ? -1 : x > y;
}

fh1_status fh1_report_sorted(const fh1_report_subject *s, fh1_verdict v, const fh1_report_tap ***out, size_t *n)
{
    *out = NULL;
    *n = 0;
    if (!s->count[v]) return NULL;
    const size_t size = (size_t)s->count[v] * sizeof **out;
    const fh1_report_tap **list = *out = malloc(size);
    if (!list) return fh1_no_memory(size, "a list of results");
    for (size_t i = 0; i < s->n_taps; i++)
        if (s->taps[i].verdict == v) list[(*n)++] = &s->taps[i];
    qsort(list, *n, sizeof *list, by_divergence);
    return NULL;
}

const char *fh1_report_place(const fh1_report_tap *t, char buf[200])
{
    fh1_tensor index = {.rank = t->rank}; /* an index prints like a shape */
    memcpy(index.shape, t->where, sizeof index.shape);
    return fh1_shape_text(&index, buf, 200);
}

const char *fh1_report_number(double v, char buf[32])
{
    if (isnan(v)) snprintf(buf, 32, "-");
    else snprintf(buf, 32, "%.3g", v);
    return buf;
}

/* A tap's name without the model's and the layer's part: "mamba.ssd" of "model.layers.3.mamba.ssd". */
static const char *behind_model(const char *tap)
{
    static const char layers[] = "layers.";
    const char *dot = strchr(tap, '.');
    if (!dot) return tap;
    if (strncmp(dot + 1, layers, strlen(layers)) != 0) return dot + 1;
    dot = strchr(dot + 1 + strlen(layers), '.');
    return dot ? dot + 1 : tap;
}

/* The name of a kind of tap. */
static void kind_name(const fh1_report_tap *t, char name[FH1_TAP_NAME_SIZE])
{
    if (t->id == FH1_TAP_COUNT) {
        snprintf(name, FH1_TAP_NAME_SIZE, "%s", t->tap);
    } else if (t->id == FH1_TAP_LAYER) {
        snprintf(name, FH1_TAP_NAME_SIZE, "layer");
    } else if (fh1_tap_is_cache(t->id)) {
        snprintf(name, FH1_TAP_NAME_SIZE, "cache%s", strrchr(t->tap, '.'));
    } else {
        snprintf(name, FH1_TAP_NAME_SIZE, "%s", behind_model(t->tap));
    }
}

static void add_to_row(fh1_report_kind_row *row, const fh1_report_tap *t)
{
    const bool judged = t->verdict == FH1_PASS || t->verdict == FH1_FAIL;
    if (judged && (!row->worst || fh1_report_worse(t->margin, row->worst->margin))) row->worst = t;
    for (int k = 0; k < FH1_MARGIN_BINS; k++) {
        row->histogram[k] += t->histogram[k];
        row->has_histogram |= t->histogram[k] != 0;
    }
}

/* All taps as the subject's model computes them: two of them exist in the block S_A_M only. */
static void in_order(const fh1_report_subject *s, fh1_tap_id ids[FH1_TAP_COUNT])
{
    static const fh1_config mixer_first = {.block = FH1_BLOCK_S_A_M};
    const fh1_config *c = NULL;
    for (size_t i = 0; i < s->n_taps; i++)
        if (s->taps[i].id == FH1_TAP_MID_SSM || s->taps[i].id == FH1_TAP_ATTN_LAYERNORM) c = &mixer_first;
    fh1_taps_in_order(c, ids);
}

fh1_status fh1_report_fold(const fh1_report_subject *s, fh1_report_kind_row **out, int *n)
{
    fh1_tap_id ids[FH1_TAP_COUNT];
    fh1_report_kind_row *rows = *out = calloc(FH1_TAP_COUNT + s->n_taps, sizeof *rows);
    if (!rows) return fh1_no_memory((FH1_TAP_COUNT + s->n_taps) * sizeof *rows, "the rows of a report");
    *n = 0;
    in_order(s, ids);
    for (int k = 0; k < FH1_TAP_COUNT; k++) {
        fh1_report_kind_row *row = NULL;
        for (size_t i = 0; i < s->n_taps; i++) {
            if (s->taps[i].id != ids[k]) continue;
            if (!row) {
                row = &rows[(*n)++];
                row->id = ids[k];
                kind_name(&s->taps[i], row->name);
            }
            add_to_row(row, &s->taps[i]);
        }
    }
    const int first_other = *n;
    for (size_t i = 0; i < s->n_taps; i++) {
        const fh1_report_tap *t = &s->taps[i];
        char name[FH1_TAP_NAME_SIZE];
        int k = first_other;
        if (t->id != FH1_TAP_COUNT) continue;
        kind_name(t, name);
        while (k < *n && strcmp(rows[k].name, name) != 0) k++;
        if (k == *n) {
            rows[(*n)++].id = FH1_TAP_COUNT;
            memcpy(rows[k].name, name, sizeof name);
        }
        add_to_row(&rows[k], t);
    }
    return NULL;
}

const double *fh1_report_series(const fh1_report *r, const fh1_report_subject *s, const fh1_report_kind_row *row,
                                int64_t *n)
{
    return fh1_history_series(r->past, s->label, row->name, n);
}

bool fh1_report_rose(const fh1_report *r, const fh1_report_subject *s, const fh1_report_kind_row *row, double *median)
{
    int64_t n;
    const double *v = fh1_report_series(r, s, row, &n);
    if (!row->worst || n < fh1_rule.trend_runs) return false;
    *median = fh1_history_median(v, n);
    const double margin = row->worst->margin;
    return !isnan(*median) && fh1_within(fh1_rule.trend_least, margin) &&
           !fh1_within(margin, fh1_rule.trend_rise * *median);
}
