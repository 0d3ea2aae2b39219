/* The head on the way back: logits of some tokens at a time, their loss, and what both leave for the last layer. Logits
 * of the whole batch, V numbers a token, never exist. */
#include "reference/backward.h"
#include "reference/cross_entropy_bwd.h"
#include "reference/linear.h"
#include "reference/linear_bwd.h"
#include "reference/lm_head.h"
#include "reference/lora.h"
#include "reference/rmsnorm_bwd.h"

#include <stdlib.h>
#include <string.h>

#define LOGITS (1 << 22) /* of one piece at most, so that pieces depend on V alone */

/* labels are stored unshifted: token m predicts the label of the next column of its row. */
static fh1_status next_labels(REF(ref_bwd) * b, int64_t **out)
{
    const fh1_tokens *t = &b->k.t;
    const size_t bytes = (size_t)(t->M + 1) * sizeof **out;
    int64_t *label = malloc(bytes), *given = b->batch->labels ? (int64_t *)(uintptr_t)b->batch->labels : NULL;
    if (!label) return fh1_no_memory(bytes, "labels");
    const int64_t shift = REF_FAULT(GRAD_LABELS_NOT_SHIFTED) ? 0 : 1;
    for (int64_t m = 0; m < t->M; ++m) {
        label[m] = given && t->col[m] + shift < t->T ? given[t->row[m] * t->T + t->col[m] + shift] : -100;
        b->o->n_labels += label[m] != -100;
    }
    *out = label;
    return NULL;
}

/* R((h·Wᵀ + adapter)·m_lm) of n tokens, as the forward pass computes them. */
static fh1_status logits_of(REF(ref_bwd) * b, int64_t n, const real *h, real *logits)
{
    const fh1_model *m = b->k.m;
    const fh1_profile head = fh1_profile_head(b->k.p);
    FH1_TRY(REF(ref_linear_fwd)(n, h, &m->lm_head, NULL, &head, logits));
    if (m->head_lora) FH1_TRY(REF(ref_lora_add)(n, h, m->head_lora, NULL, &head, logits));
    REF(ref_lm_head_scale)(n * b->k.c->V, b->k.c->m_lm, b->k.p, logits);
    return NULL;
}

/* The given derivatives of tokens [m0, m0 + n). */
static void gather(const REF(ref_bwd) * b, int64_t m0, int64_t n, real *dlogits)
{
    const fh1_tokens *t = &b->k.t;
    const int64_t V = b->k.c->V;
    for (int64_t i = 0; i < n; ++i)
        memcpy(dlogits + i * V, (const real *)b->o->dlogits + (t->row[m0 + i] * t->T + t->col[m0 + i]) * V,
               (size_t)V * sizeof *dlogits);
}

/* Tokens [m0, m0 + n): adds their loss to *sum, assigns their rows of b->dn. */
static fh1_status piece(REF(ref_bwd) * b, int64_t m0, int64_t n, const int64_t *label, double divisor, real *logits,
                        double *sum)
{
    const int64_t D = b->k.c->D, V = b->k.c->V;
    const real *h = b->h + m0 * D;
    if (b->o->dlogits) {
        gather(b, m0, n, logits);
    } else {
        FH1_TRY(logits_of(b, n, h, logits));
        *sum += REF(ref_cross_entropy_bwd)(n, V, logits, label + m0, divisor, logits);
    }
    const real m_lm = REF_FAULT(GRAD_HEAD_MULTIPLIER_DROPPED) ? 1 : (real)b->k.c->m_lm;
    for (int64_t i = 0; i < n * V; ++i) logits[i] *= m_lm;
    if (REF_FAULT(GRAD_TIED_HEAD_SHARE_LOST) && b->k.c->tied) {
        const fh1_tensor *w = &b->k.m->lm_head;
        return REF(ref_linear_bwd)(n, h, w, logits, false, b->dn + m0 * D, NULL, NULL);
    }
    return REF(ref_bwd_linear)(b, FH1_TAP_LOGITS, 0, n, h, logits, false, b->dn + m0 * D);
}

fh1_status REF(ref_bwd_head)(REF(ref_bwd) * b)
{
    const fh1_config *c = b->k.c;
    const int64_t M = b->k.t.M;
    fh1_backward *o = b->o;
    int64_t rows = LOGITS / c->V, *label = NULL;
    if (rows > M) rows = M;
    if (rows < 1) rows = 1;
    real *logits = NULL;
    double sum = 0;
    fh1_status s = next_labels(b, &label);
    const double divisor = o->divisor > 0 ? o->divisor : o->n_labels > 0 ? (double)o->n_labels : 1;
    if (!s) s = REF(ref_bwd_new)(b, rows * c->V, &logits);
    for (int64_t m = 0; m < M && !s; m += rows)
        s = piece(b, m, m + rows < M ? rows : M - m, label, divisor, logits, &sum);
    REF(ref_bwd_delete)(b, rows * c->V, logits);
    free(label);
    if (s) return s;
    const bool told = !o->dlogits && (o->n_labels > 0 || o->divisor > 0);
    o->loss = told ? sum / divisor : (double)NAN;
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_FINAL_LAYERNORM, 0, M, b->dn));
    return REF(ref_rmsnorm_bwd)(M, c->D, b->checkpoint + c->n_layers * M * c->D, &b->k.m->final_layernorm, c->eps,
                                b->dn, b->dx, fh1_grad_of(o->grads, &b->k.m->final_layernorm));
}
