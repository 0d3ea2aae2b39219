/* Gauges of what stands outside attention and mixer: products, norms, gates, residuals. */
#include "tests/gauge_bench.h"

#include "reference/gated_norm_gauge.h"
#include "reference/gauge_parts.h"
#include "reference/linear_gauge.h"
#include "reference/rmsnorm_gauge.h"

enum { N_SEEDS = 3 };

/* Every contract (from `first`), regime and seed. */
#define EACH(first, k, r, seed)                     \
    for (int k = first; k < N_CONTRACTS; ++k)       \
        for (regime r = NORMAL; r < N_REGIMES; ++r) \
            for (uint64_t seed = 1; seed <= N_SEEDS; ++seed)

static double at_point(int k, fh1_point p, double v)
{
    return fh1_round_f64(g_contract(k)->at[p], v);
}

/* ---- linear and lm_head ---- */

typedef struct {
    int64_t M, N, K;
    double *x, *w, *b, *y;
    fh1_tensor wt, bt;
    fh1_gauge g;
} product;

static product new_product(int k, regime r, uint64_t seed, int64_t M, int64_t N, int64_t K, bool bias)
{
    product p = {.M = M, .N = N, .K = K, .y = w_new(M * N), .g = g_new(M * N)};
    p.x = g_data(k, r, "x", seed, M * K, 1, 1);
    p.w = g_data(k, r, "w", seed, N * K, 1 / sqrt((double)K), -1);
    p.b = g_data(k, NORMAL, "b", seed, N, 1, 1);
    p.wt = w_store2(k == BF16 ? FH1_BF16 : FH1_F32, p.w, N, K);
    p.bt = bias ? w_store(FH1_F32, p.b, N) : w_absent();
    w_fine(w_f64->ops->linear(w_f64, M, p.x, &p.wt, &p.bt, p.y));
    w_fine(w_f64->gauges->linear(g_contract(k), M, p.x, &p.wt, &p.bt, p.y, &p.g));
    return p;
}

static double *engine_product(int k, const product *p, const double *x, const fh1_tensor *w, const fh1_tensor *b)
{
    fh1_engine *e = g_engine(k);
    void *y = w_out(e, p->M * p->N);
    w_fine(e->ops->linear(e, p->M, w_to(e, x, p->M * w->shape[1]), w, b, y));
    double *out = w_from(e, y, p->M * p->N);
    e->free(e);
    return out;
}

/* o N_ORDERS: tensor cores. */
static double *emulated_product(int k, const product *p, g_order o)
{
    double *y = w_new(p->M * p->N);
    g_single = k != EXACT;
    for (int64_t i = 0; i < p->M * p->N; ++i) {
        const double *x = p->x + i / p->N * p->K, *w = p->w + i % p->N * p->K;
        y[i] = o == N_ORDERS ? g_tensor_dot(p->K, x, w) : g_dot(o, p->K, x, w);
        if (p->bt.data) y[i] = g_a(y[i] + p->b[i % p->N]);
        y[i] = at_point(k, FH1_RP_LINEAR, y[i]);
    }
    return y;
}

START_TEST(linear_holds_every_order)
{
    static const int64_t shape[][3] = {{9, 33, 1}, {8, 40, 3}, {12, 24, 64}, {6, 20, 700}};
    EACH(EXACT, k, r, seed)
    for (size_t s = 0; s < sizeof shape / sizeof *shape; ++s) {
        const product p = new_product(k, r, seed, shape[s][0], shape[s][1], shape[s][2], s % 2 == 0);
        const int64_t n = p.M * p.N;
        if (k != EXACT) g_honest(k, g_regime_name[r], n, engine_product(k, &p, p.x, &p.wt, &p.bt), p.y, &p.g);
        for (g_order o = SEQUENTIAL; o < N_ORDERS; ++o)
            g_honest(k, g_order_name[o], n, emulated_product(k, &p, o), p.y, &p.g);
        if (k == CUDA) g_honest(k, "tensor cores", n, emulated_product(k, &p, N_ORDERS), p.y, &p.g);
    }
    g_summary("linear");
}
END_TEST

/* y = m·(x·W) + b: the multiplier before the product, as truth and transformers have it, or behind it. */
START_TEST(linear_takes_its_multiplier_before_or_behind)
{
    static const int64_t width[] = {1, 2, 64};
    const double m = 0.3535533905932738;
    for (int k = FP32; k < N_CONTRACTS; ++k)
        for (uint64_t seed = 1; seed <= 8 && g_contract(k)->any_form; ++seed)
            for (int s = 0; s < 3; ++s) {
                product p = new_product(k, NORMAL, seed, 12, 40, width[s], seed % 2 == 0);
                const int64_t n = p.M * p.N, n_x = p.M * p.K;
                double *scaled = w_new(n_x), *behind = w_new(n);
                for (int64_t i = 0; i < n_x; ++i) scaled[i] = (double)((float)p.x[i] * (float)m);
                g_single = true;
                for (int64_t i = 0; i < n; ++i) {
                    const double sum = g_dot(LANES, p.K, p.x + i / p.N * p.K, p.w + i % p.N * p.K) * g_a(m);
                    const double b = p.bt.data ? p.b[i % p.N] : 0;
                    behind[i] = at_point(k, FH1_RP_LINEAR, seed % 3 ? g_a(g_a(sum) + b) : g_a(sum + b));
                }
                w_fine(w_f64->ops->linear(w_f64, p.M, scaled, &p.wt, &p.bt, p.y));
                w_fine(ref_linear_scaled_gauge(g_contract(k), p.M, scaled, &p.wt, &p.bt, p.y, &p.g));
                g_honest(k, "before", n, engine_product(k, &p, scaled, &p.wt, &p.bt), p.y, &p.g);
                g_honest(k, "behind", n, behind, p.y, &p.g);
                for (int64_t i = 0; i < n; ++i) behind[i] = at_point(k, FH1_RP_LINEAR, p.y[i] * (1 + 0x1p-7));
                if (seed == 1) g_fault(k, "multiplier off by 2^-7", n, behind, p.y, &p.g);
            }
    g_summary("scaled input");
}
END_TEST

START_TEST(linear_faults)
{
    for (int k = FP32; k < N_CONTRACTS; ++k) {
        const product p = new_product(k, NORMAL, 7, 16, 48, 256, true);
        const int64_t n = p.M * p.N;
        const double *good = engine_product(k, &p, p.x, &p.wt, &p.bt);
        double *bad = w_copy(good, n), *x = w_copy(p.x, p.M * p.K);
        for (int64_t m = 0; m < p.M; ++m) bad[m * p.N + 7] = at_point(k, FH1_RP_LINEAR, p.y[m * p.N + 7] * 1.01);
        g_fault(k, "one row x1.01", n, bad, p.y, &p.g);
        for (int64_t i = 0; i < n; ++i) bad[i] = good[i] - p.b[i % p.N];
        g_fault(k, "bias missing", n, bad, p.y, &p.g);
        for (int64_t m = 0; m < p.M; ++m) x[m * p.K + p.K - 1] = 0;
        g_fault(k, "last k dropped", n, engine_product(k, &p, x, &p.wt, &p.bt), p.y, &p.g);
        for (int64_t i = 0; i < n; ++i) {
            double sum = 0;
            for (int64_t c = 0; c < p.K; ++c) {
                sum += p.x[i / p.N * p.K + c] * p.w[i % p.N * p.K + c];
                if (c % 16 == 15) sum = fh1_round_f64(FH1_ROUND_BF16, sum);
            }
            bad[i] = at_point(k, FH1_RP_LINEAR, sum + p.b[i % p.N]);
        }
        g_fault(k, "bf16 accumulator", n, bad, p.y, &p.g);
        memcpy(bad, good, (size_t)n * sizeof *bad);
        bad[5] = (double)NAN;
        g_fault(k, "one NaN", n, bad, p.y, &p.g);
        if (k != FP32) continue; /* 16-bit inputs are what TF32 keeps */
        for (int64_t i = 0; i < p.M * p.K; ++i) x[i] = fh1_round_f64(FH1_ROUND_TF32, p.x[i]);
        g_fault(k, "TF32 inputs", n, engine_product(k, &p, x, &p.wt, &p.bt), p.y, &p.g);
    }
}
END_TEST

START_TEST(lm_head_multiplies_a_rounded_product)
{
    enum { M = 6, V = 90, D = 40, N = M * V };
    const double m = 0.0195;
    EACH(FP32, k, r, seed)
    {
        fh1_engine *e = g_engine(k);
        double *h = g_data(k, r, "h", seed, M * D, 1, 1), *w = g_data(k, r, "w", seed, V * D, 1, -1), *y = w_new(N);
        const fh1_tensor wt = w_store2(FH1_F32, w, V, D);
        const fh1_gauge g = g_new(N);
        w_fine(w_f64->ops->lm_head(w_f64, M, h, &wt, m, y));
        w_fine(w_f64->gauges->lm_head(g_contract(k), M, h, &wt, m, y, &g));
        void *out = w_out(e, N);
        w_fine(e->ops->lm_head(e, M, w_to(e, h, M * D), &wt, m, out));
        g_honest(k, g_regime_name[r], N, w_from(e, out, N), y, &g);
        w_fine(e->ops->lm_head(e, M, w_to(e, h, M * D), &wt, m * 1.01, out));
        if (seed == 1 && r == NORMAL) g_fault(k, "multiplier x1.01", N, w_from(e, out, N), y, &g);
        e->free(e);
        if (k != CUDA) continue; /* logits that nothing rounds */
        double *cut = w_new(N);
        g_single = true;
        for (int64_t i = 0; i < N; ++i) cut[i] = g_a(g_tensor_dot(D, h + i / V * D, w + i % V * D) * g_a(m));
        g_honest(k, "tensor cores", N, cut, y, &g);
        for (int64_t i = 0; i < N; ++i) cut[i] = fh1_round_f64(FH1_ROUND_BF16, cut[i]);
        if (seed == 1 && r == NORMAL) g_fault(k, "rounded logits", N, cut, y, &g);
    }
    g_summary("lm_head");
}
END_TEST

/* ---- norms ---- */

static double *emulated_norm(int k, g_order o, int64_t M, int64_t D, const double *x, const double *w, double eps)
{
    double *y = w_new(M * D);
    g_single = k != EXACT;
    for (int64_t m = 0; m < M; ++m) {
        const double mean = g_a(g_dot(o, D, x + m * D, x + m * D) / (double)D);
        const double root = g_a(1 / g_a(sqrt(g_a(mean + g_a(eps)))));
        for (int64_t i = 0; i < D; ++i) {
            const double n = at_point(k, FH1_RP_NORM_INNER, g_a(x[m * D + i] * root));
            y[m * D + i] = at_point(k, FH1_RP_NORM, g_a(n * w[i]));
        }
    }
    return y;
}

START_TEST(rmsnorm_holds_every_order)
{
    static const int64_t width[] = {1, 5, 96, 1024};
    EACH(EXACT, k, r, seed)
    for (size_t s = 0; s < sizeof width / sizeof *width; ++s) {
        const int64_t M = 8, D = width[s], n = M * D;
        double *x = g_data(k, r, "x", seed, n, 2, 1), *w = g_data(k, r, "w", seed, D, 1, 1), *y = w_new(n);
        for (int64_t i = 0; i < n; ++i) x[i] = fh1_round_f64(g_storage(k), x[i] * (i / D % 2 ? 1e-3 : 1));
        const fh1_tensor wt = w_store(FH1_F32, w, D);
        const fh1_gauge g = g_new(n);
        w_fine(w_f64->ops->rmsnorm(w_f64, M, D, x, &wt, 1e-5, y));
        w_fine(w_f64->gauges->rmsnorm(g_contract(k), M, D, x, &wt, 1e-5, y, &g));
        if (k != EXACT) {
            fh1_engine *e = g_engine(k);
            void *out = w_out(e, n);
            w_fine(e->ops->rmsnorm(e, M, D, w_to(e, x, n), &wt, 1e-5, out));
            g_honest(k, g_regime_name[r], n, w_from(e, out, n), y, &g);
            e->free(e);
        }
        for (g_order o = SEQUENTIAL; o < N_ORDERS; ++o)
            g_honest(k, g_order_name[o], n, emulated_norm(k, o, M, D, x, w, 1e-5), y, &g);
    }
    g_summary("rmsnorm");
}
END_TEST

START_TEST(rmsnorm_faults)
{
    enum { M = 8, D = 160, N = M * D };
    for (int k = FP32; k < N_CONTRACTS; ++k) {
        double *x = g_data(k, NORMAL, "x", 5, N, 1, 1), *w = g_data(k, NORMAL, "w", 5, D, 1, 1), *y = w_new(N);
        for (int64_t i = 0; i < D; ++i) x[i] = fh1_round_f64(g_storage(k), x[i] * 1e-2); /* a mean of 10 eps */
        const fh1_tensor wt = w_store(FH1_F32, w, D);
        const fh1_gauge g = g_new(N);
        w_fine(w_f64->ops->rmsnorm(w_f64, M, D, x, &wt, 1e-5, y));
        w_fine(w_f64->gauges->rmsnorm(g_contract(k), M, D, x, &wt, 1e-5, y, &g));
        double *bad = emulated_norm(k, LANES, M, D, x, w, 0);
        g_fault(k, "no eps", N, bad, y, &g);
        for (int64_t i = 0; i < N; ++i) {
            double sum = 0;
            for (int64_t d = 0; d < D; ++d) sum += x[i / D * D + d] * x[i / D * D + d];
            bad[i] = at_point(k, FH1_RP_NORM, x[i] / (sqrt(sum / D) + 1e-5) * w[i % D]);
        }
        g_fault(k, "eps outside the root", N, bad, y, &g);
        for (int64_t i = 0; i < N; ++i) bad[i] = at_point(k, FH1_RP_NORM, y[i] * (1 + 1 / w[i % D]));
        g_fault(k, "weight + 1", N, bad, y, &g);
        for (int64_t i = 0; i < N; ++i) bad[i] = at_point(k, FH1_RP_NORM, y[i] * (i / D == 3 ? 1.01 : 1));
        g_fault(k, "one row x1.01", N, bad, y, &g);
        /* One rounding too few is better than the contract: no bound from above can see it. */
        for (int64_t i = 0; i < N; ++i) bad[i] = at_point(k, FH1_RP_NORM, y[i]);
        ck_assert(!g_catches(k, N, bad, y, &g));
    }
}
END_TEST

typedef enum { NO_NORM, GATE_FIRST, NORM_FIRST, N_FORMS } gate_form;
/* Errors of what a norm without a weight reads, each anywhere in its bound or all at their bounds; x from far below
 * √eps to far above, and errors as large as x. */
START_TEST(rmsnorm_carries_the_error_of_its_input)
{
    static const int64_t width[] = {1, 2, 7, 64};
    const double eps = 1e-6;
    for (size_t s = 0; s < sizeof width / sizeof *width; ++s)
        for (int size = -14; size < 3; ++size)
            for (int share = -20; share < 1; share += 5) {
                const int64_t M = 16, D = width[s], n = M * D;
                const fh1_stream dice = fh1_stream_open((uint64_t)(100 * size + share), "errors");
                const fh1_tensor none = {0};
                double *x = g_data(FP32, NORMAL, "x", (uint64_t)share, n, ldexp(1, size), 1), *y = w_new(n);
                double *off = w_new(n), *bad = w_new(n);
                const fh1_gauge in = g_new(n), g = g_new(n), no_gauge = g_new(n);
                for (int64_t i = 0; i < n; ++i) {
                    const double bound = ldexp(1, size + share), u = 2 * fh1_random_uniform(dice, (uint64_t)i) - 1;
                    fh1_gauge_set(&in, i, (fh1_err){bound, bound * bound / 3, 0});
                    fh1_gauge_set(&g, i, (fh1_err){0});
                    fh1_gauge_set(&no_gauge, i, (fh1_err){0});
                    off[i] = x[i] + (size % 2 ? copysign(bound, u) : bound * u);
                }
                w_fine(w_f64->ops->rmsnorm(w_f64, M, D, x, &none, eps, y));
                w_fine(w_f64->ops->rmsnorm(w_f64, M, D, off, &none, eps, bad));
                ref_rmsnorm_input_gauge(M, D, x, eps, &in, &g);
                for (int64_t i = 0; i < n; ++i)
                    ck_assert_msg(fabs(bad[i] - y[i]) <= g.worst[i] * (1 + 1e-9) + 1e-12,
                                  "D %d, x around 2^%d, errors 2^%d of it: off by %g, bound %g", (int)D, size, share,
                                  fabs(bad[i] - y[i]), g.worst[i]);
                if (size % 2 == 0 && share < -9) g_honest(FP32, "errors of the input", n, bad, y, &g);
                if (share == -10 && size < -6) ck_assert(g_catches(FP32, n, bad, y, &no_gauge));
            }
    g_summary("norm of errors");
}
END_TEST

static const char *const form_name[] = {"no norm", "gate first", "norm first"};

/* z is what in_proj gave, rounded, times the mup factor, rounded once more: that error comes in with z. */
START_TEST(gated_norm_carries_the_error_of_its_gate)
{
    enum { M = 8, D = 96, G = 2, N = M * D };
    EACH(FP32, k, r, seed)
    for (gate_form f = NO_NORM; f < N_FORMS; ++f) {
        fh1_engine *e = g_engine(k);
        double *y = g_data(k, r, "y", seed, N, 1, 1), *z = g_data(k, r, "z", seed, N, 4, 1), *w = w_normal("w", D, 1);
        double *gate = w_new(N), *truth = w_new(N), *rounded = w_new(N);
        for (int64_t i = 0; i < N; ++i) {
            gate[i] = z[i] * 0.3;
            rounded[i] = at_point(k, FH1_RP_MUP, (double)((float)z[i] * 0.3f));
        }
        const fh1_tensor wt = f == NO_NORM ? w_absent() : w_store(FH1_F32, w, D);
        const fh1_gauge z_err = g_new(N), g = g_new(N);
        void *out = w_out(e, N);
        w_fine(w_f64->ops->gated_norm(w_f64, M, D, G, y, gate, &wt, 1e-5, f == NORM_FIRST, truth));
        ref_multiply_gauge(g_contract(k), FH1_RP_MUP, N, z, 0.3, &z_err);
        w_fine(ref_gated_norm_gauge(g_contract(k), M, D, G, y, gate, D, &z_err, &wt, 1e-5, f == NORM_FIRST, &g));
        w_fine(e->ops->gated_norm(e, M, D, G, w_to(e, y, N), w_to(e, rounded, N), &wt, 1e-5, f == NORM_FIRST, out));
        g_honest(k, form_name[f], N, w_from(e, out, N), truth, &g);
        /* an exact gate */
        w_fine(w_f64->ops->gated_norm(w_f64, M, D, G, y, z, &wt, 1e-5, f == NORM_FIRST, truth));
        w_fine(w_f64->gauges->gated_norm(g_contract(k), M, D, G, y, z, &wt, 1e-5, f == NORM_FIRST, truth, &g));
        w_fine(e->ops->gated_norm(e, M, D, G, w_to(e, y, N), w_to(e, z, N), &wt, 1e-5, f == NORM_FIRST, out));
        g_honest(k, form_name[f], N, w_from(e, out, N), truth, &g);
        if (seed == 1 && r == NORMAL && f != NO_NORM) {
            w_fine(e->ops->gated_norm(e, M, D, 1, w_to(e, y, N), w_to(e, z, N), &wt, 1e-5, f == NORM_FIRST, out));
            g_fault(k, "norm over the whole width", N, w_from(e, out, N), truth, &g);
            w_fine(e->ops->gated_norm(e, M, D, G, w_to(e, y, N), w_to(e, z, N), &wt, 1e-5, f != NORM_FIRST, out));
            g_fault(k, "order of gate and norm", N, w_from(e, out, N), truth, &g);
        }
        e->free(e);
    }
    g_summary("gated_norm");
}
END_TEST

/* ---- one element each ---- */

START_TEST(swiglu_with_other_exponentials)
{
    enum { N = 900 };
    const double m = 0.7;
    EACH(FP32, k, r, seed)
    {
        fh1_engine *e = g_engine(k);
        double *gate = g_data(k, r, "gate", seed, N, seed == 3 ? 40 : 3, 1), *up = g_data(k, r, "up", seed, N, 1, 1);
        double *y = w_new(N), *other = w_new(N), *bad = w_new(N);
        const fh1_gauge g = g_new(N);
        w_fine(w_f64->ops->swiglu(w_f64, 1, N, gate, m, up, y));
        w_fine(w_f64->gauges->swiglu(g_contract(k), 1, N, gate, m, up, y, &g));
        void *out = w_out(e, N);
        w_fine(e->ops->swiglu(e, 1, N, w_to(e, gate, N), m, w_to(e, up, N), out));
        g_honest(k, g_regime_name[r], N, w_from(e, out, N), y, &g);
        g_single = true;
        for (int64_t i = 0; i < N; ++i) {
            const double z = at_point(k, FH1_RP_MLP, g_a(gate[i] * g_a(m)));
            other[i] = at_point(k, FH1_RP_ACT, g_a(at_point(k, FH1_RP_MLP, g_silu(z)) * up[i]));
            bad[i] = at_point(k, FH1_RP_ACT, gate[i] / (1 + exp(-gate[i])) * m * up[i]);
        }
        g_honest(k, "another exp", N, other, y, &g);
        if (seed == 1) g_fault(k, "multiplier after silu", N, bad, y, &g);
        for (int64_t i = 0; i < N; ++i) bad[i] = gate[i] * m / (1 + exp(-1.702 * gate[i] * m)) * up[i];
        if (seed == 1) g_fault(k, "gelu for silu", N, bad, y, &g);
        e->free(e);
    }
    g_summary("swiglu");
}
END_TEST

/* The f32 value of a factor is off by the same amount in every element, and exp(-z) overflows before silu vanishes. */
START_TEST(what_f32_cannot_hold)
{
    enum { N = 400 };
    const double m = 1.25 + 0.98 * 0x1p-24;
    double *v = w_normal("v", N, 1), *y = w_new(N), *got = w_new(N), *z = w_new(N), *up = w_fill(N, 4);
    const fh1_gauge g = g_new(N);
    for (int64_t i = 0; i < N; ++i) {
        y[i] = v[i] * m;
        got[i] = (double)((float)v[i] * (float)m);
        z[i] = -88 - (double)i / N;
    }
    ref_multiply_gauge(g_contract(FP32), FH1_RP_EMBED, N, v, m, &g);
    g_honest(FP32, "a factor", N, got, y, &g);
    for (int64_t i = 0; i < N; ++i) got[i] = v[i] * (1 + 0x1p-20);
    g_fault(FP32, "a factor off by 2^-20", N, got, v, &g);
    w_fine(w_f64->ops->swiglu(w_f64, 1, N, z, 1, up, y));
    w_fine(w_f64->gauges->swiglu(g_contract(FP32), 1, N, z, 1, up, y, &g));
    void *out = w_out(w_f32, N);
    w_fine(w_f32->ops->swiglu(w_f32, 1, N, w_to(w_f32, z, N), 1, w_to(w_f32, up, N), out));
    g_honest(FP32, "an exp that overflows", N, w_from(w_f32, out, N), y, &g);
    g_summary("multiplier");
}
END_TEST

START_TEST(residual_in_its_order)
{
    enum { N = 900 };
    const double m_a = 0.9375, m_b = 0.3;
    EACH(FP32, k, r, seed)
    for (int both = 0; both < 2; ++both) {
        fh1_engine *e = g_engine(k);
        double *a = g_data(k, r, "a", seed, N, 1, 1), *b = g_data(k, r, "b", seed, N, 1, 1), *x = w_new(N);
        const double *start = g_data(k, r, "x", seed, N, 3, 1);
        const fh1_gauge g = g_new(N);
        memcpy(x, start, N * sizeof *x);
        w_fine(w_f64->gauges->residual(g_contract(k), N, a, m_a, both ? b : NULL, m_b, x, &g));
        w_fine(w_f64->ops->residual(w_f64, N, a, m_a, both ? b : NULL, m_b, x));
        void *v = w_to(e, start, N), *second = both ? w_to(e, b, N) : NULL;
        w_fine(e->ops->residual(e, N, w_to(e, a, N), m_a, second, m_b, v));
        g_honest(k, g_regime_name[r], N, w_from(e, v, N), x, &g);
        v = w_to(e, start, N);
        w_fine(e->ops->residual(e, N, w_to(e, a, N), 1, second, m_b, v));
        if (seed == 1 && r == NORMAL) g_fault(k, "multiplier dropped", N, w_from(e, v, N), x, &g);
        e->free(e);
    }
    g_summary("residual");
}
END_TEST

START_TEST(embed_rounds_to_storage)
{
    enum { N = 600 };
    for (int k = FP32; k < N_CONTRACTS; ++k) {
        const double *y = w_normal("table", N, 1);
        double *got = w_new(N);
        const fh1_gauge g = g_new(N);
        w_fine(w_f64->gauges->embed(g_contract(k), N, y, &g));
        for (int64_t i = 0; i < N; ++i) got[i] = fh1_round_f64(g_storage(k), y[i]);
        ck_assert(!g_catches(k, N, got, y, &g));
        got[17] *= 1.01;
        g_fault(k, "one element x1.01", N, got, y, &g);
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {linear_holds_every_order,
                            linear_takes_its_multiplier_before_or_behind,
                            linear_faults,
                            lm_head_multiplies_a_rounded_product,
                            rmsnorm_holds_every_order,
                            rmsnorm_faults,
                            rmsnorm_carries_the_error_of_its_input,
                            gated_norm_carries_the_error_of_its_gate,
                            swiglu_with_other_exponentials,
                            what_f32_cannot_hold,
                            residual_in_its_order,
                            embed_rounds_to_storage,
                            NULL};
    return w_main("gauge_network", tests);
}
