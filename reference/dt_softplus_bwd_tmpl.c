#include "reference/dt_softplus_bwd.h"

#include "oracle/thread.h"

#define TOKENS 64 /* of a partial sum */

typedef struct {
    int64_t T, H, ldr, lddraw;
    const real *raw, *ddt;
    const fh1_tensor *bias;
    real lo, hi;
    real *draw, *dbias;
} dt_job;

/* The clamp lets the gradient through where it changes nothing, the limits themselves included. */
static real through_clamp(const dt_job *j, real s, real g)
{
    if (REF_FAULT(GRAD_DT_CLAMP_IGNORED)) return g;
    if (REF_FAULT(GRAD_DT_CLAMP_ZERO_AT_LIMIT) && (s == j->lo || s == j->hi)) return 0;
    return s < j->lo || s > j->hi ? 0 : g;
}

/* softplus is the identity above 20, so is its derivative 1 there. */
static real through_softplus(real v, real g)
{
    if (REF_FAULT(GRAD_SOFTPLUS_ZERO_ABOVE_20) && v > 20) return 0;
    if (v > (REF_FAULT(GRAD_SOFTPLUS_LINEAR_TOO_EARLY) ? 2 : 20)) return g;
    const real e = r_exp(-r_fabs(v));
    return g * (v < 0 ? e : 1) / (1 + e);
}

static real slope(const dt_job *j, real v, real g)
{
    const real s = v > 20 ? v : r_log1p(r_exp(v));
    g = through_clamp(j, REF_FAULT(GRAD_DT_CLAMP_OF_RAW) ? v : s, g);
    return through_softplus(REF_FAULT(GRAD_SOFTPLUS_AT_OUTPUT) ? s : v, g);
}

static void heads(void *ctx, int64_t h0, int64_t h1, int thread)
{
    (void)thread;
    const dt_job *j = ctx;
    for (int64_t h = h0; h < h1; ++h) {
        const real bias = (real)fh1_get(j->bias, h);
        double sum = 0;
        for (int64_t t0 = 0; t0 < j->T; t0 += TOKENS) {
            const int64_t end = t0 + TOKENS < j->T ? t0 + TOKENS : j->T;
            real part = 0;
            for (int64_t t = t0; t < end; ++t) {
                const real g = slope(j, j->raw[t * j->ldr + h] + bias, j->ddt[t * j->H + h]);
                if (j->draw) j->draw[t * j->lddraw + h] = g;
                part += g;
            }
            sum += (double)part;
        }
        if (REF_FAULT(GRAD_DT_BIAS_AVERAGED)) sum /= (double)j->T;
        if (j->dbias) j->dbias[h] += (real)sum;
    }
}

void REF(ref_dt_softplus_bwd)(int64_t T, int64_t H, const real *raw, int64_t ldr, const fh1_tensor *bias, double lo,
                              double hi, const real *ddt, real *draw, int64_t lddraw, real *dbias)
{
    dt_job j = {T, H, ldr, lddraw, raw, ddt, bias, (real)lo, (real)hi, draw, dbias};
    fh1_parallel_for(H, 8, heads, &j);
}
