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
        j->x[i] = r_round(j->residual, j->x[i] + r_round(j->branch, s));
    }
}

static void add(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) j->x[i] = r_round(j->residual, j->x[i] + r_round(j->branch, j->a[i] * j->m_a));
}

void REF(ref_residual_mix)(int64_t n, const real *a, double m_a, const real *b, double m_b, const fh1_profile *p,
                           real *x)
{
    residual_job j = {a, b, (real)m_a, (real)m_b, p->at[FH1_RP_BRANCH], p->at[FH1_RP_RESIDUAL], x};
    fh1_parallel_for(n, 1 << 14, mix, &j);
}

void REF(ref_residual_add)(int64_t n, const real *a, double m_a, const fh1_profile *p, real *x)
{
    residual_job j = {a, NULL, (real)m_a, 0, p->at[FH1_RP_MLP], p->at[FH1_RP_RESIDUAL], x};
    fh1_parallel_for(n, 1 << 14, add, &j);
}
