/* What the rules of one tap look at: errors and gauges added up over the tap, its channels or heads, its tokens.
 * Internal to the judge. */
#pragma once

#include "golden/judge_rules.h"

/* Sums over the whole tap, one channel or head, or one token; in the tap's unit. */
typedef struct {
    double err2, emu2, ref2;
    double variance, shared2, allowed2; /* of the gauge */
    double variance2;                   /* Σ V², where V is first added up over elements that are the same */
    double max_margin, err_there, allowed_there;
    int64_t n, argmax;
} gld_bin;

typedef struct {
    const gld_tap_errors *t;
    double sigmas;
    double scale; /* the tap's unit: a power of two near the largest value of the truth */
    gld_bin tap, *unit, *token;
    int64_t n_different; /* tokens of the tap that differ from each other */
} gld_tally;

/* FH1_E_INTERNAL without memory; free in any case. */
fh1_status gld_tally_new(const gld_tap_errors *t, gld_tally *y);
void gld_tally_free(gld_tally *y);

/* Elements of another class are told apart first; where truth and judged share an infinity nothing is left to measure.
 */
bool gld_judged_here(const gld_tap_errors *t, int64_t i);
/* The emulated square error of an element; an emulated pipeline that overflowed says nothing about an honest one. */
double gld_emulated2(const gld_tap_errors *t, int64_t i);
/* The gauge of an element, with the rounding of a tensor that is stored coarser than the contract says. */
fh1_err gld_gauge_of(const gld_tap_errors *t, int64_t i);
double gld_gauge_allowed(const gld_tally *y, int64_t i);
/* Never NaN: a bound that is no number allows nothing. */
double gld_margin_of(double err, double allowed);
