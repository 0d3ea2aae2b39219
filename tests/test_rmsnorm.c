/* rmsnorm: y = w · x / sqrt(mean x² + eps). Widths on both sides of the 16 and 32 lanes of the reference. */
#include "tests/witness.h"

typedef enum { RIGHT, NO_EPS, EPS_OUTSIDE, EPS_1E6, MEAN_REMOVED, SUM_NOT_MEAN, WEIGHT_DROPPED, WEIGHT_PLUS_ONE } fault;
static const char *const fault_name[] = {
    "",          "no eps", "eps outside the root", "eps 1e-6", "mean removed", "sum instead of mean", "weight dropped",
    "weight + 1"};

/* gauge: (4·√D/2 + 4)·|y|, the sum under the root counts half. */
static void witness(int64_t M, int64_t D, const double *x, const double *w, double eps, fault f, double *y,
                    double *gauge)
{
    if (f == EPS_1E6) eps = 1e-6;
    for (int64_t m = 0; m < M; ++m) {
        wide sum_sq = 0, mean = 0;
        for (int64_t i = D; i-- > 0;) {
            sum_sq += (wide)x[m * D + i] * (wide)x[m * D + i];
            mean += (wide)x[m * D + i] / (wide)D;
        }
        wide ms = f == SUM_NOT_MEAN ? sum_sq : sum_sq / (wide)D;
        if (f == MEAN_REMOVED) ms -= mean * mean;
        const wide rms = f == NO_EPS ? sqrtl(ms) : f == EPS_OUTSIDE ? sqrtl(ms) + (wide)eps : sqrtl(ms + (wide)eps);
        for (int64_t i = 0; i < D; ++i) {
            const wide weight = f == WEIGHT_DROPPED ? 1 : f == WEIGHT_PLUS_ONE ? 1 + (wide)w[i] : (wide)w[i];
            y[m * D + i] = (double)(((wide)x[m * D + i] - (f == MEAN_REMOVED ? mean : 0)) * weight / rms);
            gauge[m * D + i] = fabs(y[m * D + i]) * (2 * sqrt((double)D) + 4);
        }
    }
}

static double *run(fh1_engine *e, int64_t M, int64_t D, const double *x, const fh1_tensor *w, double eps)
{
    void *y = w_out(e, M * D);
    w_fine(e->ops->rmsnorm(e, M, D, w_to(e, x, M * D), w, eps, y));
    return w_from(e, y, M * D);
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][2] = {{1, 1},  {1, 2},  {3, 15},   {2, 16}, {2, 17},
                                       {5, 33}, {3, 64}, {1, 1023}, {4, 130}};
    static const fh1_dtype stored[] = {FH1_BF16, FH1_F16, FH1_F32};
    for (size_t s = 0; s < sizeof shape / sizeof *shape; ++s)
        for (int k = 0; k < 6; ++k) {
            const int64_t M = shape[s][0], D = shape[s][1], n = M * D;
            fh1_engine *e = k % 2 ? w_f32 : w_f64;
            double *x = w_normal("x", n, 3), *w = w_normal("w", D, 1), *truth = w_new(n), *gauge = w_new(n);
            fh1_tensor weight = w_store(stored[k / 2], w, D);
            witness(M, D, x, w, 1e-5, RIGHT, truth, gauge);
            w_accepts(e, "random rows", n, run(e, M, D, x, &weight, 1e-5), truth, gauge);
        }
}
END_TEST

/* Rows of magnitude 1e-4 have a mean square of a thousandth of eps: it decides the result (D-111). */
START_TEST(tiny_rows_show_eps_and_faults_are_rejected)
{
    enum { M = 3, D = 65, N = M * D };
    double *x = w_normal("tiny", N, 1e-4), *w = w_normal("w", D, 1), *truth = w_new(N), *gauge = w_new(N);
    for (int64_t i = 0; i < N; ++i) x[i] += 5e-5 + (i / D == 2 ? 1 : 0); /* a mean; the last row is not tiny */
    fh1_tensor weight = w_store(FH1_BF16, w, D);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        double *seen = w_from(e, w_to(e, x, N), N), *y = run(e, M, D, x, &weight, 1e-5);
        witness(M, D, seen, w, 1e-5, RIGHT, truth, gauge);
        w_accepts(e, "rows of 1e-4", N, y, truth, gauge);
        for (fault f = NO_EPS; f <= WEIGHT_PLUS_ONE; ++f) {
            witness(M, D, seen, w, 1e-5, f, truth, gauge);
            w_rejects(e, fault_name[f], N, y, truth, gauge);
        }
    }
}
END_TEST

START_TEST(huge_small_and_zero_rows)
{
    enum { M = 5, D = 40, N = M * D };
    static const double magnitude[M] = {1e17, 1e-19, 1e-30, 0, 1e8}; /* squares stay inside f32 or vanish beside eps */
    double *x = w_normal("x", N, 1), *w = w_fill(D, 1), *truth = w_new(N), *gauge = w_new(N);
    for (int64_t i = 0; i < N; ++i) x[i] = (double)(float)(x[i] * magnitude[i / D]);
    fh1_tensor weight = w_store(FH1_F32, w, D);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        witness(M, D, x, w, 1e-5, RIGHT, truth, gauge);
        w_accepts(e, "extreme rows", N, run(e, M, D, x, &weight, 1e-5), truth, gauge);
    }
}
END_TEST

/* Blocks of four with Σ x² = 12, so mean = 3, eps = 1: the root is 2, and every step is exact. */
START_TEST(lattice_is_exact)
{
    enum { M = 4, D = 68, N = M * D };
    static const double block[3][4] = {{2, -2, 2, 0}, {-3, 1, 1, -1}, {0, 2, -2, -2}};
    double *x = w_new(N), *w = w_lattice("w", D, -4, 4, 0.25), *want = w_new(N), *wrong = w_new(N), *gauge = w_new(N);
    const double *which = w_lattice("which", N / 4, 0, 2, 1);
    for (int64_t i = 0; i < N; ++i) x[i] = block[(int)which[i / 4]][i % 4];
    fh1_tensor weight = w_store(FH1_F16, w, D);
    for (int64_t i = 0; i < N; ++i) want[i] = x[i] / 2 * w[i % D];
    witness(M, D, x, w, 1, NO_EPS, wrong, gauge);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *y = run(e, M, D, x, &weight, 1);
        w_exact(e, "lattice", N, y, want);
        w_rejects(e, "no eps on the lattice", N, y, wrong, NULL);
    }
}
END_TEST

/* Two roundings: the normalised value first, then the product with the weight. */
START_TEST(bf16_rounds_twice)
{
    enum { M = 6, D = 160, N = M * D };
    double *x = w_rounded(w_normal("x", N, 2), N), *w = w_normal("w", D, 1), *one = w_fill(D, 1);
    double *unit = w_new(N), *gauge = w_new(N), *want = w_new(N), *single = w_new(N);
    fh1_tensor weight = w_store(FH1_BF16, w, D);
    witness(M, D, x, one, 1e-5, RIGHT, unit, gauge);
    for (int64_t i = 0; i < N; ++i) {
        want[i] = w_r((wide)w_r((wide)unit[i]) * (wide)w[i % D]);
        single[i] = w_r((wide)unit[i] * (wide)w[i % D]);
    }
    const double *y = run(w_bf16, M, D, x, &weight, 1e-5);
    w_exact(w_bf16, "two roundings", N, y, want);
    w_rejects(w_bf16, "one rounding", N, y, single, NULL);
}
END_TEST

START_TEST(works_in_place)
{
    enum { M = 3, D = 33, N = M * D };
    double *x = w_normal("x", N, 1), *w = w_normal("w", D, 1);
    fh1_tensor weight = w_store(FH1_F32, w, D);
    void *v = w_to(w_f64, x, N);
    w_fine(w_f64->ops->rmsnorm(w_f64, M, D, v, &weight, 1e-5, v));
    w_exact(w_f64, "in place", N, w_from(w_f64, v, N), run(w_f64, M, D, x, &weight, 1e-5));
}
END_TEST

/* Without a weight: the bits of a weight of ones, forwards and on the way back, and a gauge that is no wider. */
START_TEST(no_weight_is_one)
{
    enum { M = 7, D = 19, N = M * D };
    double *x = w_rounded(w_normal("x", N, 0.01), N), *dy = w_normal("dy", N, 1), *ones = w_fill(D, 1);
    const fh1_tensor one = w_store(FH1_F32, ones, D), none = w_absent();
    fh1_engine *fused = ref_engine_new("ref-bf16", fh1_profile_find("cuda-bf16"), 0);
    fh1_engine *const engines[] = {w_f64, w_f32, w_bf16, fused};
    double *truth = run(w_f64, M, D, x, &none, 1e-5);
    for (int k = 0; k < 4; ++k) {
        fh1_engine *e = engines[k];
        double *y = run(e, M, D, x, &none, 1e-5), *allowed = w_new(N);
        w_exact(e, "no weight", N, y, run(e, M, D, x, &one, 1e-5));
        fh1_gauge g[2];
        for (int i = 0; i < 2; ++i) {
            g[i] = (fh1_gauge){w_new(N), w_new(N), w_new(N)};
            w_fine(w_f64->gauges->rmsnorm(e->profile, M, D, x, i ? &one : &none, 1e-5, truth, &g[i]));
        }
        for (int64_t i = 0; i < N; ++i) {
            allowed[i] = fh1_gauge_allowed(fh1_gauge_at(&g[0], i), fh1_gauge_sigmas(N));
            ck_assert(g[0].worst[i] <= g[1].worst[i] && g[0].variance[i] <= g[1].variance[i]);
            ck_assert(k == 0 || fh1_within(fabs(y[i] - truth[i]), allowed[i]));
            ck_assert(k == 0 || !fh1_within(0.02 * fabs(truth[i]), allowed[i])); /* it is not wide either */
        }
        void *dx = w_out(e, N), *want = w_out(e, N);
        w_fine(e->bwd_ops->rmsnorm(e, M, D, w_to(e, x, N), &none, 1e-5, w_to(e, dy, N), dx, NULL));
        w_fine(e->bwd_ops->rmsnorm(e, M, D, w_to(e, x, N), &one, 1e-5, w_to(e, dy, N), want, NULL));
        w_exact(e, "no weight, backward", N, w_from(e, dx, N), w_from(e, want, N));
    }
    fused->free(fused);
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,  tiny_rows_show_eps_and_faults_are_rejected,
                            huge_small_and_zero_rows, lattice_is_exact,
                            bf16_rounds_twice,        works_in_place,
                            no_weight_is_one,         NULL};
    return w_main("rmsnorm", tests);
}
