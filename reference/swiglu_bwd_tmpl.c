#include "reference/swiglu_bwd.h"

#include "oracle/thread.h"
#include "reference/silu_bwd.h"

typedef struct {
    const real *gate, *up, *dact;
    real m_gate;
    real *dgate, *dup;
} swiglu_job;

/* dup: up multiplies silu(g). dgate: through silu at g = gate·m_gate, then through the multiplier. */
static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const swiglu_job *j = ctx;
    const real outer = REF_FAULT(GRAD_GATE_WITHOUT_MULTIPLIER) ? 1 : j->m_gate;
    for (int64_t i = i0; i < i1; ++i) {
        const real g = j->gate[i] * j->m_gate, dact = j->dact[i];
        const REF(ref_silu_pair) silu = REF(ref_silu_both)(g);
        const real slope = REF_FAULT(GRAD_SILU_AS_SIGMOID) ? 1 / (1 + r_exp(-g)) : silu.slope;
        if (j->dup) j->dup[i] = dact * (REF_FAULT(GRAD_UP_FROM_PRE_ACTIVATION) ? g : silu.value);
        if (j->dgate) j->dgate[i] = dact * j->up[i] * slope * outer;
    }
}

void REF(ref_swiglu_bwd)(int64_t M, int64_t F, const real *gate, double m_gate, const real *up, const real *dact,
                         real *dgate, real *dup)
{
    swiglu_job j = {gate, up, dact, (real)m_gate, dgate, dup};
    fh1_parallel_for(M * F, 1024, elements, &j);
}
