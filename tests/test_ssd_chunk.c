/* ssd_chunk: the recurrence of ssd_scan in chunks of Q tokens, as transformers and the GPU kernels compute it. With
 * l_t = dt_t·A and Λ their sum inside a chunk,
 *   y_t = Σ_{s<=t} (C_t·B_s) exp(Λ_t - Λ_s) dt_s x_s + exp(Λ_t) C_t·S + D x_t,   s and t in one chunk
 *   S  <- exp(Λ_last) S + Σ_s exp(Λ_last - Λ_s) dt_s x_s ⊗ B_s.
 * The chunks start again with each document. In exact arithmetic Q does not matter: the witness has no chunks, it adds
 * up for each token what every earlier one of its document left. */
#include "tests/witness.h"

typedef struct {
    int64_t T, H, P, N, G;
    double *x, *B, *C, *dt, *state, *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
    fh1_tensor At, Dt;
} input;

typedef enum {
    RIGHT,
    TILED,
    NO_D,
    NO_STATE,
    NO_DT,
    SWAPPED,
    LEAK,
    CHUNKS_APART,
    CARRY_FRESH,
    CARRY_LATE,
    SELF_UNSEEN
} fault;
static const char *const fault_name[] = {"",
                                         "group i mod G",
                                         "D dropped",
                                         "initial state lost",
                                         "dt missing in the input",
                                         "B and C swapped",
                                         "state runs on over documents",
                                         "nothing crosses a chunk's edge",
                                         "the state does not decay inside the next chunk",
                                         "the state decays one step too far at an edge",
                                         "a token does not see itself"};

static int64_t doc_of(const input *a, int64_t t)
{
    return t < 0 || !a->doc ? a->state_doc : a->doc[t];
}

/* First token of the chunk of t: chunks of Q from the beginning of its document in this call. */
static int64_t chunk_begin(const input *a, int64_t t, int64_t Q)
{
    int64_t begin = t;
    while (begin > 0 && doc_of(a, begin - 1) == doc_of(a, t)) --begin;
    return t - (t - begin) % Q;
}

/* What is left at token t of what token s (-1: the initial state) put into head h. *units: roundings on the way, four a
 * step, and one of size |Λ| for each addition of a chunk's sum, Λ from the beginning of the chunk of s. */
static wide left(const input *a, int64_t s, int64_t t, int64_t h, int64_t Q, fault f, wide *units)
{
    const wide A = -expl((wide)a->A_log[h]);
    wide decay = 1, sum = 0;
    *units = 12 + (wide)(a->N / 16);
    if (doc_of(a, s) != doc_of(a, t) && f != LEAK) return 0;
    if (s < 0 && f == NO_STATE) return 0;
    if (s == t && f == SELF_UNSEEN) return 0;
    const int64_t edge = chunk_begin(a, t, Q);
    if (s < edge && s >= 0 && f == CHUNKS_APART) return 0;
    for (int64_t k = t; k > s && k >= 0; --k) {
        if (f == CARRY_FRESH && s < edge && k > edge) continue; /* decays as if t were the chunk's first */
        const wide l = A * (wide)a->dt[k * a->H + h];
        decay *= expl(l);
        *units += 4;
    }
    for (int64_t k = s < 0 ? 0 : chunk_begin(a, s, Q); k <= t; ++k) sum += fabsl(A * (wide)a->dt[k * a->H + h]);
    if (f == CARRY_LATE && s < edge && s >= 0) decay *= expl(A * (wide)a->dt[edge * a->H + h]);
    *units += (wide)((Q < a->T ? Q : a->T) + 4) * sum;
    return decay * (s >= 0 && f != NO_DT ? (wide)a->dt[s * a->H + h] : 1);
}

static int64_t group_of(const input *a, int64_t h, fault f)
{
    return f == TILED ? h % a->G : h / (a->H / a->G);
}

/* The state after token t and its gauge, Σ |contribution| · units. */
static void witness_state(const input *a, int64_t t, int64_t Q, fault f, wide *S, wide *gauge)
{
    const double *B = f == SWAPPED ? a->C : a->B;
    for (int64_t i = 0; i < a->H * a->P * a->N; ++i) S[i] = gauge[i] = 0;
    for (int64_t h = 0; h < a->H; ++h)
        for (int64_t s = -1; s <= t; ++s) {
            wide units;
            const wide weight = left(a, s, t, h, Q, f, &units);
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

static int64_t n_state(const input *a)
{
    return a->H * a->P * a->N;
}

static int64_t n_out(const input *a)
{
    return a->T * a->H * a->P + n_state(a);
}

/* y [T,H,P] followed by the final state [H,P,N], and their gauges. Faults of edges act on y: a final state has none. */
static void witness(const input *a, int64_t Q, fault f, double *out, double *gauge)
{
    const int64_t n = n_state(a), d = a->H * a->P;
    wide *S = w_bytes(n * (int64_t)sizeof *S), *E = w_bytes(n * (int64_t)sizeof *E);
    for (int64_t t = 0; t < a->T; ++t) {
        witness_state(a, t, Q, f, S, E);
        for (int64_t i = 0; i < d; ++i) {
            const int64_t h = i / a->P;
            const double *C = (f == SWAPPED ? a->B : a->C) + (t * a->G + group_of(a, h, f)) * a->N;
            wide y = f == NO_D ? 0 : (wide)a->D[h] * (wide)a->x[t * d + i], e = 2 * fabsl(y);
            for (int64_t k = 0; k < a->N; ++k) {
                y += S[i * a->N + k] * (wide)C[k];
                e += E[i * a->N + k] * fabsl((wide)C[k]);
            }
            out[t * d + i] = (double)y;
            gauge[t * d + i] = (double)(e + 2 * fabsl(y));
        }
    }
    for (int64_t i = 0; i < n; ++i) out[a->T * d + i] = (double)S[i], gauge[a->T * d + i] = (double)E[i];
}

/* Tokens t0 … t1-1 from `state`, which is updated; Q 0 stands for ssd_scan. Returns y. */
static double *run(fh1_engine *e, const input *a, int64_t Q, int64_t t0, int64_t t1, int64_t state_doc, double *state)
{
    const int64_t T = t1 - t0, d = a->H * a->P, gn = a->G * a->N;
    void *s = w_to(e, state, n_state(a)), *y = w_out(e, T * d);
    const void *x = w_to(e, a->x + t0 * d, T * d), *dt = w_to(e, a->dt + t0 * a->H, T * a->H);
    const void *B = w_to(e, a->B + t0 * gn, T * gn), *C = w_to(e, a->C + t0 * gn, T * gn);
    const int64_t *doc = a->doc ? a->doc + t0 : NULL;
    if (Q)
        w_fine(e->ops->ssd_chunk(e, T, a->H, a->P, a->N, a->G, Q, x, B, C, dt, &a->At, &a->Dt, doc, state_doc, s, y));
    else w_fine(e->ops->ssd_scan(e, T, a->H, a->P, a->N, a->G, x, B, C, dt, &a->At, &a->Dt, doc, state_doc, s, y));
    fh1_to_f64(state, s, e->dtype, n_state(a));
    return w_from(e, y, T * d);
}

/* One call: y and the final state behind it, as the witness gives them. */
static double *run_all(fh1_engine *e, const input *a, int64_t Q)
{
    double *out = w_new(n_out(a)), *state = w_copy(a->state, n_state(a)),
           *y = run(e, a, Q, 0, a->T, a->state_doc, state);
    memcpy(out, y, (size_t)(n_out(a) - n_state(a)) * sizeof *out);
    memcpy(out + n_out(a) - n_state(a), state, (size_t)n_state(a) * sizeof *out);
    return out;
}

/* Heads that remember 1/(dt·|A|) tokens, from less than one to a thousand. */
static input make(int64_t T, int64_t H, int64_t P, int64_t N, int64_t G)
{
    input a = {.T = T, .H = H, .P = P, .N = N, .G = G};
    a.x = w_normal("x", T * H * P, 1), a.state = w_normal("state", H * P * N, 1);
    a.B = w_normal("B", T * G * N, 1), a.C = w_normal("C", T * G * N, 1);
    a.dt = w_new(T * H), a.A_log = w_new(H), a.D = w_normal("D", H, 1);
    fh1_stream s = fh1_stream_open(5, "dt");
    for (int64_t i = 0; i < T * H; ++i) a.dt[i] = (double)(float)exp(-6.9 + 7 * fh1_random_uniform(s, (uint64_t)i));
    for (int64_t h = 0; h < H; ++h) a.A_log[h] = log(1.0371 + (double)(h * 5 % 16));
    a.At = w_store(FH1_F32, a.A_log, H);
    a.Dt = w_store(FH1_BF16, a.D, H);
    return a;
}

/* Three documents, one of a single token, edges inside the chunks of any Q below 4. */
static const int64_t docs[12] = {2, 2, 2, 2, 5, 6, 6, 6, 6, 6, 6, 6};

static int64_t chunk_of(int i, int64_t T)
{
    const int64_t Q[] = {1, 2, 3, T > 1 ? T - 1 : 1, T, T + 5};
    return Q[i];
}
enum { N_CHUNKS = 6 };

START_TEST(agrees_with_the_formula_and_the_scan)
{
    static const int64_t shape[][5] = {
        {1, 4, 5, 16, 2}, {12, 6, 3, 33, 3}, {13, 6, 7, 31, 1}, {37, 4, 2, 20, 4}, {5, 9, 3, 5, 3}};
    for (int k = 0; k < 20; ++k) {
        const int64_t *s = shape[k / 4];
        input a = make(s[0], s[1], s[2], s[3], s[4]);
        if (k / 2 % 2) a.state_doc = 2;
        if (k / 2 % 2 && a.T == 12) a.doc = docs;
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *scan = run_all(e, &a, 0);
        for (int i = 0; i < N_CHUNKS; ++i) {
            const int64_t Q = chunk_of(i, a.T);
            const double *got = run_all(e, &a, Q);
            witness(&a, Q, RIGHT, want, gauge);
            w_accepts(e, "y and state", n_out(&a), got, want, gauge);
            w_accepts(e, "the scan", n_out(&a), got, scan, gauge);
            if (e == w_f32) w_exact(w_bf16, "no rounding in bf16", n_out(&a), run_all(w_bf16, &a, Q), got);
        }
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    for (int k = 0; k < 8; ++k) {
        input a = make(12, 8, 3, 20, k / 2 % 2 ? 4 : 2);
        a.doc = docs;
        a.state_doc = 2;
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        const int64_t Q = k / 4 ? 3 : 2;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *got = run_all(e, &a, Q);
        for (fault f = RIGHT; f <= SELF_UNSEEN; ++f) {
            witness(&a, Q, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "documents", n_out(&a), got, want, gauge);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, gauge);
        }
    }
}
END_TEST

/* Decays of exactly 1 (A = -0 for even heads) and exactly 0 or 1 (dt·|A| = 0 or above 22000 for odd ones), small
 * integers: nothing is rounded anywhere, and every Q gives the bits of the scan. */
START_TEST(lattice_is_exact)
{
    input a = make(30, 6, 3, 37, 3);
    a.x = w_lattice("x", a.T * 18, -4, 4, 1), a.B = w_lattice("B", a.T * 111, -3, 3, 1);
    a.C = w_lattice("C", a.T * 111, -3, 3, 1), a.dt = w_lattice("dt", a.T * 6, 0, 2, 1);
    a.state = w_lattice("state", 18 * 37, -9, 9, 1), a.D = w_lattice("D", 6, 1, 4, 0.5);
    for (int64_t h = 0; h < 6; ++h) a.A_log[h] = h % 2 ? 10 : -12000;
    a.At = w_store(FH1_F32, a.A_log, 6);
    a.Dt = w_store(FH1_F32, a.D, 6);
    double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
    for (int k = 0; k < 2 * N_CHUNKS; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        const int64_t Q = chunk_of(k / 2, a.T);
        const double *got = run_all(e, &a, Q);
        w_accepts(e, "the scan", n_out(&a), got, run_all(e, &a, 0), NULL);
        for (fault f = RIGHT; f <= SELF_UNSEEN; ++f) {
            if (f == LEAK || (f == CHUNKS_APART && Q >= a.T)) continue;
            if (f == CARRY_FRESH || f == CARRY_LATE) continue; /* nothing is left to see it by in many a chunk */
            witness(&a, Q, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "lattice", n_out(&a), got, want, NULL);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, NULL);
        }
    }
}
END_TEST

/* Packed or alone the same bits, since the chunks start again with each document; NaN in one reaches no other. */
START_TEST(documents_do_not_meet)
{
    static const int64_t begin[] = {0, 4, 5, 12};
    for (int k = 0; k < 2 * N_CHUNKS; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        const int64_t Q = chunk_of(k / 2, 12);
        input a = make(12, 4, 5, 35, 2);
        const int64_t d = 20;
        a.doc = docs;
        a.state_doc = -1;
        double *packed = run_all(e, &a, Q);
        for (int i = 0; i < 3; ++i) {
            input solo = a;
            solo.doc = NULL;
            double *zero = w_fill(n_state(&a), 0), *y = run(e, &solo, Q, begin[i], begin[i + 1], 0, zero);
            w_exact(e, "a document alone", (begin[i + 1] - begin[i]) * d, packed + begin[i] * d, y);
            if (i == 2) w_exact(e, "state of the last document", n_state(&a), packed + 12 * d, zero);
        }
        for (int64_t i = 0; i < d; ++i) a.x[3 * d + i] = (double)NAN;
        a.dt[4 * 4] = (double)INFINITY, a.dt[4 * 4 + 1] = (double)NAN;
        for (int64_t i = 0; i < 2 * 35; ++i) a.B[4 * 2 * 35 + i] = (double)NAN;
        for (int64_t i = 0; i < n_state(&a); ++i) a.state[i] = (double)NAN;
        const double *poisoned = run_all(e, &a, Q);
        w_exact(e, "after NaN", 7 * d + n_state(&a), poisoned + 5 * d, packed + 5 * d);
        w_exact(e, "before NaN", 3 * d, poisoned, packed);
        ck_assert(isnan(poisoned[3 * d]) && isnan(poisoned[4 * d]));
    }
}
END_TEST

/* NaN at a token is not seen by the tokens before it, wherever the chunk ends. */
START_TEST(nothing_comes_from_the_future)
{
    for (int k = 0; k < 2 * N_CHUNKS; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        const int64_t Q = chunk_of(k / 2, 11);
        input a = make(11, 4, 3, 9, 2);
        const double *clean = run_all(e, &a, Q);
        for (int64_t i = 0; i < 12; ++i) a.x[6 * 12 + i] = (double)NAN;
        const double *got = run_all(e, &a, Q);
        w_exact(e, "before the NaN", 6 * 12, got, clean);
        for (int64_t i = 6 * 12; i < 11 * 12; ++i) ck_assert(isnan(got[i]));
    }
}
END_TEST

/* In two calls the chunks lie elsewhere: the gauge, not the bits. A whole number of chunks in the first: the bits. */
START_TEST(splits_agree)
{
    for (int k = 0; k < 4; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input a = make(9, 6, 4, 21, 3);
        if (k / 2) a.state_doc = 2, a.doc = docs;
        enum { Q = 4 };
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *whole = run_all(e, &a, Q);
        witness(&a, Q, RIGHT, want, gauge);
        for (int64_t t = 1; t < 9; ++t) {
            double *state = w_copy(a.state, n_state(&a)), *out = w_new(n_out(&a));
            memcpy(out, run(e, &a, Q, 0, t, a.state_doc, state), (size_t)(t * 24) * sizeof *out);
            w_exact(e, "first part", t * 24, out, whole);
            const int64_t doc = a.doc ? a.doc[t - 1] : a.state_doc;
            memcpy(out + t * 24, run(e, &a, Q, t, 9, doc, state), (size_t)((9 - t) * 24) * sizeof *out);
            memcpy(out + 9 * 24, state, (size_t)n_state(&a) * sizeof *out);
            w_accepts(e, "two calls", n_out(&a), out, want, gauge);
            if (t % Q == 0 && !a.doc) w_exact(e, "at a chunk's edge", n_out(&a), out, whole);
            state = w_fill(n_state(&a), 0);
            run(e, &a, Q, 0, t, a.state_doc, state);
            w_rejects(e, "a state that was not handed on", n_state(&a), state, out + 9 * 24, gauge + 9 * 24);
        }
    }
}
END_TEST

/* No token: the state stays. Steps so long that Λ reaches millions: decays of 0, and nothing but numbers. */
START_TEST(ends_of_the_range)
{
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        input a = make(7, 4, 3, 9, 2);
        double *state = w_copy(a.state, n_state(&a)), *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
        run(e, &a, 4, 0, 0, 0, state);
        w_exact(e, "no token", n_state(&a), state, a.state);
        a.dt = w_fill(7 * 4, 90);
        for (int64_t h = 0; h < 4; ++h) a.A_log[h] = h % 2 ? 10 : -10;
        a.At = w_store(FH1_F32, a.A_log, 4);
        const double *got = run_all(e, &a, 3);
        witness(&a, 3, RIGHT, want, gauge);
        for (int64_t i = 0; i < n_out(&a); ++i) ck_assert(isfinite(got[i]));
        w_accepts(e, "long steps", n_out(&a), got, want, gauge);
    }
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    const input a = make(23, 6, 4, 21, 3);
    fh1_set_threads(1);
    const double *one = run_all(w_f32, &a, 5);
    fh1_set_threads(3);
    w_exact(w_f32, "three threads", n_out(&a), run_all(w_f32, &a, 5), one);
    fh1_set_threads(0);
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula_and_the_scan,
                            faults_are_rejected,
                            lattice_is_exact,
                            documents_do_not_meet,
                            nothing_comes_from_the_future,
                            splits_agree,
                            ends_of_the_range,
                            threads_do_not_change_a_bit,
                            NULL};
    return w_main("ssd_chunk", tests);
}
