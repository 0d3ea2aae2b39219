/* AdamW against the formula of oracle/backward.h in long double, ten steps; bounds are carried along with the values,
 * in units of u. The corrections 1 - beta^t are small numbers in f64: they are off by u of 1, which is divided by. */
#include "tests/bwd_fixture.h"

typedef struct {
    wide w, m, v, dw, dm, dv; /* values, and what they may be off by */
} element;

static void step(const fh1_adamw *o, double gradient, element *x)
{
    const wide left1 = 1 - powl((wide)o->beta1, (wide)o->t), left2 = 1 - powl((wide)o->beta2, (wide)o->t);
    const wide g = (wide)gradient * (wide)o->grad_scale, rest1 = 1 - (wide)o->beta1, rest2 = 1 - (wide)o->beta2;
    const wide decayed = x->w * (1 - (wide)o->lr * (wide)o->decay);
    x->dm = (wide)o->beta1 * x->dm + 8 * (fabsl(x->m) + fabsl(g));
    x->m += rest1 * (g - x->m);
    x->dv = (wide)o->beta2 * x->dv + 8 * (x->v + rest2 * g * g);
    x->v = (wide)o->beta2 * x->v + rest2 * g * g;
    const wide root = sqrtl(x->v) / sqrtl(left2), low = root + (wide)o->eps, rate = (wide)o->lr / left1;
    const wide of_root = x->v > 0 ? x->dv / x->v : 0; /* relative */
    x->w = decayed - rate * x->m / low;
    x->dw += 4 * (fabsl(decayed) + fabsl(x->w));
    x->dw += rate / low * (x->dm + fabsl(x->m) * (of_root + 1 / left1 + 1 / left2 + 16));
}

static void run_case(b_run *r, int64_t n, fh1_adamw o)
{
    double *w = w_normal("w", n, 0.5), *m = w_fill(n, 0), *v = w_fill(n, 0), *want[3], *gauge[3];
    element *x = w_bytes(n * (int64_t)sizeof *x);
    for (int64_t i = 0; i < n; ++i) x[i] = (element){.w = (wide)w[i]};
    for (int k = 0; k < 3; ++k) want[k] = w_new(n), gauge[k] = w_new(n);
    for (int t = 0; t < 10; ++t, ++o.t) {
        char name[16];
        snprintf(name, sizeof name, "g%d", t);
        double *g = w_normal(name, n, 1);
        for (int64_t i = 0; i < n; i += 5) g[i] = i % 2 ? 0 : g[i] * 0x1p-30; /* nothing, and next to nothing */
        for (int64_t i = 0; i < n; ++i) step(&o, g[i], &x[i]);
        r->ops->adamw(n, &o, g, w, m, v);
        for (int64_t i = 0; i < n; ++i) {
            const wide value[] = {x[i].w, x[i].m, x[i].v}, off[] = {x[i].dw, x[i].dm, x[i].dv};
            for (int k = 0; k < 3; ++k) want[k][i] = (double)value[k], gauge[k][i] = (double)(off[k] + (wide)0x1p-102);
        }
        b_agree(r, "w", n, w, want[0], gauge[0]);
        b_agree(r, "m", n, m, want[1], gauge[1]);
        b_agree(r, "v", n, v, want[2], gauge[2]);
    }
}

static const fh1_adamw usual = {
    .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.01, .grad_scale = 1, .t = 1};

static void adamw(b_run *r)
{
    fh1_adamw o = usual;
    run_case(r, 37, o);
    o.beta1 = 0.3, o.beta2 = 0.95, o.grad_scale = 0.125, o.decay = 0.5,
    o.eps = 1e-3; /* torch's lerp from the other end */
    run_case(r, 37, o);
    o = usual;
    o.decay = 0, o.t = 1000, o.lr = 0.02;
    run_case(r, 5, o);
    run_case(r, 0, o);
}

static void sum_of_squares(b_run *r)
{
    static const int64_t sizes[] = {0, 1, 7, 20000, 300000};
    for (int k = 0; k < 5; ++k) {
        const int64_t n = sizes[k];
        const double *g = w_normal("g", n, 1e30); /* squares beyond f32 */
        wide sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += (wide)g[i] * (wide)g[i];
        const double want = (double)sum, gauge = want * (double)(n < 4096 ? n + 2 : 4096),
                     got = r->ops->sum_of_squares(n, g);
        b_agree(r, "sum", 1, &got, &want, r->e == w_f32 ? (double[]){gauge * 0x1p-29} : &gauge); /* in f64 either way */
    }
}

START_TEST(agrees_with_its_formula_and_sees_its_faults)
{
    static const b_check checks[] = {{"adamw",
                                      adamw,
                                      {FH1_FAULT_ADAMW_WITHOUT_BIAS_CORRECTION, FH1_FAULT_ADAMW_DECAY_COUPLED,
                                       FH1_FAULT_ADAMW_EPS_INSIDE_ROOT, FH1_FAULT_ADAMW_V_WITHOUT_GRAD_SCALE}},
                                     {"sum_of_squares", sum_of_squares, {FH1_FAULT_NONE}}};
    b_prove(&checks[0]);
    b_prove(&checks[1]);
}
END_TEST

/* The first step in closed form: m̂ = g and v̂ = g², so each weight moves by lr·g/(|g| + eps). */
START_TEST(the_first_step_moves_by_the_rate)
{
    const double g[] = {3, -0.5, 1e-8, 0};
    double w[] = {1, 1, 1, 1}, m[4] = {0}, v[4] = {0};
    fh1_adamw o = usual;
    o.decay = 0;
    b_right.adamw(4, &o, g, w, m, v);
    for (int i = 0; i < 4; ++i) {
        const double moved = o.lr * g[i] / (fabs(g[i]) + o.eps);
        ck_assert_msg(fh1_within(fabs(w[i] - (1 - moved)), 1e-15), "%g: %.17g", g[i], w[i]);
    }
    ck_assert(w[3] == 1 && m[3] == 0 && v[3] == 0);
}
END_TEST

int main(void)
{
    return w_main("adamw",
                  (w_test[]){agrees_with_its_formula_and_sees_its_faults, the_first_step_moves_by_the_rate, NULL});
}
