/* selective_scan and selective_step: S_t[i,n] = exp(dt_t[i]·A[i,n])·S_{t-1}[i,n] + dt_t[i]·x_t[i]·B_t[n],
 * y_t[i] = Σ_n S_t[i,n]·C_t[n] + D[i]·x_t[i], A = -exp(A_log). The witness has no state: it adds up, for each token,
 * what every earlier one of its document left, Π exp(dt_k·A) taken one by one. */
#include "reference/faulty.h"
#include "tests/witness.h"

typedef struct {
    int64_t T, I, N;
    double *x, *B, *C, *dt, *state, *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
    fh1_tensor At, Dt;
} input;

typedef enum {
    RIGHT,
    NO_D,
    D_ON_DT_X,
    NO_DT,
    NO_STATE,
    TRANSPOSED,
    FIRST_COLUMN,
    CHANNEL_0,
    NOT_NEGATED,
    NOT_EXPONENTIATED,
    STALE_DT,
    SWAPPED,
    LEAK,
    N_FAULTS
} fault;
static const char *const fault_name[] = {"",
                                         "D dropped",
                                         "D times dt·x",
                                         "dt missing in the input",
                                         "initial state lost",
                                         "A_log read as [N, I]",
                                         "one rate per channel",
                                         "the rates of channel 0",
                                         "A positive",
                                         "A is -A_log",
                                         "dt of the token before",
                                         "B and C swapped",
                                         "state runs on over documents"};

static int64_t doc_of(const input *a, int64_t t)
{
    return t >= 0 && a->doc ? a->doc[t] : a->state_doc;
}

static wide rate(const input *a, int64_t i, int64_t n, fault f)
{
    const int64_t at = f == TRANSPOSED     ? n * a->I + i
                       : f == FIRST_COLUMN ? i * a->N
                       : f == CHANNEL_0    ? n
                                           : i * a->N + n;
    const wide v = (wide)a->A_log[at];
    return f == NOT_EXPONENTIATED ? -v : f == NOT_NEGATED ? expl(v) : -expl(v);
}

static double dt_of(const input *a, int64_t t, int64_t i, fault f)
{
    return a->dt[(f == STALE_DT && t > 0 ? t - 1 : t) * a->I + i];
}

/* S[i,n] after token t. *gauge: each contribution times its roundings, 3 when it is made, and of each step 2 of a·S and
 * the sum, 3 of an exp, and of its argument l 3·|l|: A's own exp twice, the product. */
static wide witness_state(const input *a, int64_t t, int64_t i, int64_t n, fault f, wide *gauge)
{
    wide S = 0;
    *gauge = 0;
    for (int64_t s = -1; s <= t; ++s) {
        if (doc_of(a, s) != doc_of(a, t) && f != LEAK) continue;
        if (s < 0 && f == NO_STATE) continue;
        const double *B = f == SWAPPED ? a->C : a->B;
        const wide in = s < 0 ? (wide)a->state[i * a->N + n] : (wide)a->x[s * a->I + i] * (wide)B[s * a->N + n];
        wide v = s < 0 || f == NO_DT ? in : in * (wide)dt_of(a, s, i, f), units = 3;
        for (int64_t k = s + 1; k <= t; ++k) {
            const wide l = rate(a, i, n, f) * (wide)dt_of(a, k, i, f);
            v *= expl(l);
            units += 5 + 4 * fabsl(l);
        }
        S += v;
        *gauge += fabsl(v) * units;
    }
    return S;
}

static int64_t n_out(const input *a)
{
    return (a->T + a->N) * a->I;
}

/* y [T,I] followed by the final state [I,N], and their gauges: of a sum of N terms N/8 + 8 roundings. */
static void witness(const input *a, fault f, double *out, double *gauge)
{
    for (int64_t t = 0; t < a->T; ++t)
        for (int64_t i = 0; i < a->I; ++i) {
            wide skip = f == NO_D ? 0 : (wide)a->D[i] * (wide)a->x[t * a->I + i], y = 0, e = 0;
            if (f == D_ON_DT_X) skip *= (wide)a->dt[t * a->I + i];
            for (int64_t n = 0; n < a->N; ++n) {
                wide units;
                const wide S = witness_state(a, t, i, n, f, &units);
                const wide C = (wide)(f == SWAPPED ? a->B : a->C)[t * a->N + n];
                y += S * C;
                e += (units + (wide)(a->N / 8 + 8) * fabsl(S)) * fabsl(C);
                if (t == a->T - 1) out[(a->T + n) * a->I + i] = (double)S, gauge[(a->T + n) * a->I + i] = (double)units;
            }
            out[t * a->I + i] = (double)(y + skip);
            gauge[t * a->I + i] = (double)(e + 2 * fabsl(skip) + fabsl(y));
        }
}

/* Tokens t0 … t1-1 from `state`, which is updated; each by a step where `steps`. Returns y. */
static double *run(fh1_engine *e, const input *a, int64_t t0, int64_t t1, int64_t state_doc, bool steps, double *state)
{
    const int64_t I = a->I, N = a->N, w = fh1_dtype_bits(e->dtype) / 8;
    void *s = w_to(e, state, I * N);
    char *y = w_out(e, (t1 - t0) * I);
    for (int64_t t = t0, n; t < t1; t += n) {
        n = steps ? 1 : t1 - t0;
        const void *x = w_to(e, a->x + t * I, n * I), *dt = w_to(e, a->dt + t * I, n * I);
        const void *B = w_to(e, a->B + t * N, n * N), *C = w_to(e, a->C + t * N, n * N);
        if (steps) w_fine(e->ops->selective_step(e, I, N, x, B, C, dt, &a->At, &a->Dt, s, y + (t - t0) * I * w));
        else
            w_fine(e->ops->selective_scan(e, n, I, N, x, B, C, dt, &a->At, &a->Dt, a->doc ? a->doc + t : NULL,
                                          state_doc, s, y));
    }
    fh1_to_f64(state, s, e->dtype, I * N);
    return w_from(e, y, (t1 - t0) * I);
}

/* One call: y and the final state behind it as [N,I], as the witness gives them. */
static double *run_all(fh1_engine *e, const input *a, bool steps)
{
    double *out = w_new(n_out(a)), *state = w_copy(a->state, a->I * a->N);
    memcpy(out, run(e, a, 0, a->T, a->state_doc, steps, state), (size_t)(a->T * a->I) * sizeof *out);
    for (int64_t k = 0; k < a->I * a->N; ++k) out[(a->T + k % a->N) * a->I + k / a->N] = state[k];
    return out;
}

/* Elements that remember 1/(dt·|A|) tokens, from less than one to a thousand. */
static input make(int64_t T, int64_t I, int64_t N, fh1_dtype stored)
{
    input a = {.T = T, .I = I, .N = N};
    a.x = w_normal("x", T * I, 1), a.state = w_normal("state", I * N, 1), a.D = w_normal("D", I, 1);
    a.B = w_normal("B", T * N, 1), a.C = w_normal("C", T * N, 1);
    a.dt = w_new(T * I), a.A_log = w_new(I * N);
    const fh1_stream s = fh1_stream_open(5, "dt");
    for (int64_t i = 0; i < T * I; ++i) a.dt[i] = (double)(float)exp(-6.9 + 7 * fh1_random_uniform(s, (uint64_t)i));
    for (int64_t i = 0; i < I * N; ++i) a.A_log[i] = log(1.0371 + (double)((i % N * 5 + i / N * 3) % 16));
    a.At = w_store2(stored, a.A_log, I, N);
    a.Dt = w_store(stored, a.D, I);
    return a;
}

/* I around the block of 32 channels, N below, at and above vectors of 4 and 8. */
START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][3] = {{1, 1, 1},  {1, 33, 16}, {2, 32, 8}, {9, 3, 17},
                                       {13, 6, 7}, {40, 2, 64}, {5, 65, 5}, {3, 7, 130}};
    for (int k = 0; k < 16; ++k) {
        const int64_t *s = shape[k / 2];
        const input a = make(s[0], s[1], s[2], k / 2 % 2 ? FH1_BF16 : FH1_F32);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
        witness(&a, RIGHT, want, gauge);
        w_accepts(e, "y and state", n_out(&a), run_all(e, &a, false), want, gauge);
        w_exact(e, "steps", n_out(&a), run_all(e, &a, true), run_all(e, &a, false));
    }
}
END_TEST

static const int64_t docs[12] = {2, 2, 2, 2, 5, 6, 6, 6, 6, 6, 6, 6};

START_TEST(wrong_formulas_are_rejected)
{
    for (int k = 0; k < 2; ++k) {
        input a = make(12, 8, 20, FH1_F32);
        a.doc = docs;
        a.state_doc = 2;
        fh1_engine *e = k ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *got = run_all(e, &a, false);
        for (fault f = RIGHT; f < N_FAULTS; ++f) {
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "documents", n_out(&a), got, want, gauge);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, gauge);
        }
    }
}
END_TEST

/* Every fault that is planted in this op, its own and those of all scans, is out of the witness's bounds in one call of
 * 33 tokens with documents, in both precisions; without a fault that copy computes the bits of the other. */
START_TEST(planted_faults_are_rejected)
{
    static const fh1_fault list[] = {FH1_FAULT_SELECTIVE_A_TRANSPOSED,
                                     FH1_FAULT_SELECTIVE_A_PER_CHANNEL,
                                     FH1_FAULT_SELECTIVE_A_OF_CHANNEL_0,
                                     FH1_FAULT_SELECTIVE_SCAN_RESTARTS,
                                     FH1_FAULT_SELECTIVE_STATE_TRANSPOSED,
                                     FH1_FAULT_A_NOT_NEGATED,
                                     FH1_FAULT_A_LOG_NOT_EXPONENTIATED,
                                     FH1_FAULT_DECAY_WITHOUT_DT,
                                     FH1_FAULT_INPUT_WITHOUT_DT,
                                     FH1_FAULT_DT_STALE_AT_ONE_TOKEN,
                                     FH1_FAULT_D_ON_SCALED_INPUT,
                                     FH1_FAULT_B_AND_C_SWAPPED,
                                     FH1_FAULT_Y_READS_STATE_BEFORE,
                                     FH1_FAULT_CARRY_LOST_AT_CHUNK_EDGE,
                                     FH1_FAULT_SECOND_HALF_FROM_ZERO,
                                     FH1_FAULT_LONG_CALLS_DROP_STATE,
                                     FH1_FAULT_DECAY_SKIPPED_AT_CHUNK_EDGE,
                                     FH1_FAULT_CHUNK_TAIL_NOT_ZEROED,
                                     FH1_FAULT_SCAN_LEAKS_DOCUMENTS,
                                     FH1_FAULT_STATE_IN_BF16,
                                     FH1_FAULT_STATE_IN_F16,
                                     FH1_FAULT_Y_READS_ROUNDED_STATE,
                                     FH1_FAULT_SCAN_SUMS_IN_BF16,
                                     FH1_FAULT_NONE};
    static int64_t doc[33];
    for (int64_t t = 0; t < 33; ++t) doc[t] = t >= 7;
    input a = make(33, 6, 9, FH1_F32);
    a.doc = doc;
    double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
    witness(&a, RIGHT, want, gauge);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        for (int i = 0; list[i] != FH1_FAULT_NONE; ++i) {
            fh1_engine *wrong = ref_faulty_engine_new(e->name, NULL, 0, list[i]);
            ck_assert_ptr_nonnull(wrong);
            w_rejects(wrong, fh1_fault_get(list[i])->name, n_out(&a), run_all(wrong, &a, false), want, gauge);
            wrong->free(wrong);
        }
        fh1_engine *none = ref_faulty_engine_new(e->name, NULL, 0, FH1_FAULT_CONV_OFF_BY_ONE);
        w_exact(e, "a fault of another op", n_out(&a), run_all(none, &a, false), run_all(e, &a, false));
        none->free(none);
    }
}
END_TEST

/* D-68: steps and rates at every end. A state of 1 that decays once, no input, C = 1. */
START_TEST(decay_at_every_end)
{
    static const double dt[] = {0, 1e-30, 1e-9, 1e-3, 0.1, 1, 20.1, 90}, logs[] = {-100, -10, 0, 4, 5, 10, 80, 700};
    enum { I = 8, N = 8 };
    input a = make(1, I, N, FH1_F32);
    a.x = w_fill(I, 0), a.B = w_fill(N, 1), a.C = w_fill(N, 0), a.state = w_fill(I * N, 1), a.A_log = w_new(I * N);
    for (int64_t i = 0; i < I * N; ++i) a.A_log[i] = logs[i % N];
    for (int64_t i = 0; i < I; ++i) a.dt[i] = (double)(float)dt[i];
    a.At = w_store2(FH1_F32, a.A_log, I, N);
    const int64_t n = n_out(&a);
    double *want = w_new(n), *gauge = w_new(n);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        double *got = run_all(e, &a, false);
        for (int64_t i = 0; i < I; ++i)
            for (int64_t m = 0; m < N; ++m) {
                const int64_t at = (1 + m) * I + i;
                const wide l = (wide)a.dt[i] * expl((wide)a.A_log[i * N + m]);
                want[at] = (double)expl(-l);
                /* f32 has no exp(700): an infinite rate, which times a step of 0 is no number */
                const bool nan = k && m == N - 1 && i == 0;
                ck_assert(!nan || isnan(got[at]));
                if (nan) want[at] = got[at] = 0;
                gauge[at] = (double)(5 + 4 * l) * want[at] + (k ? 0x1p-148 : 0x1p-1073) / e->profile->u;
            }
        w_accepts(e, "decays", I * N, got + I, want + I, gauge + I);
    }
}
END_TEST

/* The vector exp of f32 over its range, each lane: 1.5 ulp where the result is normal. */
START_TEST(exp_of_rows)
{
    enum { I = 64, N = 64, n = I * N };
    input a = make(1, I, N, FH1_F32);
    a.x = w_fill(I, 0), a.C = w_fill(N, 0), a.state = w_fill(n, 1);
    for (int64_t i = 0; i < n; ++i) a.A_log[i] = 0;
    a.At = w_store2(FH1_F32, a.A_log, I, N); /* A = -1 */
    for (int64_t part = 0; part < 40; ++part) {
        for (int64_t i = 0; i < I; ++i) a.dt[i] = (double)(float)(((double)(part * I + i) + 0.37) * (87.0 / 2560));
        const double *got = run_all(w_f32, &a, false);
        for (int64_t i = 0; i < I; ++i) {
            const double want = exp(-a.dt[i]), ulp = fh1_dtype_ulp(FH1_F32, want);
            ck_assert_msg(fabs(got[I + i] - want) <= 1.5 * ulp, "exp(%g): %g ulp", -a.dt[i], (got[I + i] - want) / ulp);
            for (int64_t m = 1; m < N; ++m) ck_assert(w_same(got + I + i, got + (1 + m) * I + i, 1));
        }
    }
}
END_TEST

START_TEST(documents_do_not_meet)
{
    static const int64_t begin[] = {0, 4, 5, 12};
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        enum { I = 37, N = 11 };
        input a = make(12, I, N, FH1_F32);
        a.doc = docs;
        a.state_doc = -1;
        double *packed = run_all(e, &a, false);
        for (int i = 0; i < 3; ++i) {
            input solo = a;
            solo.doc = NULL;
            double *zero = w_fill(I * N, 0), *y = run(e, &solo, begin[i], begin[i + 1], 0, false, zero);
            w_exact(e, "a document alone", (begin[i + 1] - begin[i]) * I, packed + begin[i] * I, y);
            for (int64_t m = 0; m < I * N && i == 2; ++m)
                w_exact(e, "state of the last document", 1, packed + (12 + m % N) * I + m / N, zero + m);
        }
        for (int64_t i = 0; i < I; ++i) a.x[3 * I + i] = (double)NAN;
        a.dt[4 * I] = (double)INFINITY, a.dt[4 * I + 1] = (double)NAN;
        for (int64_t i = 0; i < I * N; ++i) a.state[i] = (double)NAN;
        const double *poisoned = run_all(e, &a, false);
        w_exact(e, "after NaN", (7 + N) * I, poisoned + 5 * I, packed + 5 * I);
        w_exact(e, "before NaN", 3 * I, poisoned, packed);
        ck_assert(isnan(poisoned[3 * I]));
    }
}
END_TEST

/* Infinities stay what they are in channels whose row is no whole number of vectors. */
START_TEST(no_lane_behind_the_row)
{
    input a = make(2, 3, 5, FH1_F32);
    for (int64_t i = 0; i < 10; ++i) a.B[i] = a.C[i] = 1;
    for (int64_t i = 0; i < 3; ++i) a.x[i] = (double)INFINITY, a.D[i] = 1;
    a.Dt = w_store(FH1_F32, a.D, 3);
    for (int k = 0; k < 2; ++k) {
        const double *got = run_all(k ? w_f32 : w_f64, &a, false);
        for (int64_t i = 0; i < 6; ++i) ck_assert(isinf(got[i]));
    }
}
END_TEST

START_TEST(any_split_gives_the_same_bits)
{
    for (int k = 0; k < 6; ++k) {
        fh1_engine *const engines[] = {w_f64, w_f32, w_bf16};
        fh1_engine *e = engines[k % 3];
        enum { I = 35, N = 13 };
        input a = make(9, I, N, FH1_BF16);
        if (k / 3) a.doc = docs, a.state_doc = 2;
        double *end = w_copy(a.state, I * N);
        const double *whole = run(e, &a, 0, 9, a.state_doc, false, end);
        for (int64_t t = 1; t < 9; ++t) {
            double *state = w_copy(a.state, I * N);
            w_exact(e, "first part", t * I, run(e, &a, 0, t, a.state_doc, false, state), whole);
            const double *rest = run(e, &a, t, 9, a.doc ? a.doc[t - 1] : 0, false, state);
            w_exact(e, "second part", (9 - t) * I, rest, whole + t * I);
            w_exact(e, "state", I * N, state, end);
        }
    }
}
END_TEST

START_TEST(threads_change_nothing)
{
    const input a = make(9, 200, 16, FH1_BF16);
    fh1_set_threads(1);
    const double *one = run_all(w_f32, &a, false);
    fh1_set_threads(3);
    w_exact(w_f32, "three threads", n_out(&a), run_all(w_f32, &a, false), one);
    fh1_set_threads(0);
}
END_TEST

/* The points of a 16-bit pipeline, one after the other: S unrounded, R(S) and R(Σ) in a prefill, R(D·x) and R(y) in a
 * step. Values are chosen so that f32 itself rounds nothing. */
START_TEST(rounding_points)
{
    input a = make(1, 4, 6, FH1_F32);
    a.x = w_lattice("x", 4, 1, 9, 1), a.B = w_lattice("B", 6, 1, 99, 0x1p-6), a.C = w_lattice("C", 6, 1, 30, 1);
    a.dt = w_fill(4, 1), a.state = w_lattice("S", 24, 1, 4000, 0x1p-8), a.D = w_lattice("D", 4, 1, 900, 0x1p-8);
    for (int64_t i = 0; i < 24; ++i) a.A_log[i] = -12000; /* decay 1 */
    a.At = w_store2(FH1_F32, a.A_log, 4, 6);
    a.Dt = w_store(FH1_F32, a.D, 4);
    const double *prefill = run_all(w_bf16, &a, false), *step = run_all(w_bf16, &a, true);
    for (int64_t i = 0; i < 4; ++i) {
        double sum = 0, exact = 0;
        for (int64_t n = 0; n < 6; ++n) {
            const double S = a.state[i * 6 + n] + a.x[i] * a.B[n];
            sum += w_r((wide)S) * a.C[n];
            exact += S * a.C[n];
            w_exact(w_bf16, "state", 1, prefill + (1 + n) * 4 + i, &S);
        }
        const double skip = a.D[i] * a.x[i], want = w_r((wide)sum) + skip,
                     y = w_r((wide)w_r((wide)sum) + w_r((wide)skip));
        w_exact(w_bf16, "prefill", 1, prefill + i, &want);
        w_exact(w_bf16, "step", 1, step + i, &y);
        ck_assert(want != exact + skip && y != want);
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,
                            wrong_formulas_are_rejected,
                            planted_faults_are_rejected,
                            decay_at_every_end,
                            exp_of_rows,
                            documents_do_not_meet,
                            no_lane_behind_the_row,
                            any_split_gives_the_same_bits,
                            threads_change_nothing,
                            rounding_points,
                            NULL};
    return w_main("selective_scan", tests);
}
