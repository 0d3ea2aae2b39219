/* D-86 to D-88: adapters on every projection, recomputation, and the head's multiplier in the loss. */
#include "tests/edge/edge_grad.h"

#include "oracle/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- D-86 ---- */

enum { TARGETS = 9, RANK = 2, MOST_LAYERS = 4, MOST_WIDTH = 256 };

static const fh1_tap_id target[TARGETS] = {FH1_TAP_Q_PROJ,    FH1_TAP_K_PROJ,  FH1_TAP_V_PROJ,
                                           FH1_TAP_O_PROJ,    FH1_TAP_IN_PROJ, FH1_TAP_OUT_PROJ,
                                           FH1_TAP_GATE_PROJ, FH1_TAP_UP_PROJ, FH1_TAP_DOWN_PROJ};

typedef struct {
    fh1_lora lora[MOST_LAYERS * TARGETS];
    float *factors;
    int n;
} adapters;

/* A pair of rank 2 on every projection of every layer. Planted: names with "mamba" in them are passed over in silence.
 */
static fh1_status attach(const edge_run *r, fh1_model *m, adapters *a)
{
    double *v = edge_numbers(r, "adapters", MOST_LAYERS * TARGETS * 2 * RANK * MOST_WIDTH, 0, 0.1);
    *a = (adapters){.factors = calloc(MOST_LAYERS * TARGETS * 2 * RANK * MOST_WIDTH, sizeof(float))};
    if (!v || !a->factors || m->config.n_layers > MOST_LAYERS) {
        free(v);
        return fh1_no_memory(0, "adapters");
    }
    float *at = a->factors;
    for (int64_t i = 0; i < MOST_LAYERS * TARGETS * 2 * RANK * MOST_WIDTH; ++i) at[i] = (float)v[i];
    free(v);
    for (int64_t l = 0; l < m->config.n_layers; ++l)
        for (int t = 0; t < TARGETS; ++t) {
            const bool mamba = target[t] == FH1_TAP_IN_PROJ || target[t] == FH1_TAP_OUT_PROJ;
            if (mamba && edge_plants(r, "targets_pass_mamba_over")) continue;
            const fh1_linear linear = fh1_model_linear(m, target[t], l);
            const int64_t out = linear.w->shape[0], in = linear.w->shape[1];
            fh1_lora *lora = &a->lora[a->n++];
            *lora = (fh1_lora){.A = fh1_view2(at, FH1_F32, RANK, in),
                               .B = fh1_view2(at + RANK * in, FH1_F32, out, RANK),
                               .scale = 1.5};
            at += RANK * (in + out);
            *linear.lora = lora;
        }
    return NULL;
}

static void detach(fh1_model *m, adapters *a)
{
    for (int64_t l = 0; l < m->config.n_layers; ++l) memset(m->layers[l].lora, 0, sizeof m->layers[l].lora); /* ours */
    free(a->factors);
}

static fh1_status every_one_moves(edge_run *r, const fh1_grads *g, int64_t n_layers)
{
    int64_t n = 0;
    for (int64_t k = 0; k < g->n; ++k) {
        const fh1_param *p = &g->params[k];
        if (!p->adapter) continue;
        const double most = edge_largest_row(g, p->value, 0, p->grad.shape[0]);
        n++;
        FH1_TRY(edge_require(r, most > 0 && isfinite(most), "%s has a gradient of %g", p->name, most));
    }
    return edge_require(r, n == 2 * TARGETS * n_layers,
                        "%lld tensors of adapters have gradients, %lld are on the projections", (long long)n,
                        (long long)(2 * TARGETS * n_layers));
}

/* The other form: W + s·B·A in the place of W, and what its gradient dW says of the two: dA = s·Bᵀ·dW, dB = s·dW·Aᵀ.
 * `tensor` is one of them; `sum` what dW gives for element (row, col). */
static double through_weight(const fh1_lora *l, const fh1_tensor *dW, bool of_A, int64_t row, int64_t col)
{
    const int64_t out = dW->shape[0], in = dW->shape[1];
    double sum = 0;
    for (int64_t i = 0; i < (of_A ? out : in); ++i)
        sum += of_A ? fh1_get(&l->B, i * RANK + row) * fh1_get(dW, i * in + col)
                    : fh1_get(dW, row * in + i) * fh1_get(&l->A, col * in + i);
    return l->scale * sum;
}

static fh1_status agree(edge_run *r, const fh1_grads *attached, const fh1_lora *l, const fh1_tensor *dW)
{
    for (int of_A = 0; of_A < 2; ++of_A) {
        const fh1_param *p = edge_param(attached, of_A ? &l->A : &l->B);
        const int64_t width = p->grad.shape[1];
        double off = 0;
        fh1_rms size = {0};
        for (int64_t i = 0; i < fh1_n_elems(&p->grad); ++i) {
            const double v = fh1_get(&p->grad, i), w = through_weight(l, dW, of_A != 0, i / width, i % width);
            fh1_rms_add(&size, 0, w, i);
            off = fmax(off, fh1_error_of(v, w));
        }
        /* two ways through a small model in f64 */
        FH1_TRY(edge_require(r, fh1_within(off, fh1_rule.law_f64 * fh1_rms_ref(&size)),
                             "%s: attached and merged differ by %.3g, its size is %.3g", p->name, off,
                             fh1_rms_ref(&size)));
    }
    return NULL;
}

/* Merged weights in f64, so that nothing is rounded. */
static fh1_status merged_form(edge_run *r, fh1_model *m, adapters *a, const fh1_batch *b, const fh1_grads *attached)
{
    fh1_tensor was[MOST_LAYERS * TARGETS];
    fh1_backward o = {0};
    fh1_status s = NULL;
    int n = 0;
    for (int64_t l = 0; !s && l < m->config.n_layers; ++l)
        for (int t = 0; !s && t < TARGETS; ++t, ++n) {
            const fh1_linear linear = fh1_model_linear(m, target[t], l);
            const fh1_lora *p = *linear.lora;
            was[n] = *linear.w;
            const int64_t out = was[n].shape[0], in = was[n].shape[1];
            double *w = malloc((size_t)(out * in) * sizeof *w);
            if (!w) return fh1_no_memory((size_t)(out * in) * 8, "a merged weight");
            for (int64_t i = 0; i < out * in; ++i) {
                w[i] = fh1_get(&was[n], i);
                for (int64_t k = 0; k < RANK; ++k)
                    w[i] += p->scale * fh1_get(&p->B, i / in * RANK + k) * fh1_get(&p->A, k * in + i % in);
            }
            *linear.w = fh1_view2(w, FH1_F64, out, in);
            *linear.lora = NULL;
        }
    s = edge_backward(r, m, b, &o);
    for (int k = 0; k < n; ++k) {
        const fh1_linear linear = fh1_model_linear(m, target[k % TARGETS], k / TARGETS);
        if (!s) s = agree(r, attached, &a->lora[k], &edge_param(o.grads, linear.w)->grad);
        free(linear.w->data);
        *linear.w = was[k];
        *linear.lora = &a->lora[k];
    }
    fh1_grads_free(o.grads);
    return s;
}

static fh1_status with_adapters(edge_run *r, fh1_model *m, adapters *a)
{
    edge_batch b;
    fh1_backward o = {0};
    edge_batch_new(r, 2, 11, 0, m->config.V, "adapters", &b);
    FH1_TRY(edge_backward(r, m, &b.batch, &o));
    fh1_status s = every_one_moves(r, o.grads, m->config.n_layers);
    if (!s && r->bit == EDGE_F64) s = merged_form(r, m, a, &b.batch, o.grads);
    fh1_grads_free(o.grads);
    if (!s && m->config.G == 2) s = edge_gradcheck_once(r, m, &b.batch); /* once is enough */
    return s ? s : edge_check(r, m, edge_is_cuda(r) ? "p9;d1" : "p9x2;d2", r->seed);
}

fh1_status edge_adapter_gradients(edge_run *r)
{
    for (int i = 0; edge_model_text(i); ++i) {
        fh1_model m;
        adapters a;
        if (edge_is_cuda(r) && i == 0) continue;
        FH1_TRY(edge_grad_model(r, edge_model_text(i), &m));
        fh1_status s = attach(r, &m, &a);
        if (!s) s = with_adapters(r, &m, &a);
        edge_contract(r, NULL);
        detach(&m, &a);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "model %d", i));
    }
    return NULL;
}

/* ---- D-87 ---- */

static fh1_status kept_and_recomputed(edge_run *r, fh1_model *m, const fh1_batch *b, const char *what)
{
    fh1_backward kept = {.keep = true}, again = {.keep = false};
    FH1_TRY(edge_backward(r, m, b, &kept));
    fh1_status s = edge_backward(r, m, b, &again);
    if (!s) {
        const int64_t n = edge_bits_differ(kept.grads, again.grads);
        s = edge_require(r, n == 0, "%s: %lld gradients change when layers are computed again", what, (long long)n);
    }
    if (!s)
        s = edge_require(r, kept.loss == again.loss && isfinite(kept.loss), "%s: the loss is %.17g and %.17g", what,
                         kept.loss, again.loss);
    fh1_grads_free(kept.grads), fh1_grads_free(again.grads);
    return s;
}

fh1_status edge_recomputed(edge_run *r)
{
    for (int i = 0; edge_model_text(i); ++i) {
        fh1_model m;
        edge_batch plain, padded, packed;
        if (edge_is_cuda(r) && i == 0) continue;
        FH1_TRY(edge_grad_model(r, edge_model_text(i), &m));
        edge_batch_new(r, 2, 21, 0, m.config.V, "recomputed", &plain);
        edge_batch_new(r, 3, 11, 0, m.config.V, "recomputed", &padded);
        edge_batch_pad(&padded, 1, 5, 0);
        edge_batch_new(r, 2, 19, 0, m.config.V, "recomputed", &packed);
        edge_batch_cut(&packed, 0, 7), edge_batch_cut(&packed, 0, 8), edge_batch_cut(&packed, 1, 16);
        fh1_status s = edge_is_cuda(r) ? NULL : kept_and_recomputed(r, &m, &plain.batch, "21 tokens");
        if (!s && !edge_is_cuda(r)) s = kept_and_recomputed(r, &m, &padded.batch, "left padding");
        if (!s) s = kept_and_recomputed(r, &m, &packed.batch, "packed documents");
        if (!s && i == 1) s = edge_gradcheck_once(r, &m, &plain.batch);
        edge_contract(r, NULL);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "model %d", i));
    }
    return NULL;
}

/* ---- D-88 ---- */

/* The same model three times: m_lm, then twice that and half of the head, and the head as it is with 1 and m_lm, a
 * power of two, in the weight of the final norm, as losses do that scale what goes into the head. */
typedef struct {
    fh1_model m[3];
    fh1_backward o[3];
} heads;

/* factor: what b's gradient is of a's, a power of two. */
static fh1_status same_but(edge_run *r, const heads *h, int which, const fh1_tensor *a, const fh1_tensor *b,
                           double factor)
{
    const fh1_tensor *x = &edge_param(h->o[0].grads, a)->grad, *y = &edge_param(h->o[which].grads, b)->grad;
    int64_t i = 0;
    const int64_t n = fh1_n_elems(x);
    while (i < n && factor * fh1_get(x, i) == fh1_get(y, i)) ++i;
    return edge_require(r, i == n, "%s[%lld]: %.9g, and %.9g on the other way, %g times is meant",
                        edge_param(h->o[0].grads, a)->name, (long long)i, fh1_get(x, i % n), fh1_get(y, i % n), factor);
}

/* All parameters but the head (1) or the final norm (2), which have the factor of their own. */
static fh1_status same_gradients(edge_run *r, heads *h, int which, double of_head, double of_norm)
{
    FH1_TRY(edge_require(r, h->o[0].loss == h->o[which].loss && isfinite(h->o[0].loss), "the loss is %.17g and %.17g",
                         h->o[0].loss, h->o[which].loss));
    for (int64_t k = 0; k < h->o[0].grads->n; ++k) {
        const fh1_tensor *a = h->o[0].grads->params[k].value, *b = h->o[which].grads->params[k].value;
        const double f = a == &h->m[0].lm_head ? of_head : a == &h->m[0].final_layernorm ? of_norm : 1;
        FH1_TRY(same_but(r, h, which, a, b, f));
    }
    return NULL;
}

static fh1_status head_forms(edge_run *r, const char *text, double m_lm, bool judge, const fh1_batch *b)
{
    heads h = {0};
    int made = 0, exponent;
    const bool power_of_two = frexp(m_lm, &exponent) == 0.5;
    fh1_status s = NULL;
    for (; !s && made < 3; made += !s) s = edge_grad_model(r, text, &h.m[made]);
    if (!s) {
        h.m[0].config.m_lm = m_lm;
        h.m[1].config.m_lm = 2 * m_lm;
        edge_scale(&h.m[1].lm_head, 0, -1, 0.5);
        h.m[2].config.m_lm = 1;
        edge_scale(&h.m[2].final_layernorm, 0, -1, m_lm);
    }
    for (int i = 0; !s && i < (power_of_two ? 3 : 2); ++i) {
        edge_contract(r, NULL);
        s = edge_backward(r, &h.m[i], b, &h.o[i]);
    }
    /* dW of half a head is twice; the weight that m_lm went into has the gradient of its value times m_lm */
    if (!s) s = fh1_where(same_gradients(r, &h, 1, 2, 1), "half of the head, twice the multiplier");
    if (!s && power_of_two) s = fh1_where(same_gradients(r, &h, 2, 1, 1 / m_lm), "the multiplier before the head");
    if (!s && judge) s = edge_gradcheck_once(r, &h.m[0], b);
    edge_contract(r, NULL);
    for (int i = 0; i < 3; ++i) fh1_grads_free(h.o[i].grads);
    while (made > 0) fh1_model_free(&h.m[--made]);
    return fh1_where(s, "lm_head_multiplier %g", m_lm);
}

fh1_status edge_head_in_loss(edge_run *r)
{
    edge_batch b;
    for (int i = 0; edge_model_text(i); ++i) {
        fh1_model m;
        if (edge_is_cuda(r) && i == 0) continue;
        FH1_TRY(edge_grad_model(r, edge_model_text(i), &m));
        edge_batch_new(r, 2, 11, 0, m.config.V, "head in loss", &b);
        b.labels[4] = b.labels[16] = 0;
        m.config.m_lm = 0.0390625;
        fh1_status s = edge_check(r, &m, "p11x2y", r->seed); /* the loss as a tap */
        edge_contract(r, NULL);
        fh1_model_free(&m);
        if (!s && !edge_is_cuda(r)) s = head_forms(r, edge_model_text(i), 0.0390625, i == 0, &b.batch);
        if (!s) s = head_forms(r, edge_model_text(i), 0.25, i == 1, &b.batch);
        if (!s && !edge_is_cuda(r)) s = head_forms(r, edge_model_text(i), 1, false, &b.batch);
        FH1_TRY(fh1_where(s, "model %d", i));
    }
    return NULL;
}
