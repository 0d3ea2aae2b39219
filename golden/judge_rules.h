/* The rules that turn one tap's errors into a verdict (docs/numerics.md, "What is allowed"). Internal to
 * the judge and its tests. */
#pragma once

#include "oracle/gauge.h"
#include "oracle/report.h"

/* One tap of one step, flattened: n_tokens rows of `width` elements. For cache taps a "token" is a row of
 * the batch. All arrays have n_tokens * width entries unless said otherwise. */
typedef struct {
    fh1_tap_id id;
    const fh1_profile *profile; /* the judged contract */
    fh1_dtype ulp_type;         /* the coarser of the contract's type for this tap and the tensor's own */
    bool stored_coarser;        /* the tensor is: one more rounding than the contract declares */
    int64_t n_tokens, width;
    const double *judged;
    const double *local;     /* f64 from the judged engine's own upstream */
    double free_rms;         /* relative error against truth's own upstream, passed on to the report */
    const double *emulated2; /* mean square error of the contract's pipeline, run from the judged upstream, per
                                element; NULL under `exact` */
    const fh1_gauge *gauge;  /* of the op that makes the tap; NULL where no engine offers one */
    bool far;                /* an input of the op was not recorded: a chain of ops lies between */
    const bool *skip;        /* elements that are not judged, or NULL */
    const int32_t *unit;     /* channel or head of each element */
    int64_t n_units;
    int64_t correlated;    /* elements of a row whose errors come through the same few values (a head of attention) */
    const int64_t *alike;  /* [n_tokens] tokens of the same number round alike; NULL: no two do */
    const int64_t *column; /* [n_tokens] column of the call, for the report; NULL: none */
    int64_t n_columns;
} gld_tap_errors;

/* Fills verdict, reason, note, margin, rms_ratio, max_err, allowed, rel_rms, free_rms, histogram and token margins of
 * `out` and returns the flat index of the deciding element (the largest margin where nothing fails). FH1_E_INTERNAL
 * without memory. */
fh1_status gld_judge_tap(const gld_tap_errors *t, fh1_tap_result *out, int64_t *where);
