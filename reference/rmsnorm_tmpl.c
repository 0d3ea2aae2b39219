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

static real scale_of(const norm_job *j, real mean_square)
{
    if (REF_FAULT(NORM_EPS_OUTSIDE_ROOT)) return 1 / (r_sqrt(mean_square) + j->eps);
    if (REF_FAULT(NORM_SCALE_IN_BF16)) return r_round(FH1_ROUND_BF16, 1 / r_sqrt(mean_square + j->eps));
    return 1 / r_sqrt(mean_square + j->eps);
}

static inline real mean_of(int64_t n, const real *x)
{
    real sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i];
    return sum / (real)n;
}

static void rows(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    for (int64_t m = m0; m < m1; ++m) {
        const real *x = j->x + m * j->D;
        real *y = j->y + m * j->D;
        const real r = scale_of(j, REF(ref_dot)(j->D, x, x) / (real)j->D);
        const real mean = REF_FAULT(NORM_MEAN_SUBTRACTED) ? mean_of(j->D, x) : 0;
        for (int64_t i = 0; i < j->D; ++i) y[i] = (x[i] - mean) * r;
        REF(ref_round_row)(j->p->at[FH1_RP_NORM_INNER], j->D, y);
        for (int64_t i = 0; j->weight && i < j->D; ++i) y[i] *= j->weight[i];
        REF(ref_round_row)(j->p->at[FH1_RP_NORM], j->D, y);
    }
}

fh1_status REF(ref_rmsnorm_fwd)(int64_t M, int64_t D, const real *x, const fh1_tensor *w, double eps,
                                const fh1_profile *p, real *y)
{
    real *weight = w->data ? malloc((size_t)D * sizeof *weight) : NULL;
    if (w->data && !weight) return fh1_no_memory((size_t)D * sizeof *weight, "a norm weight");
    if (weight) REF(ref_widen)(weight, w, D);
    norm_job j = {D, x, weight, (real)eps, p, y};
    fh1_parallel_for(M, 16, rows, &j);
    free(weight);
    return NULL;
}
