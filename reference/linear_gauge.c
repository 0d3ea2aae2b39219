#include "reference/linear_gauge.h"

#include "oracle/thread.h"
#include "reference/linear.h"

typedef struct {
    const fh1_profile *contract;
    int64_t terms;
    const double *y;
    const fh1_gauge *g; /* worst holds S */
} linear_gauge_job;

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const linear_gauge_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        const fh1_err e = fh1_err_sum((fh1_err){0}, j->contract, j->terms, j->g->worst[i]);
        fh1_gauge_set(j->g, i, fh1_err_round(e, j->contract, j->contract->at[FH1_RP_LINEAR], j->y[i]));
    }
}

fh1_status ref_linear_gauge(const fh1_profile *contract, int64_t M, const double *x, const fh1_tensor *w,
                            const fh1_tensor *b, const double *y, const fh1_gauge *g)
{
    FH1_TRY(ref_linear_abs_sum_f64(M, x, w, b, g->worst));
    linear_gauge_job j = {contract, w->shape[1] + (b && b->data), y, g};
    fh1_parallel_for(M * w->shape[0], 1 << 12, elements, &j);
    return NULL;
}
