/* The rules that turn one tap's errors into a verdict (docs/numerics.md, "What is allowed"). Internal to
 * the judge and its tests. */
#pragma once

#include "oracle/contract.h"
#include "oracle/report.h"

/* One tap of one step, flattened: n_tokens rows of `width` elements. For cache taps a "token" is a row of
 * the batch. All arrays have n_tokens * width entries. */
typedef struct {
    fh1_tap_id id;
    const fh1_profile *profile;
    fh1_dtype ulp_type; /* the coarser of the contract's type for this tap and the tensor's own */
    int64_t n_tokens, width;
    const double *judged;
    const double *local;     /* f64 from the judged engine's own upstream */
    double free_rms;         /* relative error against truth's own upstream, passed on to the report */
    const double *emulated2; /* mean square error of the contract's pipeline, run from the judged upstream, per
                                element; NULL under `exact` */
    const double *abs_sum;   /* linear taps whose input was recorded: Σ|w·x|; NULL otherwise */
    const double *slack;     /* what f32 arithmetic alone may cost at each element, see gld_slack */
    const bool *skip;        /* [n_tokens*width] elements that are not judged, or NULL */
    const int32_t *unit;     /* [n_tokens*width] channel or head of each element */
    int64_t n_units;
    bool far;          /* taps between the recorded ones are missing: a chain of ops, see RMS_TAP */
    int64_t chain;     /* linear taps: length of the sum */
    double multiplier; /* linear taps: factor applied after the product (logits), else 1 */
} gld_tap_errors;

/* Fills verdict, reason, margin, rms_ratio, max_err, allowed, rel_rms, free_rms of `out` and returns the
 * flat index of the deciding element (the largest error where nothing fails). FH1_E_INTERNAL without memory. */
fh1_status gld_judge_tap(const gld_tap_errors *t, fh1_tap_result *out, int64_t *where);

/* slack[n*width]: the f32 roundings inside an op that all elements of a row or head may share (a norm's reciprocal
 * root, an angle, a softplus near cancellation, the decay sum of a chunk). With few elements their size in the emulated
 * pipeline is luck, so they are added to the floor of the RMS rules. Derived in docs/numerics.md; `local` are the
 * truth's values, `decay` [B,H]: how many u the decays of a row and head may be off by (scan output and state only). */
typedef struct {
    const fh1_config *config;
    fh1_tap_id id;
    const fh1_tokens *tokens;
    int64_t n, width;
    const double *local;
    const double *decay;
    fh1_dtype ulp_type;  /* as in gld_tap_errors */
    bool one_token;      /* a one-token step on a cache */
    const double *bound; /* context: units of u per element, NULL when not computed */
} gld_slack_args;

void gld_slack(const gld_slack_args *a, double *slack);
