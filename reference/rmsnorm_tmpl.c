#include "reference/rmsnorm.h"

#include "oracle/thread.h"
#include "reference/linear.h" /* ref_dot */

#include <stdlib.h>

typedef struct {
    int64_t D;
    const real *x, *weight;
    real eps;
    const fh1_profile *p;
    real *y;
} norm_job;

static void rows(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    for (int64_t m = m0; m < m1; ++m) {
        const real *x = j->x + m * j->D;
        real *y = j->y + m * j->D;
        const real r = 1 / r_sqrt(REF(ref_dot)(j->D, x, x) / (real)j->D + j->eps);
        for (int64_t i = 0; i < j->D; ++i) y[i] = x[i] * r;
        REF(ref_round_row)(j->p->at[FH1_RP_NORM_INNER], j->D, y);
        for (int64_t i = 0; i < j->D; ++i) y[i] *= j->weight[i];
        REF(ref_round_row)(j->p->at[FH1_RP_NORM], j->D, y);
    }
}

fh1_status REF(ref_rmsnorm_fwd)(int64_t M, int64_t D, const real *x, const fh1_tensor *w, double eps,
                                const fh1_profile *p, real *y)
{
    real *weight = malloc((size_t)D * sizeof *weight);
    if (!weight) return fh1_no_memory((size_t)D * sizeof *weight, "a norm weight");
    REF(ref_widen)(weight, w, D);
    norm_job j = {D, x, weight, (real)eps, p, y};
    fh1_parallel_for(M, 16, rows, &j);
    free(weight);
    return NULL;
}
