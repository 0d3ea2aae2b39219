/* The rules that turn the errors of one gradient into a verdict (docs/gradients.md, "What is allowed"). Internal to the
 * judge of gradients and its tests. */
#pragma once

#include "golden/gradcheck.h"

/* One tensor as rows of `width` elements; arrays of rows * width. */
typedef struct {
    const fh1_profile *profile;
    fh1_dtype stored; /* coarsest type that the judged values went through */
    int64_t rows, width;
    const double *judged, *truth, *spread2;
    bool lookup;     /* a table: a row that nothing reads, zero in truth and in every run, is exactly zero */
    int64_t samples; /* labels that count: how many independent errors the sums over tokens have at least */
} gld_grad_errors;

/* Fills verdict, reason, margin, rms_ratio, max_err, allowed, rel_rms and histogram; *where is the deciding element. */
void gld_grad_rule(const gld_grad_errors *t, fh1_tap_result *out, int64_t *where);
