/* D-77, D-78, D-81: gradients against differences, over groups and blocks, and on both sides of softplus' branch. */
#include "tests/edge/edge_grad.h"

#include "oracle/compare.h"
#include "oracle/random.h"
#include "reference/complex.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- D-77 ---- */

/* The loss by forward and cross entropy alone: no backward pass takes part. Logits of a row's column predict the label
 * of the next one. */
static fh1_status loss_of(fh1_engine *e, const fh1_model *m, const fh1_batch *b, double *loss)
{
    const int64_t V = m->config.V, M = b->B * b->T;
    int64_t *labels = calloc((size_t)M, sizeof *labels);
    double *logits = calloc((size_t)(M * V), sizeof *logits);
    fh1_cache *cache = NULL;
    fh1_batch plain = *b;
    plain.labels = NULL;
    fh1_status s = labels && logits ? NULL : fh1_no_memory((size_t)(M * V) * 8, "logits");
    for (int64_t i = 0; !s && i < M; ++i) labels[i] = (i + 1) % b->T ? b->labels[i + 1] : -100;
    if (!s) s = fh1_cache_new(&m->config, e->dtype, b->B, &cache);
    if (!s) s = e->forward(e, m, &plain, cache, b->T, logits, NULL);
    if (!s) s = e->ops->cross_entropy(e, M, V, logits, labels, loss);
    fh1_cache_free(cache);
    free(labels), free(logits);
    return s;
}

/* Moves what is differentiated to its place plus `by`. */
typedef struct {
    fh1_engine *e;
    const fh1_model *m;
    const fh1_batch *b;
    const fh1_tensor *t; /* an element of it, or */
    int64_t i;
    double *number;
    double at;
} moved;

static fh1_status loss_at(const moved *v, double by, double *loss)
{
    if (v->t) fh1_set(v->t, v->i, v->at + by);
    else *v->number = v->at + by;
    return loss_of(v->e, v->m, v->b, loss);
}

/* Central differences at h and h/2, extrapolated: off by h⁴, and by what the loss rounds over h, some 1e-12, which is
 * 1e-7 of the smallest tensors of gradients (A_log) and 1e-9 of the others. Weights are bf16 numbers in
 * f32 here, so w ± h is exact. */
static fh1_status difference(const moved *v, double *slope)
{
    const double h = 0x1p-13;
    double l[4];
    for (int i = 0; i < 4; ++i) FH1_TRY(loss_at(v, (i % 2 ? -1 : 1) * (i < 2 ? h : h / 2), &l[i]));
    double again;
    FH1_TRY(loss_at(v, 0, &again));
    *slope = (4 * (l[2] - l[3]) / h - (l[0] - l[1]) / (2 * h)) / 3;
    return NULL;
}

/* The largest element of each parameter and another. */
static fh1_status parameters_by_difference(edge_run *r, moved *v, const fh1_grads *g)
{
    for (int64_t k = 0; k < g->n; ++k) {
        const fh1_param *p = &g->params[k];
        const fh1_stream s = fh1_stream_open(r->seed, p->name);
        const int64_t n = fh1_n_elems(&p->grad);
        int64_t largest = 0;
        for (int64_t i = 1; i < n; ++i)
            if (fabs(fh1_get(&p->grad, i)) > fabs(fh1_get(&p->grad, largest))) largest = i;
        for (int j = 0; j < 2; ++j) {
            double slope;
            v->t = p->value;
            v->i = j ? fh1_random_below(s, (uint64_t)j, n) : largest;
            v->at = fh1_get(v->t, v->i);
            FH1_TRY(difference(v, &slope));
            const double err = fh1_error_of(fh1_get(&p->grad, v->i), slope) / fabs(fh1_get(&p->grad, largest));
            FH1_TRY(edge_require(r, fh1_within(err, 1e-6),
                                 "%s[%lld]: off from central differences by %.3g of the tensor's largest", p->name,
                                 (long long)v->i, err));
        }
    }
    v->t = NULL;
    return NULL;
}

typedef struct {
    const fh1_model *m;
    const fh1_grads *g;
    double sum, terms;
} along_rows;

static void add_rows(void *user, const fh1_tensor *t, int64_t first, int64_t n)
{
    along_rows *a = user;
    const fh1_tensor *g = &edge_param(a->g, t)->grad;
    const int64_t width = fh1_n_elems(t) / t->shape[0];
    for (int64_t i = first * width; i < (first + n) * width; ++i) {
        const double term = fh1_get(t, i) * fh1_get(g, i);
        a->sum += term;
        a->terms += fabs(term);
    }
}

/* m·W is all that a multiplier does: dL/dm = Σ W·dL/dW / m. */
static fh1_status multipliers_by_difference(edge_run *r, fh1_model *m, moved *v, const fh1_grads *g)
{
    for (int i = 0; i < EDGE_N_MULTIPLIERS; ++i) {
        const char *name;
        double slope;
        along_rows a = {.m = m, .g = g};
        v->number = edge_multiplier(m, i, &name);
        v->at = *v->number;
        edge_multiplier_rows(m, i, add_rows, &a);
        FH1_TRY(difference(v, &slope));
        const double err = fh1_error_of(a.sum / v->at, slope) * v->at / a.terms;
        FH1_TRY(edge_require(r, fh1_within(err, 1e-8),
                             "%s: gradients of its weights and central differences are %.3g of Σ|terms| apart", name,
                             err));
    }
    return NULL;
}

static void weights_in_bf16(const fh1_model *m)
{
    for (int64_t k = 0; k < m->n_weights; ++k)
        for (int64_t i = 0; i < fh1_n_elems(&m->weights[k].t); ++i)
            fh1_set(&m->weights[k].t, i, fh1_round_f64(FH1_ROUND_BF16, fh1_get(&m->weights[k].t, i)));
}

fh1_status edge_differences(edge_run *r)
{
    static const char *const op[] = {"ssd_scan", "conv1d", "dt_softplus", "gated_norm", "rmsnorm", "linear"};
    for (int i = 0; edge_model_text(i); ++i) {
        fh1_model m;
        edge_batch b;
        fh1_backward o = {0};
        FH1_TRY(edge_grad_model(r, edge_model_text(i), &m));
        weights_in_bf16(&m);
        edge_batch_new(r, 2, m.config.Q + 3, 0, m.config.V, "differences", &b);
        fh1_status s = NULL;
        for (size_t k = 0; !s && i == 0 && k < sizeof op / sizeof *op; ++k) s = edge_backward_op(r, &m, op[k]);
        if (!s && (!edge_is_cuda(r) || i == 1)) s = edge_gradcheck(r, &m, &b.batch);
        if (!s && r->bit == EDGE_F64 && i == 1) {
            moved v = {.m = &m, .b = &b.batch};
            s = edge_backward(r, &m, &b.batch, &o);
            if (!s) s = edge_truth(r, &v.e);
            if (!s) s = parameters_by_difference(r, &v, o.grads);
            if (!s) s = multipliers_by_difference(r, &m, &v, o.grads);
            fh1_grads_free(o.grads);
        }
        edge_contract(r, NULL);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "model %d", i));
    }
    return NULL;
}

/* ---- D-78 ---- */

enum { GT = 9, GH = 4, GN = 3, GG = 2, GP_MOST = 72 };

typedef struct {
    double x[GT * GH * GP_MOST], B[GT * GH * GN], C[GT * GH * GN], dt[GT * GH], dy[GT * GH * GP_MOST];
    double state[GH * GP_MOST * GN], A_log[GH], D[GH];
} lattice;

static void whole_numbers(const edge_run *r, const char *name, double *v, int64_t n)
{
    const fh1_stream s = fh1_stream_open(r->seed, name);
    for (int64_t i = 0; i < n; ++i) v[i] = (double)(fh1_random_below(s, (uint64_t)i, 5) - 2);
}

/* dB, dC [GT, G, GN], dD [GH], by the engine; decays are 1 and every sum is a small multiple of 1/4: exact. */
static fh1_status scan_gradients(fh1_engine *e, const lattice *l, int64_t P, int64_t G, const double *B,
                                 const double *C, double *dB, double *dC, double *dD)
{
    const int64_t n = GT * GH * P, g = GT * G * GN;
    double *room = calloc((size_t)(3 * n + 8 * g + GH * P * GN + 64), sizeof *room);
    if (!room) return fh1_no_memory((size_t)n * 24, "a scan");
    double *x = room, *dy = x + n, *dx = dy + n, *b = dx + n, *c = b + g, *db = c + g, *dc = db + g, *dt = dc + g,
           *dD_own = dt + GT * GH, *state = dD_own + 8;
    const fh1_tensor A = fh1_view1((void *)l->A_log, FH1_F64, GH), D = fh1_view1((void *)l->D, FH1_F64, GH);
    fh1_from_f64(x, e->dtype, l->x, n), fh1_from_f64(dy, e->dtype, l->dy, n);
    fh1_from_f64(b, e->dtype, B, g), fh1_from_f64(c, e->dtype, C, g), fh1_from_f64(dt, e->dtype, l->dt, GT * GH);
    fh1_status s = e->bwd_ops->ssd_scan(e, GT, GH, P, GN, G, x, b, c, dt, &A, &D, NULL, 0, state, dy, NULL, dx, db, dc,
                                        NULL, NULL, dD_own, NULL);
    fh1_to_f64(dB, db, e->dtype, g), fh1_to_f64(dC, dc, e->dtype, g), fh1_to_f64(dD, dD_own, e->dtype, GH);
    free(room);
    return s;
}

/* A group's gradient is the sum over its heads; D's is Σ dy·x over all channels. */
static fh1_status sums_over_heads(edge_run *r, fh1_engine *e, int64_t P)
{
    lattice l = {0};
    double B[GT * GH * GN], C[GT * GH * GN], dB[GT * GG * GN], dC[GT * GG * GN], each_B[GT * GH * GN],
        each_C[GT * GH * GN];
    double dD[GH], unused[GH];
    whole_numbers(r, "x", l.x, GT * GH * P), whole_numbers(r, "dy", l.dy, GT * GH * P);
    whole_numbers(r, "B", l.B, GT * GG * GN), whole_numbers(r, "C", l.C, GT * GG * GN);
    for (int i = 0; i < GT * GH; ++i) l.dt[i] = i % 3 ? 0.5 : 0.25;
    for (int h = 0; h < GH; ++h) l.A_log[h] = -200, l.D[h] = h + 1;
    for (int i = 0; i < GT * GH * GN; ++i) {
        const int t = i / (GH * GN), h = i / GN % GH;
        B[i] = l.B[(t * GG + h / (GH / GG)) * GN + i % GN];
        C[i] = l.C[(t * GG + h / (GH / GG)) * GN + i % GN];
    }
    FH1_TRY(scan_gradients(e, &l, P, GG, l.B, l.C, dB, dC, dD));
    FH1_TRY(scan_gradients(e, &l, P, GH, B, C, each_B, each_C, unused));
    for (int i = 0; i < GT * GG * GN; ++i) {
        const int first = (i / (GG * GN) * GH + i / GN % GG * (GH / GG)) * GN + i % GN;
        const double sum_B = each_B[first] + each_B[first + GN], sum_C = each_C[first] + each_C[first + GN];
        FH1_TRY(edge_require(r, dB[i] == sum_B && dC[i] == sum_C,
                             "head width %lld: dB, dC [%d] of a group are %g, %g, the sums of its heads %g, %g",
                             (long long)P, i, dB[i], dC[i], sum_B, sum_C));
    }
    for (int h = 0; h < GH; ++h) {
        double sum = 0;
        for (int64_t t = 0; t < GT; ++t)
            for (int64_t p = 0; p < P; ++p) sum += l.dy[(t * GH + h) * P + p] * l.x[(t * GH + h) * P + p];
        FH1_TRY(
            edge_require(r, dD[h] == sum, "head width %lld: dD[%d] is %g, Σ dy·x is %g", (long long)P, h, dD[h], sum));
    }
    return NULL;
}

/* Kernels work on up to 64 channels of a head at once: one below, one above. */
fh1_status edge_group_gradients(edge_run *r)
{
    static const char *const text[] = {
        EDGE_WIDTHS "H=4,P=8,N=6,G=2,rms_norm=1",
        EDGE_WIDTHS "H=4,P=72,N=3,G=2,rms_norm=0",
    };
    for (int i = 0; i < 2; ++i) {
        fh1_model m;
        edge_batch b;
        fh1_engine *e;
        FH1_TRY(edge_grad_model(r, text[i], &m));
        edge_batch_new(r, 2, 11, 0, m.config.V, "groups", &b);
        fh1_status s = edge_engine(r, &m, &e);
        if (!s) s = sums_over_heads(r, e, m.config.P);
        if (!s && (!edge_is_cuda(r) || i == 1)) s = edge_gradcheck_once(r, &m, &b.batch);
        edge_contract(r, NULL);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "head width %d", i ? 72 : 8));
    }
    return NULL;
}

/* ---- D-81 ---- */

enum { VALUES = 16 };

/* Pre-activations around the branch at 20 and the limits; the complex step takes the branch that the forward takes. */
static fh1_status slopes(edge_run *r, fh1_engine *e, double lo, double hi)
{
    static const double raw[VALUES] = {-50, -20, -4.5, -2.25, -1, 0, 0.5, 1.9, 2.1, 12, 19.9, 20, 20.1, 25, 50, 90};
    fh1_engine *x = ref_complex_engine_new(0);
    double in[2 * VALUES] = {0}, out[2 * VALUES], zeros[2 * VALUES] = {0}, ones[VALUES], draw[VALUES];
    char own[VALUES * 8], ddt[VALUES * 8], got[VALUES * 8];
    if (!x) return fh1_no_memory(sizeof *x, "a complex engine");
    for (int i = 0; i < VALUES; ++i) ones[i] = 1;
    fh1_from_f64(own, e->dtype, raw, VALUES), fh1_from_f64(ddt, e->dtype, ones, VALUES);
    fh1_to_f64(draw, own, e->dtype, VALUES); /* as the engine holds them */
    for (int i = 0; i < VALUES; ++i) in[2 * i] = draw[i], in[2 * i + 1] = FH1_COMPLEX_STEP;
    const fh1_tensor none = fh1_view1(zeros, FH1_F64, VALUES);
    fh1_status s = x->ops->dt_softplus(x, 1, VALUES, in, &none, lo, hi, out);
    if (!s) s = e->bwd_ops->dt_softplus(e, 1, VALUES, own, &none, lo, hi, ddt, got, NULL);
    x->free(x);
    fh1_to_f64(draw, got, e->dtype, VALUES);
    for (int i = 0; !s && i < VALUES; ++i) {
        const double want = out[2 * i + 1] / FH1_COMPLEX_STEP;
        /* exp, 1 + exp, a quotient, in any form; exp of a rounded argument: as many units as the argument has */
        const double allowed = (2 * e->profile->exp_units + 4 + fabs(raw[i])) * fh1_dtype_ulp(e->dtype, 1) * want;
        s = edge_require(r, fh1_within(fh1_error_of(draw[i], want), allowed + e->profile->underflow),
                         "limits (%g, %g): the slope at %g is %.9g, by the complex step %.9g", lo, hi, raw[i], draw[i],
                         want);
    }
    return s;
}

fh1_status edge_dt_slopes(edge_run *r)
{
    static const double limit[][2] = {{0, (double)INFINITY}, {0.01, 0.1}, {0.05, 22}, {21, 60}};
    fh1_model m;
    fh1_engine *e;
    edge_batch b;
    FH1_TRY(edge_grad_model(r, edge_model_text(1), &m));
    for (int64_t l = 0; l < m.config.n_layers; ++l)
        for (int64_t h = 0; h < m.config.H; ++h) { /* around both branches of softplus, and of the clamp below */
            fh1_set(&m.layers[l].dt_bias, h, (const double[]){-2, 0.5, 19.5, 20.5}[h % 4]);
            fh1_set(&m.layers[l].A_log, h, -3);
        }
    edge_batch_new(r, 2, 11, 0, m.config.V, "slopes", &b);
    fh1_status s = edge_engine(r, &m, &e);
    for (size_t k = 0; !s && k < sizeof limit / sizeof *limit; ++k) s = slopes(r, e, limit[k][0], limit[k][1]);
    if (!s) s = edge_backward_op(r, &m, "dt_softplus"); /* exactly at the limits */
    if (!s && !edge_is_cuda(r)) s = edge_gradcheck_once(r, &m, &b.batch);
    m.config.dt_lo = 0.2;
    m.config.dt_hi = 20.25;
    edge_contract(r, NULL);
    /* in bf16 the rounding of a dt decides on which side of its limit it is, and with it whether it has a slope */
    if (!s && r->bit != EDGE_BF16) s = fh1_where(edge_gradcheck_once(r, &m, &b.batch), "with limits");
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return s;
}
