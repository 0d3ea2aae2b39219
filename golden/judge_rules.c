#include "golden/judge_rules.h"

#include "oracle/compare.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The constants of the rules, each with its reading; the derivations are in docs/numerics.md. */
#define SIGMAS 4.0      /* of a sum of independent roundings: one element in 16 000 would exceed it */
#define RMS_TAP 2.0     /* whole tap against the emulated pipeline */
#define RMS_UNIT 4.0    /* one channel or head: fewer elements, more scatter */
#define RMS_TOKEN 8.0   /* one token: an error that sits at one place only */
#define MIN_ELEMENTS 32 /* below, a ratio of two RMS values means little */
#define EXACT_RELATIVE 1e-11

typedef struct {
    double err2, emu2, ref2, floor2;
    double max_err;
    int64_t n, argmax;
} bin;

static void bin_add(bin *b, double err, double emu2, double ref, double floor, int64_t i)
{
    if (b->n == 0 || !fh1_within(err, b->max_err)) {
        b->max_err = err;
        b->argmax = i;
    }
    b->err2 += err * err;
    b->emu2 += emu2;
    b->ref2 += ref * ref;
    b->floor2 += floor * floor;
    b->n += 1;
}

/* RMS error over RMS allowed, where allowed = max(factor · emulated, one ulp). */
static double bin_margin(const bin *b, double factor, double *allowed)
{
    const double n = (double)b->n, emu = sqrt(b->emu2 / n), floor = sqrt(b->floor2 / n);
    *allowed = factor * emu > floor ? factor * emu : floor;
    if (!(*allowed > 0)) *allowed = DBL_MIN;
    return sqrt(b->err2 / n) / *allowed;
}

/* Elements of another class are told apart first (class_differs); where truth and judged share an infinity there is
 * nothing left to measure. */
static bool judged_here(const gld_tap_errors *t, int64_t i)
{
    return (!t->skip || !t->skip[i]) && isfinite(t->local[i]);
}

/* The emulated square error of an element; an emulated pipeline that overflowed says nothing about an honest one. */
static double emulated2(const gld_tap_errors *t, int64_t i)
{
    return t->emulated2 && isfinite(t->emulated2[i]) ? t->emulated2[i] : 0;
}

/* Half an ulp where the larger of two values stands: a rounding at a binade border may go either way. */
static double half_ulp(fh1_dtype type, double a, double b)
{
    return fh1_dtype_ulp(type, fabs(a) > fabs(b) ? a : b) / 2;
}

/* Linear layers, per element: half an ulp for each declared rounding and SIGMAS·√d·u·Σ|w·x| for the sum. */
static double linear_allowed(const gld_tap_errors *t, int64_t i)
{
    double allowed = half_ulp(t->ulp_type, t->judged[i], t->local[i]);
    if (t->id == FH1_TAP_LOGITS && t->multiplier != 0)
        allowed +=
            fabs(t->multiplier) * half_ulp(t->ulp_type, t->judged[i] / t->multiplier, t->local[i] / t->multiplier);
    return allowed + SIGMAS * sqrt((double)t->chain) * t->profile->u * t->abs_sum[i];
}

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

static void per_element(const gld_tap_errors *t, double exact_allowed, decision *d)
{
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i) {
        if (!judged_here(t, i)) continue;
        const double err = fh1_error_of(t->judged[i], t->local[i]);
        const double allowed = exact_allowed > 0 ? exact_allowed : linear_allowed(t, i);
        decide(d, err / allowed, allowed, err, i, exact_allowed > 0 ? "1e-11 of the RMS" : "sum and rounding bound");
    }
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

static void bins(const gld_tap_errors *t, bin *tap, bin *unit, bin *token)
{
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i) {
        if (!judged_here(t, i)) continue;
        const double err = fh1_error_of(t->judged[i], t->local[i]);
        const double emu = emulated2(t, i);
        double floor = fh1_dtype_ulp(t->ulp_type, t->local[i]);
        if (t->slack) floor += t->slack[i];
        bin_add(tap, err, emu, t->local[i], floor, i);
        bin_add(&unit[t->unit[i]], err, emu, t->local[i], floor, i);
        bin_add(&token[i / t->width], err, emu, t->local[i], floor, i);
    }
}

static void per_group(const bin *b, int64_t n, double factor, const char *rule, decision *d)
{
    for (int64_t g = 0; g < n; ++g) {
        if (b[g].n < MIN_ELEMENTS) continue;
        double allowed;
        const double margin = bin_margin(&b[g], factor, &allowed);
        /* A group decides only where it fails: otherwise the tap-wide figure is the one to follow over time. */
        if (!fh1_within(margin, 1)) decide(d, margin, allowed, b[g].max_err, b[g].argmax, rule);
    }
}

/* Behind a chain of ops the errors of one token's elements are not independent, they came through the same hidden
 * vector: the tokens are the samples, and an RMS over n of them scatters by about 1/√n; two such steps are allowed. */
static double scatter(const gld_tap_errors *t)
{
    return t->far ? 1 + 2 / sqrt((double)t->n_tokens) : 1;
}

/* The tap stands in for a channel, head or token that is too small to say anything. */
static double mean_emulated2(const bin *b, const bin *tap)
{
    if (b->n < MIN_ELEMENTS) b = tap;
    return b->emu2 / (double)b->n;
}

/* One element against its channel or head and its token: `rms` times their emulated RMS, and `floors` ulps, since an
 * element far larger than its neighbours rounds in its own ulps. */
typedef struct {
    double rms, floors;
} element_rule;

/* Where a 16-bit store follows a handful of f32 operations, an honest engine has the emulated value or a neighbour of
 * it. Sums with cancellation and f32 stores scatter more; a chain of ops has the longest tails. */
static element_rule rule_for(const gld_tap_errors *t)
{
    const bool sums = t->id == FH1_TAP_SSD || t->id == FH1_TAP_CONTEXT || t->id == FH1_TAP_GATED;
    if (t->far) return (element_rule){20, 4};
    if (sums || fh1_dtype_bits(t->ulp_type) > 16) return (element_rule){10, 4};
    return (element_rule){4, 2};
}

/* No single element may be far off either: the RMS of 4096 tokens would not see it. The yardstick is the emulated error
 * of its channel or head, of its token, or its own, whichever is largest. */
static void one_element(const gld_tap_errors *t, const bin *tap, const bin *unit, const bin *token, decision *d)
{
    const element_rule rule = rule_for(t);
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i) {
        if (!judged_here(t, i)) continue;
        const double of_unit = mean_emulated2(&unit[t->unit[i]], tap);
        const double of_token = mean_emulated2(&token[i / t->width], tap);
        double emu2 = emulated2(t, i);
        if (emu2 < of_unit) emu2 = of_unit;
        if (emu2 < of_token) emu2 = of_token;
        const double floor = fh1_dtype_ulp(t->ulp_type, t->local[i]) + (t->slack ? t->slack[i] : 0);
        const double allowed = rule.rms * sqrt(emu2) + rule.floors * floor;
        const double err = fh1_error_of(t->judged[i], t->local[i]);
        if (!fh1_within(err, allowed)) decide(d, err / allowed, allowed, err, i, "one element");
    }
}

/* A table is read, not computed: only the rounding to the stored type is left. */
static void looked_up(const gld_tap_errors *t, decision *d)
{
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i) {
        if (!judged_here(t, i)) continue;
        const double err = fh1_error_of(t->judged[i], t->local[i]);
        const double allowed = half_ulp(t->ulp_type, t->judged[i], t->local[i]);
        decide(d, err / allowed, allowed, err, i, "half an ulp of a table entry");
    }
}

/* Everything that is no matrix product: against the emulated pipeline. */
static void against_emulated(const gld_tap_errors *t, const bin *tap, const bin *unit, const bin *token, decision *d)
{
    double allowed;
    const double margin = bin_margin(tap, RMS_TAP * scatter(t), &allowed);
    decide(d, margin, allowed, tap->max_err, tap->argmax, "RMS of the tap");
    per_group(unit, t->n_units, RMS_UNIT * scatter(t), "RMS of one channel or head", d);
    /* one token is one sample of a chain's error */
    per_group(token, t->n_tokens, RMS_TOKEN * (t->far ? 2 : 1) * scatter(t), "RMS of one token", d);
    one_element(t, tap, unit, token, d);
}

static void tell(const gld_tap_errors *t, const bin *tap, const decision *d, fh1_tap_result *out)
{
    const double n = (double)tap->n;
    out->margin = d->margin;
    out->allowed = d->allowed;
    out->max_err = d->err;
    out->rms_ratio = t->emulated2 && tap->emu2 > 0 ? sqrt(tap->err2 / tap->emu2) : (double)NAN;
    out->rel_rms = tap->ref2 > 0 ? sqrt(tap->err2 / tap->ref2) : sqrt(tap->err2 / n);
    out->free_rms = t->free_rms;
    out->reason[0] = 0;
    if (!fh1_within(d->margin, 1)) {
        out->verdict = FH1_FAIL;
        snprintf(out->reason, sizeof out->reason, "%s", d->rule);
    } else if (!(tap->ref2 > 0)) {
        out->verdict = FH1_MISTRUSTED;
        snprintf(out->reason, sizeof out->reason, "truth is zero everywhere");
    } else {
        out->verdict = FH1_PASS;
    }
}

/* RMS of the truth, scaled so that the squares of f64 values cannot overflow. */
static double truth_rms(const gld_tap_errors *t, const bin *tap)
{
    double max = 0, sum = 0;
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i)
        if (judged_here(t, i) && fabs(t->local[i]) > max) max = fabs(t->local[i]);
    for (int64_t i = 0; i < t->n_tokens * t->width && max > 0; ++i)
        if (judged_here(t, i)) sum += (t->local[i] / max) * (t->local[i] / max);
    return max * sqrt(sum / (double)tap->n);
}

fh1_status gld_judge_tap(const gld_tap_errors *t, fh1_tap_result *out, int64_t *where)
{
    const size_t n = (size_t)(t->n_units + t->n_tokens);
    bin tap = {0}, *unit = calloc(n ? n : 1, sizeof *unit), *token = unit ? unit + t->n_units : NULL;
    if (!unit) return fh1_no_memory(n * sizeof *unit, "error statistics");
    bins(t, &tap, unit, token);
    decision d = {0};
    *where = 0;
    const bool differs = class_differs(t, &d);
    if (tap.n == 0 && !differs) {
        free(unit);
        out->verdict = FH1_SKIP;
        out->margin = out->rms_ratio = out->max_err = out->allowed = out->rel_rms = out->free_rms = (double)NAN;
        snprintf(out->reason, sizeof out->reason, "no real token, or nothing finite, in this step");
        return NULL;
    }
    if (!differs) {
        const bool exact = t->profile->storage == FH1_F64;
        const double bound = EXACT_RELATIVE * truth_rms(t, &tap);
        if (exact) per_element(t, bound > 0 ? bound : DBL_MIN, &d);
        else if (t->abs_sum) per_element(t, 0, &d);
        else if (t->id == FH1_TAP_EMBED) looked_up(t, &d);
        else against_emulated(t, &tap, unit, token, &d);
    }
    tell(t, &tap, &d, out);
    *where = d.where;
    free(unit);
    return NULL;
}
