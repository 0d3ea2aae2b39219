/* What the gauges of several ops share: a multiplier, silu, the reciprocal root of a norm, a weighted element. The
 * derivations stand in docs/numerics.md, "Gauges". f64 only, as all gauges. */
#pragma once

#include "oracle/gauge.h"

/* What one rounding changes a number by at most, relative: 2^-8 for bf16, 2^-11 for f16, 0 where nothing rounds. */
double ref_half_ulp_of_1(fh1_round r);

/* Relative error of exp(x), in units of u. Any form: exp2(x·log₂e), whose constant and product round. */
double ref_exp_units(const fh1_profile *contract, double x);

/* R(v·m), v with error e. Truth has the exact factor, f32 arithmetic its f32 value: that error is the same in every
 * element. */
fh1_err ref_err_multiply(fh1_err e, const fh1_profile *contract, fh1_round r, double v, double m);

/* The gauge of n elements v·m rounded at `point`: the embedding multiplier, a key, a scaled input. Assigned. */
void ref_multiply_gauge(const fh1_profile *contract, fh1_point point, int64_t n, const double *v, double m,
                        const fh1_gauge *g);

/* R(silu(z)), z with error e. */
fh1_err ref_err_silu(fh1_err e, const fh1_profile *contract, fh1_round r, double z);

/* Relative error of 1 / sqrt(mean + eps), the mean of d squares that are off by `squares` (relative to mean + eps).
 * A row has one: all of it is shared. `sigmas` as of fh1_gauge_sigmas for the number of rows. */
fh1_err ref_err_reciprocal_root(fh1_err squares, const fh1_profile *contract, int64_t d, double mean, double eps,
                                double sigmas);

/* same[t]: how many tokens of the call have the exponent l of token t, and so the same error of their exp. `sorted` [T]
 * is scratch. */
void ref_count_same(int64_t T, const double *l, double *sorted, double *same);
