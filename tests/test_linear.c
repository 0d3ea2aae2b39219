/* linear: y = x·Wᵀ + b. Up to 8 rows the reference reads stored weights directly, above that it widens panels
 * for OpenBLAS, so M lies on both sides of 8; K on both sides of its 16 and 32 lanes; N = 600 takes more than
 * one panel of weight rows. */
#include "tests/witness.h"

typedef struct {
    int64_t M, N, K;
} shape;

typedef enum { RIGHT, LAST_TERM, NO_BIAS, BIAS_TWICE, NEXT_ROW, ROW_SCALED, X_BF16, TRANSPOSED } fault;
static const char *const fault_name[] = {"",
                                         "last term dropped",
                                         "no bias",
                                         "bias twice",
                                         "rows shifted by one",
                                         "one row times 1.02",
                                         "x rounded to bf16",
                                         "W instead of its transpose"};

/* gauge: (4·√(K+1) + 1)·Σ|terms|; the 1 is for f64 weights, which an f32 engine rounds. b may be NULL. */
static void witness(shape s, const double *x, const double *w, const double *b, fault f, double *y, double *gauge)
{
    for (int64_t n = 0; n < s.N; ++n)
        for (int64_t m = 0; m < s.M; ++m) {
            wide sum = 0, size = 0;
            for (int64_t k = s.K - 1; k >= 0; --k) {
                const double wk = f == TRANSPOSED ? w[k * s.K + n] : w[(f == NEXT_ROW ? (n + 1) % s.N : n) * s.K + k];
                wide term = (wide)wk * (wide)(f == X_BF16 ? w_r((wide)x[m * s.K + k]) : x[m * s.K + k]);
                if (f == LAST_TERM && k == s.K - 1) term = 0;
                if (f == ROW_SCALED && n == s.N / 2) term *= 1.02L;
                sum += term;
                size += fabsl(term);
            }
            if (b && f != NO_BIAS) sum += (wide)b[n] * (f == BIAS_TWICE ? 2 : 1), size += fabsl((wide)b[n]);
            y[m * s.N + n] = (double)sum;
            gauge[m * s.N + n] = (double)size * (4 * sqrt((double)s.K + 1) + 1);
        }
}

static double *run(fh1_engine *e, shape s, const double *x, const fh1_tensor *w, const fh1_tensor *b)
{
    void *y = w_out(e, s.M * s.N);
    w_fine(e->ops->linear(e, s.M, w_to(e, x, s.M * s.K), w, b, y));
    return w_from(e, y, s.M * s.N);
}

static const fh1_dtype stored[] = {FH1_BF16, FH1_F16, FH1_F32, FH1_F64};

START_TEST(agrees_with_the_formula)
{
    static const int64_t rows[] = {1, 2, 3, 8, 9, 70}, size[][2] = {{1, 1}, {3, 17}, {5, 33}, {37, 64}, {130, 65}};
    for (int k = 0; k < 4 * 30; ++k) {
        const shape s = {rows[k % 6], size[k / 6 % 5][0], size[k / 6 % 5][1]};
        double *x = w_normal("x", s.M * s.K, 1), *w = w_normal("w", s.N * s.K, 0.1), *b = w_normal("b", s.N, 1);
        if (stored[k / 30] == FH1_F64) /* numbers that f32 does not hold */
            for (int64_t i = 0; i < s.N * s.K; ++i) w[i] /= 3;
        fh1_tensor wt = w_store2(stored[k / 30], w, s.N, s.K), bt = w_store(stored[k / 30], b, s.N), none = w_absent();
        double *truth = w_new(s.M * s.N), *gauge = w_new(s.M * s.N);
        for (int with_bias = 0; with_bias < 2; ++with_bias) {
            witness(s, x, w, with_bias ? b : NULL, RIGHT, truth, gauge);
            for (int p = 0; p < 2; ++p) {
                fh1_engine *e = p ? w_f32 : w_f64;
                w_accepts(e, fh1_dtype_name(stored[k / 30]), s.M * s.N, run(e, s, x, &wt, with_bias ? &bt : &none),
                          truth, gauge);
            }
        }
    }
}
END_TEST

START_TEST(many_weight_rows_and_long_rows)
{
    static const shape sizes[] = {{9, 600, 65}, {2, 3, 70001}, {12, 3, 70001}};
    for (int k = 0; k < 3; ++k) {
        const shape s = sizes[k];
        double *x = w_normal("x", s.M * s.K, 1), *w = w_normal("w", s.N * s.K, 1), *truth = w_new(s.M * s.N);
        double *gauge = w_new(s.M * s.N);
        fh1_tensor wt = w_store2(FH1_BF16, w, s.N, s.K), none = w_absent();
        witness(s, x, w, NULL, RIGHT, truth, gauge);
        w_accepts(w_f64, "large", s.M * s.N, run(w_f64, s, x, &wt, &none), truth, gauge);
        w_accepts(w_f32, "large", s.M * s.N, run(w_f32, s, x, &wt, &none), truth, gauge);
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    for (int few = 0; few < 2; ++few) {
        const shape s = {few ? 3 : 20, 48, 48};
        double *x = w_normal("x", s.M * s.K, 1), *w = w_normal("w", s.N * s.K, 1), *b = w_normal("b", s.N, 1);
        double *truth = w_new(s.M * s.N), *gauge = w_new(s.M * s.N);
        fh1_tensor wt = w_store2(FH1_BF16, w, s.N, s.K), bt = w_store(FH1_BF16, b, s.N);
        for (int p = 0; p < 2; ++p) {
            fh1_engine *e = p ? w_f32 : w_f64;
            const double *y = run(e, s, x, &wt, &bt);
            for (fault f = RIGHT; f <= TRANSPOSED; ++f) {
                witness(s, x, w, b, f, truth, gauge);
                if (f == RIGHT) w_accepts(e, "square", s.M * s.N, y, truth, gauge);
                else w_rejects(e, fault_name[f], s.M * s.N, y, truth, gauge);
            }
        }
    }
}
END_TEST

/* Small integers: every partial sum is exact in f32, in any order and any precision. */
START_TEST(lattice_is_exact)
{
    static const int64_t rows[] = {1, 8, 9, 33};
    for (int k = 0; k < 16; ++k) {
        const shape s = {rows[k % 4], 19, 131};
        double *x = w_lattice("x", s.M * s.K, -8, 8, 1), *w = w_lattice("w", s.N * s.K, -8, 8, 0.25);
        double *b = w_lattice("b", s.N, -64, 64, 1), *want = w_new(s.M * s.N), *gauge = w_new(s.M * s.N);
        fh1_tensor wt = w_store2(stored[k / 4], w, s.N, s.K), bt = w_store(stored[k / 4], b, s.N);
        witness(s, x, w, b, RIGHT, want, gauge);
        for (int p = 0; p < 3; ++p) {
            fh1_engine *e = p == 0 ? w_f64 : p == 1 ? w_f32 : w_bf16;
            if (e == w_bf16) /* sums of more than 8 bits: here its one rounding shows, bias inside */
                for (int64_t i = 0; i < s.M * s.N; ++i) want[i] = w_r((wide)want[i]);
            w_accepts(e, "lattice", s.M * s.N, run(e, s, x, &wt, &bt), want, NULL);
        }
    }
}
END_TEST

/* Rounding the product before the bias is added is another pipeline, and seen as such. */
START_TEST(bf16_rounds_once_and_sees_a_scaled_row)
{
    const shape s = {4, 24, 96};
    const int64_t n = s.M * s.N;
    double *x = w_lattice("x", s.M * s.K, -99, 99, 1), *w = w_lattice("w", s.N * s.K, -9, 9, 1);
    double *b = w_lattice("b", s.N, -99, 99, 1), *truth = w_new(n), *gauge = w_new(n), *twice = w_new(n);
    fh1_tensor wt = w_store2(FH1_BF16, w, s.N, s.K), bt = w_store(FH1_BF16, b, s.N);
    const double *y = run(w_bf16, s, x, &wt, &bt);
    witness(s, x, w, NULL, RIGHT, truth, gauge);
    for (int64_t i = 0; i < n; ++i) twice[i] = w_r((wide)w_r((wide)truth[i]) + (wide)b[i % s.N]);
    w_rejects(w_bf16, "product rounded before the bias", n, y, twice, NULL);
    witness(s, x, w, b, RIGHT, truth, gauge);
    w_assert(w_judge(w_bf16, n, y, truth, gauge, FH1_BF16), w_bf16, "half an ulp of bf16", y, truth);
    witness(s, x, w, b, ROW_SCALED, truth, gauge);
    ck_assert(!w_judge(w_bf16, n, y, truth, gauge, FH1_BF16).ok);
}
END_TEST

/* Huge and tiny terms beside each other: the gauge follows the terms, not the result. */
START_TEST(cancellation_and_magnitudes)
{
    const shape s = {10, 6, 50};
    double *x = w_normal("x", s.M * s.K, 1), *w = w_normal("w", s.N * s.K, 1), *truth = w_new(s.M * s.N);
    double *gauge = w_new(s.M * s.N);
    for (int64_t i = 0; i < s.M * s.K; ++i) x[i] = (double)(float)ldexp(x[i], (int)(i % s.K / 5 * 12 - 60));
    for (int64_t n = 0; n < s.N; ++n) w[n * s.K + 49] = -w[n * s.K + 48]; /* the largest terms nearly cancel */
    for (int64_t m = 0; m < s.M; ++m) x[m * s.K + 49] = x[m * s.K + 48];
    fh1_tensor wt = w_store2(FH1_F32, w, s.N, s.K), none = w_absent();
    witness(s, x, w, NULL, RIGHT, truth, gauge);
    w_accepts(w_f64, "cancelling", s.M * s.N, run(w_f64, s, x, &wt, &none), truth, gauge);
    w_accepts(w_f32, "cancelling", s.M * s.N, run(w_f32, s, x, &wt, &none), truth, gauge);
}
END_TEST

/* Up to 8 rows, a row does not notice its neighbours: a batch decodes as each of its members alone would. */
START_TEST(few_rows_are_independent)
{
    const shape s = {7, 40, 99}, one = {1, 40, 99};
    for (int k = 0; k < 8; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *x = w_normal("x", s.M * s.K, 1), *w = w_normal("w", s.N * s.K, 1);
        fh1_tensor wt = w_store2(stored[k / 2], w, s.N, s.K), none = w_absent();
        const double *together = run(e, s, x, &wt, &none);
        for (int64_t m = 0; m < s.M; ++m)
            w_exact(e, "one row alone", s.N, together + m * s.N, run(e, one, x + m * s.K, &wt, &none));
    }
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    for (int few = 0; few < 2; ++few) {
        const shape s = {few ? 5 : 40, 700, 300};
        double *x = w_normal("x", s.M * s.K, 1), *w = w_normal("w", s.N * s.K, 1);
        fh1_tensor wt = w_store2(FH1_BF16, w, s.N, s.K), none = w_absent();
        fh1_set_threads(1);
        const double *one = run(w_f32, s, x, &wt, &none);
        fh1_set_threads(3);
        w_exact(w_f32, "three threads", s.M * s.N, run(w_f32, s, x, &wt, &none), one);
        fh1_set_threads(0);
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,
                            many_weight_rows_and_long_rows,
                            faults_are_rejected,
                            lattice_is_exact,
                            bf16_rounds_once_and_sees_a_scaled_row,
                            cancellation_and_magnitudes,
                            few_rows_are_independent,
                            threads_do_not_change_a_bit,
                            NULL};
    return w_main("linear", tests);
}
