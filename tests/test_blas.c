/* The products that everything above stands on: OpenBLAS's gemm, in the forms that the reference calls it in, against
 * triple loops in long double. What it may be off by is the gauge of a sum. */
#include "oracle/compare.h"
#include "oracle/gauge.h"
#include "oracle/random.h"

#include <cblas.h>
#include <check.h>
#include <stdlib.h>

enum { PAD = 3 }; /* leading dimensions are larger than the rows */

typedef struct {
    int M, N, K;
    bool f64, transposed; /* B is [N, K], used as its transpose */
    double beta;
} product;

/* Numbers of the precision at hand; index i of matrix `name`. */
static double element(const product *p, uint64_t seed, const char *name, int64_t i)
{
    const double v = fh1_random_normal(fh1_stream_open(seed, name), (uint64_t)i);
    return p->f64 ? v : (double)(float)v;
}

typedef struct {
    double *a, *b, *c, *out;
    int lda, ldb, ldc;
} matrices;

static void run_f32(const product *p, const matrices *m)
{
    const int64_t na = (int64_t)p->M * m->lda, nb = (int64_t)(p->transposed ? p->N : p->K) * m->ldb,
                  nc = (int64_t)p->M * m->ldc;
    float *a = malloc((size_t)(na + nb + nc) * sizeof *a), *b = a + na, *c = b + nb;
    ck_assert_ptr_nonnull(a);
    for (int64_t i = 0; i < na; ++i) a[i] = (float)m->a[i];
    for (int64_t i = 0; i < nb; ++i) b[i] = (float)m->b[i];
    for (int64_t i = 0; i < nc; ++i) c[i] = (float)m->c[i];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, p->transposed ? CblasTrans : CblasNoTrans, p->M, p->N, p->K, 1, a, m->lda,
                b, m->ldb, (float)p->beta, c, m->ldc);
    for (int64_t i = 0; i < nc; ++i) m->out[i] = (double)c[i];
    free(a);
}

static void run(const product *p, const matrices *m)
{
    if (!p->f64) {
        run_f32(p, m);
        return;
    }
    for (int64_t i = 0; i < (int64_t)p->M * m->ldc; ++i) m->out[i] = m->c[i];
    cblas_dgemm(CblasRowMajor, CblasNoTrans, p->transposed ? CblasTrans : CblasNoTrans, p->M, p->N, p->K, 1, m->a,
                m->lda, m->b, m->ldb, p->beta, m->out, m->ldc);
}

/* Largest error over what the gauge allows; `drop`: the witness leaves out the last term, which must show. */
static double worst_margin(const product *p, const matrices *m, bool drop)
{
    const fh1_profile *contract = fh1_profile_find(p->f64 ? "exact" : "fp32");
    double worst = 0;
    for (int i = 0; i < p->M; ++i)
        for (int j = 0; j < p->N; ++j) {
            long double sum = p->beta != 0 ? (long double)p->beta * m->c[(int64_t)i * m->ldc + j] : 0;
            double magnitude = (double)fabsl(sum);
            for (int k = 0; k < p->K - drop; ++k) {
                const double b = p->transposed ? m->b[(int64_t)j * m->ldb + k] : m->b[(int64_t)k * m->ldb + j];
                sum += (long double)m->a[(int64_t)i * m->lda + k] * b;
                magnitude += fabs(m->a[(int64_t)i * m->lda + k] * b);
            }
            const fh1_err e = fh1_err_round(fh1_err_sum((fh1_err){0}, contract, p->K + 1, magnitude), contract,
                                            FH1_ROUND_NONE, (double)sum);
            const double allowed = fh1_gauge_allowed(e, fh1_gauge_sigmas((int64_t)p->M * p->N)) + contract->underflow;
            const double margin = (double)fabsl(m->out[(int64_t)i * m->ldc + j] - sum) / allowed;
            if (!fh1_within(margin, worst)) worst = margin;
        }
    return worst;
}

static void fill(const product *p, uint64_t seed, matrices *m)
{
    const int64_t rows_b = p->transposed ? p->N : p->K;
    m->lda = p->K + PAD;
    m->ldb = (p->transposed ? p->K : p->N) + PAD;
    m->ldc = p->N + PAD;
    m->a = malloc((size_t)(p->M * m->lda + rows_b * m->ldb + 2 * p->M * m->ldc) * sizeof *m->a);
    ck_assert_ptr_nonnull(m->a);
    m->b = m->a + p->M * m->lda;
    m->c = m->b + rows_b * m->ldb;
    m->out = m->c + p->M * m->ldc;
    for (int64_t i = 0; i < p->M * m->lda; ++i) m->a[i] = element(p, seed, "a", i);
    for (int64_t i = 0; i < rows_b * m->ldb; ++i) m->b[i] = element(p, seed, "b", i);
    for (int64_t i = 0; i < p->M * m->ldc; ++i) m->c[i] = element(p, seed, "c", i);
}

static const int sizes[][3] = {{1, 1, 1},   {2, 3, 1},     {5, 7, 33},    {64, 17, 64},  {9, 129, 65},
                               {33, 64, 7}, {40, 96, 512}, {128, 31, 96}, {16, 16, 2048}};

START_TEST(products_are_sums_of_products)
{
    double worst = 0;
    for (size_t i = 0; i < 8 * sizeof sizes / sizeof *sizes; ++i) {
        const int *s = sizes[i / 8];
        const product p = {s[0], s[1], s[2], i & 1, i & 2, i & 4 ? 1 : 0};
        matrices m;
        fill(&p, i, &m);
        run(&p, &m);
        const double margin = worst_margin(&p, &m, false);
        ck_assert_msg(fh1_within(margin, 1), "%d x %d x %d: margin %g", p.M, p.N, p.K, margin);
        if (!fh1_within(margin, worst)) worst = margin;
        /* and the comparison can fail */
        ck_assert_msg(!fh1_within(worst_margin(&p, &m, true), 1), "a missing term is not seen at K = %d", p.K);
        m.out[(int64_t)(p.M - 1) * m.ldc + p.N - 1] = (double)NAN;
        ck_assert(!fh1_within(worst_margin(&p, &m, false), 1));
        free(m.a);
    }
    printf("gemm: worst margin %.3g\n", worst);
}
END_TEST

/* With beta 0 what stood in the output must not count, NaN least of all. */
START_TEST(beta_zero_assigns)
{
    for (int f64 = 0; f64 < 2; ++f64) {
        const product p = {20, 30, 40, f64, true, 0};
        matrices m;
        fill(&p, 5, &m);
        for (int64_t i = 0; i < p.M * m.ldc; ++i) m.c[i] = (double)NAN;
        run(&p, &m);
        ck_assert(fh1_within(worst_margin(&p, &m, false), 1));
        free(m.a);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("blas");
    TCase *tc = tcase_create("gemm");
    tcase_add_test(tc, products_are_sums_of_products);
    tcase_add_test(tc, beta_zero_assigns);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
