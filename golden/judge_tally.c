#include "golden/judge_tally.h"

#include "oracle/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements of another class are told apart first (class_differs); where truth and judged share an infinity there is
 * nothing left to measure. */
bool gld_judged_here(const gld_tap_errors *t, int64_t i)
{
    return (!t->skip || !t->skip[i]) && isfinite(t->local[i]);
}

/* A power of two near the largest value of the truth: in this unit no square of an f64 overflows or vanishes. */
static double scale_of(const gld_tap_errors *t)
{
    double max = 0;
    int exponent;
    for (int64_t i = 0; i < t->n_tokens * t->width; ++i)
        if (gld_judged_here(t, i)) max = fmax(max, fabs(t->local[i]));
    frexp(max, &exponent);
    return ldexp(1, exponent - 1);
}

/* The emulated square error of an element; an emulated pipeline that overflowed says nothing about an honest one. */
double gld_emulated2(const gld_tap_errors *t, int64_t i)
{
    return t->emulated2 && isfinite(t->emulated2[i]) ? t->emulated2[i] : 0;
}

/* Half an ulp where the larger of two values stands: a rounding at a binade border may go either way. */
static double half_ulp(fh1_dtype type, double a, double b)
{
    return fh1_dtype_ulp(type, fabs(a) > fabs(b) ? a : b) / 2;
}

/* The gauge of an element, with the rounding of a tensor that is stored coarser than the contract says. Truth is an f64
 * computation itself, so an f64 engine is off from it by two gauges. */
fh1_err gld_gauge_of(const gld_tap_errors *t, int64_t i)
{
    fh1_err e = {0};
    if (t->gauge) e = fh1_gauge_at(t->gauge, i);
    if (t->profile->storage == FH1_F64) e = fh1_err_scale(e, 2);
    if (t->stored_coarser) e = fh1_err_half(e, half_ulp(t->ulp_type, t->judged[i], t->local[i]));
    return e;
}

/* Where the variance, a square, is too small for an f64 the worst case is left. */
double gld_gauge_allowed(const gld_tally *y, int64_t i)
{
    const fh1_profile *p = y->t->profile;
    const double allowed = fh1_gauge_allowed(gld_gauge_of(y->t, i), y->sigmas);
    const double truth = fh1_rule.truth * p->u * fabs(y->t->local[i]); /* else a tie at half an ulp is a coin's toss */
    return allowed + fmin(truth, allowed) + p->underflow;
}

/* In the tap's unit. Where the square over- or underflowed: what independent roundings at their largest would have. */
static double variance_of(const gld_tally *y, fh1_err e)
{
    const double independent = (e.worst - e.shared) / y->scale;
    return isnormal(e.variance) ? e.variance / y->scale / y->scale : independent * independent / 3;
}

static double square(double v)
{
    return v * v;
}

/* Never NaN: a bound that is no number allows nothing. */
double gld_margin_of(double err, double allowed)
{
    return isnan(err / allowed) ? (double)INFINITY : err / allowed;
}

/* Element i into its three bins; returns its variance in the tap's unit. */
static double add_element(gld_tally *y, int64_t i)
{
    const gld_tap_errors *t = y->t;
    const fh1_err e = gld_gauge_of(t, i);
    const double err = fh1_error_of(t->judged[i], t->local[i]), allowed = gld_gauge_allowed(y, i);
    const double margin = gld_margin_of(err, allowed), variance = variance_of(y, e), scale = y->scale;
    const double err2 = square(err / scale), emu2 = gld_emulated2(t, i) / scale / scale;
    const double ref2 = square(t->local[i] / scale), shared2 = square(e.shared / scale);
    gld_bin *const bins[] = {&y->tap, &y->unit[t->unit[i]], &y->token[i / t->width]};
    for (int k = 0; k < 3; ++k) {
        gld_bin *b = bins[k];
        if (b->n == 0 || !fh1_within(margin, b->max_margin) || (i < b->argmax && !(margin < b->max_margin))) {
            b->max_margin = margin, b->argmax = i;
            b->err_there = err, b->allowed_there = allowed;
        }
        b->err2 += err2;
        b->emu2 += emu2;
        b->ref2 += ref2;
        b->variance += variance;
        b->shared2 += shared2;
        b->allowed2 += square(allowed / scale);
        b->n += 1;
    }
    y->token[i / t->width].variance2 += variance * variance;
    return variance;
}

typedef struct {
    int64_t key, token;
} look;

static int by_key(const void *a, const void *b)
{
    const look *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

/* The same word at another place is rounded as the first one was: such tokens are one sample, their variances add up
 * before they are squared. */
static void add_up(gld_tally *y, look *looks, double *column)
{
    const gld_tap_errors *t = y->t;
    for (int64_t r = 0; r < t->n_tokens; ++r) looks[r] = (look){t->alike ? t->alike[r] : r, r};
    qsort(looks, (size_t)t->n_tokens, sizeof *looks, by_key);
    for (int64_t r = 0, end; r < t->n_tokens; r = end) {
        memset(column, 0, (size_t)t->width * sizeof *column);
        for (end = r; end < t->n_tokens && looks[end].key == looks[r].key; ++end)
            for (int64_t c = 0, i = looks[end].token * t->width; c < t->width; ++c, ++i)
                if (gld_judged_here(t, i)) column[c] += add_element(y, i);
        for (int64_t c = 0; c < t->width; ++c) {
            y->tap.variance2 += square(column[c]);
            y->unit[t->unit[looks[r].token * t->width + c]].variance2 += square(column[c]);
        }
        y->n_different += 1;
    }
}

fh1_status gld_tally_new(const gld_tap_errors *t, gld_tally *y)
{
    const size_t n = (size_t)(t->n_units + t->n_tokens), rows = (size_t)t->n_tokens, width = (size_t)t->width;
    *y = (gld_tally){.t = t, .sigmas = fh1_gauge_sigmas(t->n_tokens * t->width), .scale = scale_of(t)};
    y->unit = calloc(n + 1, sizeof *y->unit);
    look *looks = malloc((rows + 1) * sizeof *looks);
    double *column = malloc((width + 1) * sizeof *column);
    const bool enough = y->unit && looks && column;
    if (enough) {
        y->token = y->unit + t->n_units;
        add_up(y, looks, column);
    }
    free(looks);
    free(column);
    return enough ? NULL : fh1_no_memory(n * sizeof *y->unit + rows * sizeof *looks, "error statistics");
}

void gld_tally_free(gld_tally *y)
{
    free(y->unit);
    y->unit = NULL;
}
