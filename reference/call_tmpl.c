#include "reference/call.h"

#include "reference/gauge_call.h"
#include "reference/linear.h"
#include "reference/lm_head.h"
#include "reference/lora.h"

fh1_status REF(ref_show)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, int64_t rows, const int64_t *kept, real *data)
{
    if (!k->sink) return NULL;
    fh1_tap_event ev = {.id = id, .layer = layer, .tokens = &k->t, .kept = kept};
    ev.value = fh1_tap_packed_shape(k->c, id, rows);
    ev.value.data = data;
    ev.value.dtype = REF_DTYPE;
    return REF(ref_send)(k, &ev);
}

fh1_status REF(ref_send)(REF(ref_call) * k, fh1_tap_event *ev)
{
    fh1_status s = NULL;
    bool sent = false;
    for (int i = 0; i < 2; ++i) {
        if (!k->gauge[i].wanted || k->gauge[i].id != ev->id) continue;
        ev->gauge = &k->gauge[i].g;
        s = k->sink->tap(k->sink->user, ev);
        sent = true;
        fh1_gauge_free(&k->gauge[i].g);
        k->gauge[i].wanted = false;
    }
    return sent ? s : k->sink->tap(k->sink->user, ev);
}

fh1_status REF(ref_tap)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, real *data)
{
    return REF(ref_show)(k, id, layer, k->t.M, NULL, data);
}

fh1_status REF(ref_linear_tap)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, int64_t rows, const int64_t *kept,
                               const real *x, const fh1_tensor *w, const fh1_tensor *b, double m, real *y)
{
    const fh1_lora *lora = fh1_lora_of(k->m, id, layer);
    const fh1_profile p = fh1_profile_linear(k->p, k->c, id, k->t.T);
    FH1_TRY(REF(ref_linear_fwd)(rows, x, w, b, &p, y));
    REF_GAUGE(ref_gauge_linear(k, id, layer, rows, x, w, b, y));
    if (lora) FH1_TRY(REF(ref_lora_add)(rows, x, lora, b, &p, y));
    if (id == FH1_TAP_LOGITS) {
        REF_GAUGE(ref_gauge_logits(k, rows, m, y));
        REF(ref_lm_head_scale)(rows * w->shape[0], m, k->p, y);
    }
    return REF(ref_show)(k, id, layer, rows, kept, y);
}

void REF(ref_scale_input)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, double m)
{
    const int64_t n = k->t.M * k->c->D;
    fh1_round declared = FH1_ROUND_NONE;
    if (k->sink && k->sink->input_round) declared = k->sink->input_round(k->sink->user, id, layer);
    if (declared != FH1_ROUND_NONE) {
        for (int64_t i = 0; i < n; ++i) k->scaled[i] = REF(ref_mul_declared)(declared, k->n[i], m);
    } else {
        for (int64_t i = 0; i < n; ++i) k->scaled[i] = k->n[i] * (real)m;
        REF(ref_round_row)(k->p->at[FH1_RP_SCALE_IN], n, k->scaled);
    }
    const bool by_document = REF_FAULT(DOCUMENT_IDS_SCALE_THE_MIXER) && id == FH1_TAP_IN_PROJ;
    for (int64_t i = 0; by_document && i < n; ++i) k->scaled[i] *= (real)(k->t.doc[i / k->c->D] + 1);
}
