/* Gauges of ssd_scan, ssd_chunk and ssd_step over some hundred tokens. Longer: test_horizon.c. */
#include "tests/scan_bench.h"

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
            const result r = tree_chunks(&s, (operands){0});
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
