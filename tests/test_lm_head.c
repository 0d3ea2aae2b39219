/* lm_head: logits = (h·Wᵀ)·m, W [V,D] as stored, no bias; a bf16 pipeline rounds the product and then the scaled
 * logits. It is linear and a multiplier, on both sides of the 8 rows where linear changes its way. */
#include "tests/witness.h"

typedef struct {
    int64_t M, V, D;
    double *h, *w, m; /* [M,D], [V,D] */
    fh1_tensor wt;
} input;

typedef enum { RIGHT, NO_MULTIPLIER, TWICE, DIVIDED, NEXT_ROW, LAST_TERM, TRANSPOSED, ROW_SCALED } fault;
static const char *const fault_name[] = {"",
                                         "no multiplier",
                                         "multiplier twice",
                                         "divided by the multiplier",
                                         "rows shifted by one",
                                         "last term dropped",
                                         "W instead of its transpose",
                                         "one row times 1.02"};

/* gauge: those of linear, 4·√(D+1) + 1, and 2 for the multiplier, all times Σ|terms|·|m|. */
static void witness(const input *a, fault f, double *y, double *gauge)
{
    for (int64_t m = 0; m < a->M; ++m)
        for (int64_t v = 0; v < a->V; ++v) {
            wide sum = 0, size = 0;
            for (int64_t k = a->D - 1; k >= 0; --k) {
                const int64_t row = f == NEXT_ROW ? (v + 1) % a->V : v;
                wide term =
                    (wide)a->h[m * a->D + k] * (wide)(f == TRANSPOSED ? a->w[k * a->D + v] : a->w[row * a->D + k]);
                if (f == LAST_TERM && k == a->D - 1) term = 0;
                if (f == ROW_SCALED && v == a->V / 2) term *= 1.02L;
                sum += term;
                size += fabsl(term);
            }
            const wide scale = (wide)a->m;
            sum *= f == NO_MULTIPLIER ? 1 : f == TWICE ? scale * scale : f == DIVIDED ? 1 / scale : scale;
            y[m * a->V + v] = (double)sum;
            gauge[m * a->V + v] = (double)(size * fabsl(scale) * (4 * sqrtl((wide)a->D + 1) + 3));
        }
}

static double *run(fh1_engine *e, const input *a)
{
    void *y = w_out(e, a->M * a->V);
    w_fine(e->ops->lm_head(e, a->M, w_to(e, a->h, a->M * a->D), &a->wt, a->m, y));
    return w_from(e, y, a->M * a->V);
}

static input make(int64_t M, int64_t V, int64_t D, fh1_dtype stored, double m)
{
    input a = {.M = M, .V = V, .D = D, .h = w_normal("h", M * D, 1), .w = w_normal("w", V * D, 0.2), .m = m};
    a.wt = w_store2(stored, a.w, V, D);
    return a;
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t rows[] = {1, 2, 8, 9, 40}, size[][2] = {{1, 1}, {3, 17}, {104, 40}, {97, 33}, {600, 65}};
    static const fh1_dtype stored[] = {FH1_BF16, FH1_F16, FH1_F32};
    static const double scale[] = {0.0078125, 1.13, -0.3};
    for (int k = 0; k < 2 * 25; ++k) {
        const input a = make(rows[k / 2 % 5], size[k / 10][0], size[k / 10][1], stored[k % 3], scale[k / 2 % 3]);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(a.M * a.V), *gauge = w_new(a.M * a.V);
        witness(&a, RIGHT, want, gauge);
        w_accepts(e, fh1_dtype_name(a.wt.dtype), a.M * a.V, run(e, &a), want, gauge);
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    for (int k = 0; k < 4; ++k) {
        const input a = make(k / 2 ? 20 : 3, 48, 48, FH1_BF16, 0.61);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(a.M * a.V), *gauge = w_new(a.M * a.V), *got = run(e, &a);
        for (fault f = RIGHT; f <= ROW_SCALED; ++f) {
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "square", a.M * a.V, got, want, gauge);
            else w_rejects(e, fault_name[f], a.M * a.V, got, want, gauge);
        }
    }
}
END_TEST

/* Small integers and a multiplier of three bits: exact in any order. */
START_TEST(lattice_is_exact)
{
    for (int k = 0; k < 4; ++k) {
        input a = make(k / 2 ? 9 : 8, 50, 50, FH1_F32, 0.625);
        a.h = w_lattice("h", a.M * a.D, -9, 9, 1), a.w = w_lattice("w", a.V * a.D, -9, 9, 0.25);
        a.wt = w_store2(FH1_BF16, a.w, a.V, a.D);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(a.M * a.V), *gauge = w_new(a.M * a.V);
        const double *got = run(e, &a);
        for (fault f = RIGHT; f <= ROW_SCALED; ++f) {
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "lattice", a.M * a.V, got, want, NULL);
            else w_rejects(e, fault_name[f], a.M * a.V, got, want, NULL);
        }
    }
}
END_TEST

/* A multiplier of 1 is linear to the bit, a power of two shifts it; rows of h do not meet. */
START_TEST(is_linear_and_a_multiplier)
{
    for (int k = 0; k < 12; ++k) {
        fh1_engine *e = k % 3 == 0 ? w_f64 : k % 3 == 1 ? w_f32 : w_bf16;
        input a = make(k / 3 % 2 ? 12 : 5, 61, 37, k / 6 ? FH1_BF16 : FH1_F32, 1);
        const fh1_tensor none = w_absent();
        void *y = w_out(e, a.M * a.V);
        w_fine(e->ops->linear(e, a.M, w_to(e, a.h, a.M * a.D), &a.wt, &none, y));
        double *linear = w_from(e, y, a.M * a.V);
        w_exact(e, "multiplier 1", a.M * a.V, run(e, &a), linear);
        a.m = 0.25;
        const double *quarter = run(e, &a);
        w_rejects(e, "multiplier left out", a.M * a.V, quarter, linear, NULL);
        for (int64_t i = 0; i < a.M * a.V; ++i) linear[i] *= 0.25;
        w_exact(e, "multiplier 1/4", a.M * a.V, quarter, linear);
        a.h[2 * a.D] = (double)NAN;
        const double *got = run(e, &a);
        for (int64_t i = 0; i < a.M * a.V; ++i) {
            if (i / a.V == 2) ck_assert(isnan(got[i]));
            else w_exact(e, "beside NaN", 1, got + i, linear + i);
        }
    }
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    for (int k = 0; k < 2; ++k) {
        const input a = make(k ? 20 : 3, 700, 65, FH1_BF16, 0.3);
        fh1_set_threads(1);
        const double *one = run(w_f32, &a);
        fh1_set_threads(3);
        w_exact(w_f32, "three threads", a.M * a.V, run(w_f32, &a), one);
    }
    fh1_set_threads(0);
}
END_TEST

/* Products of short numbers are exact in f32; the multiplier is an f32 scalar, not one of the model's type. */
START_TEST(bf16_rounds_twice)
{
    for (int k = 0; k < 2; ++k) {
        input a = make(k ? 12 : 4, 90, 30, FH1_BF16, 0.0079);
        a.h = w_lattice("h", a.M * a.D, -99, 99, 1.0 / 64), a.w = w_lattice("w", a.V * a.D, -99, 99, 1.0 / 64);
        a.wt = w_store2(FH1_BF16, a.w, a.V, a.D);
        const double m = a.m, *got = run(w_bf16, &a);
        double *sum = w_new(a.M * a.V), *want = w_new(a.M * a.V);
        a.m = 1;
        witness(&a, RIGHT, sum, want);
        for (int skip = 0; skip < 4; ++skip) {
            const wide factor = skip == 3 ? (wide)w_r((wide)m) : (wide)(float)m;
            for (int64_t i = 0; i < a.M * a.V; ++i) {
                const wide p = (skip == 1 ? (wide)sum[i] : (wide)w_r((wide)sum[i])) * factor;
                want[i] = skip == 2 ? (double)(float)p : w_r(p);
            }
            if (skip == 0) w_exact(w_bf16, "two roundings", a.M * a.V, got, want);
            else w_rejects(w_bf16, "another rounding", a.M * a.V, got, want, NULL);
        }
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,
                            faults_are_rejected,
                            lattice_is_exact,
                            is_linear_and_a_multiplier,
                            threads_do_not_change_a_bit,
                            bf16_rounds_twice,
                            NULL};
    return w_main("lm_head", tests);
}
