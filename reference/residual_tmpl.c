#include "reference/residual.h"

#include "oracle/thread.h"

typedef struct {
    const REF(ref_branches) * of;
    real m_a, m_b, m_mlp;
    fh1_round branch, mlp, residual;
    real *x;
} residual_job;

/* Two mixers, with the MLP beside them or without. */
static void mixers(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    const real *a = j->of->a, *b = j->of->b, *mlp = j->of->mlp;
    for (int64_t i = i0; i < i1; ++i) {
        real s = r_round(j->branch, r_round(j->branch, a[i] * j->m_a) + r_round(j->branch, b[i] * j->m_b));
        if (mlp) s = r_round(j->branch, s + r_round(j->mlp, mlp[i] * j->m_mlp));
        const bool dropped = REF_FAULT(MIXERS_RESIDUAL_DROPPED) || (REF_FAULT(MLP_RESIDUAL_DROPPED) && mlp);
        const real x = dropped ? 0 : j->x[i];
        j->x[i] = r_round(j->residual, x + s);
        if (REF_FAULT(DOWN_MULTIPLIER_ON_RESIDUAL) && mlp) j->x[i] *= j->m_mlp;
    }
}

/* One of them. */
static void one_mixer(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        const real x = REF_FAULT(MIXERS_RESIDUAL_DROPPED) ? 0 : j->x[i];
        j->x[i] = r_round(j->residual, x + r_round(j->branch, j->of->a[i] * j->m_a));
    }
}

static void mlp_alone(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const residual_job *j = ctx;
    const real *mlp = j->of->mlp;
    for (int64_t i = i0; i < i1; ++i) {
        const real x = REF_FAULT(MLP_RESIDUAL_DROPPED) ? 0 : j->x[i];
        j->x[i] = r_round(j->residual, x + r_round(j->mlp, mlp[i] * j->m_mlp));
        if (REF_FAULT(DOWN_MULTIPLIER_ON_RESIDUAL)) j->x[i] = (x + mlp[i]) * j->m_mlp;
    }
}

static fh1_round stream(const fh1_profile *p)
{
    return REF_FAULT(RESIDUAL_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_RESIDUAL];
}

void REF(ref_residual_fwd)(int64_t n, const REF(ref_branches) * b, const fh1_profile *p, real *x)
{
    residual_job j = {.of = b,
                      .m_a = (real)b->m_a,
                      .m_b = (real)b->m_b,
                      .m_mlp = (real)b->m_mlp,
                      .branch = p->at[FH1_RP_BRANCH],
                      .mlp = p->at[FH1_RP_MLP],
                      .residual = stream(p),
                      .x = x};
    fh1_parallel_for(n, 1 << 14, b->b ? mixers : b->a ? one_mixer : mlp_alone, &j);
}
