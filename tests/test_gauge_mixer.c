/* Gauges of conv1d and dt_softplus, and of the mup vector before them. The scan: test_gauge_ssd.c. */
#define REF_BITS 64 /* the arguments of the f64 forwards */
#include "reference/conv1d_gauge.h"
#include "reference/dt_softplus.h"
#include "reference/dt_softplus_gauge.h"
#include "tests/gauge_bench.h"

enum { N_SEEDS = 3 };

/* Every contract, regime and seed. */
#define EACH(k, r, seed)                            \
    for (int k = EXACT; k < N_CONTRACTS; ++k)       \
        for (regime r = NORMAL; r < N_REGIMES; ++r) \
            for (uint64_t seed = 1; seed <= N_SEEDS; ++seed)

static double at_point(int k, fh1_point p, double v)
{
    return fh1_round_f64(g_contract(k)->at[p], v);
}

/* ---- conv1d ---- */

typedef struct {
    int64_t T, c, K;
    double *p, *x, *x_engine, *window, *w, *b,
        *y; /* p: before the mup vector, x: p·m, x_engine: as the engine has it */
    double m;
    fh1_tensor wt, bt;
    const int64_t *doc;
    int64_t window_doc;
    fh1_gauge x_err, window_err, g;
} conv;

static conv new_conv(int k, regime r, uint64_t seed, int64_t T, int64_t c, int64_t K)
{
    conv v = {.T = T, .c = c, .K = K, .y = w_new(T * c), .g = g_new(T * c), .m = 0.3535533905932738};
    v.p = g_data(k, r, "p", seed, T * c, 3, -1);
    v.window = g_data(k, r, "window", seed, c * (K - 1), 1, 1);
    v.w = g_data(k, r, "w", seed, c * K, 0.5, -1);
    v.b = g_data(k, NORMAL, "b", seed, c, 1, 1);
    v.wt = w_store(k == BF16 ? FH1_BF16 : FH1_F32, v.w, c * K);
    v.bt = seed % 3 ? w_store(FH1_F32, v.b, c) : w_absent();
    if (!v.bt.data) memset(v.b, 0, (size_t)c * sizeof *v.b);
    v.x = w_new(T * c), v.x_engine = w_new(T * c);
    const double m = ref_mup_factor(g_contract(k), v.m);
    for (int64_t i = 0; i < T * c; ++i) {
        v.x[i] = v.p[i] * v.m;
        v.x_engine[i] = at_point(k, FH1_RP_MUP, k == EXACT ? v.p[i] * m : (double)(float)(v.p[i] * m));
    }
    v.x_err = g_new(T * c), v.window_err = g_new(c * (K - 1));
    ref_mup_gauge(g_contract(k), T * c, v.x, v.m, v.m, &v.x_err);
    for (int64_t i = 0; i < c * (K - 1); ++i) fh1_gauge_set(&v.window_err, i, (fh1_err){0});
    return v;
}

/* Truth and gauge of tokens t0 … t1-1 on `window`, which moves on, as does v->window_err. */
static void true_conv(int k, const conv *v, int64_t t0, int64_t t1, double *window)
{
    const REF(ref_conv1d_args) a = {.T = t1 - t0,
                                    .c = v->c,
                                    .K = v->K,
                                    .ldx = v->c,
                                    .x = v->x + t0 * v->c,
                                    .w = &v->wt,
                                    .b = &v->bt,
                                    .doc = v->doc ? v->doc + t0 : NULL,
                                    .window_doc = t0 > 0 && v->doc ? v->doc[t0 - 1] : v->window_doc,
                                    .window = window,
                                    .y = v->y + t0 * v->c};
    const fh1_gauge x_err = ref_gauge_from(&v->x_err, t0 * v->c), g = ref_gauge_from(&v->g, t0 * v->c);
    w_fine(ref_conv1d_gauge(g_contract(k), &a, &x_err, &v->window_err, &g));
    ref_conv1d_gauge_window(&a, &x_err, &v->window_err);
    w_fine(ref_conv1d_fwd_f64(&a, fh1_profile_find("exact")));
}

/* Calls of n tokens each by the engine; window as after the last. */
static double *engine_conv(int k, const conv *v, int64_t n, double *window)
{
    fh1_engine *e = g_engine(k);
    double *out = w_new(v->T * v->c);
    void *state = w_to(e, v->window, v->c * (v->K - 1));
    for (int64_t t = 0; t < v->T; t += n) {
        const int64_t T = t + n < v->T ? n : v->T - t;
        void *y = w_out(e, T * v->c), *x = w_to(e, v->x_engine + t * v->c, T * v->c);
        if (T == 1 && !v->doc) w_fine(e->ops->conv1d_step(e, v->c, v->K, x, &v->wt, &v->bt, state, y));
        else
            w_fine(e->ops->conv1d(e, T, v->c, v->K, x, &v->wt, &v->bt, v->doc ? v->doc + t : NULL,
                                  t > 0 && v->doc ? v->doc[t - 1] : v->window_doc, state, y));
        memcpy(out + t * v->c, w_from(e, y, T * v->c), (size_t)(T * v->c) * sizeof *out);
    }
    memcpy(window, w_from(e, state, v->c * (v->K - 1)), (size_t)(v->c * (v->K - 1)) * sizeof *window);
    e->free(e);
    return out;
}

typedef enum { RIGHT, BIAS_LAST, EACH_ROUNDED, NO_BIAS, TAP_LOST, SHIFTED, NO_SILU, ROW_SCALED, SUM_BF16 } how;
static const char *const how_name[] = {"sequential",   "bias last",          "each product rounded",
                                       "bias dropped", "last tap dropped",   "off by one",
                                       "silu dropped", "one row times 1.01", "bf16 accumulator"};

/* Another engine: every operation rounded, an exp as bad as the contract allows. Windows of zeros. */
static double *other_conv(int k, const conv *v, how f)
{
    double *y = w_new(v->T * v->c);
    g_single = k != EXACT;
    for (int64_t i = 0; i < v->T * v->c; ++i) {
        const int64_t t = i / v->c, c = i % v->c;
        double sum = f == BIAS_LAST || f == EACH_ROUNDED || f == NO_BIAS ? 0 : v->b[c];
        for (int64_t j = 0; j < v->K - (f == TAP_LOST); ++j) {
            const int64_t s = t - (v->K - 1) + j - (f == SHIFTED);
            const double x = s < 0 ? 0 : v->x_engine[s * v->c + c];
            double term = g_a(v->w[c * v->K + j] * x * (f == ROW_SCALED && c == 3 ? 1.01 : 1));
            if (f == EACH_ROUNDED) term = at_point(k, FH1_RP_CONV, term);
            sum = g_a(sum + term);
            if (f == SUM_BF16) sum = fh1_round_f64(FH1_ROUND_BF16, sum);
        }
        if (f == EACH_ROUNDED) sum = at_point(k, FH1_RP_CONV, sum);
        if (f == BIAS_LAST || f == EACH_ROUNDED) sum = g_a(sum + v->b[c]);
        sum = at_point(k, FH1_RP_CONV, sum);
        y[i] = at_point(k, FH1_RP_CONV_ACT, f == NO_SILU ? sum : g_silu(sum));
    }
    return y;
}

START_TEST(conv1d_accepts_honest_engines)
{
    static const int64_t piece[] = {40, 1, 2, 7}, doc[40] = {[39] = 1};
    EACH(k, r, seed)
    {
        for (int n = 0; n < 4; ++n) {
            conv v = new_conv(k, r, seed, 40, 50, 4);
            double *window = w_copy(v.window, 50 * 3), *after = w_new(50 * 3);
            const double *got = engine_conv(k, &v, piece[n], after);
            for (int64_t t = 0; t < 40; t += piece[n])
                true_conv(k, &v, t, t + piece[n] < 40 ? t + piece[n] : 40, window);
            g_honest(k, "engine", 40 * 50, got, v.y, &v.g);
            g_honest(k, "window", 50 * 3, after, window, &v.window_err);
        }
        conv v = new_conv(k, r, seed, 40, 50, 4);
        memset(v.window, 0, 50 * 3 * sizeof *v.window);
        true_conv(k, &v, 0, 40, w_copy(v.window, 50 * 3));
        for (how f = RIGHT; f <= BIAS_LAST; ++f) g_honest(k, how_name[f], 40 * 50, other_conv(k, &v, f), v.y, &v.g);
        v.doc = doc;
        double *after = w_new(50 * 3), *window = w_copy(v.window, 50 * 3);
        const double *got = engine_conv(k, &v, 40, after);
        true_conv(k, &v, 0, 40, window);
        g_honest(k, "documents", 40 * 50, got, v.y, &v.g);
        for (int64_t i = 0; i < 50 * 3; ++i) ck_assert_msg(i % 3 == 2 || v.window_err.worst[i] == 0, "a cut column");
    }
    g_summary("conv1d");
}
END_TEST

/* One token: transformers up to 5.14 rounds each product; a prefill has no such excuse. */
START_TEST(conv1d_steps_may_round_each_product)
{
    int beyond = 0;
    for (uint64_t seed = 1; seed <= N_SEEDS; ++seed)
        for (int k = BF16; k <= FP16; ++k) {
            conv v = new_conv(k, NORMAL, seed, 1, 3000, 4), many = v;
            memset(v.window, 0, (size_t)(3000 * 3) * sizeof *v.window);
            memcpy(v.x, v.x_engine, 3000 * sizeof *v.x); /* else the mup rounding is the larger one */
            for (int64_t i = 0; i < 3000; ++i) fh1_gauge_set(&v.x_err, i, (fh1_err){0});
            true_conv(k, &v, 0, 1, w_copy(v.window, 3000 * 3));
            g_honest(k, how_name[EACH_ROUNDED], 3000, other_conv(k, &v, EACH_ROUNDED), v.y, &v.g);
            many.T = 2, many.x = w_fill(6000, 0), many.x_engine = w_fill(6000, 0), many.y = w_new(6000);
            many.g = g_new(6000), many.x_err = (fh1_gauge){w_fill(6000, 0), w_fill(6000, 0), w_fill(6000, 0)};
            memcpy(many.x + 3000, v.x, 3000 * sizeof *v.x);
            memcpy(many.x_engine + 3000, v.x, 3000 * sizeof *v.x);
            true_conv(k, &many, 0, 2, w_fill(3000 * 3, 0));
            beyond += !fh1_within(v.g.variance[5], many.g.variance[3000 + 5]);
        }
    ck_assert_int_eq(beyond, 2 * N_SEEDS);
}
END_TEST

START_TEST(conv1d_catches_faults)
{
    for (int k = FP32; k <= BF16; ++k) {
        conv v = new_conv(k, NORMAL, 1, 200, 50, 4);
        memset(v.window, 0, 50 * 3 * sizeof *v.window);
        true_conv(k, &v, 0, 200, w_copy(v.window, 50 * 3));
        for (how f = NO_BIAS; f <= SUM_BF16; ++f) {
            if (k == BF16 && (f == SUM_BF16 || f == ROW_SCALED)) continue; /* as large as x ⊙ mup's rounding */
            g_fault(k, how_name[f], 200 * 50, other_conv(k, &v, f), v.y, &v.g);
        }
        for (int64_t i = 0; i < 200 * 50; ++i) v.x_engine[i] = v.p[i]; /* the multiplier of one segment dropped */
        g_fault(k, "mup dropped", 200 * 50, other_conv(k, &v, RIGHT), v.y, &v.g);
        double *after = w_new(50 * 3), *window = w_fill(50 * 3, 0);
        conv u = new_conv(k, NORMAL, 2, 5, 50, 4);
        memset(u.window, 0, 50 * 3 * sizeof *u.window);
        engine_conv(k, &u, 5, after);
        true_conv(k, &u, 0, 5, window);
        after[7] = after[6];
        g_fault(k, "a stale window column", 50 * 3, after, window, &u.window_err);
    }
}
END_TEST

/* With the declared multiplier the truth has no error of it: only the product's rounding is left. */
START_TEST(mup_vector_is_known)
{
    ck_assert(ref_mup_factor(g_contract(EXACT), 0.7071067811865476) == 0.7071067811865476);
    for (int k = FP32; k < N_CONTRACTS; ++k) {
        const fh1_profile *c = g_contract(k);
        enum { N = 2000 };
        const double m = 0.7071067811865476, used = ref_mup_factor(c, m);
        double *p = g_data(k, NORMAL, "p", 1, N, 1, 1), *exact = w_new(N), *declared = w_new(N), *got = w_new(N);
        fh1_gauge wide_g = g_new(N), g = g_new(N);
        for (int i = 0; i < N; ++i) {
            exact[i] = p[i] * m, declared[i] = p[i] * used;
            got[i] = at_point(k, FH1_RP_MUP, (double)(float)declared[i]);
        }
        ref_mup_gauge(c, N, exact, m, m, &wide_g);
        ref_mup_gauge(c, N, declared, used, m, &g);
        g_honest(k, "exact multiplier", N, got, exact, &wide_g);
        g_honest(k, "declared multiplier", N, got, declared, &g);
        ck_assert(ref_mup_error(c, m) == fabs(m - used) && used != m);
        for (int i = 0; i < N; ++i) ck_assert(g.shared[i] == 0 && (wide_g.shared[i] > 0) == (p[i] != 0));
        if (k == CUDA) continue; /* m is rounded to nearest: half of what is allowed where sums are cut off */
        g_fault(k, "exact product, not rounded m", N, got, w_copy(exact, N), &g);
    }
    g_summary("mup");
}
END_TEST

/* ---- dt_softplus ---- */

typedef enum { HONEST, NO_DT_BIAS, NO_CLAMP, SUM_IN_BF16, LOG_NAIVE, RELU } dt_how;
static const char *const dt_name[] = {"poor exp",           "bias dropped",   "no clamp",
                                      "raw + bias in bf16", "log(1 + exp v)", "relu"};

typedef struct {
    int64_t T, H;
    double *raw, *raw_engine, *bias, *dt, lo, hi;
    fh1_tensor bt;
    fh1_gauge g, raw_err;
} steps;

static steps new_steps(int k, regime r, uint64_t seed, int64_t T, int64_t H, double lo, double hi)
{
    steps s = {.T = T, .H = H, .lo = lo, .hi = hi, .dt = w_new(T * H), .g = g_new(T * H), .raw_err = g_new(T * H)};
    const double m = 0.8408964152537145;
    double *p = g_data(k, r, "raw", seed, T * H, r == WIDE ? 30 : 3, -1);
    s.raw = w_new(T * H), s.raw_engine = w_new(T * H);
    for (int64_t i = 0; i < T * H; ++i) {
        const double v = p[i] * ref_mup_factor(g_contract(k), m);
        s.raw[i] = p[i] * m;
        s.raw_engine[i] = at_point(k, FH1_RP_MUP, k == EXACT ? v : (double)(float)v);
    }
    s.bias = g_data(k, NORMAL, "dt_bias", seed, H, 2, 1);
    s.bt = w_store(k == BF16 ? FH1_BF16 : FH1_F32, s.bias, H);
    ref_mup_gauge(g_contract(k), T * H, s.raw, m, m, &s.raw_err);
    ref_dt_softplus_fwd_f64(T, H, s.raw, H, &s.bt, lo, hi, fh1_profile_find("exact"), s.dt);
    ref_dt_softplus_gauge(g_contract(k), T, H, s.raw, H, &s.bt, lo, hi, &s.raw_err, &s.g);
    return s;
}

static double *other_steps(int k, const steps *s, dt_how f)
{
    double *dt = w_new(s->T * s->H);
    g_single = k != EXACT;
    const double lo = at_point(k, FH1_RP_DT, g_a(s->lo)), hi = at_point(k, FH1_RP_DT, g_a(s->hi));
    for (int64_t i = 0; i < s->T * s->H; ++i) {
        double v = g_a(s->raw_engine[i] + (f == NO_DT_BIAS ? 0 : s->bias[i % s->H]));
        v = f == SUM_IN_BF16 ? fh1_round_f64(FH1_ROUND_BF16, v) : at_point(k, FH1_RP_DT, v);
        double y = v > 20 ? v : f == LOG_NAIVE ? g_a(log(g_a(1 + g_exp(v)))) : g_a(log1p(g_exp(v)));
        if (f == RELU) y = fmax(v, 0);
        y = at_point(k, FH1_RP_DT, y);
        dt[i] = f == NO_CLAMP ? y : fmin(fmax(y, lo), hi);
    }
    return dt;
}

START_TEST(dt_softplus_accepts_honest_engines)
{
    static const double limit[][2] = {{0, (double)INFINITY}, {0.0123, 4.56}, {0.7, 0.7}};
    EACH(k, r, seed)
    {
        for (int l = 0; l < 3; ++l) {
            const steps s = new_steps(k, r, seed, 60, 24, limit[l][0], limit[l][1]);
            fh1_engine *e = g_engine(k);
            void *dt = w_out(e, 60 * 24), *raw = w_to(e, s.raw_engine, 60 * 24);
            w_fine(e->ops->dt_softplus(e, 60, 24, raw, &s.bt, s.lo, s.hi, dt));
            g_honest(k, "engine", 60 * 24, w_from(e, dt, 60 * 24), s.dt, &s.g);
            g_honest(k, dt_name[HONEST], 60 * 24, other_steps(k, &s, HONEST), s.dt, &s.g);
            e->free(e);
        }
    }
    g_summary("dt_softplus");
}
END_TEST

START_TEST(dt_softplus_catches_faults)
{
    for (int k = FP32; k <= BF16; ++k) {
        const steps s = new_steps(k, WIDE, 1, 200, 24, 0.0123, 4.56);
        for (dt_how f = NO_DT_BIAS; f <= RELU; ++f) {
            if (k == BF16 && (f == SUM_IN_BF16 || f == LOG_NAIVE))
                continue; /* that is the contract; and below an ulp */
            steps open = s;
            if (f == LOG_NAIVE) open = new_steps(k, WIDE, 1, 200, 24, 0, 4.56);
            g_fault(k, dt_name[f], 200 * 24, other_steps(k, &open, f), open.dt, &open.g);
        }
        int64_t known = 0, limits = 0;
        for (int64_t i = 0; i < s.T * s.H; ++i) {
            if (s.dt[i] != s.lo && s.dt[i] != s.hi) continue;
            limits++, known += s.g.variance[i] == 0;
        }
        ck_assert(limits > 500 && known * 4 > limits * 3);
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {conv1d_accepts_honest_engines,
                            conv1d_steps_may_round_each_product,
                            conv1d_catches_faults,
                            mup_vector_is_known,
                            dt_softplus_accepts_honest_engines,
                            dt_softplus_catches_faults,
                            NULL};
    return w_main("gauge_mixer", tests);
}
