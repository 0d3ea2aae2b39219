#include "golden/judge_tally.h"

#include "oracle/compare.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double margin, allowed, err;
    int64_t where;
    const char *rule;
} decision;

static void decide(decision *d, double margin, double allowed, double err, int64_t where, const char *rule)
{
    if (d->rule && fh1_within(margin, d->margin)) return;
    *d = (decision){margin, allowed, err, where, rule};
}

/* Elements whose class (finite, infinite, NaN) differs decide before any RMS is formed. */
static bool class_differs(const gld_tap_errors *t, decision *d)
{
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i)
        if ((!t->skip || !t->skip[i]) && !fh1_within(fh1_error_of(t->judged[i], t->local[i]), DBL_MAX)) {
            *d = (decision){(double)INFINITY, 0, fh1_error_of(t->judged[i], t->local[i]), i,
                            isnan(t->judged[i]) ? "NaN" : "infinite where truth is finite, or the reverse"};
            return true;
        }
    return false;
}

static double rms(const gld_tally *y, double sum, int64_t n)
{
    return y->scale * sqrt(sum / (double)n);
}

/* ---- every input of the op was recorded: the gauge decides ---- */

static bool by_gauge(const gld_tap_errors *t)
{
    return !t->far && t->gauge;
}

/* RMS error over n elements: what they share, and the predicted RMS with its own scatter, sigmas/√(2n), where n counts
 * the elements that weigh: (ΣV)²/ΣV². */
static double rms_allowed(const gld_tally *y, const gld_bin *b)
{
    const double weighty = b->variance2 > 0 ? b->variance * b->variance / b->variance2 : 1;
    const double independent = fmax(1, weighty / (double)y->t->correlated);
    const double scatter = 1 + y->sigmas / sqrt(2 * independent);
    const double independent_rms = fh1_rule.rms_band * scatter * rms(y, b->variance, b->n);
    return rms(y, b->shared2, b->n) + independent_rms + y->t->profile->underflow;
}

static void group(const gld_tally *y, const gld_bin *b, const char *rule, decision *d)
{
    if (b->n < fh1_rule.min_elements) return;
    const double allowed = rms_allowed(y, b), err = rms(y, b->err2, b->n);
    /* A group decides only where it fails: otherwise the largest element is the one to follow over time. */
    if (!fh1_within(err, allowed)) decide(d, gld_margin_of(err, allowed), allowed, err, b->argmax, rule);
}

static void against_gauge(const gld_tally *y, decision *d)
{
    const gld_bin *b = &y->tap;
    decide(d, b->max_margin, b->allowed_there, b->err_there, b->argmax, "one element, by its gauge");
    group(y, b, "RMS of the tap, by its gauge", d);
    for (int64_t i = 0; i < y->t->n_units; ++i) group(y, &y->unit[i], "RMS of one channel or head, by its gauge", d);
    for (int64_t i = 0; i < y->t->n_tokens; ++i) group(y, &y->token[i], "RMS of one token, by its gauge", d);
}

/* ---- a chain of ops: the emulated pipeline, and the gauge of the last op ---- */

/* Behind a chain the errors of one token's elements are not independent, they came through the same hidden vector: the
 * tokens are the samples, and an RMS over n different ones scatters by about 1/√n; two such steps are allowed. */
static double chain_scatter(const gld_tally *y)
{
    return 1 + 2 / sqrt((double)y->n_different);
}

static double chain_allowed(const gld_tally *y, const gld_bin *b, double factor)
{
    return factor * chain_scatter(y) * rms(y, b->emu2, b->n) + rms(y, b->allowed2, b->n);
}

static void chain_group(const gld_tally *y, const gld_bin *b, double factor, const char *rule, decision *d)
{
    const double allowed = chain_allowed(y, b, factor), err = rms(y, b->err2, b->n);
    if (b == &y->tap || !fh1_within(err, allowed))
        decide(d, gld_margin_of(err, allowed), allowed, err, b->argmax, rule);
}

/* The tap stands in for a channel, head or token that is too small to say anything. */
static double emulated_rms(const gld_tally *y, const gld_bin *b)
{
    if (b->n < fh1_rule.min_elements) b = &y->tap;
    return rms(y, b->emu2, b->n);
}

/* No single element may be far off either: the RMS of 4096 tokens would not see it. The yardstick is the emulated error
 * of its channel or head, of its token, or its own, whichever is largest. */
static double chain_element(const gld_tally *y, int64_t i)
{
    const gld_tap_errors *t = y->t;
    const double of_unit = emulated_rms(y, &y->unit[t->unit[i]]), of_token = emulated_rms(y, &y->token[i / t->width]);
    const double emulated = fmax(sqrt(gld_emulated2(t, i)), fmax(of_unit, of_token));
    return fh1_rule.chain_element * emulated + gld_gauge_allowed(y, i) +
           fh1_rule.chain_ulps * fh1_dtype_ulp(t->ulp_type, t->local[i]);
}

static void against_emulated(const gld_tally *y, decision *d)
{
    const gld_tap_errors *t = y->t;
    chain_group(y, &y->tap, fh1_rule.band_tap, "RMS of the tap, behind taps that were not recorded", d);
    for (int64_t i = 0; i < t->n_units; ++i)
        if (y->unit[i].n >= fh1_rule.min_elements)
            chain_group(y, &y->unit[i], fh1_rule.band_unit,
                        "RMS of one channel or head, behind taps that were not recorded", d);
    for (int64_t i = 0; i < t->n_tokens; ++i)
        if (y->token[i].n >= fh1_rule.min_elements)
            chain_group(y, &y->token[i], fh1_rule.band_token, "RMS of one token, behind taps that were not recorded",
                        d);
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i) {
        if (!gld_judged_here(t, i)) continue;
        const double allowed = chain_element(y, i), err = fh1_error_of(t->judged[i], t->local[i]);
        if (!fh1_within(err, allowed))
            decide(d, gld_margin_of(err, allowed), allowed, err, i, "one element, behind taps that were not recorded");
    }
}

/* Behind a chain, without an emulated pipeline (an f64 engine): a share of the tap's RMS, and the gauge. */
static double share_of_tap(const gld_tally *y)
{
    return y->t->profile->relative * rms(y, y->tap.ref2, y->tap.n);
}

static void against_truth(const gld_tally *y, decision *d)
{
    const gld_tap_errors *t = y->t;
    const double share = share_of_tap(y);
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i) {
        if (!gld_judged_here(t, i)) continue;
        const double err = fh1_error_of(t->judged[i], t->local[i]), allowed = share + gld_gauge_allowed(y, i);
        decide(d, gld_margin_of(err, allowed), allowed, err, i, "one element, as a share of the tap");
    }
}

/* ---- greedy tokens ---- */

static int64_t argmax(const double *row, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; ++i)
        if (row[i] > row[best]) best = i;
    return best;
}

/* The standard error of one logit, by its gauge or, behind a chain, by the emulated error of its token. */
static double deviation(const gld_tally *y, int64_t i)
{
    const gld_tap_errors *t = y->t;
    const fh1_err e = gld_gauge_of(t, i);
    const double chain = !by_gauge(t) && t->emulated2 ? emulated_rms(y, &y->token[i / t->width]) : 0;
    return hypot(sqrt(e.variance), chain) + e.shared + t->profile->underflow + t->profile->relative * fabs(t->local[i]);
}

/* Another greedy token than truth's is honest where the true gap between the two is within rounding: the token is what
 * people see, and a flip beyond that is wrong however small the error looks beside all logits. */
static void flipped(const gld_tally *y, decision *d)
{
    const gld_tap_errors *t = y->t;
    for (int64_t r = 0; t->id == FH1_TAP_LOGITS && r < t->n_tokens; ++r) {
        const double *judged = t->judged + r * t->width, *local = t->local + r * t->width;
        const int64_t token = argmax(judged, t->width), truth = argmax(local, t->width);
        if (token == truth || !isfinite(local[truth])) continue;
        const double gap = local[truth] - local[token];
        const double sigma = fmax(deviation(y, r * t->width + token), deviation(y, r * t->width + truth));
        const double allowed = fh1_rule.flip_sigmas * sigma;
        if (!fh1_within(gap, allowed))
            decide(d, gap / allowed, allowed, gap, r * t->width + token,
                   "another greedy token, further than rounding explains");
    }
}

/* ---- the verdict and what a report shows ---- */

static double allowed_at(const gld_tally *y, double share, int64_t i)
{
    const gld_tap_errors *t = y->t;
    if (by_gauge(t)) return gld_gauge_allowed(y, i);
    return t->emulated2 ? chain_element(y, i) : share + gld_gauge_allowed(y, i);
}

static void fill_histogram(const gld_tally *y, fh1_tap_result *out)
{
    const gld_tap_errors *t = y->t;
    memset(out->histogram, 0, sizeof out->histogram);
    memset(out->token_margin, 0, sizeof out->token_margin);
    const int64_t columns = t->column ? t->n_columns : 0;
    const double share = share_of_tap(y);
    out->n_token_bins = (int)(columns < FH1_TOKEN_BINS ? columns : FH1_TOKEN_BINS);
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i) {
        if (!gld_judged_here(t, i)) continue;
        const double margin = gld_margin_of(fh1_error_of(t->judged[i], t->local[i]), allowed_at(y, share, i));
        int exponent = 0;
        if (margin > 0) frexp(fmin(margin, DBL_MAX), &exponent); /* margin in [2^(exponent-1), 2^exponent) */
        const int bin_of = margin > 0 ? exponent + 11 : 0;
        out->histogram[bin_of < 0 ? 0 : bin_of >= FH1_MARGIN_BINS ? FH1_MARGIN_BINS - 1 : bin_of] += 1;
        if (out->n_token_bins == 0) continue;
        double *at = &out->token_margin[t->column[i / t->width] * out->n_token_bins / columns];
        if (!fh1_within(margin, *at)) *at = margin;
    }
}

/* What is allowed is as large as the values themselves: a tap of zeros would pass. */
static bool vacuous(const gld_tally *y)
{
    const gld_bin *b = &y->tap;
    const bool chain = y->t->emulated2 && !by_gauge(y->t);
    const double allowed = chain ? chain_allowed(y, b, fh1_rule.band_tap) : rms(y, b->allowed2, b->n);
    return fh1_within(fh1_rule.vacuous * rms(y, b->ref2, b->n), allowed);
}

static void tell(const gld_tally *y, const decision *d, fh1_tap_result *out)
{
    const gld_tap_errors *t = y->t;
    const gld_bin *tap = &y->tap;
    out->margin = d->margin;
    out->allowed = d->allowed;
    out->max_err = d->err;
    out->rms_ratio = t->emulated2 && tap->emu2 > 0 ? sqrt(tap->err2 / tap->emu2) : (double)NAN;
    out->rel_rms = tap->ref2 > 0 ? sqrt(tap->err2 / tap->ref2) : rms(y, tap->err2, tap->n);
    out->free_rms = t->free_rms;
    out->reason[0] = out->note[0] = 0;
    if (!fh1_within(d->margin, 1)) {
        out->verdict = FH1_FAIL;
        snprintf(out->reason, sizeof out->reason, "%s", d->rule);
    } else if (!(tap->ref2 > 0)) {
        out->verdict = FH1_MISTRUSTED;
        snprintf(out->reason, sizeof out->reason, "truth is zero everywhere");
    } else if (vacuous(y)) {
        out->verdict = FH1_MISTRUSTED;
        snprintf(out->reason, sizeof out->reason, "the values are as small as what is allowed: zeros would pass");
    } else {
        out->verdict = FH1_PASS;
        if (tap->n >= fh1_rule.min_elements && out->rms_ratio < fh1_rule.band_low && fh1_dtype_bits(t->ulp_type) <= 16)
            snprintf(out->note, sizeof out->note, "more exact than contract %s: RMS error %.2g of its pipeline's",
                     t->profile->name, out->rms_ratio);
    }
}

static void nothing_judged(fh1_tap_result *out)
{
    out->verdict = FH1_SKIP;
    out->margin = out->rms_ratio = out->max_err = out->allowed = out->rel_rms = out->free_rms = (double)NAN;
    snprintf(out->reason, sizeof out->reason,
             "nothing to judge in this step: no real token, no element, or nothing finite");
}

fh1_status gld_judge_tap(const gld_tap_errors *t, fh1_tap_result *out, int64_t *where)
{
    gld_tally y;
    decision d = {0};
    *where = 0;
    fh1_status s = gld_tally_new(t, &y);
    if (s) {
        gld_tally_free(&y);
        return s;
    }
    const bool differs = class_differs(t, &d);
    if (y.tap.n == 0 && !differs) {
        nothing_judged(out);
    } else {
        if (differs) (void)0;
        else if (by_gauge(t)) against_gauge(&y, &d);
        else if (t->emulated2) against_emulated(&y, &d);
        else against_truth(&y, &d);
        if (!differs) flipped(&y, &d);
        tell(&y, &d, out);
        fill_histogram(&y, out);
        *where = d.where;
    }
    gld_tally_free(&y);
    return NULL;
}
