/* Backward of conv1d, dt_softplus and gated_norm against witnesses in long double with running error bounds
 * (bwd_term.h): conv1d by gathering, each column asking which tokens saw it, where the reference scatters; the gated
 * norm through the Jacobian of its normalised vector, element by element. Central differences in long double judge the
 * witnesses. */
#include "reference/faulty.h"
#include "tests/bwd_term.h"

typedef struct {
    const char *name;
    int64_t T, n[3]; /* conv1d: c, K; dt: H; gated norm: d, G, 0 gate first, 1 norm first, 2 no norm */
    double *v[5], *dy, *dwindow_out;
    int64_t size[5]; /* of the inputs, and of their gradients one after another */
    int parts;
    const int64_t *doc;
    int64_t doc_before;
    double lo, hi;
} call;

static int64_t at_part(const call *a, int part)
{
    int64_t at = 0;
    for (int i = 0; i < part; ++i) at += a->size[i];
    return at;
}

static void put(const call *a, int part, int64_t i, term v, double *out, double *gauge)
{
    out[at_part(a, part) + i] = (double)v.v;
    gauge[at_part(a, part) + i] = (double)v.err + 0x1p-110; /* and what underflows in f32 */
}

/* -- conv1d: x, w, b, window -- */

static bool sees(const call *a, int64_t t, int64_t s)
{
    if (t < 0 || t >= a->T || s > t || s <= t - a->n[1]) return false;
    return !a->doc || (s < 0 ? a->doc_before : a->doc[s]) == a->doc[t];
}

/* Column s of channel j, s < 0: of the window. */
static double column(const call *a, int64_t s, int64_t j)
{
    return s < 0 ? a->v[3][j * (a->n[1] - 1) + a->n[1] - 1 + s] : a->v[0][s * a->n[0] + j];
}

/* dy·silu'(u) of token t. */
static term conv_slope(const call *a, int64_t t, int64_t j)
{
    const int64_t K = a->n[1];
    term u = given(a->v[2][j]);
    for (int64_t k = 0; k < K; ++k) {
        const int64_t s = t - (K - 1) + k;
        if (sees(a, t, s)) u = sum(u, product(given(a->v[1][j * K + k]), given(column(a, s, j))));
    }
    return product(given(a->dy[t * a->n[0] + j]), silu_slope(u));
}

static void conv_witness(const call *a, double *out, double *gauge)
{
    const int64_t c = a->n[0], K = a->n[1], W = K - 1;
    const term zero = {0, 0, 0};
    for (int64_t j = 0; j < c; ++j) {
        for (int64_t s = -W; s < a->T; ++s) {
            const int64_t kept = s - (a->T - W);
            const bool in_window =
                kept >= 0 && (s >= a->T - W) && (!a->doc || (s < 0 ? a->doc_before : a->doc[s]) == a->doc[a->T - 1]);
            term d = in_window ? given(a->dwindow_out[j * W + kept]) : zero;
            for (int64_t k = 0; k < K; ++k) {
                const int64_t t = s + W - k;
                if (sees(a, t, s)) d = sum(d, product(given(a->v[1][j * K + k]), conv_slope(a, t, j)));
            }
            if (s < 0) put(a, 3, j * W + W + s, longer(d, (wide)K), out, gauge);
            else put(a, 0, s * c + j, longer(d, (wide)K), out, gauge);
        }
        term db = zero;
        for (int64_t t = 0; t < a->T; ++t) db = sum(db, conv_slope(a, t, j));
        put(a, 2, j, longer(db, TOKEN_SUM), out, gauge);
        for (int64_t k = 0; k < K; ++k) {
            term dw = zero;
            for (int64_t t = 0; t < a->T; ++t)
                if (sees(a, t, t - W + k)) dw = sum(dw, product(conv_slope(a, t, j), given(column(a, t - W + k, j))));
            put(a, 1, j * K + k, longer(dw, TOKEN_SUM), out, gauge);
        }
    }
}

static wide conv_loss(const call *a, wide *const *v)
{
    const int64_t c = a->n[0], K = a->n[1], W = K - 1;
    wide loss = 0;
    for (int64_t j = 0; j < c; ++j)
        for (int64_t t = 0; t < a->T; ++t) {
            wide u = v[2][j];
            for (int64_t k = 0; k < K; ++k) {
                const int64_t s = t - W + k;
                if (sees(a, t, s)) u += v[1][j * K + k] * (s < 0 ? v[3][j * W + W + s] : v[0][s * c + j]);
            }
            loss += (wide)a->dy[t * c + j] * u / (1 + expl(-u));
        }
    for (int64_t j = 0; j < c; ++j)
        for (int64_t i = 0; i < W; ++i) {
            const int64_t s = a->T - W + i;
            if (s < 0 ? !a->doc || a->doc_before == a->doc[a->T - 1] : sees(a, a->T - 1, s))
                loss += (wide)a->dwindow_out[j * W + i] * (s < 0 ? v[3][j * W + W + s] : v[0][s * c + j]);
        }
    return loss;
}

static void conv_run(fh1_engine *e, const call *a, void *const *in, const void *dy, void *const *din)
{
    const fh1_tensor w = fh1_view3(in[1], e->dtype, a->n[0], 1, a->n[1]), b = fh1_view1(in[2], e->dtype, a->n[0]);
    w_fine(e->bwd_ops->conv1d(e, a->T, a->n[0], a->n[1], in[0], &w, &b, a->doc, a->doc_before, in[3], dy,
                              w_to(e, a->dwindow_out, a->size[3]), din[0], din[1], din[2], din[3]));
}

static call conv_call(int64_t T, int64_t c, int64_t K)
{
    call a = {.name = "conv1d", .T = T, .n = {c, K}, .size = {T * c, c * K, c, c * (K - 1)}, .parts = 4};
    a.v[0] = w_normal("x", T * c, 1), a.v[1] = w_normal("w", c * K, 1), a.v[2] = w_normal("b", c, 1);
    a.v[3] = w_normal("window", c * K, 1), a.dy = w_normal("dy", T * c, 1), a.dwindow_out = w_normal("after", c * K, 1);
    return a;
}

/* -- dt_softplus: raw, bias -- */

static void dt_witness(const call *a, double *out, double *gauge)
{
    const int64_t H = a->n[0];
    for (int64_t h = 0; h < H; ++h) {
        term db = {0, 0, 0};
        for (int64_t t = 0; t < a->T; ++t) {
            term d = given(a->dy[t * H + h]);
            const term v = sum(given(a->v[0][t * H + h]), given(a->v[1][h]));
            const wide s = v.v > 20 ? v.v : log1pl(expl(v.v));
            if (s < (wide)a->lo || s > (wide)a->hi) d = (term){0, 0, 0};
            else if (v.v <= 20) d = product(d, sigmoid((term){v.v, fabsl(v.v), v.err}, false));
            put(a, 0, t * H + h, longer(d, 1), out, gauge);
            db = sum(db, longer(d, 1));
        }
        put(a, 1, h, longer(db, TOKEN_SUM), out, gauge);
    }
}

static wide dt_loss(const call *a, wide *const *v)
{
    wide loss = 0;
    for (int64_t i = 0; i < a->T * a->n[0]; ++i) {
        const wide x = v[0][i] + v[1][i % a->n[0]];
        loss += (wide)a->dy[i] * fminl(fmaxl(x > 20 ? x : log1pl(expl(x)), (wide)a->lo), (wide)a->hi);
    }
    return loss;
}

static void dt_run(fh1_engine *e, const call *a, void *const *in, const void *dy, void *const *din)
{
    const fh1_tensor bias = fh1_view1(in[1], e->dtype, a->n[0]);
    w_fine(e->bwd_ops->dt_softplus(e, a->T, a->n[0], in[0], &bias, a->lo, a->hi, dy, din[0], din[1]));
}

static call dt_call(int64_t T, int64_t H, double lo, double hi)
{
    call a = {.name = "dt_softplus", .T = T, .n = {H}, .size = {T * H, H}, .parts = 2, .lo = lo, .hi = hi};
    a.v[0] = w_normal("raw", T * H, 8), a.v[1] = w_normal("bias", H, 2), a.dy = w_normal("dy", T * H, 1);
    return a;
}

/* -- gated norm: y, z, w -- */

static term gate_of(const call *a, int64_t i)
{
    return silu_value(given(a->v[1][i]));
}

/* What is normalised. */
static term inner(const call *a, int64_t i)
{
    return a->n[2] == 0 ? product(given(a->v[0][i]), gate_of(a, i)) : given(a->v[0][i]);
}

/* Row m, group of n channels from i0 on: dL/d inner_i = Σ_k dL/d(normalised_k)·(δ_ik r - inner_k inner_i r³/n). */
static void gate_group(const call *a, int64_t i0, int64_t n, term *dw, double *out, double *gauge)
{
    term mean = {0, 0, 0};
    for (int64_t i = i0; i < i0 + n; ++i) mean = sum(mean, product(inner(a, i), inner(a, i)));
    mean = longer(mean, 2);
    mean.v = mean.v / n + 1e-5L, mean.abs = mean.v, mean.err = mean.err / n + mean.v;
    const term r = inverse_root(mean);
    for (int64_t i = i0; i < i0 + n; ++i) {
        const int64_t j = i % a->n[0];
        const term slope = silu_slope(given(a->v[1][i])), y = given(a->v[0][i]), w = given(a->v[2][j]);
        term other = {0, 0, 0}, dg, dz;
        for (int64_t k = i0; k < i0 + n; ++k) {
            const term q = product(given(a->dy[k]), given(a->v[2][k % a->n[0]]));
            other = sum(other, product(a->n[2] == 1 ? product(q, gate_of(a, k)) : q, inner(a, k)));
        }
        const term q = product(given(a->dy[i]), w);
        other = product(product(product(longer(other, 2), r), r), inner(a, i));
        other.v /= n, other.abs /= n, other.err = other.err / n + other.abs;
        dg = product(r, sum(a->n[2] == 1 ? product(q, gate_of(a, i)) : q, minus(other)));
        if (a->n[2] == 1) dz = product(product(product(q, y), r), slope);
        else dz = product(product(dg, y), slope);
        put(a, 0, i, longer(a->n[2] == 1 ? dg : product(dg, gate_of(a, i)), 1), out, gauge);
        put(a, 1, i, longer(dz, 1), out, gauge);
        term part = product(product(given(a->dy[i]), inner(a, i)), r);
        if (a->n[2] == 1) part = product(part, gate_of(a, i));
        dw[j] = sum(dw[j], part);
    }
}

static void gate_witness(const call *a, double *out, double *gauge)
{
    const int64_t d = a->n[0], n = d / a->n[1];
    term *dw = w_bytes(d * (int64_t)sizeof *dw);
    memset(dw, 0, (size_t)d * sizeof *dw);
    for (int64_t i = 0; i < a->T * d; i += n)
        if (a->n[2] < 2) gate_group(a, i, n, dw, out, gauge);
    for (int64_t i = 0; a->n[2] == 2 && i < a->T * d; ++i) {
        put(a, 0, i, product(given(a->dy[i]), gate_of(a, i)), out, gauge);
        put(a, 1, i, product(product(given(a->dy[i]), given(a->v[0][i])), silu_slope(given(a->v[1][i]))), out, gauge);
    }
    for (int64_t j = 0; j < d; ++j) put(a, 2, j, longer(dw[j], TOKEN_SUM), out, gauge);
}

static wide gate_loss(const call *a, wide *const *v)
{
    const int64_t d = a->n[0], n = d / a->n[1];
    wide loss = 0;
    for (int64_t i0 = 0; i0 < a->T * d; i0 += n) {
        wide square = 0;
        for (int64_t i = i0; i < i0 + n; ++i) {
            const wide s = v[1][i] / (1 + expl(-v[1][i])), g = a->n[2] == 0 ? v[0][i] * s : v[0][i];
            square += g * g;
        }
        const wide r = a->n[2] == 2 ? 1 : 1 / sqrtl(square / n + 1e-5L);
        for (int64_t i = i0; i < i0 + n; ++i)
            loss += (wide)a->dy[i] * (a->n[2] == 2 ? 1 : v[2][i % d]) * v[0][i] * r * v[1][i] / (1 + expl(-v[1][i]));
    }
    return loss;
}

static void gate_run(fh1_engine *e, const call *a, void *const *in, const void *dy, void *const *din)
{
    const fh1_tensor w = fh1_view1(a->n[2] == 2 ? NULL : in[2], e->dtype, a->n[0]);
    w_fine(e->bwd_ops->gated_norm(e, a->T, a->n[0], a->n[1], in[0], in[1], &w, 1e-5, a->n[2] == 1, dy, din[0], din[1],
                                  din[2]));
}

static call gate_call(int64_t M, int64_t d, int64_t G, int form)
{
    call a = {.name = "gated_norm", .T = M, .n = {d, G, form}, .size = {M * d, M * d, d}, .parts = 3};
    a.v[0] = w_normal("y", M * d, 1), a.v[1] = w_normal("z", M * d, 3), a.v[2] = w_normal("w", d, 1);
    a.dy = w_normal("dy", M * d, 1);
    static const double ends[] = {-200, 200, -80, -1e30, 80}; /* exp(-z) overflows, or is next to nothing */
    for (int64_t i = 0; i < 5 && M * d > 5; ++i) a.v[1][i] = ends[i];
    return a;
}

/* -- judging -- */

typedef void (*witness_fn)(const call *a, double *out, double *gauge);
typedef void (*run_fn)(fh1_engine *e, const call *a, void *const *in, const void *dy, void *const *din);
typedef wide (*loss_fn)(const call *a, wide *const *v);

/* Whether the engine's gradients are within its u times the gauge; `worst` as in w_assert where that is wanted. */
static bool judge(fh1_engine *e, const call *a, witness_fn witness, run_fn run, bool assert_it)
{
    const int64_t n = at_part(a, a->parts);
    double *want = w_new(n), *gauge = w_new(n);
    void *in[5], *din[5];
    witness(a, want, gauge);
    for (int i = 0; i < a->parts; ++i) {
        in[i] = w_to(e, a->v[i], a->size[i]);
        din[i] = w_out(e, a->size[i]);
        memset(din[i], 0, (size_t)(a->size[i] * fh1_dtype_bits(e->dtype) / 8));
    }
    run(e, a, in, w_to(e, a->dy, a->T * a->n[0]), din);
    bool ok = true;
    for (int i = 0; i < a->parts; ++i) {
        const double *got = w_from(e, din[i], a->size[i]), *truth = want + at_part(a, i);
        const w_verdict v = w_judge(e, a->size[i], got, truth, gauge + at_part(a, i), FH1_F64);
        if (assert_it) w_assert(v, e, a->name, got, truth);
        ok = ok && v.ok;
    }
    return ok;
}

static void accepts(const call *a, witness_fn witness, run_fn run)
{
    judge(w_f64, a, witness, run, true);
    judge(w_f32, a, witness, run, true);
}

/* Central differences of step 2^-20: their own error is 2^-40 of the third derivative, and 2^-63 of the loss over the
 * step; both stay below 1e-9 of losses and slopes of order 1 to 100. */
static void differences(const call *a, witness_fn witness, loss_fn loss)
{
    const int64_t n = at_part(a, a->parts);
    double *want = w_new(n), *gauge = w_new(n);
    wide *v[5];
    witness(a, want, gauge);
    for (int i = 0; i < a->parts; ++i) {
        v[i] = w_bytes(a->size[i] * (int64_t)sizeof **v);
        for (int64_t k = 0; k < a->size[i]; ++k) v[i][k] = (wide)a->v[i][k];
    }
    for (int i = 0; i < a->parts; ++i)
        for (int64_t k = 0; k < a->size[i]; ++k) {
            const wide x = v[i][k], h = 0x1p-20L;
            v[i][k] = x + h;
            const wide up = loss(a, v);
            v[i][k] = x - h;
            const double slope = (double)((up - loss(a, v)) / (2 * h)), got = want[at_part(a, i) + k];
            v[i][k] = x;
            ck_assert_msg(fabs(slope - got) < 1e-8 * (1 + fabs(got)),
                          "%s, input %d, element %lld: %.12g, differences %.12g", a->name, i, (long long)k, got, slope);
        }
}

static const int64_t docs[200] = {2, 2, 2, 2, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7, 7, 8, 8};

START_TEST(conv1d_agrees)
{
    static const int64_t shape[][3] = {{1, 1, 4},  {2, 65, 4}, {9, 5, 2}, {17, 130, 3},
                                       {70, 3, 4}, {5, 3, 1},  {3, 4, 5}};
    for (int k = 0; k < 14; ++k) {
        call a = conv_call(shape[k / 2][0], shape[k / 2][1], shape[k / 2][2]);
        if (k % 2 && a.T <= 17) a.doc = docs, a.doc_before = k % 4 == 1 ? 2 : 1;
        accepts(&a, conv_witness, conv_run);
        if (a.T < 10 && a.n[0] < 10) differences(&a, conv_witness, conv_loss);
    }
}
END_TEST

START_TEST(dt_softplus_agrees)
{
    static const double limits[][2] = {{0, (double)INFINITY}, {0.25, 18}, {0.001, 0.1}};
    for (int k = 0; k < 9; ++k) {
        const call a = dt_call(1 + 40 * (k / 3), k % 2 ? 3 : 11, limits[k % 3][0], limits[k % 3][1]);
        accepts(&a, dt_witness, dt_run);
        if (a.T < 50) differences(&a, dt_witness, dt_loss);
    }
}
END_TEST

START_TEST(gated_norm_agrees)
{
    static const int64_t shape[][3] = {{1, 1, 1}, {2, 4, 4}, {3, 12, 2}, {5, 68, 4}, {37, 6, 1}};
    for (int k = 0; k < 15; ++k) {
        const call a = gate_call(shape[k / 3][0], shape[k / 3][1], shape[k / 3][2], k % 3);
        accepts(&a, gate_witness, gate_run);
        if (a.T < 5) differences(&a, gate_witness, gate_loss);
    }
}
END_TEST

/* Every planted fault of the op is out of bounds in some of the calls, in both precisions. */
static void rejects(const call *calls, int n, witness_fn witness, run_fn run)
{
    for (int f = FH1_FAULT_NONE + 1; f < FH1_FAULT_COUNT; ++f) {
        const fh1_fault_info *info = fh1_fault_get((fh1_fault)f);
        if (strcmp(info->op, calls[0].name) != 0 || strncmp(info->name, "grad_", 5) != 0) continue;
        for (int k = 0; k < 2; ++k) {
            fh1_engine *e = ref_faulty_engine_new(k ? "ref-f32" : "ref-f64", NULL, 0, (fh1_fault)f);
            bool seen = false;
            for (int i = 0; i < n; ++i) seen = !judge(e, &calls[i], witness, run, false) || seen;
            ck_assert_msg(seen, "the fault '%s' passes unseen (%s)", info->name, e->name);
            e->free(e);
        }
    }
}

START_TEST(faults_are_rejected)
{
    call conv[] = {conv_call(17, 3, 4), conv_call(17, 3, 4)}, dt[] = {dt_call(40, 3, 0.25, 18), dt_call(40, 3, 0, 25)};
    const call gate[] = {gate_call(5, 12, 2, 0), gate_call(5, 12, 2, 1)};
    conv[1].doc = docs, conv[1].doc_before = 2;
    dt[1].v[1][0] = 0.5, dt[1].v[0][0] = 24.5; /* at the limit, to the bit in both precisions */
    rejects(conv, 2, conv_witness, conv_run);
    rejects(dt, 2, dt_witness, dt_run);
    rejects(gate, 2, gate_witness, gate_run);
}
END_TEST

int main(void)
{
    const w_test tests[] = {conv1d_agrees, dt_softplus_agrees, gated_norm_agrees, faults_are_rejected, NULL};
    return w_main("backward of conv1d, dt_softplus, gated_norm", tests);
}
