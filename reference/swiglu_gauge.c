#include "reference/swiglu_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"

typedef struct {
    const fh1_profile *contract;
    const double *gate, *up;
    double m_gate;
    const fh1_gauge *g;
} swiglu_job;

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const swiglu_job *j = ctx;
    const fh1_profile *c = j->contract;
    const fh1_round r = c->at[FH1_RP_MLP];
    for (int64_t i = i0; i < i1; ++i) {
        const double z = j->gate[i] * j->m_gate, act = z / (1 + exp(-z));
        fh1_err e = ref_err_multiply((fh1_err){0}, c, r, j->gate[i], j->m_gate);
        e = ref_err_silu(e, c, r, z);
        fh1_gauge_set(j->g, i, fh1_err_round(fh1_err_scale(e, j->up[i]), c, c->at[FH1_RP_ACT], act * j->up[i]));
    }
}

void ref_swiglu_gauge(const fh1_profile *contract, int64_t M, int64_t F, const double *gate, double m_gate,
                      const double *up, const fh1_gauge *g)
{
    swiglu_job j = {contract, gate, up, m_gate, g};
    fh1_parallel_for(M * F, 1 << 10, elements, &j);
}
