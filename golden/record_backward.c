/* Gradients of an engine as a trace. */
#include "golden/gradcheck.h"
#include "golden/record.h"

#include <stdio.h>
#include <string.h>

static fh1_status put(const fh1_grads *g, double loss, fh1_dtype store, gld_trace *out)
{
    const fh1_tensor scalar = fh1_view(NULL, store, 0, NULL);
    fh1_tensor view;
    FH1_TRY(gld_trace_add_tap(out, FH1_TAP_LOSS, 0, store, &scalar, &view));
    fh1_set(&view, 0, loss);
    for (int64_t k = 0; k < g->n; k++) {
        const fh1_param *p = &g->params[k];
        if (strlen(p->name) >= FH1_TAP_NAME_SIZE)
            return fh1_fail(FH1_E_INTERNAL, "a parameter's name of %zu bytes", strlen(p->name));
        FH1_TRY(gld_trace_add_grad(out, p->name, k, store, &p->grad, &view));
        fh1_copy(&view, &p->grad);
    }
    return NULL;
}

fh1_status gld_record_backward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, const gld_record_options *opt,
                               gld_trace *out)
{
    memset(out, 0, sizeof *out);
    if (!e->backward)
        return fh1_hint(FH1_BAD("engine %s has no backward pass", e->name), "ref-f64, ref-f32 and ref-bf16 have one");
    FH1_TRY(gld_grad_check_labels(b, m->config.V));
    fh1_grads *g = NULL;
    fh1_status s = gld_grads_new(m, e->dtype, &g);
    fh1_backward o = {.grads = g};
    if (!s) s = e->backward(e, m, b, &o);
    if (!s) s = gld_trace_new(out);
    if (!s) out->family = m->config.family;
    if (!s) s = gld_trace_add_step(out, b);
    /* Gradients are of the compute type; a profile's storage is that of activations. */
    if (!s) s = put(g, o.loss, opt && opt->store != FH1_DTYPE_COUNT ? opt->store : e->dtype, out);
    snprintf(out->contract, sizeof out->contract, "%s", e->profile->name);
    fh1_grads_free(g);
    if (s) gld_trace_free(out);
    return s;
}
