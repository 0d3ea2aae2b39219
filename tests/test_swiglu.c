/* swiglu: act = silu(gate·m)·up, the multiplier before silu. */
#include "tests/witness.h"

typedef enum { RIGHT, MULTIPLIER_AFTER, NO_MULTIPLIER, NO_SILU, SIGMOID_ONLY, SWAPPED, UP_SHIFTED } fault;
static const char *const fault_name[] = {"",
                                         "multiplier after silu",
                                         "no multiplier",
                                         "no silu",
                                         "sigmoid for silu",
                                         "gate and up swapped",
                                         "up of the next channel"};

static wide silu(wide v)
{
    return v / (1 + expl(-v));
}

/* gauge: |up|·(1.1·|v| + 5·|silu v|), v = gate·m; where e^-v overflows the engine says -0 for at most 710·e^-88.7. */
static void witness(const fh1_engine *e, int64_t n, const double *gate, double m, const double *up, fault f,
                    double *act, double *gauge)
{
    const double floor = 710 / (e->dtype == FH1_F64 ? 0x1p1023 : 0x1p127) / e->profile->u;
    for (int64_t i = 0; i < n; ++i) {
        wide g = (wide)gate[i], u = (wide)up[f == UP_SHIFTED ? (i + 1) % n : i];
        if (f == SWAPPED) g = u, u = (wide)gate[i];
        const wide v = g * (wide)(f == MULTIPLIER_AFTER || f == NO_MULTIPLIER ? 1 : m);
        wide s = f == NO_SILU ? v : f == SIGMOID_ONLY ? 1 / (1 + expl(-v)) : silu(v);
        if (f == MULTIPLIER_AFTER) s *= (wide)m;
        act[i] = (double)(s * u);
        gauge[i] = (double)(fabsl(u) * (1.1L * fabsl(v) + 5 * fabsl(s) + (wide)floor));
    }
}

static double *run(fh1_engine *e, int64_t M, int64_t F, const double *gate, double m, const double *up)
{
    void *act = w_out(e, M * F);
    w_fine(e->ops->swiglu(e, M, F, w_to(e, gate, M * F), m, w_to(e, up, M * F), act));
    return w_from(e, act, M * F);
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][2] = {{1, 1}, {1, 65}, {3, 33}, {2, 4097}, {5, 1000}};
    static const double m[] = {1, 0.353515625, 0.1767766952966369};
    for (int k = 0; k < 30; ++k) {
        const int64_t M = shape[k / 6][0], F = shape[k / 6][1], n = M * F;
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *gate = w_normal("gate", n, 8), *up = w_normal("up", n, 3), *act = w_new(n), *gauge = w_new(n);
        const double mult = k % 2 ? (double)(float)m[k / 2 % 3] : m[k / 2 % 3];
        witness(e, n, gate, mult, up, RIGHT, act, gauge);
        w_accepts(e, "random", n, run(e, M, F, gate, m[k / 2 % 3], up), act, gauge);
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    enum { M = 2, F = 40, N = M * F };
    double *gate = w_normal("gate", N, 2), *up = w_normal("up", N, 1), *act = w_new(N), *gauge = w_new(N);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *got = run(e, M, F, gate, 0.375, up);
        for (fault f = MULTIPLIER_AFTER; f <= UP_SHIFTED; ++f) {
            witness(e, N, gate, 0.375, up, f, act, gauge);
            w_rejects(e, fault_name[f], N, got, act, gauge);
        }
    }
}
END_TEST

START_TEST(ends_of_silu)
{
    static const double at[] = {-3e38, -1e4, -800, -709, -104, -89, -88, -87, -20, -1e-30, 0, 1e-30, 17, 89, 1e4, 3e38};
    enum { N = sizeof at / sizeof *at };
    double *gate = w_copy(at, N), *up = w_fill(N, 0.5), *act = w_new(N), *gauge = w_new(N);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        double *seen = w_from(e, w_to(e, gate, N), N);
        witness(e, N, seen, 1, up, RIGHT, act, gauge);
        w_accepts(e, "ends of silu", N, run(e, 1, N, gate, 1, up), act, gauge);
    }
}
END_TEST

/* At multiples of 1024 silu is v or -0 in every precision. */
START_TEST(lattice_is_exact)
{
    enum { M = 3, F = 67, N = M * F };
    double *gate = w_lattice("gate", N, -4, 4, 4096), *up = w_lattice("up", N, -9, 9, 0.5), *want = w_new(N);
    for (int64_t i = 0; i < N; ++i) want[i] = (gate[i] < 0 ? -0.0 : gate[i] * 0.25) * up[i];
    for (int k = 0; k < 2; ++k)
        w_exact(k ? w_f32 : w_f64, "lattice", N, run(k ? w_f32 : w_f64, M, F, gate, 0.25, up), want);
}
END_TEST

START_TEST(bf16_rounds_three_times)
{
    enum { M = 4, F = 150, N = M * F };
    const double m = 0.35355339059327373;
    double *gate = w_rounded(w_normal("gate", N, 3), N), *up = w_rounded(w_normal("up", N, 1), N);
    double *want = w_new(N), *once = w_new(N), *fused = w_new(N);
    for (int64_t i = 0; i < N; ++i) {
        const wide v = (wide)gate[i] * (wide)(float)m, g = (wide)w_r(v);
        want[i] = w_r((wide)w_r(silu(g)) * (wide)up[i]);
        once[i] = w_r((wide)w_r(silu(v)) * (wide)up[i]);
        fused[i] = w_r(silu(g) * (wide)up[i]);
    }
    const double *got = run(w_bf16, M, F, gate, m, up);
    w_exact(w_bf16, "three roundings", N, got, want);
    w_rejects(w_bf16, "gate·m not rounded", N, got, once, NULL);
    w_rejects(w_bf16, "silu not rounded", N, got, fused, NULL);
}
END_TEST

START_TEST(works_in_place)
{
    enum { N = 50 };
    double *gate = w_normal("gate", N, 2), *up = w_normal("up", N, 1);
    void *v = w_to(w_f32, gate, N);
    w_fine(w_f32->ops->swiglu(w_f32, 1, N, v, 0.5, w_to(w_f32, up, N), v));
    w_exact(w_f32, "in place", N, w_from(w_f32, v, N), run(w_f32, 1, N, gate, 0.5, up));
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula, faults_are_rejected, ends_of_silu, lattice_is_exact,
                            bf16_rounds_three_times, works_in_place,      NULL};
    return w_main("swiglu", tests);
}
