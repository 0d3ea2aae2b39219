#include "oracle/gauge.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

fh1_status fh1_gauge_new(int64_t n, fh1_gauge *g)
{
    const size_t count = (size_t)(n > 0 ? n : 1);
    *g = (fh1_gauge){0};
    if (!(g->worst = calloc(3 * count, sizeof *g->worst))) return fh1_no_memory(3 * count * sizeof(double), "a gauge");
    g->variance = g->worst + count;
    g->shared = g->variance + count;
    return NULL;
}

void fh1_gauge_free(fh1_gauge *g)
{
    free(g->worst);
    *g = (fh1_gauge){0};
}

double fh1_gauge_sigmas(int64_t n)
{
    return sqrt(2 * log((double)(n > 1 ? n : 1) / fh1_rule.alpha));
}

double fh1_gauge_allowed(fh1_err e, double sigmas)
{
    const double unseen = 1e8 * DBL_MIN; /* squares of errors below 1e-154 underflow, 10^8 of them in one sum */
    const double likely = e.shared + sigmas * sqrt(e.variance < unseen ? unseen : e.variance);
    return likely < e.worst ? likely : e.worst;
}

static fh1_dtype type_of(fh1_round r)
{
    return r == FH1_ROUND_BF16 ? FH1_BF16 : r == FH1_ROUND_F16 ? FH1_F16 : FH1_F32;
}

fh1_err fh1_err_round(fh1_err e, const fh1_profile *contract, fh1_round r, double v)
{
    const double at = fabs(v) + e.worst;
    e = fh1_err_half(e, contract->u * at);
    if (r == FH1_ROUND_NONE || r == FH1_ROUND_F32) return e; /* f32 arithmetic has rounded to f32 already */
    return fh1_err_half(e, fh1_dtype_ulp(type_of(r), at) / 2);
}

fh1_err fh1_err_function(fh1_err e, const fh1_profile *contract, fh1_round r, double units, double v)
{
    e = fh1_err_half(e, units * contract->u * (fabs(v) + e.worst));
    return fh1_err_round(e, contract, r, v);
}

fh1_err fh1_err_sum(fh1_err e, const fh1_profile *contract, int64_t d, double abs_sum)
{
    const double one = contract->u * abs_sum, n = (double)(d > 0 ? d : 0);
    return (fh1_err){e.worst + n * one, e.variance + n * one * one / 3, e.shared};
}
