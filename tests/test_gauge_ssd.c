/* Gauges of ssd_scan, ssd_chunk and ssd_step over some hundred tokens. Longer: test_horizon.c. */
#define REF_BITS 64 /* the arguments of the f64 forwards */
#include "reference/ssd_gauge.h"
#include "tests/gauge_bench.h"

/* Kinds of data: heads from slow to fast; x that alternates under slow heads; A_log from -10 to 10 and huge steps;
 * steps that sit at a limit, all tokens alike; steps of few values. */
typedef enum { TRAINED, ALTERNATING, EXTREME, STUCK, FEW_STEPS, N_KINDS } kind;
static const char *const kind_name[] = {"trained-like", "alternating", "extreme", "stuck", "few steps"};

typedef struct {
    int64_t T, H, P, N, G;
    double *x, *B, *C, *dt, *state, *A_log, *D, *y, *after; /* y, after: truth */
    fh1_tensor At, Dt;
    const int64_t *doc;
    int64_t state_doc;
    fh1_gauge g_state, g;
} scan;

static int64_t n_state(const scan *s)
{
    return s->H * s->P * s->N;
}

static scan new_scan(int k, kind c, uint64_t seed, int64_t T, int64_t N)
{
    scan s = {.T = T, .H = 8, .P = 3, .N = N, .G = 2};
    s.x = g_data(k, NORMAL, "x", seed, T * s.H * s.P, 1, 1);
    s.B = g_data(k, NORMAL, "B", seed, T * s.G * N, 0.5, 1);
    s.C = g_data(k, NORMAL, "C", seed, T * s.G * N, 0.5, 1);
    s.state = g_data(FP32, NORMAL, "state", seed, n_state(&s), 1, 1);
    s.D = g_data(k, NORMAL, "D", seed, s.H, 1, 1);
    s.A_log = w_new(s.H);
    s.dt = w_new(T * s.H);
    const fh1_stream jitter = fh1_stream_open(seed, "dt");
    for (int64_t h = 0; h < s.H; ++h) {
        const double f = (double)h / (double)(s.H - 1);
        s.A_log[h] = c == EXTREME ? -10 + 20 * f : log(1 + 15 * f);
        for (int64_t t = 0; t < T; ++t) {
            const double n = fh1_random_normal(jitter, (uint64_t)(t * s.H + h));
            double dt = 1e-3 * pow(100, f) * exp(0.3 * n);
            if (c == EXTREME) dt = exp(3 * n);
            if (c == STUCK) dt = 1e-3 * pow(100, f);
            if (c == FEW_STEPS) dt = 1e-3 * pow(100, f) * exp(0.3 * rint(2 * n));
            s.dt[t * s.H + h] = fh1_round_f64(g_storage(k), dt);
        }
    }
    for (int64_t t = 1; t < T && (c == ALTERNATING || c == STUCK); ++t) {
        for (int64_t i = 0; i < s.H * s.P; ++i)
            s.x[t * s.H * s.P + i] = (c == ALTERNATING ? t % 2 ? -1 : 1 : 1) * s.x[i];
        memcpy(s.B + t * s.G * N, s.B, (size_t)(s.G * N) * sizeof *s.B);
        memcpy(s.C + t * s.G * N, s.B, (size_t)(s.G * N) * sizeof *s.C);
    }
    s.At = w_store(FH1_F32, s.A_log, s.H);
    s.Dt = w_store(FH1_F32, s.D, s.H);
    s.g = g_new(T * s.H * s.P), s.g_state = g_new(n_state(&s));
    s.y = w_new(T * s.H * s.P);
    return s;
}

/* Truth and gauge of tokens t0 … t1-1, s->after and s->g_state move on. columns 0: one-token steps. */
static void true_scan(int k, scan *s, int64_t t0, int64_t t1, int64_t columns)
{
    const int64_t d = s->H * s->P, GN = s->G * s->N, width = d + 2 * GN;
    double *xbc = w_new((t1 - t0) * width);
    for (int64_t t = t0; t < t1; ++t) {
        memcpy(xbc + (t - t0) * width, s->x + t * d, (size_t)d * sizeof *xbc);
        memcpy(xbc + (t - t0) * width + d, s->B + t * GN, (size_t)GN * sizeof *xbc);
        memcpy(xbc + (t - t0) * width + d + GN, s->C + t * GN, (size_t)GN * sizeof *xbc);
    }
    if (t0 == 0) {
        s->after = w_copy(s->state, n_state(s));
        for (int64_t i = 0; i < n_state(s); ++i) fh1_gauge_set(&s->g_state, i, (fh1_err){0});
    }
    const REF(ref_ssd_args) a = {.T = t1 - t0,
                                 .H = s->H,
                                 .P = s->P,
                                 .N = s->N,
                                 .G = s->G,
                                 .ldx = width,
                                 .xbc = xbc,
                                 .dt = s->dt + t0 * s->H,
                                 .A_log = &s->At,
                                 .D = &s->Dt,
                                 .doc = s->doc ? s->doc + t0 : NULL,
                                 .state_doc = t0 > 0 && s->doc ? s->doc[t0 - 1] : s->state_doc,
                                 .state = s->after,
                                 .y = s->y + t0 * d};
    const fh1_gauge g = {s->g.worst + t0 * d, s->g.variance + t0 * d, s->g.shared + t0 * d};
    w_fine(columns ? ref_ssd_scan_gauge(g_contract(k), &a, columns, NULL, &s->g_state, &g)
                   : ref_ssd_step_gauge(g_contract(k), &a, &s->g_state, &g));
    ref_ssd_scan_fwd_f64(&a, fh1_profile_find("exact"));
}

typedef struct {
    double *y, *state;
} result;

/* The reference's engines: Q 0 the scan, -1 one-token steps. */
static result engine_scan(int k, const char *name, const scan *s, int64_t Q)
{
    fh1_engine *e = ref_engine_new(name, g_contract(k), 0);
    const int64_t d = s->H * s->P, GN = s->G * s->N, n = Q < 0 ? 1 : s->T;
    void *state = w_to(e, s->state, n_state(s));
    result r = {.y = w_new(s->T * d)};
    for (int64_t t = 0; t < s->T; t += n) {
        void *x = w_to(e, s->x + t * d, n * d), *B = w_to(e, s->B + t * GN, n * GN);
        void *C = w_to(e, s->C + t * GN, n * GN), *dt = w_to(e, s->dt + t * s->H, n * s->H), *y = w_out(e, n * d);
        if (Q < 0) w_fine(e->ops->ssd_step(e, s->H, s->P, s->N, s->G, x, B, C, dt, &s->At, &s->Dt, state, y));
        else if (Q == 0)
            w_fine(e->ops->ssd_scan(e, n, s->H, s->P, s->N, s->G, x, B, C, dt, &s->At, &s->Dt, s->doc, s->state_doc,
                                    state, y));
        else
            w_fine(e->ops->ssd_chunk(e, n, s->H, s->P, s->N, s->G, Q, x, B, C, dt, &s->At, &s->Dt, s->doc, s->state_doc,
                                     state, y));
        memcpy(r.y + t * d, w_from(e, y, n * d), (size_t)(n * d) * sizeof *r.y);
    }
    r.state = w_from(e, state, n_state(s));
    e->free(e);
    return r;
}

typedef enum {
    SEQUENTIAL_POOR_EXP,
    FUSED_SCAN,
    TREE_CHUNKS,
    CARRY_LOST,
    STALE_DT,
    WRONG_GROUP,
    EDGE_SKIPPED,
    A_IN_BF16,
    STATE_IN_BF16,
    NO_D,
    SUM_IN_BF16,
    FIRST_HONEST = SEQUENTIAL_POOR_EXP,
    FIRST_FAULT = CARRY_LOST,
    N_HOW = SUM_IN_BF16 + 1
} how;
static const char *const how_name[] = {"sequential, poor exp",
                                       "fused",
                                       "chunks of sums by a tree",
                                       "carry lost once",
                                       "stale dt once",
                                       "wrong group in one head",
                                       "decay skipped at a chunk's edge",
                                       "A rounded to bf16",
                                       "state in bf16",
                                       "D dropped in one head",
                                       "bf16 accumulator"};

static float in_bf16(float v)
{
    return fh1_round_f32(FH1_ROUND_BF16, v);
}

static float poor_exp(float v)
{
    return (float)g_exp((double)v);
}

/* An f32 engine, token after token, some time wrong. */
static result own_scan(const scan *s, how f)
{
    const int64_t d = s->H * s->P;
    result r = {w_new(s->T * d), w_copy(s->state, n_state(s))};
    g_single = true;
    for (int64_t h = 0; h < s->H; ++h) {
        float A = -(f == SEQUENTIAL_POOR_EXP ? poor_exp((float)s->A_log[h]) : expf((float)s->A_log[h]));
        if (f == A_IN_BF16) A = in_bf16(A);
        const int64_t group = f == WRONG_GROUP && h == 3 ? 1 : h / (s->H / s->G);
        for (int64_t t = 0; t < s->T; ++t) {
            const float dt = (float)s->dt[(f == STALE_DT && t == 30 ? t - 1 : t) * s->H + h];
            float a = f == SEQUENTIAL_POOR_EXP ? poor_exp(dt * A) : expf(dt * A);
            if (f == EDGE_SKIPPED && t == 128) a = 1;
            if (f == CARRY_LOST && t == 256) a = 0;
            for (int64_t i = 0; i < s->P; ++i) {
                const float x = (float)s->x[t * d + h * s->P + i], D = f == NO_D && h == 3 ? 0 : (float)s->D[h];
                float sum = 0;
                for (int64_t n = 0; n < s->N; ++n) {
                    const float B = (float)s->B[(t * s->G + group) * s->N + n];
                    const float C = (float)s->C[(t * s->G + group) * s->N + n];
                    double *at = r.state + (h * s->P + i) * s->N + n;
                    const float S = (float)*at;
                    float now = f == FUSED_SCAN ? fmaf(a, S, dt * B * x) : a * S + dt * x * B;
                    if (f == STATE_IN_BF16) now = in_bf16(now);
                    *at = (double)now;
                    sum = f == FUSED_SCAN ? fmaf(now, C, sum) : sum + now * C;
                    if (f == SUM_IN_BF16) sum = in_bf16(sum);
                }
                r.y[t * d + h * s->P + i] = (double)(f == FUSED_SCAN ? fmaf(D, x, sum) : sum + D * x);
            }
        }
    }
    return r;
}

/* As GPU kernels do: sums of l by a tree, exp of their differences, (C·B)·exp·dt before x. Chunks of 64. */
static result tree_chunks(const scan *s)
{
    enum { Q = 64 };
    const int64_t d = s->H * s->P;
    result r = {w_new(s->T * d), w_copy(s->state, n_state(s))};
    g_single = true;
    for (int64_t h = 0; h < s->H; ++h) {
        const float A = -poor_exp((float)s->A_log[h]);
        const int64_t group = h / (s->H / s->G);
        for (int64_t t0 = 0; t0 < s->T; t0 += Q) {
            const int64_t L = t0 + Q < s->T ? Q : s->T - t0;
            float sum[Q], next[Q], carried[Q];
            for (int64_t i = 0; i < L; ++i) sum[i] = (float)s->dt[(t0 + i) * s->H + h] * A;
            for (int64_t step = 1; step < L; step *= 2) {
                for (int64_t i = 0; i < L; ++i) next[i] = i >= step ? sum[i] + sum[i - step] : sum[i];
                memcpy(sum, next, sizeof sum);
            }
            for (int64_t p = 0; p < s->P; ++p) {
                double *S = r.state + (h * s->P + p) * s->N;
                for (int64_t i = 0; i < L; ++i) {
                    const double *C = s->C + ((t0 + i) * s->G + group) * s->N;
                    float y = (float)g_dot(LANES, s->N, C, S) * poor_exp(sum[i]);
                    for (int64_t j = 0; j <= i; ++j) {
                        const float cb = (float)g_dot(PAIRWISE, s->N, C, s->B + ((t0 + j) * s->G + group) * s->N);
                        const float m = cb * poor_exp(fminf(sum[i] - sum[j], 0)) * (float)s->dt[(t0 + j) * s->H + h];
                        y = fmaf(m, (float)s->x[(t0 + j) * d + h * s->P + p], y);
                    }
                    r.y[(t0 + i) * d + h * s->P + p] =
                        (double)fmaf((float)s->D[h], (float)s->x[(t0 + i) * d + h * s->P + p], y);
                }
                for (int64_t i = 0; i < L; ++i)
                    carried[i] = poor_exp(fminf(sum[L - 1] - sum[i], 0)) * (float)s->dt[(t0 + i) * s->H + h];
                for (int64_t n = 0; n < s->N; ++n) {
                    float lanes[4] = {0};
                    for (int64_t i = 0; i < L; ++i) {
                        const float B = (float)s->B[((t0 + i) * s->G + group) * s->N + n];
                        lanes[i % 4] += carried[i] * B * (float)s->x[(t0 + i) * d + h * s->P + p];
                    }
                    S[n] =
                        (double)(poor_exp(sum[L - 1]) * (float)S[n] + ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])));
                }
            }
        }
    }
    return r;
}

static void honest(int k, const char *what, const scan *s, const result *r)
{
    g_honest(k, what, s->T * s->H * s->P, r->y, s->y, &s->g);
    g_honest(k, what, n_state(s), r->state, s->after, &s->g_state);
}

START_TEST(sequential_engines_are_accepted)
{
    for (int c = 0; c < N_KINDS; ++c) {
        for (uint64_t seed = 1; seed <= 2; ++seed) {
            scan s = new_scan(FP32, (kind)c, seed, 300, seed == 1 ? 32 : 19);
            true_scan(FP32, &s, 0, s.T, 1);
            const result scanned = engine_scan(FP32, "ref-f32", &s, 0), stepped = engine_scan(FP32, "ref-f32", &s, -1);
            honest(FP32, "ref-f32 scan", &s, &scanned);
            honest(FP32, "ref-f32 steps", &s, &stepped);
            for (how f = FIRST_HONEST; f < TREE_CHUNKS; ++f) {
                const result r = own_scan(&s, f);
                honest(FP32, how_name[f], &s, &r);
            }
        }
        g_summary(kind_name[c]);
    }
}
END_TEST

START_TEST(chunked_engines_are_accepted)
{
    static const int64_t chunk[] = {16, 64, 128, 256};
    for (int c = 0; c < N_KINDS; ++c) {
        for (uint64_t seed = 1; seed <= 2; ++seed) {
            scan s = new_scan(FP32, (kind)c, seed, 300, seed == 1 ? 32 : 19);
            true_scan(FP32, &s, 0, s.T, ref_ssd_columns(g_contract(FP32), s.T, 128));
            for (int q = 0; q < 4; ++q) {
                const result r = engine_scan(FP32, q % 2 ? "ref-f32" : "ref-bf16", &s, chunk[q]);
                honest(FP32, "chunks", &s, &r);
            }
            const result r = tree_chunks(&s);
            honest(FP32, how_name[TREE_CHUNKS], &s, &r);
            scan b = new_scan(BF16, (kind)c, seed, 300, 32);
            true_scan(BF16, &b, 0, b.T, ref_ssd_columns(g_contract(BF16), b.T, 128));
            const result bf16 = engine_scan(BF16, "ref-bf16", &b, 128);
            honest(BF16, "bf16 prefill", &b, &bf16);
        }
    }
    g_summary("chunks");
}
END_TEST

/* Token after token with the roundings of a decode step, the error of the state handed on. */
START_TEST(steps_are_accepted)
{
    for (int k = BF16; k <= FP16; ++k) {
        for (int c = 0; c < N_KINDS; ++c) {
            scan s = new_scan(k, (kind)c, 1, 60, 32);
            for (int64_t t = 0; t < s.T; ++t) true_scan(k, &s, t, t + 1, 0);
            const result r = engine_scan(k, "ref-bf16", &s, -1);
            honest(k, "steps", &s, &r);
        }
        g_summary("steps");
    }
}
END_TEST

/* Under the gauge of a chunked engine, wider than that of the sequential one which is at fault here. */
START_TEST(faults_exceed_the_gauge)
{
    for (int k = FP32; k <= BF16; ++k) {
        scan s = new_scan(k, TRAINED, 1, 300, 32);
        true_scan(k, &s, 0, s.T, ref_ssd_columns(g_contract(k), s.T, 128));
        const int64_t n = s.T * s.H * s.P;
        for (how f = FIRST_FAULT; f < N_HOW; ++f) {
            const result r = own_scan(&s, f);
            g_fault(k, how_name[f], n, r.y, s.y, &s.g);
            if (f != NO_D && f != SUM_IN_BF16) g_fault(k, "  its state", n_state(&s), r.state, s.after, &s.g_state);
        }
        result r = own_scan(&s, FUSED_SCAN);
        r.y[n / 2] = (double)NAN;
        ck_assert(g_catches(k, n, r.y, s.y, &s.g));
    }
}
END_TEST

/* In sixty steps with 16-bit roundings, state handed on. */
START_TEST(faults_exceed_the_gauge_of_steps)
{
    static const how fault[] = {STALE_DT, WRONG_GROUP, A_IN_BF16, STATE_IN_BF16, NO_D};
    for (int k = FP32; k <= BF16; ++k) {
        scan s = new_scan(k, TRAINED, 1, 60, 32);
        for (int64_t t = 0; t < s.T; ++t) true_scan(k, &s, t, t + 1, 0);
        for (size_t i = 0; i < sizeof fault / sizeof *fault; ++i) {
            const result r = own_scan(&s, fault[i]);
            if (fault[i] == NO_D) g_fault(k, how_name[fault[i]], s.T * s.H * s.P, r.y, s.y, &s.g);
            else g_fault(k, how_name[fault[i]], n_state(&s), r.state, s.after, &s.g_state);
        }
    }
}
END_TEST

/* In pieces: an engine that carries its state, a gauge that carries its error. What was added up before a piece is one
 * number for it, so no more is allowed than in one call. A document that begins forgets all of it, NaN included. */
START_TEST(the_error_of_the_state_travels)
{
    scan whole = new_scan(FP32, TRAINED, 1, 120, 32), parts = whole;
    parts.g_state = g_new(n_state(&whole)), parts.g = g_new(120 * 24), parts.y = w_new(120 * 24);
    true_scan(FP32, &whole, 0, 120, 1);
    true_scan(FP32, &parts, 0, 50, 1);
    for (int64_t t = 50; t < 120; t += 10) true_scan(FP32, &parts, t, t + 10, 1);
    const result r = engine_scan(FP32, "ref-f32", &whole, 0);
    honest(FP32, "in pieces", &parts, &r);
    for (int64_t i = 0; i < n_state(&whole); ++i)
        ck_assert(fh1_within(parts.g_state.worst[i], whole.g_state.worst[i] * (1 + 0x1p-40)));
    for (int64_t i = 0; i < n_state(&whole); ++i) fh1_gauge_set(&parts.g_state, i, (fh1_err){0});
    parts.after = w_copy(r.state, n_state(&whole)); /* as if it had been recorded: the slow heads hold their error */
    true_scan(FP32, &parts, 119, 120, 1);
    ck_assert(fh1_within(parts.g_state.variance[0], whole.g_state.variance[0] / 8));

    int64_t doc[120];
    for (int64_t t = 0; t < 120; ++t) doc[t] = t >= 70;
    whole.doc = doc;
    for (int64_t i = 0; i < whole.N; ++i) whole.B[60 * whole.G * whole.N + i] = (double)NAN;
    whole.dt[65 * whole.H] = (double)NAN;
    true_scan(FP32, &whole, 0, 120, 16);
    const result late = engine_scan(FP32, "ref-f32", &whole, 16);
    const int64_t d = whole.H * whole.P;
    const fh1_gauge g = {whole.g.worst + 70 * d, whole.g.variance + 70 * d, whole.g.shared + 70 * d};
    g_honest(FP32, "after a NaN", n_state(&whole), late.state, whole.after, &whole.g_state);
    g_honest(FP32, "after a NaN", 50 * d, late.y + 70 * d, whole.y + 70 * d, &g);
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    scan one = new_scan(FP32, TRAINED, 1, 50, 19), three = one;
    three.g = g_new(50 * 24), three.g_state = g_new(n_state(&one)), three.y = w_new(50 * 24);
    fh1_set_threads(1);
    true_scan(FP32, &one, 0, 50, 16);
    fh1_set_threads(3);
    true_scan(FP32, &three, 0, 50, 16);
    fh1_set_threads(0);
    ck_assert(w_same(one.g.variance, three.g.variance, 50 * 24) && w_same(one.g.worst, three.g.worst, 50 * 24));
    ck_assert(w_same(one.g_state.shared, three.g_state.shared, n_state(&one)));
}
END_TEST

int main(void)
{
    const w_test tests[] = {sequential_engines_are_accepted,
                            chunked_engines_are_accepted,
                            steps_are_accepted,
                            faults_exceed_the_gauge,
                            faults_exceed_the_gauge_of_steps,
                            the_error_of_the_state_travels,
                            threads_do_not_change_a_bit,
                            NULL};
    return w_main("gauge_ssd", tests);
}
