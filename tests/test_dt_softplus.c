/* dt_softplus: dt = clamp(softplus(raw + bias), lo, hi) where softplus(v) is v itself above 20. */
#include "tests/witness.h"

typedef enum { RIGHT, NO_SWITCH, SWITCH_AT_10, NO_BIAS, BIAS_AFTER, NO_LO, NO_HI, HEADS_SHIFTED, RELU } fault;
static const char *const fault_name[] = {"",
                                         "no switch at 20",
                                         "switch at 10",
                                         "no bias",
                                         "bias after softplus",
                                         "lower limit ignored",
                                         "upper limit ignored",
                                         "bias of the next head",
                                         "relu"};

/* gauge: one rounding of v = raw + bias times softplus' <= min(1, e^v), then exp and log1p, one ulp each. */
static void witness(const fh1_engine *e, int64_t T, int64_t H, const double *raw, const double *bias, double lo,
                    double hi, fault f, double *dt, double *gauge)
{
    if (e->dtype == FH1_F32) lo = (double)(float)lo, hi = (double)(float)hi;
    for (int64_t t = 0; t < T; ++t)
        for (int64_t h = 0; h < H; ++h) {
            const wide b = (wide)bias[f == HEADS_SHIFTED ? (h + 1) % H : h];
            const wide v = (wide)raw[t * H + h] + (f == NO_BIAS || f == BIAS_AFTER ? 0 : b);
            const wide edge = f == NO_SWITCH ? (wide)INFINITY : f == SWITCH_AT_10 ? 10 : 20;
            /* log(1 + e^v) = max(v, 0) + log1p(e^-|v|) */
            wide s = v > edge ? v : (v > 0 ? v : 0) + log1pl(expl(-fabsl(v)));
            if (f == RELU) s = v > 0 ? v : 0;
            if (f == BIAS_AFTER) s += b;
            gauge[t * H + h] = (double)(fabsl(v) * (v < 0 ? expl(v) : 1) + 5 * s);
            if (f != NO_LO && s < (wide)lo) s = (wide)lo, gauge[t * H + h] = 0;
            if (f != NO_HI && s > (wide)hi) s = (wide)hi, gauge[t * H + h] = 0;
            dt[t * H + h] = (double)s;
        }
}

static double *run(fh1_engine *e, int64_t T, int64_t H, const double *raw, const fh1_tensor *bias, double lo, double hi)
{
    void *dt = w_out(e, T * H);
    w_fine(e->ops->dt_softplus(e, T, H, w_to(e, raw, T * H), bias, lo, hi, dt));
    return w_from(e, dt, T * H);
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][2] = {{1, 1}, {1, 24}, {5, 3}, {40, 17}};
    for (int k = 0; k < 16; ++k) {
        const int64_t T = shape[k / 4][0], H = shape[k / 4][1];
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *raw = w_normal("raw", T * H, 6), *bias = w_normal("bias", H, 3), *dt = w_new(T * H),
               *gauge = w_new(T * H);
        fh1_tensor b = w_store(k % 4 < 2 ? FH1_F32 : FH1_BF16, bias, H);
        witness(e, T, H, raw, bias, 0, (double)INFINITY, RIGHT, dt, gauge);
        w_accepts(e, "no limits", T * H, run(e, T, H, raw, &b, 0, (double)INFINITY), dt, gauge);
    }
}
END_TEST

/* D-68: the ends, both sides of the switch, and its edge itself. */
START_TEST(pre_activations_of_every_kind)
{
    static const double at[] = {-1000, -104, -50, -20, -1, 0, 1e-8, 10.1, 19.9, 20, 20.1, 50, 90, 1000, 3e38};
    enum { H = sizeof at / sizeof *at };
    double *bias = w_fill(H, 0), *dt = w_new(H), *gauge = w_new(H), *raw = w_copy(at, H);
    fh1_tensor b = w_store(FH1_F32, bias, H);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        double *seen = w_from(e, w_to(e, raw, H), H), *got = run(e, 1, H, raw, &b, 0, (double)INFINITY);
        witness(e, 1, H, seen, bias, 0, (double)INFINITY, RIGHT, dt, gauge);
        gauge[0] = gauge[1] = 0x1p-140 / e->profile->u; /* e^-1000 and, in f32, e^-104 are no numbers of the type */
        w_accepts(e, "pre-activations", H, got, dt, gauge);
        for (int64_t h = 0; h < H; ++h) ck_assert(isfinite(got[h]) && got[h] >= 0);
        for (int64_t h = 10; h < H; ++h) w_exact(e, "above 20", 1, got + h, seen + h);
        witness(e, 1, H, seen, bias, 0, (double)INFINITY, RELU, dt, gauge);
        w_rejects(e, fault_name[RELU], H, got, dt, gauge);
        if (e == w_f32) continue; /* e^-10 is far below an ulp of 10 there: only f64 tells where the switch is */
        for (fault f = NO_SWITCH; f <= SWITCH_AT_10; ++f) {
            witness(e, 1, H, seen, bias, 0, (double)INFINITY, f, dt, gauge);
            w_rejects(e, fault_name[f], H, got, dt, gauge);
        }
    }
}
END_TEST

START_TEST(limits_are_exact_and_faults_are_rejected)
{
    enum { T = 30, H = 7, N = T * H };
    const double lo = 0.01, hi = 0.7;
    double *raw = w_normal("raw", N, 3), *bias = w_normal("bias", H, 1), *dt = w_new(N), *gauge = w_new(N);
    fh1_tensor b = w_store(FH1_BF16, bias, H);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *got = run(e, T, H, raw, &b, lo, hi);
        int64_t at_lo = 0, at_hi = 0;
        for (int64_t i = 0; i < N; ++i) {
            at_lo += got[i] == (k ? (double)(float)lo : lo);
            at_hi += got[i] == (k ? (double)(float)hi : hi);
        }
        ck_assert(at_lo > 5 && at_hi > 5);
        for (fault f = RIGHT; f <= RELU; ++f) {
            if (f == NO_SWITCH || f == SWITCH_AT_10) continue; /* beyond the upper limit */
            witness(e, T, H, raw, bias, lo, hi, f, dt, gauge);
            if (f == RIGHT) w_accepts(e, "limits", N, got, dt, gauge);
            else w_rejects(e, fault_name[f], N, got, dt, gauge);
        }
    }
}
END_TEST

/* Above 20 and far below 0 nothing is rounded; so it is with equal limits. */
START_TEST(lattice_is_exact)
{
    enum { T = 9, H = 5, N = T * H };
    double *raw = w_lattice("raw", N, 3, 40, 8), *bias = w_lattice("bias", H, 0, 7, 0.25), *want = w_new(N);
    for (int64_t i = 0; i < N; ++i) {
        if (i % 3 == 0) raw[i] = -4096;
        want[i] = raw[i] < 0 ? 0 : raw[i] + bias[i % H];
    }
    fh1_tensor b = w_store(FH1_F16, bias, H);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        w_exact(e, "lattice", N, run(e, T, H, raw, &b, 0, (double)INFINITY), want);
        w_exact(e, "lo = hi", N, run(e, T, H, raw, &b, 0.5, 0.5), w_fill(N, 0.5));
    }
}
END_TEST

/* raw + bias, softplus, and the limits are rounded, each once. */
START_TEST(bf16_rounds_three_times)
{
    enum { T = 60, H = 8, N = T * H };
    const double lo = 0.0123, hi = 4.56;
    double *raw = w_rounded(w_normal("raw", N, 4), N), *bias = w_normal("bias", H, 1), *want = w_new(N),
           *late = w_new(N);
    double *unrounded_limit = w_new(N);
    fh1_tensor b = w_store(FH1_BF16, bias, H);
    for (int64_t i = 0; i < N; ++i) {
        const wide v = (wide)raw[i] + (wide)bias[i % H], r = (wide)w_r(v);
        const double s = w_r(r > 20 ? r : log1pl(expl(r)));
        want[i] = fmin(fmax(s, w_r((wide)lo)), w_r((wide)hi));
        late[i] = fmin(fmax(w_r(log1pl(expl(v))), w_r((wide)lo)), w_r((wide)hi));
        unrounded_limit[i] = fmin(fmax(s, (double)(float)lo), (double)(float)hi);
    }
    const double *got = run(w_bf16, T, H, raw, &b, lo, hi);
    w_exact(w_bf16, "three roundings", N, got, want);
    w_rejects(w_bf16, "sum not rounded", N, got, late, NULL);
    w_rejects(w_bf16, "limits not rounded", N, got, unrounded_limit, NULL);
}
END_TEST

int main(void)
{
    const w_test tests[] = {
        agrees_with_the_formula, pre_activations_of_every_kind, limits_are_exact_and_faults_are_rejected,
        lattice_is_exact,        bf16_rounds_three_times,       NULL};
    return w_main("dt_softplus", tests);
}
