#include "reference/dt_softplus.h"

#include "oracle/thread.h"

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

enum { PIECE = 64 }; /* channels: Falcon-Mamba has thousands, Falcon-H1 a few heads */

typedef struct {
    int64_t T, H, ldr;
    const real *raw;
    const fh1_tensor *bias;
    const fh1_profile *p;
    fh1_round round;
    real lo, hi, *dt;
} softplus_job;

static real step_size(const softplus_job *j, real raw, real bias)
{
    const fh1_round r = j->round;
    if (REF_FAULT(DT_BIAS_AFTER_SOFTPLUS)) return clamp(softplus(j->p, raw) + bias, j->lo, j->hi);
    const real v = r_round(r, raw + bias);
    if (REF_FAULT(DT_CLAMPED_BEFORE_SOFTPLUS)) return softplus(j->p, clamp(v, j->lo, j->hi));
    return clamp(r_round(r, softplus(j->p, v)), j->lo, j->hi);
}

static void channels(void *ctx, int64_t h0, int64_t h1, int thread)
{
    const softplus_job *j = ctx;
    real bias[PIECE];
    (void)thread;
    for (int64_t h = h0; h < h1; ++h) bias[h - h0] = REF(ref_get)(j->bias, h);
    for (int64_t t = 0; t < j->T; ++t)
        for (int64_t h = h0; h < h1; ++h) j->dt[t * j->H + h] = step_size(j, j->raw[t * j->ldr + h], bias[h - h0]);
}

void REF(ref_dt_softplus_fwd)(int64_t T, int64_t H, const real *raw, int64_t ldr, const fh1_tensor *bias, double lo,
                              double hi, const fh1_profile *p, real *dt)
{
    const fh1_round r = REF_FAULT(DT_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_DT];
    softplus_job j = {T, H, ldr, raw, bias, p, r, r_round(r, (real)lo), r_round(r, (real)hi), dt};
    fh1_parallel_for(H, PIECE, channels, &j);
}
