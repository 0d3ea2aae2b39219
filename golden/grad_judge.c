#include "golden/grad_explain.h"
#include "golden/grad_rules.h"

#include "oracle/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fh1_dtype coarser(fh1_dtype a, fh1_dtype b)
{
    return fh1_dtype_ulp(a, 1) > fh1_dtype_ulp(b, 1) ? a : b;
}

static void unravel(int64_t ordinal, const fh1_tensor *t, fh1_tap_result *r)
{
    r->rank = t->rank;
    for (int d = t->rank - 1; d >= 0; --d) {
        r->where[d] = ordinal % t->shape[d];
        ordinal /= t->shape[d];
    }
}

static fh1_status values_of(const fh1_tensor *t, double **out)
{
    const int64_t n = fh1_n_elems(t);
    if (!(*out = malloc((size_t)(n + 1) * sizeof **out))) return fh1_no_memory((size_t)n * 8, "a gradient");
    for (int64_t i = 0; i < n; ++i) (*out)[i] = fh1_get(t, i);
    return NULL;
}

static fh1_tap_result blank(const gld_grad_judged *j, const char *name, int64_t order)
{
    fh1_tap_result r = {.subject = j->subject, .step = j->step, .order = order, .id = FH1_TAP_COUNT, .layer = -1};
    snprintf(r.tap, sizeof r.tap, "%s", name);
    return r;
}

static fh1_status judge_param(const gld_grad_truth *t, const gld_grad_judged *j, int64_t k, fh1_tap_result *r)
{
    const fh1_param *p = &t->grads->params[k];
    const fh1_tensor *judged = &j->grads[k];
    double *values;
    int64_t where;
    *r = blank(j, "grad.", k + 1);
    memcpy(r->tap + 5, p->name, strnlen(p->name, sizeof r->tap - 6)); /* the rest of *r is zero */
    r->layer = p->layer;
    FH1_TRY(values_of(judged, &values));
    const int64_t n = fh1_n_elems(judged), rows = judged->rank > 1 ? judged->shape[0] : 1;
    const gld_grad_errors errors = {.profile = t->profile,
                                    .stored = coarser(judged->dtype, t->profile->storage),
                                    .rows = rows,
                                    .width = rows ? n / rows : 0,
                                    .judged = values,
                                    .truth = p->grad.data,
                                    .spread2 = t->spread2[k],
                                    .lookup = p->value == &t->model->embed,
                                    .samples = t->n_labels};
    gld_grad_rule(&errors, r, &where);
    if (n > 0) unravel(where, judged, r);
    if (r->verdict == FH1_FAIL) gld_grad_point(r, p->name);
    free(values);
    return NULL;
}

static void judge_loss(const gld_grad_truth *t, const gld_grad_judged *j, fh1_tap_result *r)
{
    const gld_grad_errors errors = {.profile = t->profile,
                                    .stored = j->stored,
                                    .rows = 1,
                                    .width = 1,
                                    .judged = j->loss,
                                    .truth = &t->loss,
                                    .spread2 = &t->loss_spread2,
                                    .samples = t->n_labels};
    int64_t where;
    *r = blank(j, "loss", 0);
    gld_grad_rule(&errors, r, &where);
    if (r->verdict == FH1_FAIL)
        strncat(r->reason, ": the forward pass differs already, record its taps and run fh1 check",
                sizeof r->reason - strlen(r->reason) - 1);
}

fh1_status gld_grad_judge(const gld_grad_truth *t, const gld_grad_judged *j, fh1_report *report, gld_grad_first *first)
{
    gld_grad_first found = {.param = -1};
    fh1_tap_result *r = calloc(1, sizeof *r);
    bool *failed = calloc((size_t)t->grads->n + 1, sizeof *failed);
    fh1_status s = r && failed ? NULL : fh1_no_memory(sizeof *r, "a verdict");
    for (int64_t k = -1; k < t->grads->n && !s; ++k) {
        if (k < 0 ? !j->loss : !j->grads[k].data) continue;
        if (k < 0) judge_loss(t, j, r);
        else s = judge_param(t, j, k, r);
        if (!s) s = fh1_report_add(report, r);
        found.n_passed += r->verdict == FH1_PASS;
        if (k >= 0) failed[k] = r->verdict == FH1_FAIL;
        if (s || r->verdict != FH1_FAIL || found.failed) continue;
        found.failed = true;
        found.param = k;
        found.result = *r;
    }
    if (!s && found.failed && j->make_faulty) s = gld_grad_explain(t, j, failed, found.param, report, &found);
    if (first) *first = found;
    free(failed);
    free(r);
    return s;
}

/* ---- traces ---- */

static fh1_status nothing_to_judge(const gld_trace *t)
{
    if (gld_trace_n_grads(t) > 0) return NULL;
    fh1_status s = FH1_BAD("no gradient in this trace");
    return fh1_hint(fh1_expected(s, "step0/grad.<parameter>, step0/labels and perhaps step0/loss"),
                    "fh1 taps MODEL lists the names; fh1 check judges traces of a forward pass");
}

static fh1_status judge_step(const gld_trace *t, int64_t j, const gld_gradcheck_options *o, fh1_report *report,
                             gld_grad_first *first)
{
    const gld_step *step = &t->steps[j];
    if (j > 0)
        return fh1_hint(
            fh1_where(FH1_BAD("gradients of a call that goes on from an earlier one"), "step %lld", (long long)j),
            "a training step begins on an empty cache: one file, or one step 0, for each batch");
    gld_grad_truth truth = {0};
    fh1_tensor *grads = NULL;
    fh1_status s = gld_grad_truth_new(o->model, &step->batch, o->profile, o->variants, 0, o->make_engine, &truth);
    if (!s && !(grads = calloc((size_t)truth.grads->n, sizeof *grads))) s = fh1_no_memory(sizeof *grads, "gradients");
    if (!s) {
        const gld_tap *loss = gld_trace_find(t, j, FH1_TAP_LOSS, 0);
        const double value = loss ? fh1_get(&loss->t, 0) : 0;
        gld_grad_judged judged = {.subject = o->subject,
                                  .step = j,
                                  .grads = grads,
                                  .loss = loss ? &value : NULL,
                                  .stored = loss ? loss->t.dtype : FH1_F64,
                                  .make_faulty = o->make_faulty};
        for (int64_t k = 0; k < step->n_grads; ++k) grads[step->grads[k].param] = step->grads[k].t;
        s = gld_grad_judge(&truth, &judged, report, first);
    }
    free(grads);
    gld_grad_truth_free(&truth);
    return fh1_where(s, "step %lld", (long long)j);
}

fh1_status gld_gradcheck_trace(const gld_trace *t, const gld_gradcheck_options *o, fh1_report *report,
                               gld_grad_first *first)
{
    FH1_TRY(fh1_where(nothing_to_judge(t), "%s", t->path));
    for (int64_t j = 0; j < t->n_steps; ++j)
        if (t->steps[j].n_grads > 0) FH1_TRY(fh1_where(judge_step(t, j, o, report, first), "%s", t->path));
    return NULL;
}
