#include "reference/residual_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"

#include <math.h>

typedef struct {
    const fh1_profile *contract;
    const ref_branches_f64 *b;
    const double *x;
    const fh1_gauge *g;
} residual_job;

/* Which of the terms are added first is part of a pipeline's contract, and free where none is named: a sum of two of
 * them, then one of three, or of the other two. `v` are the terms in the contract's order, x last. */
static double first_sum(const fh1_profile *c, int n, const double *v)
{
    double s = fabs(v[0] + v[1]);
    for (int i = 0; c->any_form && i < n; ++i)
        for (int j = i + 1; j < n; ++j) s = fmax(s, fabs(v[i] + v[j]));
    return s;
}

static double second_sum(const fh1_profile *c, const double *v)
{
    const double all = v[0] + v[1] + v[2] + v[3];
    double s = fabs(all - v[3]);
    for (int i = 0; c->any_form && i < 3; ++i) s = fmax(s, fabs(all - v[i]));
    return c->any_form ? fmax(s, first_sum(c, 4, v)) : s;
}

static void mixers(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    const fh1_profile *c = j->contract;
    const ref_branches_f64 *b = j->b;
    const fh1_round branch = c->at[FH1_RP_BRANCH], residual = c->at[FH1_RP_RESIDUAL];
    for (int64_t i = i0; i < i1; ++i) {
        double v[4] = {b->a[i] * b->m_a, b->b[i] * b->m_b, j->x[i], 0};
        if (b->mlp) v[3] = v[2], v[2] = b->mlp[i] * b->m_mlp;
        fh1_err e = fh1_err_add(ref_err_multiply((fh1_err){0}, c, branch, b->a[i], b->m_a),
                                ref_err_multiply((fh1_err){0}, c, branch, b->b[i], b->m_b));
        e = fh1_err_round(e, c, branch, first_sum(c, b->mlp ? 4 : 3, v));
        if (b->mlp) {
            e = fh1_err_add(e, ref_err_multiply((fh1_err){0}, c, c->at[FH1_RP_MLP], b->mlp[i], b->m_mlp));
            e = fh1_err_round(e, c, branch, second_sum(c, v));
        }
        fh1_gauge_set(j->g, i, fh1_err_round(e, c, residual, v[0] + v[1] + v[2] + v[3]));
    }
}

static void one(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    const fh1_profile *c = j->contract;
    const ref_branches_f64 *b = j->b;
    const fh1_round r = c->at[b->a ? FH1_RP_BRANCH : FH1_RP_MLP];
    const double *v = b->a ? b->a : b->mlp, m = b->a ? b->m_a : b->m_mlp;
    for (int64_t i = i0; i < i1; ++i) {
        const fh1_err e = ref_err_multiply((fh1_err){0}, c, r, v[i], m);
        fh1_gauge_set(j->g, i, fh1_err_round(e, c, c->at[FH1_RP_RESIDUAL], j->x[i] + v[i] * m));
    }
}

void ref_residual_gauge(const fh1_profile *contract, int64_t n, const ref_branches_f64 *b, const double *x,
                        const fh1_gauge *g)
{
    residual_job j = {contract, b, x, g};
    fh1_parallel_for(n, 1 << 12, b->b ? mixers : one, &j);
}
