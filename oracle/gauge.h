/* Gauges: what an honest engine may be off by, element by element, known before it runs.
 *
 * A gauge is derived from the engine's contract (fh1_profile: type of the arithmetic, points where it rounds, accuracy
 * of its exp, chunk) and from the data, and is carried through the operations of one op beside the truth. It has three
 * parts, all in the unit of the value:
 *   worst     E: every rounding as large as it can be, all in one direction. Never exceeded.
 *   variance  V: the roundings that are independent of each other, each uniform in its half ulp.
 *   shared    S: a bound of the roundings that many elements have in common (the reciprocal root of a row, the angle
 *             of a token, the exp of a decay that repeats) and that no average removes. Contained in worst, not in
 *             variance.
 * An element is honest where |error| <= min(E, S + lambda(n)·√V), see fh1_gauge_allowed. First order in u but for
 * products of two errors, which worst keeps. Derivations: docs/numerics.md, "Gauges". */
#pragma once

#include "oracle/contract.h"
#include "oracle/tensor.h"

#include <math.h>

typedef struct {
    double worst, variance, shared;
} fh1_err;

/* The gauges of n elements, three dense arrays. Owned by whoever allocated it (fh1_gauge_new). */
typedef struct fh1_gauge {
    double *worst, *variance, *shared;
} fh1_gauge;

/* Zeroed; FH1_E_INTERNAL without memory. One block: free with fh1_gauge_free, which also takes a zeroed struct. */
fh1_status fh1_gauge_new(int64_t n, fh1_gauge *g);
void fh1_gauge_free(fh1_gauge *g);

static inline fh1_err fh1_gauge_at(const fh1_gauge *g, int64_t i)
{
    return (fh1_err){g->worst[i], g->variance[i], g->shared[i]};
}

static inline void fh1_gauge_set(const fh1_gauge *g, int64_t i, fh1_err e)
{
    g->worst[i] = e.worst;
    g->variance[i] = e.variance;
    g->shared[i] = e.shared;
}

/* lambda(n): how many sigmas the largest of n normal errors exceeds with probability alpha: √(2 ln(n/alpha)). */
double fh1_gauge_sigmas(int64_t n);
/* min(worst, shared + sigmas·√variance). */
double fh1_gauge_allowed(fh1_err e, double sigmas);

/* ---- the algebra: one line of a gauge for one line of the op ---- */

static inline fh1_err fh1_err_add(fh1_err a, fh1_err b)
{
    return (fh1_err){a.worst + b.worst, a.variance + b.variance, a.shared + b.shared};
}

/* Times an exact factor. */
static inline fh1_err fh1_err_scale(fh1_err a, double k)
{
    return (fh1_err){fabs(k) * a.worst, k * k * a.variance, fabs(k) * a.shared};
}

/* Of a product of va (error a) and vb (error b), before its own rounding. */
static inline fh1_err fh1_err_product(fh1_err a, double va, fh1_err b, double vb)
{
    fh1_err e = fh1_err_add(fh1_err_scale(a, vb), fh1_err_scale(b, va));
    e.worst += a.worst * b.worst;
    return e;
}

/* A bound `e` on an error that all elements of a row, head or token have in common. */
static inline fh1_err fh1_err_shared(double bound)
{
    return (fh1_err){bound, 0, bound};
}

/* One rounding of at most `bound`, half an ulp, independent of all others: variance bound²/3. */
static inline fh1_err fh1_err_half(fh1_err e, double bound)
{
    return (fh1_err){e.worst + bound, e.variance + bound * bound / 3, e.shared};
}

/* One arithmetic operation with result v: rounded in the contract's arithmetic, then to r where r rounds. The ulp is
 * taken where v may stand, not where it does: a rounding next to a power of two may fall on either side. */
fh1_err fh1_err_round(fh1_err e, const fh1_profile *contract, fh1_round r, double v);
/* The same, and `units` more roundings of relative size u which are not to any type (an exp, a quotient …). */
fh1_err fh1_err_function(fh1_err e, const fh1_profile *contract, fh1_round r, double units, double v);
/* What a contract that cuts sums off may lose on average over d terms of a sum that comes to v: half of u per cut, and
 * always towards zero, so no average removes it. Contained in the worst of fh1_err_sum. */
static inline double fh1_err_cut(const fh1_profile *contract, double d, double v)
{
    return contract->cut > 0 ? d / (double)contract->cut * contract->u / 2 * fabs(v) : 0;
}
/* A sum of d terms with Σ|term| = abs_sum, in any order: d roundings of partial sums that abs_sum bounds. */
fh1_err fh1_err_sum(fh1_err e, const fh1_profile *contract, int64_t d, double abs_sum);
