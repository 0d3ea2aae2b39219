#include "reference/swiglu.h"

#include "oracle/thread.h"

typedef struct {
    const real *gate, *up;
    real m_gate;
    fh1_round r, of_product;
    real *act;
} swiglu_job;

static inline real activate(real g)
{
    if (REF_FAULT(MLP_GELU)) return g / 2 * (1 + (real)erf((double)r_re(g) / sqrt(2.0)));
    if (REF_FAULT(MLP_SIGMOID)) return 1 / (1 + r_exp(-g));
    return REF(ref_silu)(g);
}

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const swiglu_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        const real g = r_round(j->r, j->gate[i] * (REF_FAULT(GATE_MULTIPLIER_AFTER_SILU) ? 1 : j->m_gate));
        j->act[i] = r_round(j->of_product, r_round(j->r, activate(g)) * j->up[i]);
        if (REF_FAULT(GATE_MULTIPLIER_AFTER_SILU)) j->act[i] *= j->m_gate;
    }
}

void REF(ref_swiglu_fwd)(int64_t M, int64_t F, const real *gate, double m_gate, const real *up, const fh1_profile *p,
                         real *act)
{
    swiglu_job j = {gate, up, (real)m_gate, p->at[FH1_RP_MLP], p->at[FH1_RP_ACT], act};
    fh1_parallel_for(M * F, 1024, elements, &j); /* two pieces even for one token of the 0.5B */
    if (REF_FAULT(NAN_IN_ONE_ELEMENT) && M > 0) act[M * F - 1] = (real)NAN;
}
