/* The effective rank of a difference E = W' − W of two stored matrices.
 *
 * E is ΔW plus the rounding of W', so it has full rank. What counts is how many singular values stand out of the
 * rounding: for independent errors of variance v_ij the largest one is about √(max row sum of v) + √(max column sum).
 * The singular values come from a random range finder: Y = E·Ω, Q = orth(Y), once more through E, then those of Qᵀ·E.
 */
#include "cli/merge_diff.h"
#include "oracle/random.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANGE = 264, MIN_RANGE = 40, OVERSAMPLING = 8, BLOCK_BYTES = 4 << 20 };
#define RANGE_BYTES ((size_t)48 << 20)
#define ABOVE_NOISE 1.5 /* times the noise's own largest singular value, which varies by a few per cent */

/* LAPACK, which is part of OpenBLAS: eigenvalues of a symmetric matrix, ascending. */
void dsyev_(const char *job, const char *triangle, const int *n, double *a, const int *lda, double *w, double *work,
            const int *lwork, int *info);

typedef struct {
    cvt_ckpt *a, *b;
    int64_t t, u, rows, cols, step; /* rows of a block */
    fh1_dtype ta, tb;
    char *raw; /* [step] rows of the wider of both types */
    double *E; /* [step, cols] */
    double *W; /* [step, cols]: the first matrix */
} pair;

static fh1_status read_block(pair *p, int64_t first, int64_t n)
{
    FH1_TRY(cvt_ckpt_read_rows(p->a, p->t, first, n, p->raw));
    fh1_to_f64(p->W, p->raw, p->ta, n * p->cols);
    FH1_TRY(cvt_ckpt_read_rows(p->b, p->u, first, n, p->raw));
    fh1_to_f64(p->E, p->raw, p->tb, n * p->cols);
    return NULL;
}

static void subtract(double *E, const double *W, int64_t n)
{
    for (int64_t i = 0; i < n; i++) E[i] -= W[i];
}

/* Counts, sums and the noise's row and column sums; E of the block is left for nothing else. */
static fh1_status look(pair *p, cli_difference *d, double *noise)
{
    double *columns = calloc((size_t)p->cols, sizeof *columns), max_row = 0, max_column = 0;
    fh1_status s = columns ? NULL : fh1_no_memory((size_t)p->cols * sizeof *columns, "a difference");
    for (int64_t i = 0; i < p->rows && !s; i += p->step) {
        int64_t n = p->rows - i < p->step ? p->rows - i : p->step;
        s = read_block(p, i, n);
        for (int64_t r = 0; r < n && !s; r++) {
            double row = 0;
            for (int64_t k = 0; k < p->cols; k++) {
                double w = p->W[r * p->cols + k], e = p->E[r * p->cols + k] - w;
                double ulp = fh1_dtype_ulp(p->tb, p->E[r * p->cols + k]), v = ulp * ulp / 12;
                if (e == 0) v = 0; /* not touched, or as good */
                d->n_changed += e != 0;
                d->rms += e * e;
                d->rms_base += w * w;
                d->max = fmax(d->max, fabs(e));
                row += v;
                columns[k] += v;
            }
            max_row = fmax(max_row, row);
        }
    }
    for (int64_t k = 0; k < p->cols && !s; k++) max_column = fmax(max_column, columns[k]);
    free(columns);
    *noise = sqrt(max_row) + sqrt(max_column);
    return s;
}

/* Orthonormal columns of Y [rows, k], twice by Gram-Schmidt; a column that vanishes becomes zero. */
static void orthonormalise(double *Y, int64_t rows, int64_t k)
{
    for (int64_t j = 0; j < k; j++) {
        double first = cblas_dnrm2((int)rows, Y + j, (int)k), norm = 0;
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t i = 0; i < j; i++) {
                double dot = cblas_ddot((int)rows, Y + i, (int)k, Y + j, (int)k);
                cblas_daxpy((int)rows, -dot, Y + i, (int)k, Y + j, (int)k);
            }
            norm = cblas_dnrm2((int)rows, Y + j, (int)k);
        }
        cblas_dscal((int)rows, norm > 1e-12 * first && norm > 0 ? 1 / norm : 0, Y + j, (int)k);
    }
}

/* Y[rows, k] = E·X[cols, k] */
static fh1_status times(pair *p, const double *X, double *Y, int k)
{
    for (int64_t i = 0; i < p->rows; i += p->step) {
        int64_t n = p->rows - i < p->step ? p->rows - i : p->step;
        FH1_TRY(read_block(p, i, n));
        subtract(p->E, p->W, n * p->cols);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, k, (int)p->cols, 1, p->E, (int)p->cols, X, k, 0,
                    Y + i * k, k);
    }
    return NULL;
}

/* X[cols, k] = Eᵀ·Y[rows, k] */
static fh1_status transposed_times(pair *p, const double *Y, double *X, int k)
{
    memset(X, 0, (size_t)p->cols * (size_t)k * sizeof *X);
    for (int64_t i = 0; i < p->rows; i += p->step) {
        int64_t n = p->rows - i < p->step ? p->rows - i : p->step;
        FH1_TRY(read_block(p, i, n));
        subtract(p->E, p->W, n * p->cols);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)p->cols, k, (int)n, 1, p->E, (int)p->cols, Y + i * k,
                    k, 1, X, k);
    }
    return NULL;
}

/* The singular values of E in the range of Y, squared, ascending. */
static fh1_status spectrum(pair *p, double *X, double *Y, int k, double *squares)
{
    int64_t n = p->cols * k;
    int size = 8 * k, info;
    fh1_stream random = fh1_stream_open(1, "range");
    for (int64_t i = 0; i < n; i++) X[i] = fh1_random_normal(random, (uint64_t)i);
    FH1_TRY(times(p, X, Y, k));
    orthonormalise(Y, p->rows, k);
    FH1_TRY(transposed_times(p, Y, X, k));
    orthonormalise(X, p->cols, k);
    FH1_TRY(times(p, X, Y, k));
    orthonormalise(Y, p->rows, k);
    FH1_TRY(transposed_times(p, Y, X, k));
    double *gram = malloc((size_t)k * (size_t)(k + 8) * sizeof *gram);
    if (!gram) return fh1_no_memory((size_t)k * (size_t)k * sizeof *gram, "a difference");
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, k, (int)p->cols, 1, X, k, 0, gram, k);
    dsyev_("N", "L", &k, gram, &k, squares, gram + k * k, &size, &info); /* our upper one is its lower one */
    free(gram);
    return info == 0 ? NULL : fh1_fail(FH1_E_INTERNAL, "the singular values did not converge");
}

/* The widest range that there is memory for. */
static int widest_range(const pair *p)
{
    int64_t least = p->rows < p->cols ? p->rows : p->cols, most = p->rows > p->cols ? p->rows : p->cols;
    int64_t k = (int64_t)(RANGE_BYTES / sizeof(double)) / (most > 0 ? most : 1);
    if (k > MAX_RANGE) k = MAX_RANGE;
    if (k < MIN_RANGE) k = MIN_RANGE;
    return (int)(k < least ? k : least);
}

/* Counts in a range of k, and in a wider one while all but a few of its directions stand out. */
static fh1_status find_rank(pair *p, double noise, cli_difference *d)
{
    int widest = widest_range(p), k = widest < MIN_RANGE ? widest : MIN_RANGE;
    double *X = malloc((size_t)p->cols * (size_t)widest * sizeof *X);
    double *Y = malloc((size_t)p->rows * (size_t)widest * sizeof *Y),
           *squares = calloc((size_t)widest, sizeof *squares);
    fh1_status s =
        X && Y && squares ? NULL : fh1_no_memory((size_t)p->rows * (size_t)widest * sizeof *Y, "a difference");
    while (!s) {
        double sum = 0;
        s = spectrum(p, X, Y, k, squares);
        d->rank = 0;
        for (int i = 0; i < k && !s; i++) {
            if (!(squares[i] > ABOVE_NOISE * ABOVE_NOISE * noise * noise)) continue;
            d->rank++;
            sum += squares[i];
        }
        d->share = d->rms > 0 ? fmin(sum / d->rms, 1) : 0;
        if (k == widest || d->rank < k - OVERSAMPLING) break;
        k = 4 * k < widest ? 4 * k : widest;
    }
    d->more = d->rank == k && k < p->rows && k < p->cols;
    free(X);
    free(Y);
    free(squares);
    return s;
}

fh1_status cli_difference_of(cvt_ckpt *a, int64_t t, cvt_ckpt *b, int64_t u, cli_difference *out)
{
    const cvt_ckpt_tensor *x = &a->tensors[t], *y = &b->tensors[u];
    pair p = {.a = a, .b = b, .t = t, .u = u, .rows = cvt_ckpt_rows(x), .cols = 1, .ta = x->dtype, .tb = y->dtype};
    double noise = 0;
    *out = (cli_difference){.rank = -1};
    for (int i = 1; i < x->rank; i++) p.cols *= x->shape[i];
    out->n = p.rows * p.cols;
    if (out->n == 0) return NULL;
    p.step = BLOCK_BYTES / (int64_t)sizeof(double) / p.cols + 1;
    if (p.step > p.rows) p.step = p.rows;
    size_t n = (size_t)p.step * (size_t)p.cols;
    p.raw = malloc(8 * n);
    p.E = malloc(n * sizeof *p.E);
    p.W = malloc(n * sizeof *p.W);
    fh1_status s = p.raw && p.E && p.W ? look(&p, out, &noise) : fh1_no_memory(24 * n, "a difference");
    if (!s && out->n_changed > 0 && x->rank == 2) s = find_rank(&p, noise, out);
    out->rms = sqrt(out->rms / (double)out->n);
    out->rms_base = sqrt(out->rms_base / (double)out->n);
    free(p.raw);
    free(p.E);
    free(p.W);
    return s;
}
