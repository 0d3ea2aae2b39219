/* gated_norm: the gate and the norm of the mixer, in three forms
 *   GATE_ONLY    y·silu z
 *   GATE_FIRST   w · g / sqrt(mean g² + eps), g = y·silu z
 *   NORM_FIRST   w · y / sqrt(mean y² + eps) · silu z
 * with means over the d/G channels of a group (GR2: never over all d). */
#include "tests/witness.h"

typedef enum { GATE_ONLY, GATE_FIRST, NORM_FIRST } form;
typedef enum { RIGHT, WHOLE_WIDTH, OTHER_ORDER, NO_SILU, SIGMOID, NO_EPS, WEIGHT_OF_GROUP_0, STRIDED_GROUPS } fault;
static const char *const fault_name[] = {"",
                                         "mean over the whole width",
                                         "the other order of gate and norm",
                                         "no silu",
                                         "sigmoid for silu",
                                         "no eps",
                                         "weight of group 0 for all",
                                         "groups interleaved"};

static wide gate(wide z, fault f)
{
    return f == NO_SILU ? z : f == SIGMOID ? 1 / (1 + expl(-z)) : z / (1 + expl(-z));
}

/* gauge: |out|·(2·√(d/G) + 12): silu 4, products, and the sum under the root at half its weight. The absolute
 * part is silu's where e^-z overflows. */
static void witness(const fh1_engine *e, form k, int64_t M, int64_t d, int64_t G, const double *y, const double *z,
                    const double *w, double eps, fault f, double *out, double *gauge)
{
    const int64_t n = d / G;
    const wide floor = 710 / (wide)(e->dtype == FH1_F64 ? 0x1p1023 : 0x1p127) / (wide)e->profile->u;
    if (f == OTHER_ORDER) k = k == GATE_FIRST ? NORM_FIRST : GATE_FIRST;
    if (f == NO_EPS) eps = 0;
    for (int64_t m = 0; m < M; ++m)
        for (int64_t i = 0; i < d; ++i) {
            const int64_t group = f == STRIDED_GROUPS ? i % G : i / n;
            wide ms = 0;
            for (int64_t j = 0; j < d; ++j) {
                if (f != WHOLE_WIDTH && (f == STRIDED_GROUPS ? j % G : j / n) != group) continue;
                const wide v = (wide)y[m * d + j] * (k == GATE_FIRST ? gate((wide)z[m * d + j], f) : 1);
                ms += v * v / (wide)(f == WHOLE_WIDTH ? d : n);
            }
            const wide scale = k == GATE_ONLY ? 1 : (wide)w[f == WEIGHT_OF_GROUP_0 ? i % n : i] / sqrtl(ms + (wide)eps);
            const wide v = (wide)y[m * d + i] * scale;
            out[m * d + i] = (double)(v * gate((wide)z[m * d + i], f));
            gauge[m * d + i] = fabs(out[m * d + i]) * (2 * sqrt((double)n) + 12) + (double)(fabsl(v) * floor);
        }
}

static double *run(fh1_engine *e, form k, int64_t M, int64_t d, int64_t G, const double *y, const double *z,
                   const fh1_tensor *w, double eps)
{
    const fh1_tensor none = w_absent();
    void *out = w_out(e, M * d);
    w_fine(e->ops->gated_norm(e, M, d, G, w_to(e, y, M * d), w_to(e, z, M * d), k == GATE_ONLY ? &none : w, eps,
                              k == NORM_FIRST, out));
    return w_from(e, out, M * d);
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][3] = {{1, 1, 1},  {1, 6, 3},    {3, 34, 2}, {2, 99, 3},
                                       {9, 64, 1}, {17, 130, 2}, {2, 40, 40}};
    for (int k = 0; k < 42; ++k) {
        const int64_t M = shape[k / 6][0], d = shape[k / 6][1], G = shape[k / 6][2], n = M * d;
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        const form kind = (form)(k / 2 % 3);
        double *y = w_normal("y", n, 2), *z = w_normal("z", n, 3), *w = w_normal("w", d, 1), *out = w_new(n),
               *gauge = w_new(n);
        fh1_tensor weight = w_store(FH1_BF16, w, d);
        witness(e, kind, M, d, G, y, z, w, 1e-5, RIGHT, out, gauge);
        w_accepts(e, "random rows", n, run(e, kind, M, d, G, y, z, &weight, 1e-5), out, gauge);
    }
}
END_TEST

/* Groups of unlike size, D-67; one row of 1e-4, D-111. */
START_TEST(faults_are_rejected)
{
    enum { M = 3, D = 60, G = 3, N = M * D };
    double *y = w_normal("y", N, 1), *z = w_normal("z", N, 1), *w = w_normal("w", D, 1), *out = w_new(N),
           *gauge = w_new(N);
    for (int64_t i = 0; i < N; ++i) y[i] *= (double)(1 + i % D / (D / G)) * (i / D == 1 ? 0x1p-13 : 1);
    fh1_tensor weight = w_store(FH1_BF16, w, D);
    for (int k = 0; k < 6; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        const form kind = (form)(k / 2);
        const double *got = run(e, kind, M, D, G, y, z, &weight, 1e-5);
        for (fault f = RIGHT; f <= STRIDED_GROUPS; ++f) {
            if (kind == GATE_ONLY && f != RIGHT && f != NO_SILU && f != SIGMOID) continue; /* no norm, no such fault */
            witness(e, kind, M, D, G, y, z, w, 1e-5, f, out, gauge);
            if (f == RIGHT) w_accepts(e, "unlike groups", N, got, out, gauge);
            else w_rejects(e, fault_name[f], N, got, out, gauge);
        }
    }
}
END_TEST

/* silu is z at 1024 and -0 at -1024; Σ g² per channel is 3 in the first group and 15 in the second, eps = 1, so the
 * roots are 2 and 4. */
START_TEST(lattice_is_exact)
{
    enum { M = 2, D = 24, G = 2, N = M * D };
    static const double block[6][4] = {{2, -2, 2, 0}, {-3, 1, 1, -1}, {0, 2, -2, -2},
                                       {7, 3, -1, 1}, {-1, 1, 3, -7}, {5, -5, 3, 1}};
    double *z = w_fill(N, 1024), *w = w_lattice("w", D, -4, 4, 0.5), *y = w_new(N), *scaled = w_new(N);
    double *want = w_new(N), *want_first = w_new(N), *only = w_new(N);
    for (int64_t i = 0; i < N; ++i) {
        const double root = i % D < D / G ? 2 : 4;
        y[i] = block[i / 4 % 6][i % 4];
        if (y[i] == 0) z[i] = -1024; /* a closed gate where it leaves the mean alone */
        scaled[i] = y[i] / 1024;
        want[i] = (z[i] < 0 ? y[i] * -0.0 : y[i]) / root * w[i % D];
        want_first[i] = y[i] / root * w[i % D] * (z[i] < 0 ? -0.0 : 1024);
        only[i] = y[i] * (z[i] < 0 ? -0.0 : 1024);
    }
    fh1_tensor weight = w_store(FH1_BF16, w, D);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        w_exact(e, "gate first", N, run(e, GATE_FIRST, M, D, G, scaled, z, &weight, 1), want);
        w_exact(e, "norm first", N, run(e, NORM_FIRST, M, D, G, y, z, &weight, 1), want_first);
        w_exact(e, "gate only", N, run(e, GATE_ONLY, M, D, G, y, z, &weight, 1), only);
    }
}
END_TEST

START_TEST(closed_gates_and_extreme_rows)
{
    enum { M = 5, D = 32, G = 2, N = M * D };
    static const double magnitude[M] = {1e-30, 1e8, 0, 1, 1e-4}, gates[] = {-3e38, -800, -89, -20, 0, 20, 100, 30};
    double *y = w_normal("y", N, 1), *z = w_new(N), *w = w_fill(D, 1), *out = w_new(N), *gauge = w_new(N);
    for (int64_t i = 0; i < N; ++i) y[i] = (double)(float)(y[i] * magnitude[i / D]), z[i] = (double)(float)gates[i % 8];
    fh1_tensor weight = w_store(FH1_F32, w, D);
    for (int k = 0; k < 6; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        witness(e, (form)(k / 2), M, D, G, y, z, w, 1e-5, RIGHT, out, gauge);
        w_accepts(e, "extreme", N, run(e, (form)(k / 2), M, D, G, y, z, &weight, 1e-5), out, gauge);
    }
}
END_TEST

/* Without a norm silu is rounded, then the product; with it there is one rounding at the end. */
START_TEST(bf16_rounding_points)
{
    enum { M = 5, D = 96, G = 2, N = M * D };
    double *y = w_normal("y", N, 2), *z = w_rounded(w_normal("z", N, 3), N), *w = w_normal("w", D, 1), *out = w_new(N);
    double *gauge = w_new(N), *want = w_new(N), *fused = w_new(N), *twice = w_new(N);
    fh1_tensor weight = w_store(FH1_BF16, w, D);
    for (int64_t i = 0; i < N; ++i) {
        want[i] = w_r((wide)y[i] * (wide)w_r(gate((wide)z[i], RIGHT)));
        fused[i] = w_r((wide)y[i] * gate((wide)z[i], RIGHT));
    }
    const double *got = run(w_bf16, GATE_ONLY, M, D, G, y, z, &weight, 1e-5);
    w_exact(w_bf16, "gate only", N, got, want);
    w_rejects(w_bf16, "silu not rounded", N, got, fused, NULL);
    for (form k = GATE_FIRST; k <= NORM_FIRST; ++k) {
        double *one = w_fill(D, 1), *unit = w_new(N);
        got = run(w_bf16, k, M, D, G, y, z, &weight, 1e-5);
        witness(w_bf16, k, M, D, G, y, z, w, 1e-5, RIGHT, out, gauge);
        witness(w_bf16, k, M, D, G, y, z, one, 1e-5, RIGHT, unit, gauge);
        for (int64_t i = 0; i < N; ++i) {
            want[i] = w_r((wide)out[i]);
            twice[i] = w_r((wide)w_r((wide)unit[i]) * (wide)w[i % D]);
        }
        w_exact(w_bf16, "one rounding", N, got, want);
        w_rejects(w_bf16, "rounded before the weight", N, got, twice, NULL);
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,       faults_are_rejected,  lattice_is_exact,
                            closed_gates_and_extreme_rows, bf16_rounding_points, NULL};
    return w_main("gated_norm", tests);
}
