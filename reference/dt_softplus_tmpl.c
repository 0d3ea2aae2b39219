#include "reference/dt_softplus.h"

static real softplus(real v)
{
    return v > 20 ? v : r_log1p(r_exp(v));
}

void REF(ref_dt_softplus_fwd)(int64_t T, int64_t H, const real *raw, int64_t ldr, const fh1_tensor *bias, double lo,
                              double hi, const fh1_profile *p, real *dt)
{
    const fh1_round r = p->at[FH1_RP_DT];
    const real rlo = r_round(r, (real)lo), rhi = r_round(r, (real)hi);
    for (int64_t t = 0; t < T; ++t)
        for (int64_t h = 0; h < H; ++h) {
            real v = r_round(r, raw[t * ldr + h] + (real)fh1_get(bias, h));
            v = r_round(r, softplus(v));
            if (v < rlo) v = rlo;
            if (v > rhi) v = rhi;
            dt[t * H + h] = v;
        }
}
