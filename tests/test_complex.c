/* The complex truth: its real parts are ref-f64, its imaginary parts are derivatives. */
#include "tests/grad_fixture.h"

/* -- closed forms, which also are the test of the fixture itself -- */

typedef enum { RIGHT, NO_UP, ADDED_TWICE, NOT_ASSIGNED, SPOILS_NULL } fault;

typedef struct {
    int64_t n;
    double m_gate;
    fault f;
} gate_shape;

static fh1_status gate_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    const gate_shape *s = op->shape;
    return e->ops->swiglu(e, 1, s->n, in[0], s->m_gate, in[1], out[0]);
}

static double sigma(double v)
{
    return 1 / (1 + exp(-v));
}

/* act = silu(m·g)·u: dg = d·u·m·σ(1 + m·g(1 - σ)), du = d·silu(m·g); u counts as a parameter here */
static fh1_status gate_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    const gate_shape *s = op->shape;
    const double *g = in[0], *u = in[1], *d = dout[0];
    double *dg = din[0], *du = din[1];
    (void)e;
    for (int64_t i = 0; i < s->n; ++i) {
        const double v = s->m_gate * g[i], y = sigma(v);
        const double by_gate = d[i] * (s->f == NO_UP ? 1 : u[i]) * s->m_gate * y * (1 + v * sigma(-v));
        if (dg) dg[i] = by_gate + (s->f == NOT_ASSIGNED && !isnan(dg[i]) ? dg[i] : 0);
        if (du) du[i] = (s->f == ADDED_TWICE ? 2 * du[i] : du[i]) + d[i] * v * y * (s->f == SPOILS_NULL && !dg ? 2 : 1);
    }
    return NULL;
}

static grad_gap gate_gap(fault f)
{
    static const double g[] = {-500, -40, -3, -1e-9, 0, 0.5, 2, 40}, u[] = {1, -2, 0.3, 4, -5, 1.5, 2, 3};
    const gate_shape s = {.n = 8, .m_gate = 0.75, .f = f};
    const grad_op op = {.name = "swiglu",
                        .n_in = 2,
                        .n_out = 1,
                        .in = {{"gate", 8, g}, {"up", 8, u, .parameter = true}},
                        .out = {{"act", 8}},
                        .shape = &s,
                        .forward = gate_fwd,
                        .backward = gate_bwd};
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    if (f == RIGHT) GRAD_HOLDS(&op, e);
    if (f == NO_UP) GRAD_BREAKS(&op, e);
    const grad_gap gap = grad_check(&op, e);
    e->free(e);
    return gap;
}

START_TEST(closed_form_of_swiglu)
{
    const grad_gap gap = gate_gap(RIGHT);
    ck_assert_msg(fh1_within(gap.element, 1e-15), "%s %lld %g %g", gap.array, (long long)gap.at, gap.element,
                  gap.direction);
    ck_assert_str_eq(gap.broken, "");
    gate_gap(NO_UP);
    ck_assert_str_eq(gate_gap(ADDED_TWICE).broken, "what was there is neither kept nor lost");
    ck_assert_str_eq(gate_gap(NOT_ASSIGNED).broken, "what was there is neither kept nor lost");
    ck_assert_str_eq(gate_gap(SPOILS_NULL).broken, "without dgate the others change");
}
END_TEST

/* -- one op, one derivative each -- */

static fh1_engine *complex_engine;

/* f' at x of a one-element op, and f. */
typedef struct {
    double value, slope;
} dual;

static dual softplus(double raw, double lo, double hi)
{
    double z[2] = {raw, FH1_COMPLEX_STEP}, dt[2], zero = 0;
    const fh1_tensor bias = fh1_view1(&zero, FH1_F64, 1);
    GRAD_FINE(complex_engine->ops->dt_softplus(complex_engine, 1, 1, z, &bias, lo, hi, dt));
    return (dual){dt[0], dt[1] / FH1_COMPLEX_STEP};
}

/* silu by way of swiglu with up = 1. */
static dual silu(double v)
{
    double z[2] = {v, FH1_COMPLEX_STEP}, one[2] = {1, 0}, act[2];
    GRAD_FINE(complex_engine->ops->swiglu(complex_engine, 1, 1, z, 1, one, act));
    return (dual){act[0], act[1] / FH1_COMPLEX_STEP};
}

/* |a - b| in units of the last place of b: each of the few operations behind a number here adds one or two. A zero is
 * one but for the products of two steps. */
static bool near(double a, double b)
{
    return fh1_within(fabs(a - b), 8 * fh1_dtype_ulp(FH1_F64, b) + 1e-199);
}

/* σ where it is tiny: e^v, not 1 - something; log1p kept its digits. Below -478 a step of 1e-100 underflows. */
START_TEST(softplus_slopes)
{
    const double open = (double)INFINITY;
    for (double v = -450; v <= 20; v += 0.5) {
        const dual d = softplus(v, 0, open);
        ck_assert_msg(near(d.slope, (double)(1 / (1 + expl(-(long double)v)))), "%g: %a", v, d.slope);
        ck_assert_msg(near(d.value, log1p(exp(v))), "%g: %a", v, d.value);
    }
}
END_TEST

/* The branch at 20 and the limits, from both sides: real parts decide, equality passes. */
START_TEST(corners)
{
    const double open = (double)INFINITY, at_20 = softplus(20, 0, open).slope;
    ck_assert_msg(at_20 < 1 && near(at_20, 1 / (1 + exp(-20.0))), "%a", at_20);
    ck_assert_double_eq(softplus(nextafter(20, 30), 0, open).slope, 1);
    ck_assert_double_eq(softplus(25, 0, 25).slope, 1); /* softplus(25) = 25 = hi */
    ck_assert_double_eq(softplus(nextafter(25, 30), 0, 25).slope, 0);
    ck_assert_double_eq(softplus(nextafter(25, 30), 0, 25).value, 25);
    const double lo = log1p(exp(0.5));
    ck_assert(softplus(0.5, lo, open).slope > 0.6);
    ck_assert_double_eq(softplus(0.5, nextafter(lo, 1), open).slope, 0);
    ck_assert_double_eq(softplus(0.5, nextafter(lo, 1), open).value, nextafter(lo, 1));
}
END_TEST

/* Over the whole range, where e^-v overflows and where σ changes its form (-300). */
START_TEST(silu_slopes)
{
    for (double v = -450; v <= 700; v += 0.25) {
        const long double x = v, up = 1 / (1 + expl(-x)), down = 1 / (1 + expl(x));
        const dual d = silu(v);
        ck_assert_msg(near(d.value, (double)(x * up)), "%g: %a", v, d.value);
        /* the slope has a zero near -1.28: ulps of its largest term there */
        const double slope = (double)(up * (1 + x * down)), term = (double)(up * (1 + fabsl(x) * down));
        ck_assert_msg(fh1_within(fabs(d.slope - slope), 8 * fh1_dtype_ulp(FH1_F64, term)), "%g: %a", v, d.slope);
    }
    ck_assert_double_eq(silu(-1000).value, 0);
    ck_assert_double_eq(silu(-1000).slope, 0);
}
END_TEST

/* The largest score is subtracted by its real part, whatever its step: softmax with a tie still has its slopes, w(1-w)
 * by the own score and -ww' by another. Two keys, q·k = the scores, v = (1, 0). */
START_TEST(softmax_tie)
{
    double q[2] = {1, 0}, v[4] = {1, 0, 0, 0}, out[2];
    for (int moved = 0; moved < 2; ++moved) {
        double k[4] = {0.75, moved == 0 ? FH1_COMPLEX_STEP : 0, 0.75, moved == 1 ? FH1_COMPLEX_STEP : 0};
        GRAD_FINE(complex_engine->ops->attention_step(complex_engine, 2, 1, 1, 1, q, k, v, 0, out));
        ck_assert_double_eq(out[0], 0.5);
        ck_assert_msg(near(out[1] / FH1_COMPLEX_STEP, moved ? -0.25 : 0.25), "%a", out[1]);
    }
}
END_TEST

/* softmax - onehot, over the number of labels that count; two f64 come back. */
START_TEST(cross_entropy_slope)
{
    enum { V = 3 };
    const double l[V] = {0.5, 2, -1};
    const int64_t label[2] = {1, -100};
    double sum = 0;
    for (int i = 0; i < V; ++i) sum += exp(l[i]);
    for (int i = 0; i < 2 * V; ++i) {
        double z[4 * V] = {0}, loss[2];
        for (int k = 0; k < 2 * V; ++k) z[2 * k] = l[k % V];
        z[2 * i + 1] = FH1_COMPLEX_STEP;
        GRAD_FINE(complex_engine->ops->cross_entropy(complex_engine, 2, V, z, label, loss));
        ck_assert_msg(near(loss[0], log(sum) - l[1]), "%a", loss[0]);
        const double want = i < V ? exp(l[i]) / sum - (i == 1) : 0, slope = loss[1] / FH1_COMPLEX_STEP;
        ck_assert_msg(fh1_within(fabs(slope - want), 8 * 0x1p-53), "%d: %a %a", i, slope, want);
    }
}
END_TEST

/* A weight of any type is read as it is, a complex one with its step: y = x·W by W's elements is x. */
START_TEST(complex_weights)
{
    enum { K = 21, N = 19 }; /* with tails */
    double x[2 * 12 * K] = {0}, w[2 * N * K], plain[N * K], y[2 * 12 * N], same[2 * 12 * N];
    for (int i = 0; i < 12 * K; ++i) x[2 * i] = 0.25 * (i % 7) - 1;
    for (int i = 0; i < N * K; ++i) plain[i] = w[2 * i] = 0.125 * (i % 11) - 0.5, w[2 * i + 1] = 0;
    const fh1_tensor of = fh1_view2(w, FH1_C128, N, K), as_f64 = fh1_view2(plain, FH1_F64, N, K);
    const fh1_tensor none = {0};
    w[2 * (3 * K + 20) + 1] = FH1_COMPLEX_STEP;
    for (int64_t M = 1; M <= 12; M += 11) { /* few rows and many: dot products and zgemm */
        GRAD_FINE(complex_engine->ops->linear(complex_engine, M, x, &of, &none, y));
        GRAD_FINE(complex_engine->ops->linear(complex_engine, M, x, &as_f64, &none, same));
        for (int64_t i = 0; i < M * N; ++i) {
            ck_assert_double_eq(y[2 * i], same[2 * i]); /* eighths: sums are exact */
            ck_assert_double_eq(same[2 * i + 1], 0);
            const double slope = i % N == 3 ? x[2 * (i / N * K + 20)] : 0;
            ck_assert_msg(near(y[2 * i + 1] / FH1_COMPLEX_STEP, slope), "%d", (int)i);
        }
    }
}
END_TEST

static void open_engine(void)
{
    complex_engine = ref_complex_engine_new(0);
    ck_assert_ptr_nonnull(complex_engine);
}

static void close_engine(void)
{
    complex_engine->free(complex_engine);
}

START_TEST(not_an_engine_of_users)
{
    for (int i = 0; ref_engine_name_at(i); ++i) ck_assert_str_ne(ref_engine_name_at(i), complex_engine->name);
    ck_assert_ptr_null(ref_engine_new("ref-c128", NULL, 0));
    ck_assert_ptr_null(complex_engine->ops->sample);
    ck_assert_ptr_null(complex_engine->gauges);
}
END_TEST

int main(void)
{
    fh1_set_threads(1); /* the loops are short: waking a pool costs more */
    Suite *suite = suite_create("complex");
    TCase *tc = tcase_create("complex");
    tcase_add_checked_fixture(tc, open_engine, close_engine);
    tcase_add_test(tc, closed_form_of_swiglu);
    tcase_add_test(tc, softplus_slopes);
    tcase_add_test(tc, corners);
    tcase_add_test(tc, silu_slopes);
    tcase_add_test(tc, softmax_tie);
    tcase_add_test(tc, cross_entropy_slope);
    tcase_add_test(tc, complex_weights);
    tcase_add_test(tc, not_an_engine_of_users);
    tcase_set_timeout(tc, 200);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
