#include "reference/rmsnorm_bwd.h"

#include "oracle/thread.h"
#include "reference/linear.h" /* ref_dot */

#include <stdlib.h>

#define COLUMNS 64 /* of a piece of dw */
#define ROWS 128   /* summed up before they join the sum of the others: the rounding error grows with both counts */

typedef struct {
    int64_t M, D;
    const real *x, *weight; /* NULL: none */
    real eps;
    const real *dy;
    real *r; /* [M] 1/√(mean(x²) + eps) */
    real *dx, *dw;
} norm_job;

/* r of each row, as the forward op computes it. */
static void scales(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    for (int64_t m = m0; m < m1; ++m) {
        const real *x = j->x + m * j->D;
        j->r[m] = 1 / r_sqrt(REF(ref_dot)(j->D, x, x) / (real)j->D + j->eps);
    }
}

/* dw: y = w∘(x·r), so each weight gets Σ dy·x·r of its column. */
static void weights(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    for (int64_t m0 = 0; m0 < j->M; m0 += ROWS) {
        const int64_t m1 = m0 + ROWS < j->M ? m0 + ROWS : j->M;
        real sum[COLUMNS] = {0};
        for (int64_t m = m0; m < m1; ++m) {
            const real *x = j->x + m * j->D, *dy = j->dy + m * j->D;
            const real r = REF_FAULT(GRAD_NORM_WEIGHT_WITHOUT_SCALE) ? 1 : j->r[m];
            for (int64_t i = i0; i < i1; ++i) sum[i - i0] += dy[i] * (x[i] * r);
        }
        for (int64_t i = i0; i < i1; ++i) j->dw[i] += sum[i - i0];
    }
}

/* dx by two paths: the element itself, scaled by r·w, and r, which every element of the row moves:
 * dr/dx[i] = -x[i]·r³/D, times Σ x∘w∘dy. */
static void rows(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    const int64_t width = REF_FAULT(GRAD_NORM_WRONG_WIDTH) ? (j->D + 1) / 2 : j->D;
    for (int64_t m = m0; m < m1; ++m) {
        const real *x = j->x + m * j->D, *dy = j->dy + m * j->D;
        real *dx = j->dx + m * j->D;
        const real r = j->r[m];
        for (int64_t i = 0; i < j->D; ++i) dx[i] = j->weight ? j->weight[i] * dy[i] : dy[i];
        const real mean = REF(ref_dot)(j->D, x, dx) / (real)width;
        const bool constant = REF_FAULT(GRAD_NORM_CONSTANT) || (!j->weight && REF_FAULT(GRAD_INNER_NORM_CONSTANT));
        const real back = constant ? 0 : r * r * mean;
        for (int64_t i = 0; i < j->D; ++i) dx[i] = r * (dx[i] - x[i] * back);
    }
}

fh1_status REF(ref_rmsnorm_bwd)(int64_t M, int64_t D, const real *x, const fh1_tensor *w, double eps, const real *dy,
                                real *dx, real *dw)
{
    const size_t n = (size_t)(M + D) * sizeof(real);
    real *r = malloc(n + 1);
    if (!r) return fh1_no_memory(n, "the gradient of a norm");
    if (w->data) REF(ref_widen)(r + M, w, D);
    norm_job j = {M, D, x, w->data ? r + M : NULL, (real)eps, dy, r, dx, dw};
    fh1_parallel_for(M, 16, scales, &j);
    if (dw) fh1_parallel_for(D, COLUMNS, weights, &j); /* before dx, which may be dy */
    if (dx) fh1_parallel_for(M, 16, rows, &j);
    free(r);
    return NULL;
}
