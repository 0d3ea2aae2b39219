/* ssd_step: one token of the recurrence S = a·S + (Δ·x) ⊗ B, y = S·C + D·x, a = exp(Δ·A), A = -exp(A_log), head h in
 * group h / (H/G). Exact pipelines compute the scan of one token; a bf16 one rounds at
 *   S = a·S + R(R(Δ·B)·x),  y = R(R(Σ R(S)·C) + R(D·x))
 * and keeps S itself in f32. */
#include "tests/witness.h"

typedef struct {
    int64_t H, P, N, G;
    double *x, *B, *C, *dt, *state, *A_log, *D;
    fh1_tensor At, Dt;
} input;

typedef enum {
    RIGHT,
    TILED,
    GROUP_0,
    NO_D,
    D_ON_DT_X,
    NO_DECAY,
    DECAY_TWICE,
    NEW_DECAYS_TOO,
    NO_DT,
    SWAPPED,
    OLD_STATE,
    A_BF16
} fault;
static const char *const fault_name[] = {"",
                                         "group h mod G",
                                         "group 0 for all",
                                         "D dropped",
                                         "D times dt·x",
                                         "no decay",
                                         "decay twice",
                                         "the new input decays too",
                                         "dt missing in the input",
                                         "B and C swapped",
                                         "y from the state before",
                                         "A rounded to bf16"};

static int64_t n_state(const input *a)
{
    return a->H * a->P * a->N;
}

static int64_t n_out(const input *a)
{
    return a->H * a->P + n_state(a);
}

/* y [H,P], then the state [H,P,N]. gauge of the state: 3 + 3·|dt·A| + 4 roundings of the old part, 3 of the new; of y:
 * those through C, N/16 + 8 of the sum, 2 of D·x, 1 of the whole. */
static void witness(const input *a, fault f, double *out, double *gauge)
{
    for (int64_t r = 0; r < a->H * a->P; ++r) {
        const int64_t h = r / a->P, g = f == TILED ? h % a->G : f == GROUP_0 ? 0 : h / (a->H / a->G);
        const double *B = (f == SWAPPED ? a->C : a->B) + g * a->N, *C = (f == SWAPPED ? a->B : a->C) + g * a->N;
        wide A = -expl((wide)a->A_log[h]);
        if (f == A_BF16) A = (wide)w_r(A);
        const wide dt = (wide)a->dt[h], x = (wide)a->x[r];
        const wide decay = f == NO_DECAY ? 1 : expl((f == DECAY_TWICE ? 2 : 1) * dt * A);
        wide skip = f == NO_D ? 0 : (wide)a->D[h] * x, y = 0, e = 0;
        if (f == D_ON_DT_X) skip *= dt;
        for (int64_t n = 0; n < a->N; ++n) {
            const int64_t i = r * a->N + n;
            const wide old = decay * (wide)a->state[i];
            wide new = (f == NO_DT ? 1 : dt) * x *(wide)B[n];
            if (f == NEW_DECAYS_TOO) new *= decay;
            const wide S = old + new, units = fabsl(old) * (7 + 3 * fabsl(dt * A)) + 4 * fabsl(new);
            out[a->H * a->P + i] = (double)S;
            gauge[a->H * a->P + i] = (double)units;
            y += (f == OLD_STATE ? (wide)a->state[i] : S) * (wide)C[n];
            e += (units + (wide)(a->N / 16 + 8) * fabsl(S)) * fabsl((wide)C[n]);
        }
        out[r] = (double)(y + skip);
        gauge[r] = (double)(e + 2 * fabsl(skip) + fabsl(y));
    }
}

/* One token; `state` is updated. */
static double *step(fh1_engine *e, const input *a, double *state)
{
    const int64_t d = a->H * a->P, gn = a->G * a->N;
    void *s = w_to(e, state, n_state(a)), *y = w_out(e, d);
    w_fine(e->ops->ssd_step(e, a->H, a->P, a->N, a->G, w_to(e, a->x, d), w_to(e, a->B, gn), w_to(e, a->C, gn),
                            w_to(e, a->dt, a->H), &a->At, &a->Dt, s, y));
    fh1_to_f64(state, s, e->dtype, n_state(a));
    return w_from(e, y, d);
}

static double *run(fh1_engine *e, const input *a)
{
    double *out = w_new(n_out(a)), *state = w_copy(a->state, n_state(a)), *y = step(e, a, state);
    memcpy(out, y, (size_t)(a->H * a->P) * sizeof *out);
    memcpy(out + a->H * a->P, state, (size_t)n_state(a) * sizeof *out);
    return out;
}

/* Heads that remember 1/(dt·|A|) tokens, from less than one to a thousand. */
static input make(int64_t H, int64_t P, int64_t N, int64_t G, fh1_dtype stored)
{
    input a = {.H = H, .P = P, .N = N, .G = G};
    a.x = w_normal("x", H * P, 1), a.state = w_normal("state", n_state(&a), 1);
    a.B = w_normal("B", G * N, 1), a.C = w_normal("C", G * N, 1);
    a.dt = w_new(H), a.A_log = w_new(H), a.D = w_normal("D", H, 1);
    fh1_stream s = fh1_stream_open(5, "dt");
    for (int64_t h = 0; h < H; ++h) a.dt[h] = (double)(float)exp(-6.9 + 7 * fh1_random_uniform(s, (uint64_t)h));
    for (int64_t h = 0; h < H; ++h) a.A_log[h] = log(1.0371 + (double)(h * 5 % 16)); /* no A that bf16 holds */
    a.At = w_store(stored, a.A_log, H);
    a.Dt = w_store(stored, a.D, H);
    return a;
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][4] = {{1, 1, 1, 1},  {6, 3, 33, 3}, {4, 5, 16, 2},
                                       {3, 1, 17, 1}, {9, 3, 5, 3},  {4, 12, 130, 4}};
    for (int k = 0; k < 24; ++k) {
        const int64_t *s = shape[k / 4];
        const input a = make(s[0], s[1], s[2], s[3], k / 2 % 2 ? FH1_BF16 : FH1_F32);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
        witness(&a, RIGHT, want, gauge);
        w_accepts(e, "y and state", n_out(&a), run(e, &a), want, gauge);
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    for (int k = 0; k < 4; ++k) {
        const input a = make(8, 3, 20, k / 2 ? 4 : 2, FH1_F32); /* several heads a group, groups unlike */
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *got = run(e, &a);
        for (fault f = RIGHT; f <= A_BF16; ++f) {
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "before the faults", n_out(&a), got, want, gauge);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, gauge);
        }
    }
}
END_TEST

/* Decays of exactly 1 (A = -0, even heads) and exactly 0 or 1 (dt·|A| = 0 or above 22000, odd ones), small integers:
 * nothing is rounded. */
static input lattice(void)
{
    input a = make(12, 3, 37, 3, FH1_F32);
    a.x = w_lattice("x", 36, -4, 4, 1), a.B = w_lattice("B", 111, -3, 3, 1), a.C = w_lattice("C", 111, -1, 1, 1);
    a.dt = w_lattice("dt", 12, 0, 2, 1), a.state = w_lattice("state", n_state(&a), -2, 2, 1);
    a.D = w_lattice("D", 12, 1, 4, 0.5);
    for (int64_t h = 0; h < 12; ++h) a.A_log[h] = h % 2 ? 10 : -12000;
    a.At = w_store(FH1_F32, a.A_log, 12);
    a.Dt = w_store(FH1_F32, a.D, 12);
    return a;
}

START_TEST(lattice_is_exact)
{
    const input a = lattice();
    double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *got = run(e, &a);
        for (fault f = RIGHT; f <= OLD_STATE; ++f) {
            if (f == DECAY_TWICE) continue; /* 0 and 1 are their own squares */
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "lattice", n_out(&a), got, want, NULL);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, NULL);
        }
    }
}
END_TEST

/* Seven tokens one by one are ssd_scan of seven, bit for bit, in pipelines that do not round. */
START_TEST(steps_are_a_scan)
{
    enum { T = 7 };
    for (int k = 0; k < 8; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input a = make(6, 4, 21, k / 2 % 2 ? 3 : 1, k / 4 ? FH1_BF16 : FH1_F32);
        const int64_t d = 24, gn = a.G * a.N;
        double *x = w_normal("tokens", T * d, 1), *B = w_normal("Bs", T * gn, 1), *C = w_normal("Cs", T * gn, 1);
        double *dt = w_lattice("dts", T * a.H, 1, 60, 0.01), *state = w_copy(a.state, n_state(&a));
        void *s = w_to(e, a.state, n_state(&a)), *y = w_out(e, T * d);
        w_fine(e->ops->ssd_scan(e, T, a.H, a.P, a.N, a.G, w_to(e, x, T * d), w_to(e, B, T * gn), w_to(e, C, T * gn),
                                w_to(e, dt, T * a.H), &a.At, &a.Dt, NULL, 0, s, y));
        const double *whole = w_from(e, y, T * d);
        for (int64_t t = 0; t < T; ++t) {
            a.x = x + t * d, a.B = B + t * gn, a.C = C + t * gn, a.dt = dt + t * a.H;
            w_exact(e, "a step", d, step(e, &a, state), whole + t * d);
        }
        w_exact(e, "state", n_state(&a), state, w_from(e, s, n_state(&a)));
        double *again = w_copy(state, n_state(&a)); /* a step too many is noticed */
        step(e, &a, again);
        w_rejects(e, "the last token twice", n_state(&a), state, again, NULL);
    }
}
END_TEST

/* NaN in a head's x, dt or state stays in that head, in a group's B or C in the heads of the group. */
START_TEST(heads_and_groups_do_not_meet)
{
    enum { H = 6, P = 4, N = 9, G = 3 };
    for (int k = 0; k < 15; ++k) {
        fh1_engine *e = k % 3 == 0 ? w_f64 : k % 3 == 1 ? w_f32 : w_bf16;
        input a = make(H, P, N, G, FH1_F32);
        const double *clean = run(e, &a);
        const int what = k / 3;
        if (what == 0) a.x[2 * P + 1] = (double)NAN; /* row 1 of head 2 alone */
        if (what == 1) a.dt[2] = (double)NAN;
        if (what == 2) a.state[(2 * P + 1) * N + 4] = (double)NAN;
        if (what == 3) a.B[N + 4] = (double)NAN; /* group 1: heads 2 and 3 */
        if (what == 4) a.C[N + 4] = (double)NAN;
        const double *got = run(e, &a);
        for (int64_t i = 0; i < n_out(&a); ++i) {
            const int64_t r = i < H * P ? i : (i - H * P) / N, h = r / P, n = i < H * P ? 4 : (i - H * P) % N;
            bool bad = what == 0   ? r == 2 * P + 1
                       : what == 1 ? h == 2
                       : what == 2 ? r == 2 * P + 1 && n == 4
                                   : h / 2 == 1 && n == 4;
            if (what == 4) bad = i < H * P && h / 2 == 1; /* C reads the state only */
            if (bad) ck_assert_msg(isnan(got[i]), "case %d, element %d", what, (int)i);
            else w_exact(e, "beside NaN", 1, got + i, clean + i);
        }
    }
}
END_TEST

/* --- the rounding points of a bf16 step --- */

typedef enum { ALL, DT_B, DT_B_X, STATE_KEPT_ROUNDED, STATE_READ, SUM, D_X, LAST, DT_X_FIRST, N_ROUNDINGS } rounding;
static const char *const rounding_name[] = {"",
                                            "Δ·B not rounded",
                                            "Δ·B·x not rounded",
                                            "the state kept rounded",
                                            "y from the state as it is kept",
                                            "Σ S·C not rounded",
                                            "D·x not rounded",
                                            "y not rounded",
                                            "Δ·x formed before B"};

static float r_if(bool yes, float v)
{
    return yes ? (float)w_r((wide)v) : v;
}

/* decay [H] as an f32 pipeline has it. Sums over N are exact here (see step_data), so f64 stands for f32. */
static void bf16_witness(const input *a, const double *decay, rounding skip, const double *state, double *out)
{
    const int64_t d = a->H * a->P;
    for (int64_t r = 0; r < d; ++r) {
        const int64_t h = r / a->P, g = h / (a->H / a->G);
        const float x = (float)a->x[r], dt = (float)a->dt[h];
        double sum = 0;
        for (int64_t n = 0; n < a->N; ++n) {
            const float B = (float)a->B[g * a->N + n], old = (float)decay[h] * (float)state[r * a->N + n];
            float new = r_if(skip != DT_B, dt * B) * x;
            if (skip == DT_X_FIRST) new = r_if(true, dt * x) * B;
            const float S = old + r_if(skip != DT_B_X, new), kept = r_if(skip == STATE_KEPT_ROUNDED, S);
            out[d + r * a->N + n] = (double)kept;
            sum += (double)r_if(skip != STATE_READ, S) * a->C[g * a->N + n];
        }
        const float skipped = r_if(skip != D_X, (float)a->D[h] * x);
        out[r] = (double)r_if(skip != LAST, r_if(skip != SUM, (float)sum) + skipped);
    }
}

/* Inputs as a bf16 pipeline hands them on. |S| stays between 2^-7 and 4 and C is a small integer: read in bf16, each
 * product is a multiple of 2^-14 and their sum below 2^9, so that f32 adds them exactly in any order. */
static input step_data(void)
{
    input a = make(6, 60, 16, 3, FH1_BF16); /* rows enough for each rounding to matter in one of them */
    w_rounded(a.x, 360);
    for (int64_t i = 0; i < 360; ++i) a.x[i] = a.x[i] * 0.25;
    a.B = w_lattice("B", 48, 65, 127, 1.0 / 128), a.C = w_lattice("C", 48, 1, 3, 1);
    for (int64_t i = 1; i < 48; i += 2) a.C[i] = -a.C[i];
    for (int64_t i = 0; i < n_state(&a); ++i) a.state[i] = (a.state[i] < 0 ? -1 : 1) * (1 + fmod(fabs(a.state[i]), 1));
    a.dt = w_lattice("short steps", 6, 33, 63, 1.0 / 512);
    for (int64_t h = 0; h < 6; ++h) a.A_log[h] = log(0.1 * (double)(h + 1));
    a.At = w_store(FH1_F32, a.A_log, 6);
    return a;
}

static const double *decays(const input *a)
{
    input unit = *a;
    unit.x = w_fill(a->H * a->P, 0), unit.state = w_fill(n_state(a), 1);
    const double *out = run(w_f32, &unit);
    double *decay = w_new(a->H);
    for (int64_t h = 0; h < a->H; ++h) decay[h] = out[a->H * a->P + h * a->P * a->N];
    return decay;
}

START_TEST(bf16_rounding_points)
{
    const input a = step_data();
    const int64_t d = a.H * a.P;
    const double *decay = decays(&a);
    double *state = w_copy(a.state, n_state(&a)), *want = w_new(n_out(&a)), *got = w_new(n_out(&a)), *old;
    for (int t = 0; t < 4; ++t) { /* a chain of steps: the state carries what was not rounded */
        old = w_copy(state, n_state(&a));
        memcpy(got, step(w_bf16, &a, state), (size_t)d * sizeof *got);
        memcpy(got + d, state, (size_t)n_state(&a) * sizeof *got);
        for (rounding skip = ALL; skip < N_ROUNDINGS; ++skip) {
            bf16_witness(&a, decay, skip, old, want);
            for (int64_t i = d; i < n_out(&a) && skip == ALL; ++i)
                ck_assert_msg(fabs(want[i]) < 4 && fabs(want[i]) > 0x1p-7, "S = %g", want[i]); /* the sums are exact */
            if (skip == ALL) w_exact(w_bf16, "all roundings", n_out(&a), got, want);
            else w_rejects(w_bf16, rounding_name[skip], n_out(&a), got, want, NULL);
        }
        const double *scan = run(w_f32, &a);
        if (t == 0) w_rejects(w_bf16, "no roundings at all", n_out(&a), got, scan, NULL);
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,
                            faults_are_rejected,
                            lattice_is_exact,
                            steps_are_a_scan,
                            heads_and_groups_do_not_meet,
                            bf16_rounding_points,
                            NULL};
    return w_main("ssd_step", tests);
}
