/* The one comparison of the project. NaN never passes, neither as value nor as error nor as bound. */
#pragma once

#include "oracle/tensor.h"

/* err <= allowed, written so that NaN on either side is false. There is no second comparison. */
bool fh1_within(double err, double allowed);

/* Class of a value: finite 0, +inf 1, -inf 2, NaN 3. Judged and truth must agree in class. */
int fh1_class(double v);

/* |a - b|; +inf when the classes differ; 0 when both are the same infinity. Two NaN: +inf, since a
 * NaN that truth shares proves nothing. */
double fh1_error_of(double judged, double truth);

/* Running root mean square of errors and values. */
typedef struct {
    double sum_sq; /* Σ err² */
    double ref_sq; /* Σ truth² */
    double max_err;
    int64_t n, argmax;
} fh1_rms;

/* A NaN error counts as +inf. A truth whose square is not finite adds nothing to ref_sq: it would make
 * every relative error vanish. argmax is the ordinal of the first largest error. */
void fh1_rms_add(fh1_rms *r, double err, double truth, int64_t ordinal);
double fh1_rms_err(const fh1_rms *r); /* sqrt(Σ err² / n), 0 for n = 0 */
double fh1_rms_ref(const fh1_rms *r); /* the same of truth */
