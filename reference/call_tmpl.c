#include "reference/call.h"

#include "reference/linear.h"
#include "reference/lm_head.h"

#include <stdlib.h>

fh1_status REF(ref_show)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, int64_t rows, const int64_t *kept, real *data,
                         const double *abs_sum)
{
    if (!k->sink) return NULL;
    fh1_tap_event ev = {.id = id, .layer = layer, .tokens = &k->t, .kept = kept, .abs_sum = abs_sum};
    ev.value = fh1_tap_packed_shape(k->c, id, rows);
    ev.value.data = data;
    ev.value.dtype = REF_DTYPE;
    return k->sink->tap(k->sink->user, &ev);
}

fh1_status REF(ref_tap)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, real *data)
{
    return REF(ref_show)(k, id, layer, k->t.M, NULL, data, NULL);
}

/* Σ|w·x| for the sink, in f64; NULL when nobody asks. Only the exact engine serves it. */
static fh1_status gauge(REF(ref_call) * k, fh1_tap_id id, int64_t layer, int64_t rows, const real *x,
                        const fh1_tensor *w, const fh1_tensor *b, double m, double **out)
{
    *out = NULL;
#if REF_BITS == 64
    if (!k->sink || !k->sink->want_abs_sum || !k->sink->want_abs_sum(k->sink->user, id, layer)) return NULL;
    const size_t n = (size_t)(rows * w->shape[0]);
    double *s = malloc((n ? n : 1) * sizeof *s);
    if (!s) return fh1_no_memory(n * sizeof *s, "the gauge of a linear layer");
    fh1_status st = REF(ref_linear_abs_sum)(rows, x, w, b, s);
    if (st) {
        free(s);
        return st;
    }
    for (size_t i = 0; i < n; ++i) s[i] *= fabs(m);
    *out = s;
#else
    (void)k, (void)id, (void)layer, (void)rows, (void)x, (void)w, (void)b, (void)m;
#endif
    return NULL;
}

fh1_status REF(ref_linear_tap)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, int64_t rows, const int64_t *kept,
                               const real *x, const fh1_tensor *w, const fh1_tensor *b, double m, real *y)
{
    if (id == FH1_TAP_LOGITS) FH1_TRY(REF(ref_lm_head_fwd)(rows, x, w, m, k->p, y));
    else FH1_TRY(REF(ref_linear_fwd)(rows, x, w, b, k->p, y));
    double *abs_sum;
    FH1_TRY(gauge(k, id, layer, rows, x, w, b, m, &abs_sum));
    fh1_status s = REF(ref_show)(k, id, layer, rows, kept, y, abs_sum);
    free(abs_sum);
    return s;
}

void REF(ref_scale_input)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, double m)
{
    const int64_t n = k->t.M * k->c->D;
    fh1_round declared = FH1_ROUND_NONE;
    if (k->sink && k->sink->input_round) declared = k->sink->input_round(k->sink->user, id, layer);
    if (declared != FH1_ROUND_NONE) {
        for (int64_t i = 0; i < n; ++i) k->scaled[i] = REF(ref_mul_declared)(declared, k->n[i], m);
        return;
    }
    for (int64_t i = 0; i < n; ++i) k->scaled[i] = k->n[i] * (real)m;
    REF(ref_round_row)(k->p->at[FH1_RP_SCALE_IN], n, k->scaled);
}
