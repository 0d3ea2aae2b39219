#include "reference/dt_softplus_gauge.h"

#include "reference/gauge_parts.h"

/* y = softplus(v) with v off by e: slope σ(v), curvature at most 1/4. A relative error of exp costs σ(v) <= y of it,
 * log1p another one of its own: 2·exp_units roundings of relative size u, and what the argument of exp lost. */
static fh1_err softplus(const fh1_profile *contract, fh1_err e, double v, double *y)
{
    const double slope = 1 / (1 + exp(-v)), far = fmin(1, slope + e.worst / 4);
    const double likely = fmin(1, slope + sqrt(e.variance) / 4);
    *y = v > 20 ? v : log1p(exp(v));
    e = (fh1_err){far * e.worst, likely * likely * e.variance, far * e.shared};
    if (contract->log_of_sum) e = fh1_err_half(e, contract->u); /* of 1 + exp, relative, hence absolute in its log */
    e = fh1_err_half(e, contract->u * (ref_exp_units(contract, v) - contract->exp_units) * slope);
    return fh1_err_function(e, contract, contract->at[FH1_RP_DT], 2 * contract->exp_units, *y);
}

static double rounded_limit(const fh1_profile *contract, double limit)
{
    if (contract->storage == FH1_F64 || isinf(limit)) return limit;
    return (double)fh1_round_f32(contract->at[FH1_RP_DT], (float)limit);
}

/* The value is cut at a limit that lies `beyond` further inside (negative: outside) than the value, and that the engine
 * rounds by `off`. Of the value's error only what reaches back across the limit is left. */
static fh1_err clamp(fh1_err e, double beyond, double off)
{
    if (!(beyond + e.worst + off > 0)) return e; /* the limit is out of reach */
    if (beyond > 0) {
        const double left = fmax(0, e.worst - beyond);
        e = left > 0 ? (fh1_err){left, e.variance, fmin(e.shared, left)} : (fh1_err){0};
    }
    return fh1_err_add(e, fh1_err_shared(off));
}

void ref_dt_softplus_gauge(const fh1_profile *contract, int64_t T, int64_t H, const double *raw, int64_t ldr,
                           const fh1_tensor *bias, double lo, double hi, const fh1_gauge *raw_err, const fh1_gauge *g)
{
    const double off_lo = fabs(rounded_limit(contract, lo) - lo);
    const double off_hi = isinf(hi) ? 0 : fabs(rounded_limit(contract, hi) - hi);
    for (int64_t t = 0; t < T; ++t)
        for (int64_t h = 0; h < H; ++h) {
            const int64_t i = t * H + h;
            const double v = raw[t * ldr + h] + fh1_get(bias, h);
            double y;
            fh1_err e = raw_err ? fh1_gauge_at(raw_err, i) : (fh1_err){0};
            e = softplus(contract, fh1_err_round(e, contract, contract->at[FH1_RP_DT], v), v, &y);
            e = clamp(e, lo - y, off_lo);
            fh1_gauge_set(g, i, isinf(hi) ? e : clamp(e, y - hi, off_hi));
        }
}
