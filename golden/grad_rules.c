#include "golden/grad_rules.h"

#include "golden/judge_tally.h"
#include "oracle/compare.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Sums over the tensor or one row, in the tensor's unit. */
typedef struct {
    double err2, spread2, ref2, ulp2;
    int64_t n, argmax;
    double max;
} sums;

typedef struct {
    const gld_grad_errors *t;
    double unit; /* a power of two near the largest value: no square over- or underflows */
    sums all;
    double scatter; /* what an RMS over few independent errors is off by: two of its own standard errors */
    double share;   /* spread of the tensor over its RMS */
} tally;

static double unit_of(const gld_grad_errors *t)
{
    double max = 0;
    int exponent;
    for (int64_t i = 0; i < t->rows * t->width; ++i) {
        if (isfinite(t->truth[i])) max = fmax(max, fabs(t->truth[i]));
        if (isfinite(t->judged[i])) max = fmax(max, fabs(t->judged[i]));
    }
    frexp(max, &exponent);
    return ldexp(1, exponent - 1);
}

static void add(const tally *y, sums *s, int64_t i)
{
    const gld_grad_errors *t = y->t;
    const double err = fh1_error_of(t->judged[i], t->truth[i]) / y->unit, ref = t->truth[i] / y->unit;
    const double ulp = fh1_rule.chain_ulps * fh1_dtype_ulp(t->stored, t->truth[i]) / y->unit;
    const double spread2 = t->spread2[i] / y->unit / y->unit;
    s->err2 += err * err;
    s->ref2 += ref * ref;
    s->ulp2 += ulp * ulp;
    if (isfinite(spread2)) s->spread2 += spread2;
    if (s->n++ == 0 || !fh1_within(err, s->max)) {
        s->max = err;
        s->argmax = i;
    }
}

static double rms(const tally *y, double sum, int64_t n)
{
    return n > 0 ? y->unit * sqrt(sum / (double)n) : 0;
}

static double least(const tally *y)
{
    return y->t->profile->relative * rms(y, y->all.ref2, y->all.n) + y->t->profile->underflow;
}

/* The spread of a row is a poor number where few tokens went into it: a few runs of one or two roundings may be small
 * by luck. The tensor's relative spread stands behind it, and the tensor's spread itself the more, the fewer they are.
 */
static double row_spread(const tally *y, const sums *row)
{
    const double own = rms(y, row->spread2, row->n), like_all = y->share * rms(y, row->ref2, row->n);
    return fmax(fmax(own, like_all), rms(y, y->all.spread2, y->all.n) * (y->scatter - 1) / 2);
}

typedef struct {
    double margin, allowed, err;
    int64_t where;
    const char *rule;
} decision;

static void decide(decision *d, double err, double allowed, int64_t where, const char *rule)
{
    const double margin = gld_margin_of(err, allowed);
    if (d->rule && fh1_within(margin, d->margin)) return;
    *d = (decision){margin, allowed, err, where, rule};
}

static bool class_differs(const gld_grad_errors *t, decision *d)
{
    for (int64_t i = 0; i < t->rows * t->width; ++i) {
        const double err = fh1_error_of(t->judged[i], t->truth[i]);
        if (fh1_within(err, DBL_MAX)) continue;
        *d = (decision){(double)INFINITY, 0, err, i,
                        isnan(t->judged[i]) ? "NaN" : "infinite where truth is finite, or the reverse"};
        return true;
    }
    return false;
}

static double element_allowed(const tally *y, double row, int64_t i)
{
    const gld_grad_errors *t = y->t;
    const double own = isfinite(t->spread2[i]) ? sqrt(t->spread2[i]) : 0;
    return fh1_rule.chain_element * y->scatter * fmax(own, row) + least(y) +
           fh1_rule.chain_ulps * fh1_dtype_ulp(t->stored, t->truth[i]);
}

static void bin(fh1_tap_result *out, double margin)
{
    int exponent = 0;
    if (margin > 0) frexp(fmin(margin, DBL_MAX), &exponent);
    const int at = margin > 0 ? exponent + 11 : 0;
    out->histogram[at < 0 ? 0 : at >= FH1_MARGIN_BINS ? FH1_MARGIN_BINS - 1 : at] += 1;
}

static void rule_rows(const tally *y, decision *d, fh1_tap_result *out)
{
    const gld_grad_errors *t = y->t;
    const double all = rms(y, y->all.spread2, y->all.n);
    for (int64_t r = 0; r < t->rows; ++r) {
        sums row = {0};
        for (int64_t i = r * t->width; i < (r + 1) * t->width; ++i) add(y, &row, i);
        if (t->lookup && !(row.ref2 > 0) && !(row.spread2 > 0)) {
            if (row.err2 > 0) decide(d, y->unit * row.max, 0, row.argmax, "a row that no token reads is exactly zero");
            continue;
        }
        const bool speaks = t->width >= fh1_rule.min_elements;
        const double spread = speaks ? row_spread(y, &row) : fmax(all, row_spread(y, &row));
        const double err = rms(y, row.err2, row.n);
        const double allowed = fh1_rule.band_unit * y->scatter * spread + rms(y, row.ulp2, row.n) + least(y);
        /* A row decides only where it fails: the tensor is what is followed over time. */
        if (speaks && !fh1_within(err, allowed)) decide(d, err, allowed, row.argmax, "RMS of one row");
        for (int64_t i = r * t->width; i < (r + 1) * t->width; ++i) {
            const double e = fh1_error_of(t->judged[i], t->truth[i]), a = element_allowed(y, spread, i);
            bin(out, gld_margin_of(e, a));
            if (!fh1_within(e, a)) decide(d, e, a, i, "one element");
        }
    }
}

static void tell(const tally *y, const decision *d, double allowed, fh1_tap_result *out)
{
    const sums *a = &y->all;
    out->margin = d->margin;
    out->allowed = d->allowed;
    out->max_err = d->err;
    out->rms_ratio = a->spread2 > 0 ? sqrt(a->err2 / a->spread2) : (double)NAN;
    out->rel_rms = a->ref2 > 0 ? sqrt(a->err2 / a->ref2) : rms(y, a->err2, a->n);
    out->free_rms = out->rel_rms;
    out->verdict = FH1_PASS;
    if (!fh1_within(d->margin, 1)) {
        out->verdict = FH1_FAIL;
        snprintf(out->reason, sizeof out->reason, "%s", d->rule);
    } else if (!(a->ref2 > 0)) {
        out->verdict = FH1_MISTRUSTED;
        snprintf(out->reason, sizeof out->reason, "the true gradient is zero everywhere");
    } else if (fh1_within(fh1_rule.vacuous * rms(y, a->ref2, a->n), allowed)) {
        out->verdict = FH1_MISTRUSTED;
        snprintf(out->reason, sizeof out->reason, "the gradient is as small as what is allowed: zeros would pass");
    } else if (a->n >= fh1_rule.min_elements && out->rms_ratio < fh1_rule.band_low &&
               fh1_dtype_bits(y->t->profile->storage) <= 16) {
        snprintf(out->note, sizeof out->note,
                 "more exact than contract %s: RMS error %.2g of its pipeline's; --contract fp32 looks closer",
                 y->t->profile->name, out->rms_ratio);
    }
}

void gld_grad_rule(const gld_grad_errors *t, fh1_tap_result *out, int64_t *where)
{
    tally y = {.t = t, .unit = unit_of(t)};
    decision d = {0};
    const int64_t n = t->rows * t->width;
    memset(out->histogram, 0, sizeof out->histogram);
    for (int64_t i = 0; i < n; ++i) add(&y, &y.all, i);
    y.scatter = 1 + 2 / sqrt((double)(t->samples < n ? (t->samples > 0 ? t->samples : 1) : n));
    y.share = y.all.ref2 > 0 ? sqrt(y.all.spread2 / y.all.ref2) : 0;
    const double allowed =
        fh1_rule.band_tap * y.scatter * rms(&y, y.all.spread2, n) + rms(&y, y.all.ulp2, n) + least(&y);
    if (!class_differs(t, &d)) {
        decide(&d, rms(&y, y.all.err2, n), allowed, y.all.argmax, "RMS of the tensor");
        rule_rows(&y, &d, out);
    }
    *where = d.where;
    tell(&y, &d, allowed, out);
}
