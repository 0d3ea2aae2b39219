/* Gauges of selective_scan and selective_step: honest engines of several forms stay inside, planted faults do not. */
#define REF_BITS 64 /* the arguments of the f64 forwards */
#include "reference/selective_gauge.h"
#include "tests/gauge_bench.h"

/* Kinds of data: elements from slow to fast; x that alternates under slow elements; A_log from -10 to 10 and huge
 * steps; steps that do not move, all tokens alike; steps of few values. */
typedef enum { TRAINED, ALTERNATING, EXTREME, STUCK, FEW_STEPS, N_KINDS } kind;
static const char *const kind_name[] = {"trained-like", "alternating", "extreme", "stuck", "few steps"};

typedef struct {
    int64_t T, I, N;
    double *x, *B, *C, *dt, *state, *A_log, *D, *y, *after; /* y, after: truth */
    fh1_tensor At, Dt;
    fh1_gauge g_state, g;
} scan;

static scan new_scan(int k, kind c, uint64_t seed, int64_t T, int64_t N)
{
    scan s = {.T = T, .I = 12, .N = N};
    const int64_t I = s.I;
    s.x = g_data(k, NORMAL, "x", seed, T * I, k == FP16 && c == EXTREME ? 0x1p-4 : 1, 1); /* f16 ends at 65504 */
    s.B = g_data(k, NORMAL, "B", seed, T * N, 0.5, 1);
    s.C = g_data(k, NORMAL, "C", seed, T * N, 0.5, 1);
    s.state = g_data(FP32, NORMAL, "state", seed, I * N, 1, 1);
    s.D = g_data(k, NORMAL, "D", seed, I, 1, 1);
    s.A_log = w_new(I * N);
    s.dt = w_new(T * I);
    const fh1_stream jitter = fh1_stream_open(seed, "dt");
    for (int64_t i = 0; i < I * N; ++i)
        s.A_log[i] =
            c == EXTREME ? -10 + 20 * (double)(i % N) / (double)N : log(1 + (double)(i % N) + 0.1 * (double)(i / N));
    for (int64_t j = 0; j < T * I; ++j) {
        const double n = fh1_random_normal(jitter, (uint64_t)j), f = (double)(j % I) / (double)(I - 1);
        double dt = 1e-3 * pow(100, f) * exp(0.3 * n);
        if (c == EXTREME) dt = exp(3 * n);
        if (c == STUCK) dt = 1e-3 * pow(100, f);
        if (c == FEW_STEPS) dt = 1e-3 * pow(100, f) * exp(0.3 * rint(2 * n));
        s.dt[j] = fh1_round_f64(k == CUDA ? FH1_ROUND_F32 : g_storage(k), dt);
    }
    for (int64_t t = 1; t < T && (c == ALTERNATING || c == STUCK); ++t) {
        for (int64_t i = 0; i < I; ++i) s.x[t * I + i] = (c == ALTERNATING && t % 2 ? -1 : 1) * s.x[i];
        memcpy(s.B + t * N, s.B, (size_t)N * sizeof *s.B);
        memcpy(s.C + t * N, s.B, (size_t)N * sizeof *s.C);
    }
    s.At = w_store2(FH1_F32, s.A_log, I, N);
    s.Dt = w_store(FH1_F32, s.D, I);
    s.g = g_new(T * I), s.g_state = g_new(I * N);
    s.y = w_new(T * I);
    return s;
}

/* Truth and gauge of tokens t0 … t1-1 by the f64 B and C of `s`; s->after and s->g_state move on. */
static void true_scan(int k, scan *s, int64_t t0, int64_t t1, bool step, const fh1_gauge *g_B, const fh1_gauge *g_C)
{
    const int64_t I = s->I, N = s->N;
    if (t0 == 0) {
        s->after = w_copy(s->state, I * N);
        for (int64_t i = 0; i < I * N; ++i) fh1_gauge_set(&s->g_state, i, (fh1_err){0});
    }
    const REF(ref_selective_args) a = {.T = t1 - t0,
                                       .I = I,
                                       .N = N,
                                       .ldx = I,
                                       .ldb = N,
                                       .ldc = N,
                                       .x = s->x + t0 * I,
                                       .B = s->B + t0 * N,
                                       .C = s->C + t0 * N,
                                       .dt = s->dt + t0 * I,
                                       .A_log = &s->At,
                                       .D = &s->Dt,
                                       .state = s->after,
                                       .y = s->y + t0 * I};
    const fh1_gauge g = {s->g.worst + t0 * I, s->g.variance + t0 * I, s->g.shared + t0 * I};
    w_fine(step ? ref_selective_step_gauge(g_contract(k), &a, g_B, g_C, &s->g_state, &g)
                : ref_selective_scan_gauge(g_contract(k), &a, g_B, g_C, &s->g_state, &g));
    w_fine(ref_selective_scan_fwd_f64(&a, fh1_profile_find("exact")));
}

typedef struct {
    double *y, *state;
} result;

static result engine_scan(int k, const char *name, const scan *s, bool steps)
{
    fh1_engine *e = ref_engine_new(name, g_contract(k), 0);
    const int64_t I = s->I, N = s->N, n = steps ? 1 : s->T;
    void *state = w_to(e, s->state, I * N);
    result r = {.y = w_new(s->T * I)};
    for (int64_t t = 0; t < s->T; t += n) {
        void *x = w_to(e, s->x + t * I, n * I), *B = w_to(e, s->B + t * N, n * N), *C = w_to(e, s->C + t * N, n * N);
        void *dt = w_to(e, s->dt + t * I, n * I), *y = w_out(e, n * I);
        if (steps) w_fine(e->ops->selective_step(e, I, N, x, B, C, dt, &s->At, &s->Dt, state, y));
        else w_fine(e->ops->selective_scan(e, n, I, N, x, B, C, dt, &s->At, &s->Dt, NULL, 0, state, y));
        memcpy(r.y + t * I, w_from(e, y, n * I), (size_t)(n * I) * sizeof *r.y);
    }
    r.state = w_from(e, state, I * N);
    e->free(e);
    return r;
}

static void honest(int k, const char *what, const scan *s, const result *r)
{
    g_honest(k, what, s->T * s->I, r->y, s->y, &s->g);
    g_honest(k, what, s->I * s->N, r->state, s->after, &s->g_state);
}

/* -- own engines in f32 -- */

typedef enum {
    POOR_EXP, /* up to 3 u off */
    BASE_2,   /* exp2f of Δ times A·log₂e, as kernels have it */
    FMA,      /* fma, (Δ·B)·x */
    TREE,     /* an associative scan of pairs (a, b), as CUDA blocks and torch have it */
    CARRY_LOST,
    STALE_DT,
    A_TRANSPOSED,
    A_IN_BF16,
    STATE_IN_BF16,
    NO_D,
    SUM_IN_BF16,
    FIRST_FAULT = CARRY_LOST,
    N_HOW = SUM_IN_BF16 + 1
} how;
static const char *const how_name[] = {"poor exp",        "exp2",
                                       "fused",           "associative scan",
                                       "carry lost once", "stale dt once",
                                       "A transposed",    "A rounded to bf16",
                                       "state in bf16",   "D dropped in one channel",
                                       "bf16 accumulator"};

static float in_bf16(float v)
{
    return fh1_round_f32(FH1_ROUND_BF16, v);
}

static float decay_of(const scan *s, how f, int64_t t, int64_t i, int64_t n)
{
    const float a_log = (float)s->A_log[f == A_TRANSPOSED ? n * s->I + i : i * s->N + n];
    const float dt = (float)s->dt[(f == STALE_DT && t == 30 ? t - 1 : t) * s->I + i];
    if (f == POOR_EXP) return (float)g_exp((double)(dt * -(float)g_exp((double)a_log)));
    if (f == BASE_2) return exp2f(dt * (-expf(a_log) * 0x1.715476p+0f));
    if (f == CARRY_LOST && t == 256) return 0;
    const float A = -expf(a_log);
    return expf(dt * (f == A_IN_BF16 ? in_bf16(A) : A));
}

/* Hillis-Steele: in log₂ T rounds, pair t takes in the one 2^r before. */
static void tree(int64_t T, float *a, float *b)
{
    for (int64_t d = 1; d < T; d *= 2)
        for (int64_t t = T - 1; t >= d; --t) {
            b[t] = a[t] * b[t - d] + b[t];
            a[t] = a[t] * a[t - d];
        }
}

static result own_scan(const scan *s, how f)
{
    const int64_t T = s->T, I = s->I, N = s->N;
    result r = {w_new(T * I), w_copy(s->state, I * N)};
    float *a = w_bytes(T * 4), *b = w_bytes(T * 4), *sum = w_bytes(T * 4);
    g_single = true;
    for (int64_t i = 0; i < I; ++i) {
        for (int64_t t = 0; t < T; ++t) sum[t] = 0;
        for (int64_t n = 0; n < N; ++n) {
            float S = (float)s->state[i * N + n];
            for (int64_t t = 0; t < T; ++t) {
                const float dt = (float)s->dt[(f == STALE_DT && t == 30 ? t - 1 : t) * I + i];
                const float B = (float)s->B[t * N + n], x = (float)s->x[t * I + i];
                a[t] = decay_of(s, f, t, i, n);
                b[t] = f == FMA ? dt * B * x : dt * x * B;
            }
            if (f == TREE) tree(T, a, b);
            for (int64_t t = 0; t < T; ++t) {
                const float C = (float)s->C[t * N + n];
                if (f == TREE) S = a[t] * (float)s->state[i * N + n] + b[t];
                else S = f == FMA ? fmaf(a[t], S, b[t]) : a[t] * S + b[t];
                if (f == STATE_IN_BF16) S = in_bf16(S);
                sum[t] = f == FMA ? fmaf(S, C, sum[t]) : sum[t] + S * C;
                if (f == SUM_IN_BF16) sum[t] = in_bf16(sum[t]);
            }
            r.state[i * N + n] = (double)S;
        }
        for (int64_t t = 0; t < T; ++t)
            r.y[t * I + i] = (double)(sum[t] + (f == NO_D && i == 3 ? 0 : (float)s->D[i]) * (float)s->x[t * I + i]);
    }
    return r;
}

START_TEST(engines_are_accepted)
{
    for (int c = 0; c < N_KINDS; ++c) {
        for (uint64_t seed = 1; seed <= 2; ++seed) {
            scan s = new_scan(FP32, (kind)c, seed, 300, seed == 1 ? 16 : 7);
            true_scan(FP32, &s, 0, s.T, false, NULL, NULL);
            const result whole = engine_scan(FP32, "ref-f32", &s, false),
                         steps = engine_scan(FP32, "ref-f32", &s, true);
            honest(FP32, "ref-f32", &s, &whole);
            honest(FP32, "ref-f32 steps", &s, &steps);
            for (how f = POOR_EXP; f < FIRST_FAULT; ++f) {
                const result r = own_scan(&s, f);
                honest(FP32, how_name[f], &s, &r);
            }
        }
        g_summary(kind_name[c]);
    }
}
END_TEST

/* Prefills and steps of 16-bit pipelines; the error of the state is handed on from step to step. */
START_TEST(roundings_are_accepted)
{
    for (int k = BF16; k <= CUDA; ++k) {
        for (int c = 0; c < N_KINDS; ++c) {
            scan s = new_scan(k, (kind)c, 1, 200, 16), steps = new_scan(k, (kind)c, 2, 60, 16);
            true_scan(k, &s, 0, s.T, false, NULL, NULL);
            const result r = engine_scan(k, "ref-bf16", &s, false);
            honest(k, "prefill", &s, &r);
            for (int64_t t = 0; t < steps.T; ++t) true_scan(k, &steps, t, t + 1, true, NULL, NULL);
            const result each = engine_scan(k, "ref-bf16", &steps, true);
            honest(k, "steps", &steps, &each);
        }
        g_summary("16 bits");
    }
}
END_TEST

START_TEST(faults_exceed_the_gauge)
{
    for (int k = FP32; k <= BF16; ++k) {
        scan s = new_scan(k, TRAINED, 1, 300, 16);
        true_scan(k, &s, 0, s.T, false, NULL, NULL);
        const int64_t n = s.T * s.I;
        for (how f = FIRST_FAULT; f < N_HOW; ++f) {
            const result r = own_scan(&s, f);
            g_fault(k, how_name[f], n, r.y, s.y, &s.g);
            if (f != NO_D && f != SUM_IN_BF16) g_fault(k, "  its state", s.I * s.N, r.state, s.after, &s.g_state);
        }
        result r = own_scan(&s, FMA);
        r.y[n / 2] = (double)NAN;
        ck_assert(g_catches(k, n, r.y, s.y, &s.g));
    }
}
END_TEST

/* An engine whose B and C are rounded, judged by a truth whose are not: all channels see the same error. With the gauge
 * of B and C it is honest, without it is not; nine times B's error is caught in the state. */
START_TEST(errors_of_the_inputs)
{
    for (uint64_t seed = 1; seed <= 6; ++seed) {
        scan s = new_scan(FP32, seed % 2 ? TRAINED : FEW_STEPS, seed, 200, seed < 4 ? 16 : 3), engine = s;
        const int64_t n = s.T * s.N;
        fh1_gauge g[2];
        double *rounded[2];
        for (int p = 0; p < 2; ++p) {
            const double *exact = p ? s.C : s.B;
            g[p] = g_new(n);
            rounded[p] = w_rounded(w_copy(exact, n), n);
            for (int64_t i = 0; i < n; ++i) {
                const double half = fh1_dtype_ulp(FH1_BF16, exact[i]) / 2;
                fh1_gauge_set(&g[p], i, fh1_err_half((fh1_err){0}, half));
            }
        }
        engine.B = rounded[0], engine.C = rounded[1];
        const result r = engine_scan(FP32, "ref-f32", &engine, false);
        true_scan(FP32, &s, 0, s.T, false, &g[0], &g[1]);
        honest(FP32, "rounded B and C", &s, &r);
        for (int64_t i = 0; i < n; ++i) engine.B[i] += 8 * (engine.B[i] - s.B[i]);
        const result worse = engine_scan(FP32, "ref-f32", &engine, false);
        g_fault(FP32, "B nine times as far off", s.I * s.N, worse.state, s.after, &s.g_state);
        true_scan(FP32, &s, 0, s.T, false, NULL, NULL);
        g_fault(FP32, "inputs said to be exact", s.T * s.I, r.y, s.y, &s.g);
    }
    g_summary("inputs");
}
END_TEST

/* The same word again and again: each token's B and C are rounded alike, and no average takes that away. An error of
 * three such roundings is caught. */
START_TEST(equal_tokens_are_rounded_alike)
{
    for (uint64_t seed = 1; seed <= 6; ++seed) {
        scan s = new_scan(BF16, STUCK, seed, 300, seed < 4 ? 1 : 5), engine = s;
        const int64_t n = s.T * s.N;
        fh1_gauge g[2] = {g_new(n), g_new(n)};
        double *exact[2] = {w_copy(s.B, n), w_copy(s.C, n)}, *rounded[2];
        for (int p = 0; p < 2; ++p) {
            rounded[p] = w_copy(exact[p], n);
            for (int64_t i = 0; i < n; ++i) {
                const double half = fh1_dtype_ulp(FH1_BF16, exact[p][i]) / 2;
                exact[p][i] += 0.9 * half; /* always up: the worst that a bf16 number can stand for */
                fh1_gauge_set(&g[p], i, fh1_err_half((fh1_err){0}, half));
            }
        }
        s.B = exact[0], s.C = exact[1];
        engine.B = rounded[0], engine.C = rounded[1];
        const result r = engine_scan(BF16, "ref-bf16", &engine, false);
        true_scan(BF16, &s, 0, s.T, false, &g[0], &g[1]);
        honest(BF16, "one word", &s, &r);
        for (int64_t i = 0; i < n; ++i) engine.B[i] -= 2 * (s.B[i] - engine.B[i]);
        const result worse = engine_scan(BF16, "ref-bf16", &engine, false);
        g_fault(BF16, "three roundings", s.I * s.N, worse.state, s.after, &s.g_state);
    }
    g_summary("one word");
}
END_TEST

/* In pieces no more is allowed than in one call, and a recorded state forgets its error. */
START_TEST(the_error_of_the_state_travels)
{
    scan whole = new_scan(FP32, TRAINED, 1, 120, 16), parts = whole;
    const int64_t n = whole.I * whole.N;
    parts.g_state = g_new(n), parts.g = g_new(120 * whole.I), parts.y = w_new(120 * whole.I);
    true_scan(FP32, &whole, 0, 120, false, NULL, NULL);
    true_scan(FP32, &parts, 0, 50, false, NULL, NULL);
    for (int64_t t = 50; t < 120; t += 10) true_scan(FP32, &parts, t, t + 10, false, NULL, NULL);
    const result r = engine_scan(FP32, "ref-f32", &whole, false);
    honest(FP32, "in pieces", &parts, &r);
    for (int64_t i = 0; i < n; ++i)
        ck_assert(fh1_within(parts.g_state.worst[i], whole.g_state.worst[i] * (1 + 0x1p-40)));
    for (int64_t i = 0; i < n; ++i) fh1_gauge_set(&parts.g_state, i, (fh1_err){0});
    parts.after = w_copy(r.state, n);
    true_scan(FP32, &parts, 119, 120, false, NULL, NULL);
    ck_assert(fh1_within(parts.g_state.worst[0], whole.g_state.worst[0] / 4)); /* channel 0 is slow */
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    scan one = new_scan(FP32, TRAINED, 1, 50, 5), three = one;
    three.g = g_new(50 * one.I), three.g_state = g_new(one.I * one.N), three.y = w_new(50 * one.I);
    fh1_set_threads(1);
    true_scan(FP32, &one, 0, 50, false, NULL, NULL);
    fh1_set_threads(3);
    true_scan(FP32, &three, 0, 50, false, NULL, NULL);
    fh1_set_threads(0);
    ck_assert(w_same(one.g.variance, three.g.variance, 50 * one.I) && w_same(one.g.worst, three.g.worst, 50 * one.I));
    ck_assert(w_same(one.g_state.shared, three.g_state.shared, one.I * one.N));
}
END_TEST

int main(void)
{
    const w_test tests[] = {engines_are_accepted,           roundings_are_accepted,
                            faults_exceed_the_gauge,        errors_of_the_inputs,
                            equal_tokens_are_rounded_alike, the_error_of_the_state_travels,
                            threads_do_not_change_a_bit,    NULL};
    return w_main("gauge_selective", tests);
}
