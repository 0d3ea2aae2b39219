/* ssd_scan: S_t = exp(dt_t·A)·S_{t-1} + (dt_t·x_t) ⊗ B_t, y_t = S_t·C_t + D·x_t, A = -exp(A_log), head i in group
 * i / (H/G). The witness has no state: it adds up, for each token, what every earlier one of its document left,
 *   y_t = Σ_s (C_t·B_s)·dt_s·x_s·Π_{s<k≤t} exp(dt_k·A) + C_t·S_0·Π_{k≤t} exp(dt_k·A) + D·x_t. */
#include "tests/witness.h"

typedef struct {
    int64_t T, H, P, N, G;
    double *x, *B, *C, *dt, *state, *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
    fh1_tensor At, Dt;
} input;

typedef enum { RIGHT, TILED, NO_D, D_ON_DT_X, EXTRA_DECAY, NO_STATE, NO_DT, A_BF16, STALE_DT, SWAPPED, LEAK } fault;
static const char *const fault_name[] = {"",
                                         "group i mod G",
                                         "D dropped",
                                         "D times dt·x",
                                         "decay one step too far",
                                         "initial state lost",
                                         "dt missing in the input",
                                         "A rounded to bf16",
                                         "dt of the token before",
                                         "B and C swapped",
                                         "state runs on over documents"};

static int64_t doc_of(const input *a, int64_t t)
{
    return t < 0 ? a->state_doc : a->doc ? a->doc[t] : a->state_doc;
}

/* What is left at token t of what token s (-1: the initial state) put into head h; *units roundings on the way. */
static wide left(const input *a, int64_t s, int64_t t, int64_t h, fault f, wide *units)
{
    *units = 3;
    if (doc_of(a, s) != doc_of(a, t) && f != LEAK) return 0;
    if (s < 0 && f == NO_STATE) return 0;
    wide A = -expl((wide)a->A_log[h]), decay = 1;
    if (f == A_BF16) A = (wide)w_r(A);
    for (int64_t k = t; k > (f == EXTRA_DECAY ? s - 1 : s) && k >= 0; --k) {
        const wide l = A * (wide)a->dt[(f == STALE_DT && k > 0 ? k - 1 : k) * a->H + h];
        decay *= expl(l);
        *units += 4 + 3 * fabsl(l);
    }
    return decay * (s >= 0 && f != NO_DT ? (wide)a->dt[s * a->H + h] : 1);
}

static int64_t group_of(const input *a, int64_t h, fault f)
{
    return f == TILED ? h % a->G : h / (a->H / a->G);
}

/* S after token t. gauge: each contribution times its roundings, 3 when it is made, 4 + 3·|dt·A| a step. */
static void witness_state(const input *a, int64_t t, fault f, wide *S, wide *gauge)
{
    const double *B = f == SWAPPED ? a->C : a->B;
    for (int64_t i = 0; i < a->H * a->P * a->N; ++i) S[i] = gauge[i] = 0;
    for (int64_t h = 0; h < a->H; ++h)
        for (int64_t s = -1; s <= t; ++s) {
            wide units;
            const wide weight = left(a, s, t, h, f, &units);
            if (weight == 0) continue; /* skipped, not multiplied: what lies behind may be NaN */
            for (int64_t i = h * a->P * a->N; i < (h + 1) * a->P * a->N; ++i) {
                const wide v = weight * (s < 0 ? (wide)a->state[i]
                                               : (wide)a->x[s * a->H * a->P + i / a->N] *
                                                     (wide)B[(s * a->G + group_of(a, h, f)) * a->N + i % a->N]);
                S[i] += v;
                gauge[i] += fabsl(v) * units;
            }
        }
}

/* y [T,H,P] followed by the final state [H,P,N], and their gauges. */
static void witness(const input *a, fault f, double *out, double *gauge)
{
    const int64_t n = a->H * a->P * a->N, d = a->H * a->P;
    wide *S = w_bytes(n * (int64_t)sizeof *S), *E = w_bytes(n * (int64_t)sizeof *E);
    for (int64_t t = 0; t < a->T; ++t) {
        witness_state(a, t, f, S, E);
        for (int64_t i = 0; i < d; ++i) {
            const int64_t h = i / a->P, g = group_of(a, h, f);
            const double *C = (f == SWAPPED ? a->B : a->C) + (t * a->G + g) * a->N;
            wide skip = f == NO_D ? 0 : (wide)a->D[h] * (wide)a->x[t * d + i], y = 0, e = 0;
            if (f == D_ON_DT_X) skip *= (wide)a->dt[t * a->H + h];
            for (int64_t k = 0; k < a->N; ++k) {
                y += S[i * a->N + k] * (wide)C[k];
                e += (E[i * a->N + k] + (wide)(a->N / 16 + 8) * fabsl(S[i * a->N + k])) * fabsl((wide)C[k]);
            }
            out[t * d + i] = (double)(y + skip);
            gauge[t * d + i] = (double)(e + 2 * fabsl(skip) + fabsl(y));
        }
    }
    for (int64_t i = 0; i < n; ++i) out[a->T * d + i] = (double)S[i], gauge[a->T * d + i] = (double)E[i];
}

/* Tokens t0 … t1-1 from `state`, which is updated. Returns y. */
static double *run(fh1_engine *e, const input *a, int64_t t0, int64_t t1, int64_t state_doc, double *state)
{
    const int64_t T = t1 - t0, d = a->H * a->P, gn = a->G * a->N;
    void *s = w_to(e, state, d * a->N), *y = w_out(e, T * d);
    w_fine(e->ops->ssd_scan(e, T, a->H, a->P, a->N, a->G, w_to(e, a->x + t0 * d, T * d),
                            w_to(e, a->B + t0 * gn, T * gn), w_to(e, a->C + t0 * gn, T * gn),
                            w_to(e, a->dt + t0 * a->H, T * a->H), &a->At, &a->Dt, a->doc ? a->doc + t0 : NULL,
                            state_doc, s, y));
    fh1_to_f64(state, s, e->dtype, d * a->N);
    return w_from(e, y, T * d);
}

static int64_t n_out(const input *a)
{
    return a->T * a->H * a->P + a->H * a->P * a->N;
}

/* One call: y and the final state behind it, as the witness gives them. */
static double *run_all(fh1_engine *e, const input *a)
{
    const int64_t n_state = a->H * a->P * a->N;
    double *out = w_new(n_out(a)), *state = w_copy(a->state, n_state), *y = run(e, a, 0, a->T, a->state_doc, state);
    memcpy(out, y, (size_t)(n_out(a) - n_state) * sizeof *out);
    memcpy(out + n_out(a) - n_state, state, (size_t)n_state * sizeof *out);
    return out;
}

/* Heads that remember 1/(dt·|A|) tokens, from less than one to a thousand. */
static input make(int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, fh1_dtype stored)
{
    input a = {.T = T, .H = H, .P = P, .N = N, .G = G};
    a.x = w_normal("x", T * H * P, 1), a.state = w_normal("state", H * P * N, 1);
    a.B = w_normal("B", T * G * N, 1), a.C = w_normal("C", T * G * N, 1);
    a.dt = w_new(T * H), a.A_log = w_new(H), a.D = w_normal("D", H, 1);
    fh1_stream s = fh1_stream_open(5, "dt");
    for (int64_t i = 0; i < T * H; ++i) a.dt[i] = (double)(float)exp(-6.9 + 7 * fh1_random_uniform(s, (uint64_t)i));
    for (int64_t h = 0; h < H; ++h) a.A_log[h] = log(1.0371 + (double)(h * 5 % 16)); /* no A that bf16 holds */
    a.At = w_store(stored, a.A_log, H);
    a.Dt = w_store(stored, a.D, H);
    return a;
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][5] = {{1, 1, 1, 1, 1},   {1, 6, 3, 33, 3},  {2, 4, 5, 16, 2}, {9, 3, 1, 17, 1},
                                       {13, 6, 7, 31, 2}, {40, 2, 2, 64, 1}, {5, 9, 3, 5, 3},  {3, 1, 2, 130, 1}};
    for (int k = 0; k < 16; ++k) {
        const int64_t *s = shape[k / 2];
        const input a = make(s[0], s[1], s[2], s[3], s[4], k / 2 % 2 ? FH1_BF16 : FH1_F32);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *got = run_all(e, &a);
        witness(&a, RIGHT, want, gauge);
        w_accepts(e, "y and state", n_out(&a), got, want, gauge);
        if (e == w_f32) w_exact(w_bf16, "no rounding in bf16", n_out(&a), run_all(w_bf16, &a), got);
    }
}
END_TEST

static const int64_t docs[12] = {2, 2, 2, 2, 5, 6, 6, 6, 6, 6, 6, 6};

START_TEST(faults_are_rejected)
{
    for (int k = 0; k < 4; ++k) {
        input a = make(12, 8, 3, 20, k / 2 ? 4 : 2, FH1_F32); /* D-66: several heads a group, groups unlike */
        a.doc = docs;
        a.state_doc = 2;
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *got = run_all(e, &a);
        for (fault f = RIGHT; f <= LEAK; ++f) {
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "documents", n_out(&a), got, want, gauge);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, gauge);
        }
    }
}
END_TEST

/* Decays of exactly 1 (A = -0 for even heads) and exactly 0 or 1 (dt·|A| = 0 or above 22000 for odd ones), small
 * integers: nothing is rounded anywhere. */
START_TEST(lattice_is_exact)
{
    input a = make(30, 6, 3, 37, 3, FH1_F32);
    a.x = w_lattice("x", a.T * 18, -4, 4, 1), a.B = w_lattice("B", a.T * 111, -3, 3, 1);
    a.C = w_lattice("C", a.T * 111, -3, 3, 1), a.dt = w_lattice("dt", a.T * 6, 0, 2, 1);
    a.state = w_lattice("state", 18 * 37, -9, 9, 1), a.D = w_lattice("D", 6, 1, 4, 0.5);
    for (int64_t h = 0; h < 6; ++h) a.A_log[h] = h % 2 ? 10 : -12000;
    a.At = w_store(FH1_F32, a.A_log, 6);
    a.Dt = w_store(FH1_F32, a.D, 6);
    double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *got = run_all(e, &a);
        for (fault f = RIGHT; f <= SWAPPED; ++f) {
            if (f == A_BF16) continue; /* rounding changes neither -0 nor a decay of 0 */
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "lattice", n_out(&a), got, want, NULL);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, NULL);
        }
    }
}
END_TEST

/* D-68: dt = softplus(v) for v at every end, A_log up to 10. A state of 1 that decays once, no input, C = 1. */
START_TEST(decay_at_every_end)
{
    static const double v[] = {-50, -20, 0, 19.9, 20, 20.1, 50, 90}, logs[] = {-10, 0, 5, 10};
    enum { H = 32 };
    input a = make(1, H, 1, 1, 1, FH1_F32);
    a.x = w_fill(H, 0), a.B = w_fill(1, 1), a.C = w_fill(1, 1), a.state = w_fill(H, 1), a.A_log = w_new(H);
    for (int64_t h = 0; h < H; ++h) {
        a.A_log[h] = logs[h % 4];
        a.dt[h] = (double)(float)(v[h / 4] > 20 ? v[h / 4] : log1p(exp(v[h / 4])));
    }
    a.At = w_store(FH1_F32, a.A_log, H);
    double *want = w_new(2 * H), *gauge = w_new(2 * H);
    witness(&a, RIGHT, want, gauge);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *got = run_all(e, &a);
        for (int64_t i = 0; i < 2 * H; ++i) gauge[i] += (k ? 0x1p-149 : 0x1p-1074) / e->profile->u; /* underflow */
        w_accepts(e, "decays", 2 * H, got, want, gauge);
        for (int64_t h = 0; h < H; ++h) ck_assert(got[h] >= 0 && got[h] <= 1);
        ck_assert(got[0] == 1 && got[H - 1] == 0); /* v = -50, A_log = -10: no decay at all; 90 and 10: nothing stays */
    }
}
END_TEST

START_TEST(documents_do_not_meet)
{
    static const int64_t begin[] = {0, 4, 5, 12};
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        input a = make(12, 4, 5, 35, 2, FH1_F32);
        const int64_t d = 20, n_state = d * 35;
        a.doc = docs;
        a.state_doc = -1;
        double *packed = run_all(e, &a);
        for (int i = 0; i < 3; ++i) {
            input solo = a;
            solo.doc = NULL;
            double *zero = w_fill(n_state, 0), *y = run(e, &solo, begin[i], begin[i + 1], 0, zero);
            w_exact(e, "a document alone", (begin[i + 1] - begin[i]) * d, packed + begin[i] * d, y);
            if (i == 2) w_exact(e, "state of the last document", n_state, packed + 12 * d, zero);
        }
        for (int64_t i = 0; i < d; ++i) a.x[3 * d + i] = (double)NAN;
        a.dt[4 * 4] = (double)INFINITY, a.dt[4 * 4 + 1] = (double)NAN;
        for (int64_t i = 0; i < n_state; ++i) a.state[i] = (double)NAN;
        const double *poisoned = run_all(e, &a);
        w_exact(e, "after NaN", 7 * d + n_state, poisoned + 5 * d, packed + 5 * d);
        w_exact(e, "before NaN", 3 * d, poisoned, packed);
        ck_assert(isnan(poisoned[3 * d]));
    }
}
END_TEST

START_TEST(any_split_gives_the_same_bits)
{
    for (int k = 0; k < 4; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input a = make(9, 6, 4, 21, 3, FH1_BF16);
        if (k / 2) a.doc = docs, a.state_doc = 2;
        const double *whole = run_all(e, &a);
        for (int64_t t = 1; t < 9; ++t) {
            double *state = w_copy(a.state, 24 * 21);
            w_exact(e, "first part", t * 24, run(e, &a, 0, t, a.state_doc, state), whole);
            w_exact(e, "second part", (9 - t) * 24, run(e, &a, t, 9, a.doc ? a.doc[t - 1] : 0, state), whole + t * 24);
            w_exact(e, "state", 24 * 21, state, whole + 9 * 24);
        }
    }
}
END_TEST

/* Scaling x and the state by 2 scales everything by 2; thread counts change nothing. */
START_TEST(linear_in_x_and_free_of_threads)
{
    input a = make(9, 6, 4, 21, 3, FH1_BF16), twice = a;
    fh1_set_threads(1);
    double *y = run_all(w_f32, &a);
    fh1_set_threads(3);
    w_exact(w_f32, "three threads", n_out(&a), run_all(w_f32, &a), y);
    fh1_set_threads(0);
    twice.x = w_copy(a.x, 9 * 24), twice.state = w_copy(a.state, 24 * 21);
    for (int64_t i = 0; i < 9 * 24; ++i) twice.x[i] *= 2;
    for (int64_t i = 0; i < 24 * 21; ++i) twice.state[i] *= 2;
    for (int64_t i = 0; i < n_out(&a); ++i) y[i] *= 2;
    w_exact(w_f32, "twice", n_out(&a), run_all(w_f32, &twice), y);
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,
                            faults_are_rejected,
                            lattice_is_exact,
                            decay_at_every_end,
                            documents_do_not_meet,
                            any_split_gives_the_same_bits,
                            linear_in_x_and_free_of_threads,
                            NULL};
    return w_main("ssd_scan", tests);
}
