/* The recurrent state over 100 000 tokens against its gauge, sampled at every scale and around the middle: an honest
 * f32 engine stays at a constant share of √V however long it runs, and what is lost once is seen at the next sample,
 * though the last one has forgotten it. One head per horizon (steps until a state has decayed by e). */
#define REF_BITS 64 /* the arguments of the f64 forwards */
#include "reference/ssd_gauge.h"
#include "tests/gauge_bench.h"

enum { T = 100000, HALF = T / 2, H = 5, P = 2, N = 8, LANES_OF_HEAD = P * N, STATE = H * P * N, Q = 128 };
static const double horizon[H] = {1, 5, 100, 1000, 10000};

/* Samples are taken after so many tokens. */
static const int64_t sample[] = {1,     2,     5,         10,       20,      50,       100,   200,      500,
                                 1000,  2000,  5000,      10000,    20000,   HALF - 1, HALF,  HALF + 1, HALF + 4,
                                 50010, 50020, 50050,     50100,    50200,   50500,    51000, 52000,    55000,
                                 60000, 70000, T - 10000, T - 1000, T - 100, T - 10,   T - 1, T};
enum { N_SAMPLES = sizeof sample / sizeof *sample };

static double *x, *B, *C, *dt; /* [T,H,P] [T,1,N] [T,1,N] [T,H] */
static double A[H], D[H];
static fh1_tensor At, Dt;

typedef struct {
    double *state, *y; /* [N_SAMPLES, H,P,N], [T,H,P] */
    fh1_gauge g_state, g;
} record;

static void make_data(void)
{
    x = w_normal("x", T * H * P, 1), B = w_normal("B", T * N, 0.5), C = w_normal("C", T * N, 0.5);
    dt = w_normal("dt", T * H, 0.3);
    for (int64_t h = 0; h < H; ++h) A[h] = 1.037 * (double)(1 << h), D[h] = 0.5;
    double *A_log = w_new(H);
    for (int64_t h = 0; h < H; ++h) A_log[h] = log(A[h]);
    for (int64_t i = 0; i < T * H; ++i) dt[i] = (double)(float)(exp(dt[i]) / (A[i % H] * horizon[i % H]));
    At = w_store(FH1_F32, A_log, H), Dt = w_store(FH1_F32, D, H);
}

/* Truth and the gauge of an f32 engine with chunks of up to `columns`, from sample to sample. */
static record truth(int64_t columns)
{
    record r = {w_new(N_SAMPLES * STATE), w_new(T * H * P), g_new(N_SAMPLES * STATE), g_new(T * H * P)};
    double *xbc = w_new(T * (H * P + 2 * N)), *state = w_fill(STATE, 0);
    fh1_gauge now = {w_fill(STATE, 0), w_fill(STATE, 0), w_fill(STATE, 0)};
    for (int64_t t = 0; t < T; ++t) {
        double *row = xbc + t * (H * P + 2 * N);
        memcpy(row, x + t * H * P, H * P * sizeof *x);
        memcpy(row + H * P, B + t * N, N * sizeof *B);
        memcpy(row + H * P + N, C + t * N, N * sizeof *C);
    }
    for (int64_t i = 0, t = 0; i < N_SAMPLES; t = sample[i++]) {
        const REF(ref_ssd_args) a = {.T = sample[i] - t,
                                     .H = H,
                                     .P = P,
                                     .N = N,
                                     .G = 1,
                                     .ldx = H * P + 2 * N,
                                     .xbc = xbc + t * (H * P + 2 * N),
                                     .dt = dt + t * H,
                                     .A_log = &At,
                                     .D = &Dt,
                                     .state = state,
                                     .y = r.y + t * H * P};
        const fh1_gauge g = {r.g.worst + t * H * P, r.g.variance + t * H * P, r.g.shared + t * H * P};
        w_fine(ref_ssd_scan_gauge(fh1_profile_find("fp32"), &a, columns, NULL, &now, &g));
        ref_ssd_scan_fwd_f64(&a, fh1_profile_find("exact"));
        memcpy(r.state + i * STATE, state, sizeof(double) * STATE);
        for (int64_t k = 0; k < STATE; ++k) fh1_gauge_set(&r.g_state, i * STATE + k, fh1_gauge_at(&now, k));
    }
    return r;
}

/* An engine of the reference in pieces from sample to sample; chunk 0: the scan, -1: one-token steps. */
static record run(const char *name, int64_t chunk)
{
    record r = {.state = w_new(N_SAMPLES * STATE), .y = w_new(T * H * P)};
    fh1_engine *e = ref_engine_new(name, fh1_profile_find("fp32"), 0);
    float *xe = w_to(e, x, T * H * P), *Be = w_to(e, B, T * N), *Ce = w_to(e, C, T * N), *dte = w_to(e, dt, T * H);
    float *state = w_bytes(STATE * sizeof *state), *y = w_bytes(T * H * P * (int64_t)sizeof *y);
    memset(state, 0, STATE * sizeof *state);
    for (int64_t i = 0, t = 0; i < N_SAMPLES; ++i) {
        while (t < sample[i]) {
            const int64_t n = chunk < 0 ? 1 : sample[i] - t;
            const float *xt = xe + t * H * P, *Bt = Be + t * N, *Ct = Ce + t * N, *dtt = dte + t * H;
            float *yt = y + t * H * P;
            if (chunk < 0) w_fine(e->ops->ssd_step(e, H, P, N, 1, xt, Bt, Ct, dtt, &At, &Dt, state, yt));
            else if (chunk == 0)
                w_fine(e->ops->ssd_scan(e, n, H, P, N, 1, xt, Bt, Ct, dtt, &At, &Dt, NULL, 0, state, yt));
            else w_fine(e->ops->ssd_chunk(e, n, H, P, N, 1, chunk, xt, Bt, Ct, dtt, &At, &Dt, NULL, 0, state, yt));
            t += n;
        }
        fh1_to_f64(r.state + i * STATE, state, FH1_F32, STATE);
    }
    fh1_to_f64(r.y, y, FH1_F32, T * H * P);
    e->free(e);
    return r;
}

typedef enum { PLAIN, CARRY_LOST, A_IN_BF16, STATE_IN_BF16, EXP_TOO_SMALL } how;

/* A plain f32 engine, sound or with a fault. */
static record plain(how f)
{
    record r = {.state = w_new(N_SAMPLES * STATE)};
    float S[STATE] = {0}, a = 0;
    for (int64_t t = 0, i = 0; t < T; ++t) {
        for (int64_t k = 0; k < STATE; ++k) {
            const int64_t h = k / LANES_OF_HEAD, p = k / N;
            if (k % LANES_OF_HEAD == 0) {
                float Ah = -expf((float)fh1_get(&At, h));
                if (f == A_IN_BF16) Ah = fh1_round_f32(FH1_ROUND_BF16, Ah);
                a = expf((float)dt[t * H + h] * Ah);
                if (f == EXP_TOO_SMALL) a = (float)((double)a * (1 - 4 * 0x1p-24));
                if (f == CARRY_LOST && t == HALF) a = 0;
            }
            S[k] = a * S[k] + (float)dt[t * H + h] * (float)x[t * H * P + p] * (float)B[t * N + k % N];
            if (f == STATE_IN_BF16) S[k] = fh1_round_f32(FH1_ROUND_BF16, S[k]);
        }
        if (t + 1 == sample[i]) fh1_to_f64(r.state + i++ * STATE, S, FH1_F32, STATE);
    }
    return r;
}

/* One head at one sample: largest error / allowed, the same against E alone, and RMS error over √(V + S²). */
typedef struct {
    double margin, worst, ratio;
} seen;

static seen look(const record *true_one, const record *r, int64_t i, int64_t h)
{
    seen v = {0};
    double sum = 0, predicted = 0;
    for (int64_t k = i * STATE + h * LANES_OF_HEAD; k < i * STATE + (h + 1) * LANES_OF_HEAD; ++k) {
        const fh1_err e = fh1_gauge_at(&true_one->g_state, k);
        const double err = fh1_error_of(r->state[k], true_one->state[k]);
        v.margin = fmax(v.margin, err / fh1_gauge_allowed(e, fh1_gauge_sigmas(N_SAMPLES * STATE)));
        v.worst = fmax(v.worst, err / e.worst);
        sum += err * err, predicted += e.variance + e.shared * e.shared;
    }
    v.ratio = sqrt(sum / predicted);
    return v;
}

/* The error in units of the gauge does not grow: not with the length, not beyond the band. One sample is a few numbers
 * that one decay moves together, so the mean square over the samples of each half is compared. Returns the largest
 * margin. */
static double honest(const char *what, const record *true_one, const record *r)
{
    double largest = 0;
    for (int64_t h = 0; h < H; ++h) {
        seen most = {0};
        double early = 0, late = 0; /* Σ ratio² of either half */
        int64_t n_early = 0;
        printf("  %-15s horizon %5g: RMS/predicted", what, horizon[h]);
        for (int64_t i = 0; i < N_SAMPLES; ++i) {
            const seen v = look(true_one, r, i, h);
            ck_assert_msg(fh1_within(v.margin, 1), "%s: margin %.3g after %lld tokens, horizon %g", what, v.margin,
                          (long long)sample[i], horizon[h]);
            ck_assert_msg(fh1_within(v.ratio, fh1_rule.rms_band), "%s: RMS %.3g of the predicted one", what, v.ratio);
            most.margin = fmax(most.margin, v.margin), most.worst = fmax(most.worst, v.worst);
            if (sample[i] < HALF) early += v.ratio * v.ratio, ++n_early;
            else late += v.ratio * v.ratio;
            if (i % 4 == 0 || sample[i] == T) printf(" %.2f", v.ratio);
        }
        early = sqrt(early / (double)n_early), late = sqrt(late / (double)(N_SAMPLES - n_early));
        printf("; %.2f before the middle, %.2f after; margin %.3f, error/E %.4f\n", early, late, most.margin,
               most.worst);
        ck_assert_msg(fh1_within(late, fh1_rule.rms_band * early), "the error grows with the length");
        largest = fmax(largest, most.margin);
    }
    const g_verdict v = g_judge(FP32, T * H * P, r->y, true_one->y, &true_one->g, 1);
    printf("  %-15s all %d outputs: margin %.3f\n", what, T * H * P, v.margin);
    ck_assert_msg(fh1_within(v.margin, 1), "%s: output %lld, margin %.3g", what, (long long)v.at, v.margin);
    return largest;
}

START_TEST(honest_engines_stay_inside)
{
    make_data();
    const record sequential = truth(1), chunked = truth(ref_ssd_columns(fh1_profile_find("fp32"), T, Q));
    const record scan = run("ref-f32", 0), chunks = run("ref-bf16", Q), steps = run("ref-f32", -1);
    ck_assert_msg(8 * honest("scan", &sequential, &scan) > 1, "a gauge eight times too small rejects nothing");
    honest("one-token steps", &sequential, &steps);
    honest("chunks", &chunked, &chunks);
}
END_TEST

/* The last sample of a head that is beyond its gauge, -1: none; *first the first one. */
static int64_t last_beyond(const record *true_one, const record *r, int64_t h, int64_t *first, seen *most)
{
    int64_t last = -1;
    *first = -1, *most = (seen){0};
    for (int64_t i = 0; i < N_SAMPLES; ++i) {
        const seen v = look(true_one, r, i, h);
        most->margin = fmax(most->margin, v.margin), most->worst = fmax(most->worst, v.worst);
        if (fh1_within(v.margin, 1)) continue;
        last = sample[i];
        if (*first < 0) *first = last;
    }
    return last;
}

START_TEST(faults_are_seen)
{
    static const char *const name[] = {"", "carry lost", "A in bf16", "state in bf16", "exp 4u too small"};
    make_data();
    const record sequential = truth(1), chunked = truth(ref_ssd_columns(fh1_profile_find("fp32"), T, Q));
    for (how f = PLAIN; f <= EXP_TOO_SMALL; ++f) {
        const record r = plain(f);
        for (int64_t h = 0; h < H; ++h) {
            int64_t first, last;
            seen most, loose;
            last_beyond(&chunked, &r, h, &first, &loose);
            last = last_beyond(&sequential, &r, h, &first, &most);
            if (f == PLAIN) ck_assert_int_eq(last, -1);
            else
                printf("  %-17s horizon %5g: margin %8.3g (%8.3g as chunked), error/E %8.3g, seen from %lld to %lld\n",
                       name[f], horizon[h], most.margin, loose.margin, most.worst, (long long)first, (long long)last);
            if (f == CARRY_LOST) ck_assert(first == HALF + 1 && (last == T) == (horizon[h] > 1000));
            if (f == A_IN_BF16 || f == STATE_IN_BF16) ck_assert(last == T && !fh1_within(loose.margin, 1));
            if (f == EXP_TOO_SMALL && horizon[h] >= 100) ck_assert(last == T && fh1_within(most.worst, 1));
        }
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {honest_engines_stay_inside, faults_are_seen, NULL};
    return w_main("horizon", tests);
}
