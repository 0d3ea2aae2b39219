/* conv1d_step: conv1d for one token, y = silu(b + Σ_{i<K-1} w[i]·window[i] + w[K-1]·x); afterwards the window, oldest
 * column first, has lost its first column and ends in x. */
#include "tests/witness.h"

typedef struct {
    int64_t c, K;
    double *x, *w, *b, *window; /* [c], [c,K], [c], [c,K-1] */
    fh1_tensor wt, bt;
} input;

typedef enum {
    RIGHT,
    REVERSED,
    PUSHED_FIRST,
    NEWEST_FIRST,
    WINDOW_LOST,
    X_LOST,
    NO_BIAS,
    NO_SILU,
    NOT_MOVED,
    MOVED_TWICE
} fault;
static const char *const fault_name[] = {"",
                                         "taps reversed",
                                         "the window moves before the sum",
                                         "window newest first",
                                         "window not read",
                                         "the token itself not read",
                                         "no bias",
                                         "no silu",
                                         "the window stays",
                                         "the window moves twice"};

/* Column i of what the sum sees, 0 … K-1; `back` columns later for a window that moved. */
static double column(const input *a, int64_t j, int64_t i, int64_t back)
{
    const int64_t W = a->K - 1;
    if (i + back >= W) return a->x[j];
    return a->window[j * W + i + back];
}

static wide term(const input *a, int64_t j, int64_t i, fault f)
{
    const int64_t last = a->K - 1;
    if (f == WINDOW_LOST && i < last) return 0;
    if (f == X_LOST && i == last) return 0;
    double v = column(a, j, i, f == PUSHED_FIRST);
    if (f == NEWEST_FIRST && i < last) v = column(a, j, last - 1 - i, 0);
    return (wide)a->w[j * a->K + (f == REVERSED ? last - i : i)] * (wide)v;
}

/* The sum before silu; *size = Σ|terms|. */
static wide conv(const input *a, int64_t j, fault f, wide *size)
{
    wide u = f == NO_BIAS || !a->b ? 0 : (wide)a->b[j];
    *size = fabsl(u);
    for (int64_t i = a->K - 1; i >= 0; --i) {
        u += term(a, j, i, f);
        *size += fabsl(term(a, j, i, f));
    }
    return u;
}

static wide silu(wide v)
{
    return v / (1 + expl(-v));
}

static int64_t n_out(const input *a)
{
    return a->c * a->K;
}

/* y [c], then the window after the call, which is copied and has no gauge. y: 1.1·(K+1)·Σ|terms| + 5·|y|, 1.1 being the
 * steepest slope of silu. */
static void witness(const input *a, fault f, double *out, double *gauge)
{
    const int64_t W = a->K - 1;
    for (int64_t j = 0; j < a->c; ++j) {
        wide size, u = conv(a, j, f, &size), v = f == NO_SILU ? u : silu(u);
        out[j] = (double)v;
        gauge[j] = (double)(1.1L * (wide)(a->K + 1) * size + 5 * fabsl(v));
        for (int64_t i = 0; i < W; ++i) {
            out[a->c + j * W + i] = column(a, j, i, f == NOT_MOVED ? 0 : f == MOVED_TWICE ? 2 : 1);
            gauge[a->c + j * W + i] = 0;
        }
    }
}

/* One token; `window` is updated. */
static double *step(fh1_engine *e, const input *a, const double *x, double *window)
{
    void *y = w_out(e, a->c), *win = w_to(e, window, a->c * (a->K - 1));
    w_fine(e->ops->conv1d_step(e, a->c, a->K, w_to(e, x, a->c), &a->wt, &a->bt, win, y));
    fh1_to_f64(window, win, e->dtype, a->c * (a->K - 1));
    return w_from(e, y, a->c);
}

/* y and window, in the layout of the witness. */
static double *run(fh1_engine *e, const input *a)
{
    const int64_t n = a->c * (a->K - 1);
    double *out = w_new(n_out(a)), *window = w_copy(a->window, n), *y = step(e, a, a->x, window);
    memcpy(out, y, (size_t)a->c * sizeof *out);
    memcpy(out + a->c, window, (size_t)n * sizeof *out);
    return out;
}

static void store(input *a, fh1_dtype t)
{
    a->wt = w_store(t, a->w, a->c * a->K);
    a->wt = fh1_view3(a->wt.data, t, a->c, 1, a->K);
    a->bt = a->b ? w_store(t, a->b, a->c) : w_absent();
}

static input make(int64_t c, int64_t K, fh1_dtype stored, bool bias)
{
    input a = {.c = c,
               .K = K,
               .x = w_normal("x", c, 1),
               .w = w_normal("w", c * K, 0.7),
               .window = w_normal("window", c * (K - 1), 1)};
    if (bias) a.b = w_normal("b", c, 1);
    store(&a, stored);
    return a;
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t cs[] = {1, 5, 64, 65, 130};
    static const fh1_dtype stored[] = {FH1_BF16, FH1_F32, FH1_F16};
    for (int k = 0; k < 5 * 5 * 2 * 2; ++k) {
        const input a = make(cs[k % 5], 1 + k / 5 % 5, stored[k % 3], k / 25 % 2);
        fh1_engine *e = k / 50 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
        witness(&a, RIGHT, want, gauge);
        w_accepts(e, "y and window", n_out(&a), run(e, &a), want, gauge);
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    for (int k = 0; k < 6; ++k) {
        const input a = make(33, 3 + k / 2, FH1_BF16, true); /* K = 3, 4, 5: the orders of a window differ */
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *got = run(e, &a);
        for (fault f = RIGHT; f <= MOVED_TWICE; ++f) {
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "before the faults", n_out(&a), got, want, gauge);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, gauge);
        }
    }
}
END_TEST

/* Multiples of 1024: silu is the identity or -0, and the sum is exact. */
START_TEST(lattice_is_exact)
{
    input a = make(67, 4, FH1_BF16, true);
    a.x = w_lattice("x", a.c, -3, 3, 2048);
    a.window = w_lattice("window", a.c * 3, -3, 3, 2048);
    for (int64_t i = 0; i < a.c * 4; ++i) a.w[i] = (double)(i * 7 % 9 - 4) / 2;
    for (int64_t i = 0; i < a.c; ++i) a.b[i] = 1024 * (double)(i % 5 - 2);
    store(&a, FH1_BF16);
    double *want = w_new(n_out(&a)), *wrong = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
    witness(&a, RIGHT, want, gauge);
    for (int64_t j = 0; j < a.c; ++j) {
        wide size, u = conv(&a, j, RIGHT, &size);
        want[j] = u < 0 ? -0.0 : (double)u;
    }
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *got = run(e, &a);
        w_exact(e, "lattice", n_out(&a), got, want);
        for (fault f = REVERSED; f <= MOVED_TWICE; ++f) {
            if (f == NO_SILU) continue; /* the identity on positive numbers of this size */
            witness(&a, f, wrong, gauge);
            w_rejects(e, fault_name[f], n_out(&a), got, wrong, NULL);
        }
    }
}
END_TEST

/* Nine tokens one by one are conv1d of nine tokens, bit for bit, window included. */
START_TEST(steps_are_a_prefill)
{
    enum { T = 9, C = 66 };
    for (int k = 0; k < 5 * 3; ++k) {
        fh1_engine *e = k % 3 == 0 ? w_f64 : k % 3 == 1 ? w_f32 : w_bf16;
        const input a = make(C, 1 + k / 3, FH1_BF16, true);
        const int64_t n = C * (a.K - 1);
        double *x = w_normal("nine tokens", T * C, 1), *window = w_copy(a.window, n);
        if (e == w_bf16) w_rounded(x, T * C);
        void *y = w_out(e, T * C), *win = w_to(e, a.window, n);
        w_fine(e->ops->conv1d(e, T, C, a.K, w_to(e, x, T * C), &a.wt, &a.bt, NULL, 0, win, y));
        const double *whole = w_from(e, y, T * C);
        for (int64_t t = 0; t < T; ++t) w_exact(e, "a step", C, step(e, &a, x + t * C, window), whole + t * C);
        w_exact(e, "window", n, window, w_from(e, win, n));
        if (a.K < 2) continue;
        double *late = w_copy(a.window, n); /* a step left out is noticed */
        w_rejects(e, "the first token is left out", C, step(e, &a, x + C, late), whole + C, NULL);
    }
}
END_TEST

/* NaN stays in its channel, and is gone when its column has left the window. */
START_TEST(nan_stays_in_channel_and_window)
{
    enum { C = 70, BAD = 3 };
    for (int k = 0; k < 8; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        const input a = make(C, 2 + k / 2, FH1_F32, true);
        const int64_t n = C * (a.K - 1);
        double *x = w_copy(a.x, C), *window = w_copy(a.window, n), *clean = w_copy(a.window, n);
        x[BAD] = (double)NAN;
        for (int64_t t = 0; t < a.K + 1; ++t) {
            const double *got = step(e, &a, t ? a.x : x, window), *want = step(e, &a, a.x, clean);
            for (int64_t j = 0; j < C; ++j) {
                if (j == BAD && t < a.K) ck_assert_msg(isnan(got[j]), "K = %d, step %d", (int)a.K, (int)t);
                else w_exact(e, "beside or after NaN", 1, got + j, want + j);
            }
        }
        w_exact(e, "window after NaN", n, window, clean);
    }
}
END_TEST

/* The sum is rounded before silu and the result after it; sums of these short numbers are exact in f32. The window
 * keeps what came in. */
START_TEST(bf16_rounds_twice)
{
    input a = make(500, 4, FH1_BF16, true);
    a.x = w_lattice("x", a.c, -99, 99, 1.0 / 64);
    a.window = w_lattice("window", a.c * 3, -99, 99, 1.0 / 64);
    a.w = w_lattice("w", a.c * 4, -99, 99, 1.0 / 64);
    a.b = w_lattice("b", a.c, -99, 99, 1.0 / 64);
    store(&a, FH1_BF16);
    double *want = w_new(n_out(&a)), *wrong[3], *gauge = w_new(n_out(&a));
    witness(&a, RIGHT, want, gauge);
    for (int k = 0; k < 3; ++k) wrong[k] = w_copy(want, n_out(&a));
    for (int64_t j = 0; j < a.c; ++j) {
        wide size, u = conv(&a, j, RIGHT, &size);
        want[j] = w_r(silu((wide)w_r(u)));
        wrong[0][j] = w_r(silu(u));
        wrong[1][j] = (double)(float)silu((wide)w_r(u));
        wrong[2][j] = want[j];
    }
    for (int64_t i = a.c; i < n_out(&a); ++i) wrong[2][i] = w_r(1.02L * (wide)want[i]);
    const double *got = run(w_bf16, &a);
    w_exact(w_bf16, "two roundings", n_out(&a), got, want);
    w_rejects(w_bf16, "no rounding before silu", n_out(&a), got, wrong[0], NULL);
    w_rejects(w_bf16, "no rounding after silu", n_out(&a), got, wrong[1], NULL);
    w_rejects(w_bf16, "another window", n_out(&a), got, wrong[2], NULL);
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,
                            faults_are_rejected,
                            lattice_is_exact,
                            steps_are_a_prefill,
                            nan_stays_in_channel_and_window,
                            bf16_rounds_twice,
                            NULL};
    return w_main("conv1d_step", tests);
}
