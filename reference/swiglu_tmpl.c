#include "reference/swiglu.h"

#include "oracle/thread.h"

typedef struct {
    const real *gate, *up;
    real m_gate;
    fh1_round r;
    real *act;
} swiglu_job;

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const swiglu_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        const real g = r_round(j->r, j->gate[i] * j->m_gate);
        j->act[i] = r_round(j->r, r_round(j->r, REF(ref_silu)(g)) * j->up[i]);
    }
}

void REF(ref_swiglu_fwd)(int64_t M, int64_t F, const real *gate, double m_gate, const real *up, const fh1_profile *p,
                         real *act)
{
    swiglu_job j = {gate, up, (real)m_gate, p->at[FH1_RP_MLP], act};
    fh1_parallel_for(M * F, 1024, elements, &j); /* two pieces even for one token of the 0.5B */
}
