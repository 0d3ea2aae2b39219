#include "reference/dt_softplus.h"

static real softplus(const fh1_profile *p, real v)
{
    if (REF_FAULT(SOFTPLUS_MISSING)) return v;
    if (REF_FAULT(SOFTPLUS_IS_EXP)) return r_exp(v);
    return r_re(v) > (REF_FAULT(SOFTPLUS_LINEAR_TOO_EARLY) ? 2 : 20) ? v
           : p->log_of_sum                                           ? r_log(1 + r_exp(v))
                                                                     : r_log1p(r_exp(v));
}

static real clamp(real v, real lo, real hi)
{
    if (r_re(v) < r_re(lo)) v = lo;
    if (r_re(v) > r_re(hi)) v = hi;
    return v;
}

void REF(ref_dt_softplus_fwd)(int64_t T, int64_t H, const real *raw, int64_t ldr, const fh1_tensor *bias, double lo,
                              double hi, const fh1_profile *p, real *dt)
{
    const fh1_round r = REF_FAULT(DT_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_DT];
    const real rlo = r_round(r, (real)lo), rhi = r_round(r, (real)hi);
    for (int64_t t = 0; t < T; ++t)
        for (int64_t h = 0; h < H; ++h) {
            real v = r_round(r, raw[t * ldr + h] + REF(ref_get)(bias, h));
            if (REF_FAULT(DT_BIAS_AFTER_SOFTPLUS)) v = softplus(p, raw[t * ldr + h]) + REF(ref_get)(bias, h);
            else if (REF_FAULT(DT_CLAMPED_BEFORE_SOFTPLUS)) v = softplus(p, clamp(v, rlo, rhi));
            else v = r_round(r, softplus(p, v));
            dt[t * H + h] = REF_FAULT(DT_CLAMPED_BEFORE_SOFTPLUS) ? v : clamp(v, rlo, rhi);
        }
}
