#include "reference/residual.h"

#include "oracle/thread.h"

typedef struct {
    const real *a, *b;
    real m_a, m_b;
    fh1_round branch, residual;
    real *x;
} residual_job;

static void mix(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        const real s = r_round(j->branch, j->a[i] * j->m_a) + r_round(j->branch, j->b[i] * j->m_b);
        const real x = REF_FAULT(MIXERS_RESIDUAL_DROPPED) ? 0 : j->x[i];
        j->x[i] = r_round(j->residual, x + r_round(j->branch, s));
    }
}

static void add(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        const real x = REF_FAULT(MLP_RESIDUAL_DROPPED) ? 0 : j->x[i];
        j->x[i] = r_round(j->residual, x + r_round(j->branch, j->a[i] * j->m_a));
        if (REF_FAULT(DOWN_MULTIPLIER_ON_RESIDUAL)) j->x[i] = (x + j->a[i]) * j->m_a;
    }
}

static fh1_round stream(const fh1_profile *p)
{
    return REF_FAULT(RESIDUAL_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_RESIDUAL];
}

void REF(ref_residual_mix)(int64_t n, const real *a, double m_a, const real *b, double m_b, const fh1_profile *p,
                           real *x)
{
    residual_job j = {a, b, (real)m_a, (real)m_b, p->at[FH1_RP_BRANCH], stream(p), x};
    fh1_parallel_for(n, 1 << 14, mix, &j);
}

void REF(ref_residual_add)(int64_t n, const real *a, double m_a, const fh1_profile *p, real *x)
{
    residual_job j = {a, NULL, (real)m_a, 0, p->at[FH1_RP_MLP], stream(p), x};
    fh1_parallel_for(n, 1 << 14, add, &j);
}
