#include "reference/gauge_parts.h"

#include "oracle/thread.h"

#include <stdlib.h>
#include <string.h>

static bool single(const fh1_profile *contract)
{
    return contract->u > 0x1p-53;
}

double ref_exp_units(const fh1_profile *contract, double x)
{
    return contract->exp_units + (contract->any_form ? 2 * fabs(x) : 0);
}

double ref_half_ulp_of_1(fh1_round r)
{
    if (r == FH1_ROUND_NONE) return 0;
    return fh1_dtype_ulp(r == FH1_ROUND_BF16 ? FH1_BF16 : r == FH1_ROUND_F16 ? FH1_F16 : FH1_F32, 1) / 2;
}

fh1_err ref_err_multiply(fh1_err e, const fh1_profile *contract, fh1_round r, double v, double m)
{
    e = fh1_err_scale(e, m);
    if (single(contract)) e = fh1_err_add(e, fh1_err_shared(fabs(v) * fabs(m - (double)(float)m)));
    return fh1_err_round(e, contract, r, v * m);
}

typedef struct {
    const fh1_profile *contract;
    fh1_round r;
    const double *v;
    double m;
    const fh1_gauge *g;
} multiply_job;

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const multiply_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i)
        fh1_gauge_set(j->g, i, ref_err_multiply((fh1_err){0}, j->contract, j->r, j->v[i], j->m));
}

void ref_multiply_gauge(const fh1_profile *contract, fh1_point point, int64_t n, const double *v, double m,
                        const fh1_gauge *g)
{
    multiply_job j = {contract, contract->at[point], v, m, g};
    fh1_parallel_for(n, 1 << 12, elements, &j);
}

/* silu' = σ(1 + z(1 - σ)); |silu''| = σ(1 - σ)·|2 + z(1 - 2σ)| <= 1/2, and within E of z at most e^E times larger. Of
 * the value: exp(-z) with its units, 1 + exp, quotient, product. As z/2·(1 + tanh(z/2)), another usual form, the units
 * are of z/2·tanh(z/2), which does not vanish with σ until tanh is -1 and the product 0. */
fh1_err ref_err_silu(fh1_err e, const fh1_profile *contract, fh1_round r, double z)
{
    const double many = fh1_gauge_sigmas(1);
    const double sigma = 1 / (1 + exp(-z)), y = z * sigma;
    const double bend = fmin(0.5, sigma * (1 - sigma) * (2 + fabs(z) + e.worst) * exp(e.worst));
    const double second = bend * e.worst * e.worst / 2, likely = bend * (e.variance + e.shared * e.shared) / 2;
    e = fh1_err_scale(e, sigma * (1 + z * (1 - sigma)));
    e.worst += second;
    e.shared += likely;                          /* a square has a mean, */
    e.variance += many * many * likely * likely; /* and is that of `many` deviations where the error is */
    const bool any = contract->any_form;
    const bool gone = any ? sigma < contract->u / 16 : z < -88; /* 1 + tanh is 0, or exp(-z) overflows: 0 is honest */
    if (gone) e = fh1_err_half(e, fabs(y));
    const double of = any && !gone ? fmax(fabs(y), fabs(z * (sigma - 0.5))) : fabs(y); /* tanh(z/2)/2 = σ - 1/2 */
    e = fh1_err_half(e, contract->u * ((contract->exp_units + 2) * (of + e.worst) + (any ? 2 * fabs(z * y) : 0)));
    return fh1_err_round(e, contract, r, y);
}

/* d roundings of positive partial sums that the total bounds, then the division by d (two units as a product with 1/d),
 * eps as a constant and its addition: one unit each. The root halves all of it; the reciprocal root adds its own units.
 */
fh1_err ref_err_reciprocal_root(fh1_err squares, const fh1_profile *contract, int64_t d, double mean, double eps,
                                double sigmas)
{
    const double share = mean + eps > 0 ? mean / (mean + eps) : 0;
    const fh1_err sum = fh1_err_sum(squares, contract, d, share);
    const double units = contract->any_form ? 4 : 3, worst = sum.worst + units * contract->u;
    const double likely = fmin(worst, sum.shared + sigmas * sqrt(sum.variance) + units * contract->u);
    const double own = contract->exp_units * contract->u;
    /* 1 / sqrt(1 - w) - 1, the larger side, of the worst; the mean of squares is not below 0, whatever their errors */
    const double most = worst < 1 ? 1 / sqrt(1 - worst) - 1 : (double)INFINITY;
    const double at_zero = sqrt((mean + eps) / eps) * (1 + units * contract->u) - 1;
    return (fh1_err){(eps > 0 ? fmin(most, at_zero) : most) + own, 0, likely / 2 + own};
}

static int ascending(const void *p, const void *q)
{
    const double a = *(const double *)p, b = *(const double *)q;
    return (a > b) - (a < b);
}

/* First index of `sorted` whose value is not below v (or, with `above`, is above v). */
static int64_t bound(const double *sorted, int64_t n, double v, bool above)
{
    int64_t lo = 0;
    while (n > 0) {
        const int64_t half = n / 2;
        if (above ? sorted[lo + half] <= v : sorted[lo + half] < v) lo += half + 1, n -= half + 1;
        else n = half;
    }
    return lo;
}

void ref_count_same(int64_t T, const double *l, double *sorted, double *same)
{
    memcpy(sorted, l, (size_t)T * sizeof *l);
    qsort(sorted, (size_t)T, sizeof *sorted, ascending);
    for (int64_t t = 0; t < T; ++t) same[t] = (double)(bound(sorted, T, l[t], true) - bound(sorted, T, l[t], false));
}
