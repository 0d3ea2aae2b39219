#include "reference/residual_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"

typedef struct {
    const fh1_profile *contract;
    const double *a, *b;
    double m_a, m_b;
    const double *x;
    const fh1_gauge *g;
} residual_job;

/* Which two of the three terms are added first is part of a pipeline's contract, and free where none is named. */
static double first_sum(const residual_job *j, double a, double b, double x)
{
    const double s = fabs(a + b);
    return j->contract->any_form ? fmax(s, fmax(fabs(x + a), fabs(x + b))) : s;
}

static void mix(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    const fh1_profile *c = j->contract;
    const fh1_round branch = c->at[FH1_RP_BRANCH], residual = c->at[FH1_RP_RESIDUAL];
    for (int64_t i = i0; i < i1; ++i) {
        const double a = j->a[i] * j->m_a, b = j->b[i] * j->m_b;
        fh1_err e = fh1_err_add(ref_err_multiply((fh1_err){0}, c, branch, j->a[i], j->m_a),
                                ref_err_multiply((fh1_err){0}, c, branch, j->b[i], j->m_b));
        e = fh1_err_round(e, c, branch, first_sum(j, a, b, j->x[i]));
        fh1_gauge_set(j->g, i, fh1_err_round(e, c, residual, j->x[i] + (a + b)));
    }
}

static void add(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    const fh1_profile *c = j->contract;
    for (int64_t i = i0; i < i1; ++i) {
        const fh1_err e = ref_err_multiply((fh1_err){0}, c, c->at[FH1_RP_MLP], j->a[i], j->m_a);
        fh1_gauge_set(j->g, i, fh1_err_round(e, c, c->at[FH1_RP_RESIDUAL], j->x[i] + j->a[i] * j->m_a));
    }
}

void ref_residual_gauge(const fh1_profile *contract, int64_t n, const double *a, double m_a, const double *b,
                        double m_b, const double *x, const fh1_gauge *g)
{
    residual_job j = {contract, a, b, m_a, m_b, x, g};
    fh1_parallel_for(n, 1 << 12, b ? mix : add, &j);
}
