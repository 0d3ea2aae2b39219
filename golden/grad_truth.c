/* The truth of gradients, and the honest pipeline beside it. */
#include "golden/gradcheck.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- labels ---- */

fh1_status gld_grad_check_labels(const fh1_batch *b, int64_t V)
{
    if (!b->labels)
        return fh1_hint(FH1_BAD("gradients without labels: of which loss?"),
                        "record stepJ/labels, I64 [B, T], unshifted");
    fh1_tokens t;
    FH1_TRY(fh1_tokens_pack(b, V, NULL, &t));
    fh1_status s = NULL;
    int64_t n = 0;
    for (int64_t row = 0; row < b->B && !s; ++row)
        for (int64_t col = 1; col < b->T && !s; ++col) {
            const int64_t label = b->labels[row * b->T + col], before = col - 1;
            if (label == -100) continue;
            n++;
            const bool left = before < t.n_left[row], right = before >= b->T - t.n_right[row];
            if (!left && !right) continue;
            s = FH1_BAD("labels, row %lld, column %lld: a label that is predicted from padding", (long long)row,
                        (long long)col);
            s = fh1_found(fh1_expected(s, "-100"), "%lld", (long long)label);
            s = fh1_hint(s, left ? "the library predicts the first real token after left padding from a padding row, "
                                   "and lets a gradient through it: set its label to -100"
                                 : "what stands behind a row's last token has no label: set it to -100");
        }
    if (!s && n == 0)
        s = fh1_hint(FH1_BAD("no label counts: the loss is a mean over nothing"),
                     "labels are unshifted: "
                     "that of the first column is never used");
    fh1_tokens_free(&t);
    return s;
}

/* ---- one more rounding of the contract ---- */

typedef struct {
    const gld_grad_truth *t;
    uint64_t seed;
    int64_t rows;   /* of the arrays: B·T, as many as there can be tokens */
    double *memory; /* [layers, 4, rows], of each token: */
    double *context, *dcontext, *query, *key;
} pipeline;

/* Rows of all products that read a norm: terms of the sum that makes the derivative by it. */
static double readers(const fh1_config *c, fh1_tap_id norm)
{
    int64_t n = 0;
    for (int id = FH1_TAP_INPUT_LAYERNORM; id < FH1_TAP_LAYER; ++id) {
        const fh1_tap_id product = (fh1_tap_id)id;
        if (!fh1_tap_is_linear(product) || !fh1_tap_exists(c, product) || fh1_tap_linear_input(c, product) != norm)
            continue;
        const fh1_tensor t = fh1_tap_packed_shape(c, product, 1);
        n += fh1_n_elems(&t);
    }
    return (double)n;
}

/* Terms of the sum that makes a tap, and of the sum that makes the derivative by it. Sums of partial results are not
 * longer than what is written here. */
static double terms(const fh1_config *c, fh1_tap_id id, bool back, int64_t T)
{
    const double D = (double)c->D, q = (double)(c->Hq * c->A);
    switch (id) {
    case FH1_TAP_INPUT_LAYERNORM:
    case FH1_TAP_ATTN_LAYERNORM:
    case FH1_TAP_PRE_FF_LAYERNORM: return back ? readers(c, id) : D;
    case FH1_TAP_FINAL_LAYERNORM: return back ? (double)c->V : D;
    case FH1_TAP_GATED: return back ? D : (double)c->d_ssm;
    case FH1_TAP_CONTEXT: return back ? D : (double)T;
    case FH1_TAP_ACT: return back ? D : 1;
    case FH1_TAP_DOWN_PROJ: return back ? 1 : (double)c->F;
    case FH1_TAP_OUT_PROJ: return back ? 1 : (double)c->d_ssm;
    case FH1_TAP_O_PROJ: return back ? 1 : q;
    case FH1_TAP_SSD: return (double)(c->N + T);
    case FH1_TAP_CONV_ACT: return back ? (double)(T + c->d_ssm) : (double)c->K;
    case FH1_TAP_X_PROJ: return (double)(back ? c->H : c->d_ssm);
    case FH1_TAP_DT: return back ? (double)(c->P * c->N) : 1 + (double)c->R;
    case FH1_TAP_Q_ROPE:
    case FH1_TAP_K_ROPE: return back ? (double)(T + c->A) : 2;
    case FH1_TAP_Q_PROJ:
    case FH1_TAP_K_PROJ:
    case FH1_TAP_V_PROJ:
    case FH1_TAP_GATE_PROJ:
    case FH1_TAP_UP_PROJ:
    case FH1_TAP_IN_PROJ: return back ? (double)T : D;
    case FH1_TAP_LOGITS: return back ? 1 : D;
    default: return 1;
    }
}

/* Moves each element as one rounding to the tap's type would, and as a sum in another order: partial sums of d random
 * terms grow like a random walk, and one rounding of each leaves u·√(d/6) of the whole, whose size is that of its row.
 */
static void jitter(const pipeline *p, fh1_tap_id id, int64_t layer, bool back, const fh1_tensor *v)
{
    const gld_grad_truth *t = p->t;
    const fh1_config *c = &t->model->config;
    char name[FH1_TAP_NAME_SIZE];
    const fh1_stream random =
        fh1_stream_open(p->seed + (back ? 1u << 20 : 0), fh1_tap_name(c->family, id, layer, name));
    const fh1_dtype type = fh1_profile_tap_dtype(t->profile, id, false, c);
    const double sum = t->profile->u * sqrt(terms(c, id, back, t->batch->T) / 6);
    const int64_t width = v->shape[v->rank - 1], n = fh1_n_elems(v);
    for (int64_t begin = 0; begin < n; begin += width) {
        double square = 0;
        for (int64_t i = begin; i < begin + width; ++i) square += fh1_get(v, i) * fh1_get(v, i);
        const double row = sum * sqrt(square / (double)width);
        for (int64_t i = begin; i < begin + width; ++i) {
            const double value = fh1_get(v, i), half = fh1_dtype_ulp(type, value) / 2;
            const double sigma = sqrt(half * half / 3 + row * row);
            if (value != 0 && isfinite(value)) fh1_set(v, i, value + sigma * fh1_random_normal(random, (uint64_t)i));
        }
    }
}

/* Engines may take the angle of a rotation from another pow and another product: a few units of it. */
static void turn(const pipeline *p, const fh1_tap_event *e)
{
    const gld_grad_truth *t = p->t;
    const fh1_config *c = &t->model->config;
    const int64_t A = c->A, heads = e->value.shape[1];
    const fh1_stream random = fh1_stream_open(p->seed, "angle");
    const double units = (t->profile->exp_units + 2) * t->profile->u;
    for (int64_t m = 0; m < e->value.shape[0]; ++m)
        for (int64_t a = 0; a < A / 2; ++a) {
            const double position = (double)e->tokens->position[m];
            const double f = pow(c->rope.theta, -2.0 * (double)a / (double)A);
            const double angle = position * f * units * (2 * fh1_random_uniform(random, (uint64_t)a) - 1);
            for (int64_t h = 0; h < heads; ++h) {
                const int64_t i = (m * heads + h) * A + a, k = i + A / 2;
                const double x = fh1_get(&e->value, i), y = fh1_get(&e->value, k);
                fh1_set(&e->value, i, x - angle * y);
                fh1_set(&e->value, k, y + angle * x);
            }
        }
}

/* ---- the row term of a softmax ---- */

static double *of_layer(const pipeline *p, double *array, int64_t layer)
{
    return array + layer * 4 * p->rows;
}

/* Mean squares of a tap, token by token. */
static void remember(const pipeline *p, double *array, int64_t layer, const fh1_tensor *v)
{
    const int64_t M = v->shape[0], width = M > 0 ? fh1_n_elems(v) / M : 0;
    double *to = of_layer(p, array, layer);
    for (int64_t m = 0; m < M && m < p->rows; ++m) {
        to[m] = 0;
        for (int64_t i = m * width; i < (m + 1) * width; ++i) to[m] += fh1_get(v, i) * fh1_get(v, i) / (double)width;
    }
}

static double mean(const double *a, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += a[i];
    return n > 0 ? sum / (double)n : 0;
}

/* ds = p·(dp - r): an engine may take r = Σ p·dp from the output of attention instead, Σ dO·O over A channels, as fused
 * kernels do. Then its rounding does not cancel with that of dp, and √(mean square) of one side is left times the
 * other: δr · k / √A in dq, δr · q / √A in dk. */
static void row_term(const pipeline *p, fh1_tap_id id, int64_t layer, const fh1_tensor *d)
{
    const gld_grad_truth *t = p->t;
    const fh1_config *c = &t->model->config;
    const bool of_query = id == FH1_TAP_Q_ROPE;
    const fh1_dtype type = fh1_profile_tap_dtype(t->profile, FH1_TAP_CONTEXT, false, c);
    const double stored = fh1_dtype_ulp(type, 1) / 2 / sqrt(3), sums = t->profile->u * sqrt((double)c->A / 6);
    const double *context = of_layer(p, p->context, layer), *dcontext = of_layer(p, p->dcontext, layer);
    const int64_t M = d->shape[0], width = M > 0 ? fh1_n_elems(d) / M : 0;
    const double other = sqrt(mean(of_layer(p, of_query ? p->key : p->query, layer), M));
    double square = 0;
    for (int64_t m = 0; m < M; ++m) square += context[m] * dcontext[m] / (double)M;
    const fh1_stream random = fh1_stream_open(p->seed + ((uint64_t)layer << 8), of_query ? "row term q" : "row term k");
    for (int64_t m = 0; m < M; ++m) {
        const double product = sqrt(of_query ? context[m] * dcontext[m] : square);
        const double sigma = hypot(stored, sums) * product * other; /* √A of the sum over 1/√A of the scores */
        for (int64_t i = m * width; i < (m + 1) * width; ++i)
            fh1_set(d, i, fh1_get(d, i) + sigma * fh1_random_normal(random, (uint64_t)i));
    }
}

static fh1_status on_tap(void *user, const fh1_tap_event *e)
{
    const pipeline *p = user;
    if (e->id == FH1_TAP_LOSS) return NULL;
    if (e->id == FH1_TAP_Q_ROPE || e->id == FH1_TAP_K_ROPE) turn(p, e);
    jitter(p, e->id, e->layer, false, &e->value);
    if (e->id == FH1_TAP_CONTEXT) remember(p, p->context, e->layer, &e->value);
    if (e->id == FH1_TAP_Q_ROPE) remember(p, p->query, e->layer, &e->value);
    if (e->id == FH1_TAP_K_ROPE) remember(p, p->key, e->layer, &e->value);
    return NULL;
}

static fh1_status on_flow(void *user, fh1_tap_id id, int64_t layer, const fh1_tensor *d)
{
    const pipeline *p = user;
    jitter(p, id, layer, true, d);
    if (id == FH1_TAP_CONTEXT) remember(p, p->dcontext, layer, d);
    if (p->t->profile->any_form && (id == FH1_TAP_Q_ROPE || id == FH1_TAP_K_ROPE)) row_term(p, id, layer, d);
    return NULL;
}

/* ---- runs ---- */

fh1_status gld_grads_new(const fh1_model *m, fh1_dtype dtype, fh1_grads **out)
{
    return fh1_grads_new((fh1_model *)(uintptr_t)m, dtype, NULL, NULL, out); /* for its addresses only */
}

static const char *pipeline_name(const fh1_profile *p)
{
    return p->storage == FH1_F64 ? "ref-f64" : p->storage == FH1_F32 ? "ref-f32" : "ref-bf16";
}

static fh1_status run_honest(gld_grad_truth *t, fh1_engine *e, pipeline p, fh1_grads *g)
{
    const fh1_tap_sink sink = {.user = &p, .tap = on_tap};
    fh1_backward o = {.grads = g, .divisor = t->divisor, .keep = true, .sink = &sink, .flow = on_flow, .flow_user = &p};
    const double share = 1.0 / fh1_rule.grad_runs;
    fh1_grads_zero(g);
    FH1_TRY(e->backward(e, t->model, t->batch, &o));
    for (int64_t k = 0; k < g->n; ++k) {
        const fh1_tensor *a = &g->params[k].grad, *b = &t->grads->params[k].grad;
        for (int64_t i = 0; i < fh1_n_elems(a); ++i) {
            const double d = fh1_error_of(fh1_get(a, i), ((const double *)b->data)[i]);
            t->spread2[k][i] += d * d * share;
        }
    }
    const double d = fh1_error_of(o.loss, t->loss);
    t->loss_spread2 += d * d * share;
    return NULL;
}

static fh1_status emulate(gld_grad_truth *t, gld_engine_maker make)
{
    fh1_grads *g = NULL;
    pipeline p = {.t = t, .rows = t->batch->B * t->batch->T};
    const size_t room = (size_t)(4 * p.rows * t->model->config.n_layers) * sizeof *p.memory;
    fh1_engine *e = make(pipeline_name(t->profile), t->profile, t->variants);
    if (!e) return fh1_no_memory(sizeof *e, "an emulated pipeline");
    fh1_status s = e->backward ? gld_grads_new(t->model, e->dtype, &g)
                               : fh1_fail(FH1_E_INTERNAL, "engine %s has no backward pass", e->name);
    if (!s && !(p.memory = calloc(1, room))) s = fh1_no_memory(room, "an emulated pipeline");
    p.context = p.memory;
    p.dcontext = p.context + p.rows;
    p.query = p.dcontext + p.rows;
    p.key = p.query + p.rows;
    for (int i = 0; i < fh1_rule.grad_runs && !s; ++i) {
        p.seed = (uint64_t)i + 1;
        s = run_honest(t, e, p, g);
    }
    free(p.memory);
    fh1_grads_free(g);
    e->free(e);
    return s;
}

static fh1_status room(gld_grad_truth *t)
{
    t->spread2 = calloc((size_t)t->grads->n + 1, sizeof *t->spread2);
    if (!t->spread2) return fh1_no_memory((size_t)t->grads->n * 8, "the spread of gradients");
    for (int64_t k = 0; k < t->grads->n; ++k) {
        const size_t n = (size_t)fh1_n_elems(&t->grads->params[k].grad);
        if (!(t->spread2[k] = calloc(n + 1, sizeof **t->spread2)))
            return fh1_no_memory(n * 8, "the spread of gradients");
    }
    return NULL;
}

fh1_status gld_grad_truth_new(const fh1_model *m, const fh1_batch *b, const fh1_profile *p, unsigned variants,
                              double divisor, gld_engine_maker make, gld_grad_truth *out)
{
    *out = (gld_grad_truth){.model = m, .batch = b, .profile = p, .variants = variants, .divisor = divisor};
    FH1_TRY(gld_grad_check_labels(b, m->config.V));
    FH1_TRY(gld_grads_new(m, FH1_F64, &out->grads));
    FH1_TRY(room(out));
    fh1_engine *e = make("ref-f64", fh1_profile_find("exact"), variants);
    if (!e) return fh1_no_memory(sizeof *e, "the truth");
    fh1_backward o = {.grads = out->grads, .divisor = divisor};
    fh1_status s =
        e->backward ? e->backward(e, m, b, &o) : fh1_fail(FH1_E_INTERNAL, "engine %s has no backward pass", e->name);
    e->free(e);
    FH1_TRY(s);
    out->loss = o.loss;
    out->n_labels = o.n_labels;
    return emulate(out, make);
}

void gld_grad_truth_free(gld_grad_truth *t)
{
    for (int64_t k = 0; t->spread2 && k < t->grads->n; ++k) free(t->spread2[k]);
    free(t->spread2);
    fh1_grads_free(t->grads);
    memset(t, 0, sizeof *t);
}
