/* What a backward pass owes whatever its formulas: the same bits with recomputation and with threads, sums that add. */
#include "cli/gradcheck.h"

#include "oracle/compare.h"
#include "oracle/random.h"
#include "oracle/thread.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

fh1_status gradcheck_tell(const gradcheck_case *c, const char *name, int order, double err, double allowed,
                          const char *reason)
{
    fh1_tap_result *r = calloc(1, sizeof *r);
    if (!r) return fh1_no_memory(sizeof *r, "a verdict");
    const bool good = fh1_within(err, allowed);
    *r = (fh1_tap_result){.subject = c->subject,
                          .order = order + c->truth->grads->n + 1,
                          .verdict = good ? FH1_PASS : FH1_FAIL,
                          .margin = allowed > 0 ? err / allowed
                                    : good      ? 0
                                                : (double)INFINITY,
                          .rms_ratio = (double)NAN,
                          .max_err = err,
                          .allowed = allowed,
                          .rel_rms = err,
                          .free_rms = (double)NAN,
                          .id = FH1_TAP_COUNT,
                          .layer = -1};
    snprintf(r->tap, sizeof r->tap, "%s", name);
    if (!good) snprintf(r->reason, sizeof r->reason, "%s", reason);
    fh1_status s = fh1_report_add(c->report, r);
    free(r);
    return s;
}

static fh1_status pass(const gradcheck_case *c, fh1_engine *e, bool keep, fh1_grads *g, double *loss)
{
    fh1_backward o = {.grads = g, .divisor = c->truth->divisor, .keep = keep};
    FH1_TRY(e->backward(e, c->m, c->truth->batch, &o));
    *loss = o.loss;
    return NULL;
}

/* Elements whose bits differ. */
static double different(const fh1_grads *a, const fh1_grads *b)
{
    double n = 0;
    const size_t width = (size_t)fh1_dtype_bits(a->dtype) / 8;
    for (int64_t k = 0; k < a->n; ++k) {
        const char *x = a->params[k].grad.data, *y = b->params[k].grad.data;
        for (int64_t i = 0; i < fh1_n_elems(&a->params[k].grad); ++i)
            n += memcmp(x + (size_t)i * width, y + (size_t)i * width, width) != 0;
    }
    return n;
}

/* Layers kept instead of computed again, and two threads instead of one: not a bit may change. */
static fh1_status same_bits(const gradcheck_case *c, fh1_engine *e, const fh1_grads *g, fh1_grads *other)
{
    double loss;
    fh1_grads_zero(other);
    FH1_TRY(pass(c, e, true, other, &loss));
    FH1_TRY(gradcheck_tell(c, "backward.recompute", 2, different(g, other), 0,
                           "elements that change when activations are kept instead of computed again"));
    const int before = fh1_threads(), wanted = before == 1 ? 2 : 1;
    fh1_set_threads(wanted);
    fh1_grads_zero(other);
    fh1_status s = pass(c, e, false, other, &loss);
    fh1_set_threads(before);
    FH1_TRY(s);
    return gradcheck_tell(c, "backward.threads", 3, different(g, other), 0,
                          "elements that change with the number of threads");
}

/* `other` holds the gradients once: a second pass adds to them. One addition more rounds. */
static fh1_status adds(const gradcheck_case *c, fh1_engine *e, const fh1_grads *g, fh1_grads *other)
{
    double loss, worst = 0;
    FH1_TRY(pass(c, e, false, other, &loss));
    for (int64_t k = 0; k < g->n; ++k) {
        double largest = 0, err = 0;
        for (int64_t i = 0; i < fh1_n_elems(&g->params[k].grad); ++i) {
            const double once = fh1_get(&g->params[k].grad, i), twice = fh1_get(&other->params[k].grad, i);
            largest = fmax(largest, fabs(once));
            err = fmax(err, fh1_error_of(twice, 2 * once));
        }
        if (largest > 0) worst = fmax(worst, err / largest);
        else if (err > 0) worst = (double)INFINITY;
    }
    /* Each token's term meets a sum that is up to twice as large: an ulp for each, at most. */
    const double terms = (double)(c->truth->batch->B * c->truth->batch->T + c->truth->n_labels);
    return gradcheck_tell(c, "backward.accumulate", 4, worst, 2 * terms * fh1_dtype_ulp(g->dtype, 1),
                          "a second pass does not add to the gradients: largest difference over the tensor's largest");
}

static fh1_status by_gauge(const gradcheck_case *c, const fh1_grads *g, double loss, fh1_engine *e)
{
    fh1_tensor *grads = calloc((size_t)g->n + 1, sizeof *grads);
    if (!grads) return fh1_no_memory((size_t)g->n * sizeof *grads, "gradients");
    for (int64_t k = 0; k < g->n; ++k) grads[k] = g->params[k].grad;
    const gld_grad_judged j = {
        .subject = c->subject, .grads = grads, .loss = &loss, .stored = e->dtype, .make_faulty = c->make_faulty};
    fh1_status s = gld_grad_judge(c->truth, &j, c->report, NULL);
    free(grads);
    return s;
}

fh1_status gradcheck_engine(const gradcheck_case *c, fh1_engine *e)
{
    fh1_grads *g = NULL, *other = NULL;
    double loss;
    fh1_status s = gld_grads_new(c->m, e->dtype, &g);
    if (!s) s = gld_grads_new(c->m, e->dtype, &other);
    if (!s) s = pass(c, e, false, g, &loss);
    if (!s) s = e->dtype == FH1_F64 ? gradcheck_exact(c, g, loss) : by_gauge(c, g, loss, e);
    if (!s) s = gradcheck_adjoint(c, e);
    if (!s) s = same_bits(c, e, g, other);
    if (!s) s = adds(c, e, g, other);
    fh1_grads_free(g);
    fh1_grads_free(other);
    return s;
}

fh1_status gradcheck_direction(const fh1_param *p, uint64_t seed, const char *what, double **out)
{
    const fh1_stream s = fh1_stream_open(seed, what);
    const int64_t n = fh1_n_elems(p->value);
    if (!(*out = malloc((size_t)(n + 1) * sizeof **out))) return fh1_no_memory((size_t)n * 8, "a direction");
    for (int64_t i = 0; i < n; ++i) (*out)[i] = fh1_random_normal(s, (uint64_t)i);
    return NULL;
}
