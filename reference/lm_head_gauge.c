#include "reference/lm_head_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"
#include "reference/linear.h"

typedef struct {
    const fh1_profile *contract;
    int64_t D;
    double m;
    const double *logits;
    const fh1_gauge *g; /* worst holds S */
} logits_job;

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const logits_job *j = ctx;
    const fh1_profile *c = j->contract;
    for (int64_t i = i0; i < i1; ++i) {
        const double product = j->m != 0 ? j->logits[i] / j->m : 0; /* a multiplier of 0 leaves no error either */
        fh1_err e = fh1_err_sum((fh1_err){0}, c, j->D, j->g->worst[i]);
        e = fh1_err_round(e, c, c->at[FH1_RP_LINEAR], product);
        fh1_gauge_set(j->g, i, ref_err_multiply(e, c, c->at[FH1_RP_LOGITS], product, j->m));
    }
}

fh1_status ref_lm_head_gauge(const fh1_profile *contract, int64_t M, const double *h, const fh1_tensor *w, double m_lm,
                             const double *logits, const fh1_gauge *g)
{
    FH1_TRY(ref_linear_abs_sum_f64(M, h, w, NULL, g->worst));
    logits_job j = {contract, w->shape[1], m_lm, logits, g};
    fh1_parallel_for(M * w->shape[0], 1 << 12, elements, &j);
    return NULL;
}
