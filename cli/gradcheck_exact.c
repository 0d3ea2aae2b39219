/* The complex step: what the gradients are, by no formula of a backward pass. */
#include "cli/gradcheck.h"

#include "oracle/compare.h"
#include "oracle/random.h"
#include "reference/complex.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The state of one tensor's check. */
typedef struct {
    const gradcheck_case *c;
    ref_complex_model *x;
    const fh1_param *p;
    const double *g, *spread2; /* of its elements */
    int64_t n, largest;
    fh1_tap_result *r;
} tensor;

/* What one error may be: its share of a size, and what f64 pipelines in another order differ by. */
static double allowed(double share, double size, double spread)
{
    return share * size + fh1_rule.chain_element * spread;
}

static void take(tensor *t, double err, double bound, int64_t where, const char *rule)
{
    const double margin = bound > 0 ? err / bound : err > 0 || isnan(err) ? (double)INFINITY : 0;
    if (fh1_within(margin, t->r->margin)) return;
    t->r->margin = margin;
    t->r->max_err = err;
    t->r->allowed = bound;
    t->r->where[0] = where;
    snprintf(t->r->reason, sizeof t->r->reason, "%s", rule);
}

static fh1_status element(tensor *t, int64_t i)
{
    double value, d;
    ref_complex_clear(t->x);
    FH1_TRY(ref_complex_direct_element(t->x, t->p->value, i, 1));
    FH1_TRY(ref_complex_value(t->x, &value, &d));
    take(t, fh1_error_of(t->g[i], d), allowed(fh1_rule.grad_step, fabs(t->g[t->largest]), sqrt(t->spread2[i])), i,
         "one element, by the complex step");
    return NULL;
}

/* Σ v·g over the tensor against the derivative along v: every element at once. */
static fh1_status along(tensor *t, const double *v)
{
    double value, d, sum = 0, terms = 0, spread2 = 0;
    ref_complex_clear(t->x);
    FH1_TRY(ref_complex_direct(t->x, t->p->value, v));
    FH1_TRY(ref_complex_value(t->x, &value, &d));
    for (int64_t i = 0; i < t->n; ++i) {
        sum += v[i] * t->g[i];
        terms += fabs(v[i] * t->g[i]);
        spread2 += v[i] * v[i] * t->spread2[i];
    }
    take(t, fh1_error_of(sum, d), allowed(fh1_rule.grad_along, terms, sqrt(spread2)), t->largest,
         "along a random direction, by the complex step");
    return NULL;
}

static void finish(tensor *t)
{
    fh1_tap_result *r = t->r;
    int64_t at = r->where[0];
    double square = 0, spread2 = 0;
    for (int64_t i = 0; i < t->n; ++i) {
        square += t->g[i] * t->g[i];
        spread2 += t->spread2[i];
    }
    r->rank = t->p->value->rank;
    for (int d = r->rank - 1; d >= 0; --d) {
        r->where[d] = at % t->p->value->shape[d];
        at /= t->p->value->shape[d];
    }
    r->rel_rms = r->max_err / fmax(fabs(t->g[t->largest]), 0x1p-1022);
    r->verdict = fh1_within(r->margin, 1) ? FH1_PASS : FH1_FAIL;
    if (r->verdict == FH1_FAIL) {
        gld_grad_point(r, t->p->name);
        return;
    }
    r->reason[0] = 0;
    const bool vacuous = fh1_within(fh1_rule.vacuous * square, fh1_rule.band_tap * fh1_rule.band_tap * spread2);
    if (!vacuous) return;
    r->verdict = FH1_MISTRUSTED;
    snprintf(r->reason, sizeof r->reason, "%s",
             square > 0 ? "the gradient is rounding only" : "the gradient is zero everywhere");
}

static fh1_status check_tensor(tensor *t)
{
    const gradcheck_options *o = t->c->o;
    const fh1_stream s = fh1_stream_open((uint64_t)o->seed, t->p->name);
    double *v;
    for (int64_t i = 1; i < t->n; ++i)
        if (fabs(t->g[i]) > fabs(t->g[t->largest]) || isnan(t->g[i])) t->largest = i;
    FH1_TRY(gradcheck_direction(t->p, (uint64_t)o->seed + 1, t->p->name, &v));
    fh1_status st = along(t, v);
    free(v);
    if (!st) st = element(t, t->largest);
    for (int64_t k = 0; k < o->elements && k < t->n && !st; ++k)
        st = element(t, t->n <= o->elements ? k : fh1_random_below(s, (uint64_t)k, t->n));
    finish(t);
    return st;
}

/* One direction through all parameters at once. */
static fh1_status everywhere(const gradcheck_case *c, ref_complex_model *x, const fh1_grads *g, double loss)
{
    double value, d, sum = 0, terms = 0, spread2 = 0;
    ref_complex_clear(x);
    for (int64_t k = 0; k < g->n; ++k) {
        double *v;
        FH1_TRY(gradcheck_direction(&g->params[k], (uint64_t)c->o->seed, g->params[k].name, &v));
        fh1_status s = ref_complex_direct(x, c->truth->grads->params[k].value, v);
        for (int64_t i = 0; i < fh1_n_elems(&g->params[k].grad); ++i) {
            const double term = v[i] * fh1_get(&g->params[k].grad, i);
            sum += term;
            terms += fabs(term);
            spread2 += v[i] * v[i] * c->truth->spread2[k][i];
        }
        free(v);
        FH1_TRY(s);
    }
    FH1_TRY(ref_complex_value(x, &value, &d));
    FH1_TRY(gradcheck_tell(c, "backward.directional", 0, fh1_error_of(sum, d),
                           allowed(fh1_rule.grad_along, terms, sqrt(spread2)),
                           "the derivative along one direction of all parameters, by the complex step"));
    return gradcheck_tell(c, "loss", -1 - (int)g->n, fh1_error_of(loss, value),
                          allowed(fh1_rule.grad_step, fabs(value), sqrt(c->truth->loss_spread2)),
                          "the loss of the backward pass is not that of the forward pass");
}

static int64_t padding_row(const gradcheck_case *c)
{
    return fh1_padding_idx(&c->m->config);
}

fh1_status gradcheck_exact(const gradcheck_case *c, const fh1_grads *g, double loss)
{
    ref_complex_model *x = NULL;
    fh1_tap_result *r = calloc(1, sizeof *r);
    fh1_status s = r ? NULL : fh1_no_memory(sizeof *r, "a verdict");
    if (!s) s = ref_complex_model_new(c->m, c->truth->variants, padding_row(c), &x);
    if (!s) s = ref_complex_function(x, c->truth->batch, c->truth->divisor, NULL);
    if (!s) s = everywhere(c, x, g, loss);
    for (int64_t k = 0; k < g->n && !s; ++k) {
        const fh1_param *p = &c->truth->grads->params[k];
        *r = (fh1_tap_result){.subject = c->subject,
                              .order = k + 1,
                              .margin = -1,
                              .rms_ratio = (double)NAN,
                              .free_rms = (double)NAN,
                              .id = FH1_TAP_COUNT,
                              .layer = p->layer};
        memcpy(r->tap, "grad.", 5);
        memcpy(r->tap + 5, p->name, strnlen(p->name, sizeof r->tap - 6));
        tensor t = {.c = c,
                    .x = x,
                    .p = p,
                    .g = g->params[k].grad.data,
                    .spread2 = c->truth->spread2[k],
                    .n = fh1_n_elems(p->value),
                    .r = r};
        s = check_tensor(&t);
        if (!s) s = fh1_report_add(c->report, r);
    }
    ref_complex_model_free(x);
    free(r);
    return s;
}

/* ---- the adjoint identity ---- */

typedef struct {
    double *w; /* on the logits, f64 */
    void *own; /* the same in the engine's type */
    fh1_grads *g;
    ref_complex_model *x;
} adjoint;

static fh1_status weights(const gradcheck_case *c, fh1_engine *e, adjoint *a)
{
    const int64_t n = c->truth->batch->B * c->truth->batch->T * c->m->config.V;
    const fh1_stream s = fh1_stream_open((uint64_t)c->o->seed, "gradcheck.adjoint");
    a->w = malloc((size_t)(n + 1) * sizeof *a->w);
    a->own = malloc((size_t)(n + 1) * sizeof *a->w);
    if (!a->w || !a->own) return fh1_no_memory((size_t)n * 16, "weights on logits");
    for (int64_t i = 0; i < n; ++i) a->w[i] = (double)(float)fh1_random_normal(s, (uint64_t)i); /* exact in f32 too */
    fh1_from_f64(a->own, e->dtype, a->w, n);
    return NULL;
}

static fh1_status compare(const gradcheck_case *c, fh1_engine *e, adjoint *a)
{
    fh1_backward o = {.grads = a->g, .dlogits = a->own};
    FH1_TRY(e->backward(e, c->m, c->truth->batch, &o));
    double left, value, right = 0, terms = 0, spread2 = 0;
    for (int64_t k = 0; k < a->g->n; ++k) {
        const fh1_param *p = &a->g->params[k];
        double *v, of_g = 0, of_spread = 0, of_product = 0;
        const int64_t n = fh1_n_elems(&p->grad);
        FH1_TRY(gradcheck_direction(p, (uint64_t)c->o->seed + 2, p->name, &v));
        fh1_status s = ref_complex_direct(a->x, c->truth->grads->params[k].value, v);
        for (int64_t i = 0; i < n; ++i) {
            const double truth = ((const double *)c->truth->grads->params[k].grad.data)[i];
            const double term = v[i] * fh1_get(&p->grad, i);
            right += term;
            terms += fabs(term);
            of_product += term * term;
            of_g += truth * truth;
            of_spread += c->truth->spread2[k][i];
        }
        free(v);
        FH1_TRY(s);
        /* The tensor spreads as much of itself as it does under the loss. */
        if (of_g > 0) spread2 += of_product * of_spread / of_g;
    }
    FH1_TRY(ref_complex_value(a->x, &value, &left));
    return gradcheck_tell(c, "backward.adjoint", 1, fh1_error_of(right, left),
                          allowed(fh1_rule.grad_along, terms, sqrt(spread2)),
                          "<Jv,w> and <v,Jtw> differ: the backward pass is not the transpose of the forward pass");
}

fh1_status gradcheck_adjoint(const gradcheck_case *c, fh1_engine *e)
{
    adjoint a = {0};
    fh1_status s = weights(c, e, &a);
    if (!s) s = gld_grads_new(c->m, e->dtype, &a.g);
    if (!s) s = ref_complex_model_new(c->m, c->truth->variants, padding_row(c), &a.x);
    fh1_batch unlabelled = *c->truth->batch;
    unlabelled.labels = NULL;
    if (!s) s = ref_complex_function(a.x, &unlabelled, 0, a.w);
    if (!s) s = compare(c, e, &a);
    ref_complex_model_free(a.x);
    fh1_grads_free(a.g);
    free(a.w);
    free(a.own);
    return s;
}
