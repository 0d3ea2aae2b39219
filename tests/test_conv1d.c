/* conv1d: y_t = silu(b + Σ_k w[k]·x_{t-(K-1)+k}), the past in a window of K-1 columns, oldest first. Documents
 * cut the taps: a column of another document is not read at all. */
#include "tests/witness.h"

typedef struct {
    int64_t T, c, K;
    double *x, *w, *b, *window; /* [T,c], [c,K], [c], [c,K-1] */
    const int64_t *doc;
    int64_t window_doc;
    fh1_tensor wt, bt;
} input;

typedef enum { RIGHT, REVERSED, SHIFTED, NO_BIAS, NO_SILU, WINDOW_REVERSED, WINDOW_LOST, DOCS_LEAK } fault;
static const char *const fault_name[] = {
    "",        "taps reversed",       "one column too early", "no bias",
    "no silu", "window newest first", "window not read",      "taps reach into the last document"};

/* Column s of channel j as token t sees it, 0 where there is none. */
static double seen(const input *a, int64_t t, int64_t s, int64_t j, fault f)
{
    const int64_t from = s >= 0 ? (a->doc ? a->doc[s] : 0) : a->window_doc;
    if (a->doc && from != a->doc[t] && f != DOCS_LEAK) return 0;
    if (s >= 0) return a->x[s * a->c + j];
    if (f == WINDOW_LOST || s < -(a->K - 1)) return 0;
    return a->window[j * (a->K - 1) + (f == WINDOW_REVERSED ? -1 - s : a->K - 1 + s)];
}

static wide silu(wide v)
{
    return v / (1 + expl(-v));
}

/* The sum before silu; *size = Σ|terms|. */
static wide conv(const input *a, int64_t t, int64_t j, fault f, wide *size)
{
    wide u = f == NO_BIAS || !a->b ? 0 : (wide)a->b[j];
    *size = fabsl(u);
    for (int64_t back = 0; back < a->K; ++back) { /* the tap K-1 is the token itself */
        const wide tap = (wide)a->w[j * a->K + (f == REVERSED ? back : a->K - 1 - back)];
        const wide term = tap * (wide)seen(a, t, t - back - (f == SHIFTED), j, f);
        u += term;
        *size += fabsl(term);
    }
    return u;
}

/* gauge: 1.1·(K+1)·Σ|terms| + 5·|y|, 1.1 being the steepest slope of silu. */
static void witness(const input *a, fault f, double *y, double *gauge)
{
    for (int64_t t = 0; t < a->T; ++t)
        for (int64_t j = 0; j < a->c; ++j) {
            wide size, u = conv(a, t, j, f, &size), v = f == NO_SILU ? u : silu(u);
            y[t * a->c + j] = (double)v;
            gauge[t * a->c + j] = (double)(1.1L * (wide)(a->K + 1) * size + 5 * fabsl(v));
        }
}

/* The window after the call, by its definition. */
static double *window_after(const input *a)
{
    const int64_t W = a->K - 1;
    double *w = w_new(a->c * W);
    for (int64_t j = 0; j < a->c; ++j)
        for (int64_t i = 0; i < W; ++i) w[j * W + i] = seen(a, a->T - 1, a->T - W + i, j, RIGHT);
    return w;
}

/* Runs tokens t0 … t1-1; window [c,K-1] is updated. Returns y. */
static double *run(fh1_engine *e, const input *a, int64_t t0, int64_t t1, int64_t window_doc, double *window)
{
    const int64_t n = (t1 - t0) * a->c, nw = a->c * (a->K - 1);
    void *y = w_out(e, n), *win = w_to(e, window, nw);
    w_fine(e->ops->conv1d(e, t1 - t0, a->c, a->K, w_to(e, a->x + t0 * a->c, n), &a->wt, &a->bt,
                          a->doc ? a->doc + t0 : NULL, window_doc, win, y));
    fh1_to_f64(window, win, e->dtype, nw);
    return w_from(e, y, n);
}

static input make(int64_t T, int64_t c, int64_t K, fh1_dtype stored, bool bias)
{
    input a = {.T = T,
               .c = c,
               .K = K,
               .x = w_normal("x", T * c, 1),
               .w = w_normal("w", c * K, 0.7),
               .window = w_normal("window", c * (K - 1), 1),
               .bt = w_absent()};
    a.wt = w_store(stored, a.w, c * K);
    a.wt = fh1_view3(a.wt.data, stored, c, 1, K);
    if (!bias) return a;
    a.b = w_normal("b", c, 1);
    a.bt = w_store(stored, a.b, c);
    return a;
}

static double *run_all(fh1_engine *e, const input *a, double **window)
{
    *window = w_copy(a->window, a->c * (a->K - 1));
    return run(e, a, 0, a->T, a->window_doc, *window);
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t Ts[] = {1, 2, 3, 9}, cs[] = {1, 5, 64, 65, 130};
    static const fh1_dtype stored[] = {FH1_BF16, FH1_F32, FH1_F16};
    for (int k = 0; k < 4 * 5 * 5 * 2; ++k) { /* K = 1 … 5 (D-105), lengths below K among them */
        input a = make(Ts[k % 4], cs[k / 4 % 5], 1 + k / 20 % 5, stored[k % 3], k % 7 > 2);
        fh1_engine *e = k / 100 ? w_f32 : w_f64;
        double *y = w_new(a.T * a.c), *gauge = w_new(a.T * a.c), *window;
        const double *got = run_all(e, &a, &window);
        witness(&a, RIGHT, y, gauge);
        w_accepts(e, "random", a.T * a.c, got, y, gauge);
        w_exact(e, "window", a.c * (a.K - 1), window, window_after(&a));
    }
}
END_TEST

static const int64_t three_docs[12] = {3, 3, 3, 3, 4, 9, 9, 9, 9, 9, 9, 9};

START_TEST(faults_are_rejected)
{
    for (int k = 0; k < 6; ++k) {
        input a = make(12, 33, 2 + k / 2, FH1_BF16, true); /* K = 2, 3, 4 */
        if (k / 2) a.doc = three_docs, a.window_doc = 3;
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *y = w_new(a.T * a.c), *gauge = w_new(a.T * a.c), *window;
        const double *got = run_all(e, &a, &window);
        for (fault f = RIGHT; f <= DOCS_LEAK; ++f) {
            if (!a.doc && (f == DOCS_LEAK || f == WINDOW_REVERSED)) continue; /* one document, one column */
            witness(&a, f, y, gauge);
            if (f == RIGHT) w_accepts(e, "three documents", a.T * a.c, got, y, gauge);
            else w_rejects(e, fault_name[f], a.T * a.c, got, y, gauge);
        }
    }
}
END_TEST

/* Multiples of 1024: silu is the identity or -0, and the sum is exact. */
START_TEST(lattice_is_exact)
{
    input a = make(12, 67, 4, FH1_BF16, true);
    a.x = w_lattice("x", a.T * a.c, -3, 3, 2048);
    a.window = w_lattice("window", a.c * 3, -3, 3, 2048);
    for (int64_t i = 0; i < a.c * 4; ++i) a.w[i] = (double)(i * 7 % 9 - 4) / 2;
    for (int64_t i = 0; i < a.c; ++i) a.b[i] = 1024 * (double)(i % 5 - 2);
    a.wt = w_store(FH1_BF16, a.w, a.c * 4);
    a.wt = fh1_view3(a.wt.data, FH1_BF16, a.c, 1, 4);
    a.bt = w_store(FH1_BF16, a.b, a.c);
    double *want = w_new(a.T * a.c), *wrong = w_new(a.T * a.c), *gauge = w_new(a.T * a.c), *window;
    for (int64_t i = 0; i < a.T * a.c; ++i) {
        wide size, u = conv(&a, i / a.c, i % a.c, RIGHT, &size);
        want[i] = copysign(u < 0 ? 0 : (double)u, (double)u); /* u < 0 ? -0.0 : u of +0 is -0 in clang 14 */
    }
    witness(&a, REVERSED, wrong, gauge);
    for (int k = 0; k < 2; ++k) {
        const double *got = run_all(k ? w_f32 : w_f64, &a, &window);
        w_exact(k ? w_f32 : w_f64, "lattice", a.T * a.c, got, want);
        w_rejects(k ? w_f32 : w_f64, "taps reversed on the lattice", a.T * a.c, got, wrong, NULL);
    }
}
END_TEST

/* Each document alone gives the same bits, and NaN at the end of one reaches no other (D-58, PK1b). */
START_TEST(documents_do_not_meet)
{
    static const int64_t begin[] = {0, 4, 5, 12};
    for (int k = 0; k < 8; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input a = make(12, 70, 2 + k / 2, FH1_BF16, true);
        a.doc = three_docs;
        a.window_doc = -1;
        double *window, *after, *y = run_all(e, &a, &window);
        for (int i = 0; i < 3; ++i) {
            const int64_t n = (begin[i + 1] - begin[i]) * a.c;
            double *zero = w_fill(a.c * (a.K - 1), 0);
            input solo = a;
            solo.doc = NULL;
            w_exact(e, "a document alone", n, y + begin[i] * a.c, run(e, &solo, begin[i], begin[i + 1], 0, zero));
            if (i == 2) w_exact(e, "window of the last document", a.c * (a.K - 1), window, zero);
        }
        for (int64_t j = 0; j < a.c; ++j) a.x[3 * a.c + j] = a.x[4 * a.c + j] = (double)NAN;
        for (int64_t j = 0; j < a.c * (a.K - 1); ++j) a.window[j] = (double)NAN;
        const double *poisoned = run_all(e, &a, &after);
        w_exact(e, "after NaN", 7 * a.c, poisoned + 5 * a.c, y + 5 * a.c);
        w_exact(e, "before NaN", 3 * a.c, poisoned, y);
        w_exact(e, "window after NaN", a.c * (a.K - 1), after, window);
        ck_assert(isnan(poisoned[3 * a.c])); /* in its own document it must not pass */
    }
}
END_TEST

/* Nine tokens in two calls, every split, with and without documents. */
START_TEST(any_split_gives_the_same_bits)
{
    for (int k = 0; k < 5 * 2 * 2; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input a = make(9, 66, 1 + k / 4, FH1_F32, true);
        if (k / 2 % 2) a.doc = three_docs, a.window_doc = 3;
        double *end, *y = run_all(e, &a, &end);
        for (int64_t t = 1; t < 9; ++t) {
            double *window = w_copy(a.window, a.c * (a.K - 1));
            w_exact(e, "first part", t * a.c, run(e, &a, 0, t, 3, window), y);
            w_exact(e, "second part", (9 - t) * a.c, run(e, &a, t, 9, a.doc ? a.doc[t - 1] : 0, window), y + t * a.c);
            w_exact(e, "window", a.c * (a.K - 1), window, end);
        }
    }
}
END_TEST

/* The sum is rounded before silu and the result after it; sums of these short numbers are exact in f32. */
START_TEST(bf16_rounds_twice)
{
    input a = make(40, 20, 4, FH1_BF16, true);
    a.x = w_lattice("x", a.T * a.c, -99, 99, 1.0 / 64);
    a.window = w_lattice("window", a.c * 3, -99, 99, 1.0 / 64);
    a.w = w_lattice("w", a.c * 4, -99, 99, 1.0 / 64);
    a.b = w_lattice("b", a.c, -99, 99, 1.0 / 64);
    a.wt = w_store(FH1_BF16, a.w, a.c * 4);
    a.wt = fh1_view3(a.wt.data, FH1_BF16, a.c, 1, 4);
    a.bt = w_store(FH1_BF16, a.b, a.c);
    double *want = w_new(a.T * a.c), *once = w_new(a.T * a.c), *window;
    for (int64_t i = 0; i < a.T * a.c; ++i) {
        wide size, u = conv(&a, i / a.c, i % a.c, RIGHT, &size);
        want[i] = w_r(silu((wide)w_r(u)));
        once[i] = w_r(silu(u));
    }
    const double *got = run_all(w_bf16, &a, &window);
    w_exact(w_bf16, "two roundings", a.T * a.c, got, want);
    w_rejects(w_bf16, "one rounding", a.T * a.c, got, once, NULL);
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    input a = make(9, 200, 4, FH1_BF16, true);
    double *window;
    fh1_set_threads(1);
    const double *one = run_all(w_f32, &a, &window);
    fh1_set_threads(3);
    w_exact(w_f32, "three threads", a.T * a.c, run_all(w_f32, &a, &window), one);
    fh1_set_threads(0);
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,
                            faults_are_rejected,
                            lattice_is_exact,
                            documents_do_not_meet,
                            any_split_gives_the_same_bits,
                            bf16_rounds_twice,
                            threads_do_not_change_a_bit,
                            NULL};
    return w_main("conv1d", tests);
}
