/* The finger on the bug: what explains the first divergence. Internal to the judge.
 *
 * The residual r = judged - truth of that tap is what is to be explained, both from the judged engine's own recorded
 * values. A cause is run on the same values (a planted fault, a parameter moved a little) and gives its own difference
 * d from truth; its score is the share of Σr² that d takes away, (Σr² - Σ(r - d)²) / Σr². Where the tap nearly passes
 * with the cause in the place of truth, (Σr² - Σ(r - d)²) / (Σr² - noise): what honest rounding leaves is nobody's
 * fault. */
#pragma once

#include "golden/judge_state.h"

enum { GLD_MOST_SUSPECTS = 5 };

/* The tap to be explained, over the elements that are judged and finite on both sides. */
typedef struct {
    gld_judgement *j;
    const gld_slot *slot;
    fh1_tap_id id;
    int64_t layer, n, width;
    const double *judged, *local; /* [n, width] */
    double *residual;             /* [n, width]; 0 where an element does not count */
    bool *counts;
    bool *other_class; /* finite on one side only */
    int64_t n_other;
    double sum;   /* Σ residual² */
    double noise; /* of it, what an honest engine would have left: Σ V of the gauge, or of the emulated pipeline */
} gld_residual;

/* Looks for causes of j->first, whose slots must be those of the current step; list[GLD_MOST_SUSPECTS], best first. */
fh1_status gld_explain(gld_judgement *j, gld_slot *s, fh1_suspect *list, int *n);

/* The score of a cause that would have given values[n, width]; below 0 where they make it worse. */
double gld_explained(const gld_residual *r, const double *values);

/* The tap's values when `e` runs `m` over the current step from the judged values; out [n, width]. */
fh1_status gld_replay(gld_judgement *j, gld_slot *s, fh1_engine *e, const fh1_model *m, double *out);
/* About how much one replay costs, in multiply-adds. */
double gld_replay_work(gld_judgement *j, const gld_slot *s);

/* Adds to the list if it is good enough and better than what is there; `handicap` is taken off where causes compete. */
void gld_suspect_add(fh1_suspect *list, int *n, const fh1_suspect *s, double handicap);

/* Parameters and multipliers of the tap's op, moved a little. */
fh1_status gld_explain_parameters(const gld_residual *r, gld_slot *s, fh1_suspect *list, int *n);
/* Where the residual sits, in words: heads, channels, tokens, rows. */
void gld_explain_shape(const gld_residual *r, const gld_slot *s, char *text, size_t size);
