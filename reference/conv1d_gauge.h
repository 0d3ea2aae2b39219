#pragma once

#include "oracle/gauge.h"
#include "reference/conv1d.h"

/* Gauge of conv1d.h (a prefill and a one-token step alike): what an honest engine with `contract` may be off by.
 * `a` as for the forward, its window as it was before the call; a->y is not read. x_err [T,c] and window_err [c,K-1]
 * are the errors of what goes in, NULL where that is the judged engine's own. g [T,c] assigned. Derivation:
 * docs/numerics.md, "Gauges". FH1_E_INTERNAL without memory. */
fh1_status ref_conv1d_gauge(const fh1_profile *contract, const REF(ref_conv1d_args) * a, const fh1_gauge *x_err,
                            const fh1_gauge *window_err, const fh1_gauge *g);

/* The error of the window after the call: window_err [c,K-1] is read and assigned, by the rules of the window itself
 * (documents are cut, missing columns are exact zeros). x_err [T,c] or NULL. */
void ref_conv1d_gauge_window(const REF(ref_conv1d_args) * a, const fh1_gauge *x_err, const fh1_gauge *window_err);

/* ---- p ⊙ mup, which lies between in_proj and z, conv and dt ---- */

/* The multiplier that an engine with this contract holds for m: rounded to its arithmetic, then at FH1_RP_MUP_VECTOR.
 * It is known bit for bit: a truth that multiplies by it (as it repeats other declared roundings) has no error here. */
double ref_mup_factor(const fh1_profile *contract, double m);
/* |m - ref_mup_factor(m)|: what a truth with the exact multiplier is off by, per unit of p, always in one direction. */
double ref_mup_error(const fh1_profile *contract, double m);
/* Error of v[i] = p[i]·m, n of them, where truth multiplied by `used` (m, or ref_mup_factor of it): the product's
 * rounding at FH1_RP_MUP, and |used - factor|·|p| shared. Reads v; g assigned, from element 0 on (ref_gauge_from). */
void ref_mup_gauge(const fh1_profile *contract, int64_t n, const double *v, double used, double m, const fh1_gauge *g);

/* The gauges from element i on. */
static inline fh1_gauge ref_gauge_from(const fh1_gauge *g, int64_t i)
{
    return (fh1_gauge){g->worst + i, g->variance + i, g->shared + i};
}
