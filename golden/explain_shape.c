/* A residual that nothing explains, in words: where it sits says much about what makes it. */
#include "golden/explain.h"

#include "oracle/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nearly all of it. */
#define MOST 0.99

typedef struct {
    const char *name, *names;
    int64_t n;
    double *share; /* [n] of Σ residual² */
} axis;

static fh1_status axis_new(const char *name, const char *names, int64_t n, axis *a)
{
    *a = (axis){name, names, n, calloc((size_t)(n > 0 ? n : 1), sizeof *a->share)};
    return a->share ? NULL : fh1_no_memory((size_t)n * sizeof *a->share, "the shape of a residual");
}

/* What an element weighs: its square error, of elements of another class or beyond their own gauge, where there are
 * such, no others. */
static double weight(const gld_residual *r, const gld_slot *s, double sigmas, bool beyond, int64_t i)
{
    if (r->n_other > 0) return r->other_class[i];
    const double e = fabs(r->residual[i]);
    return beyond && fh1_within(e, fh1_gauge_allowed(fh1_gauge_at(&s->gauge, i), sigmas)) ? 0 : e * e;
}

/* How much each unit, row and column of the call holds. */
static void add_up(const gld_residual *r, const gld_slot *s, axis *unit, axis *row, axis *column)
{
    const double sigmas = fh1_gauge_sigmas(r->n * r->width);
    bool beyond = !s->far && s->gauge.worst;
    double sum = 0;
    for (int64_t i = 0; beyond && i < r->n * r->width; ++i) sum += weight(r, s, sigmas, true, i);
    if (!(sum > 0)) beyond = false;
    for (int64_t i = 0; !beyond && i < r->n * r->width; ++i) sum += weight(r, s, sigmas, false, i);
    for (int64_t i = 0; sum > 0 && i < r->n * r->width; ++i) {
        const double share = weight(r, s, sigmas, beyond, i) / sum;
        unit->share[s->unit[i]] += share;
        row->share[s->row ? s->row[i / r->width] : i / r->width] += share;
        if (s->column) column->share[s->column[i / r->width]] += share;
    }
}

static int64_t largest(const axis *a)
{
    int64_t at = 0;
    for (int64_t i = 1; i < a->n; ++i)
        if (a->share[i] > a->share[at]) at = i;
    return at;
}

/* First and last index that hold more than a thousandth of an even share. */
static void span(const axis *a, int64_t *first, int64_t *last)
{
    *first = a->n, *last = -1;
    for (int64_t i = 0; i < a->n; ++i) {
        if (a->share[i] * (double)a->n < 1 - MOST) continue;
        if (*first == a->n) *first = i;
        *last = i;
    }
}

static void say(char *text, size_t size, const char *format, long long a, long long b, const char *name)
{
    const size_t used = strlen(text);
    snprintf(text + used, size - used, format, used ? ", " : "", name, a, b);
}

/* One index, a stretch of them, or nothing to say. */
static void describe(const axis *a, char *text, size_t size)
{
    if (a->n < 2) return;
    const int64_t top = largest(a);
    int64_t first, last;
    span(a, &first, &last);
    if (a->share[top] >= MOST) say(text, size, "%sonly %s %lld", top, 0, a->name);
    else if (first == 0 && last == a->n - 1) return;
    else if (last == a->n - 1) say(text, size, "%s%s from %lld on", first, 0, a->names);
    else if (last >= first) say(text, size, "%s%s %lld to %lld", first, last, a->names);
}

/* Columns that hold it all and lie one chunk apart: a chunk's first or last token. */
static bool periodic(const axis *column, int64_t Q, char *text, size_t size)
{
    if (Q < 2 || column->n < 2 * Q || column->share[largest(column)] >= MOST) return false;
    for (int64_t phase = 0; phase < Q; ++phase) {
        double share = 0;
        for (int64_t i = phase; i < column->n; i += Q) share += column->share[i];
        if (share < MOST) continue;
        say(text, size, "%s%s %lld of every %lld", phase, Q, "token");
        return true;
    }
    return false;
}

void gld_explain_shape(const gld_residual *r, const gld_slot *s, char *text, size_t size)
{
    const gld_step *step = gld_current(r->j);
    const bool whole = r->id == FH1_TAP_LOSS;
    const bool heads = r->j->c->family == FH1_FALCON_H1 &&
                       (r->id == FH1_TAP_Q_ROPE || r->id == FH1_TAP_K_ROPE || r->id == FH1_TAP_CONTEXT ||
                        r->id == FH1_TAP_SSD || fh1_tap_is_cache(r->id) || r->id == FH1_TAP_DT);
    axis unit = {0}, row = {0}, column = {0};
    text[0] = 0;
    fh1_status st = axis_new(heads ? "head" : "channel", heads ? "heads" : "channels",
                             whole ? 1 : fh1_tap_units(r->j->c, r->id), &unit);
    if (!st) st = axis_new("row", "rows", step->batch.B, &row);
    if (!st) st = axis_new("token", "tokens", step->batch.T, &column);
    if (!st) {
        add_up(r, s, &unit, &row, &column);
        describe(&unit, text, size);
        describe(&row, text, size);
        if (s->column && !periodic(&column, fh1_scan_chunk(r->j->c), text, size)) describe(&column, text, size);
        if (!text[0]) snprintf(text, size, "spread over all heads or channels, rows and tokens");
        if (r->n_other > 0)
            say(text, size, r->n_other > 1 ? "%s%s in %lld elements" : "%s%s in one element", r->n_other, 0,
                "NaN or infinite");
    }
    if (st) snprintf(text, size, "its shape is not known, memory ran out");
    free(unit.share);
    free(row.share);
    free(column.share);
}
