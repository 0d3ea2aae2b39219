#include "reference/rmsnorm_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"

#include <stdlib.h>

typedef struct {
    const fh1_profile *contract;
    int64_t D;
    const double *x, *weight; /* NULL: none */
    double eps, sigmas;
    const fh1_gauge *g;
} norm_job;

static void rows(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    const fh1_profile *c = j->contract;
    fh1_round inner = c->at[FH1_RP_NORM_INNER]; /* without a weight, what follows it rounds the same number again */
    if (!j->weight && inner == FH1_ROUND_NONE) inner = c->at[FH1_RP_NORM];
    for (int64_t m = m0; m < m1; ++m) {
        const double *x = j->x + m * j->D;
        double mean = 0;
        for (int64_t i = 0; i < j->D; ++i) mean += x[i] * x[i];
        mean /= (double)j->D;
        const double root = 1 / sqrt(mean + j->eps);
        const fh1_err relative = ref_err_reciprocal_root((fh1_err){0}, c, j->D, mean, j->eps, j->sigmas);
        for (int64_t i = 0; i < j->D; ++i) {
            const double n = x[i] * root, w = j->weight ? j->weight[i] : 1;
            fh1_err e = fh1_err_round(fh1_err_scale(relative, n), c, inner, n);
            if (j->weight) e = fh1_err_round(fh1_err_scale(e, w), c, c->at[FH1_RP_NORM], n * w);
            fh1_gauge_set(j->g, m * j->D + i, e);
        }
    }
}

fh1_status ref_rmsnorm_gauge(const fh1_profile *contract, int64_t M, int64_t D, const double *x, const fh1_tensor *w,
                             double eps, const fh1_gauge *g)
{
    double *weight = w->data ? malloc((size_t)(D + 1) * sizeof *weight) : NULL;
    if (w->data && !weight) return fh1_no_memory((size_t)(D + 1) * sizeof *weight, "a norm weight");
    if (weight) fh1_to_f64(weight, w->data, w->dtype, D);
    norm_job j = {contract, D, x, weight, eps, fh1_gauge_sigmas(M), g};
    fh1_parallel_for(M, 4, rows, &j);
    free(weight);
    return NULL;
}
