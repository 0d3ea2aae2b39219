/* Both products go through single-threaded gemm on fixed pieces: of dx tiles of rows and columns, for which the weights
 * are widened panel by panel; of dw rows. */
#include "reference/linear_bwd.h"

#include "oracle/thread.h"

#include <cblas.h>
#include <stdlib.h>

#define ROWS 512 /* of a tile of dx: widening a weight is then one step beside 512 multiplications */
#define COLUMNS 256
#define PANEL 512     /* rows of W, with COLUMNS of them 512 KiB of f32: the cache of one core */
#define OUTPUTS 256   /* rows of a piece of dw */
#define BIASES 64     /* of a piece of db */
#define BIAS_ROWS 128 /* summed up before they join the others */

#if REF_BITS == 64
#define gemm cblas_dgemm
#else
#define gemm cblas_sgemm
#endif

typedef struct {
    int64_t M, N, K;
    const real *x;
    const fh1_tensor *w;
    const real *dy;
    bool add;
    real *dx, *dw, *db;
    real *scratch; /* [threads, PANEL, COLUMNS], NULL when the stored type is real already */
} linear_job;

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Rows n0 … n1 and columns k0 … k1 of W as real; *ld their row length. */
static const real *panel_of(const linear_job *j, int64_t n0, int64_t n1, int64_t k0, int64_t k1, real *to, int64_t *ld)
{
    const int64_t width = fh1_dtype_bits(j->w->dtype) / 8;
    char *from = (char *)j->w->data + (size_t)((n0 * j->K + k0) * width);
    *ld = to ? k1 - k0 : j->K;
    if (!to) return (const real *)(const void *)from;
    for (int64_t n = 0; n < n1 - n0; ++n) {
        const fh1_tensor t = fh1_view1(from + (size_t)(n * j->K * width), j->w->dtype, k1 - k0);
        REF(ref_widen)(to + n * (k1 - k0), &t, k1 - k0);
    }
    return to;
}

/* dx: x[m,k] reaches every output of its row through W[n,k]. Panels of outputs are added up in their order. */
static void inputs(void *ctx, int64_t i0, int64_t i1, int thread)
{
    const linear_job *j = ctx;
    const int64_t across = (j->K + COLUMNS - 1) / COLUMNS;
    real *scratch = j->scratch ? j->scratch + (int64_t)thread * PANEL * COLUMNS : NULL;
    for (int64_t i = i0; i < i1; ++i) {
        const int64_t m0 = i / across * ROWS, m1 = least(m0 + ROWS, j->M);
        const int64_t k0 = i % across * COLUMNS, k1 = least(k0 + COLUMNS, j->K);
        for (int64_t n0 = 0; n0 < j->N; n0 += PANEL) {
            const int64_t n1 = least(n0 + PANEL, j->N);
            int64_t ld;
            const real *w = panel_of(j, n0, n1, k0, k1, scratch, &ld);
            gemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)(m1 - m0), (int)(k1 - k0), (int)(n1 - n0), 1,
                 j->dy + m0 * j->N + n0, (int)j->N, w, (int)ld, j->add || n0 > 0, j->dx + m0 * j->K + k0, (int)j->K);
        }
    }
}

/* dw: W[n,k] multiplies x[m,k] into y[m,n] for every row m. */
static void weights(void *ctx, int64_t n0, int64_t n1, int thread)
{
    (void)thread;
    const linear_job *j = ctx;
    const int64_t M = REF_FAULT(GRAD_LINEAR_LAST_ROW_LOST) && j->M > 1 ? j->M - 1 : j->M;
    const real keep = REF_FAULT(GRAD_WEIGHT_OVERWRITTEN) ? 0 : 1;
    gemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(n1 - n0), (int)j->K, (int)M, 1, j->dy + n0, (int)j->N, j->x,
         (int)j->K, keep, j->dw + n0 * j->K, (int)j->K);
}

/* The gradient of a square weight as a port that mixes up its axes stores it. */
static void weights_transposed(const linear_job *j)
{
    gemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)j->K, (int)j->N, (int)j->M, 1, j->x, (int)j->K, j->dy, (int)j->N,
         1, j->dw, (int)j->N);
}

/* db: b[n] is added to every row. */
static void biases(void *ctx, int64_t n0, int64_t n1, int thread)
{
    (void)thread;
    const linear_job *j = ctx;
    const real share = REF_FAULT(GRAD_BIAS_AVERAGED) ? 1 / (real)j->M : 1;
    for (int64_t m0 = 0; m0 < j->M; m0 += BIAS_ROWS) {
        const int64_t m1 = least(m0 + BIAS_ROWS, j->M);
        real sum[BIASES] = {0};
        for (int64_t m = m0; m < m1; ++m)
            for (int64_t n = n0; n < n1; ++n) sum[n - n0] += j->dy[m * j->N + n];
        for (int64_t n = n0; n < n1; ++n) j->db[n] += sum[n - n0] * share;
    }
}

fh1_status REF(ref_linear_bwd)(int64_t M, const real *x, const fh1_tensor *w, const real *dy, bool add, real *dx,
                               real *dw, real *db)
{
    linear_job j = {M, w->shape[0], w->shape[1], x, w, dy, add, dx, dw, db, NULL};
    if (M == 0) return NULL;
    if (dx) {
        const size_t bytes = (size_t)fh1_threads() * PANEL * COLUMNS * sizeof(real);
        if (w->dtype != REF_DTYPE && !(j.scratch = malloc(bytes))) return fh1_no_memory(bytes, "a weight panel");
        fh1_parallel_for((M + ROWS - 1) / ROWS * ((j.K + COLUMNS - 1) / COLUMNS), 1, inputs, &j);
        free(j.scratch);
    }
    if (dw && REF_FAULT(GRAD_WEIGHT_TRANSPOSED) && j.N == j.K) {
        weights_transposed(&j);
    } else if (dw) {
        fh1_parallel_for(j.N, OUTPUTS, weights, &j);
    }
    if (db) fh1_parallel_for(j.N, BIASES, biases, &j);
    return NULL;
}
