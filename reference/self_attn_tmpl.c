/* The attention branch of a layer: projections, rotation, append to the cache, attention, o_proj. */
#include "reference/attention_gauge.h"
#include "reference/call.h"
#include "reference/rope.h"

#include <stdlib.h>
#include <string.h>

/* Copy the new keys and values of row b, [n, Hkv, A] packed, behind the stored ones. */
static void append(const REF(ref_call) * k, int64_t layer, int64_t b)
{
    const fh1_config *c = k->c;
    fh1_cache_row *r = &k->cache->rows[b];
    real *key = r->key[layer], *value = r->value[layer];
    const size_t bytes = (size_t)c->A * sizeof(real);
    for (int64_t m = k->t.row_begin[b]; m < k->t.row_begin[b + 1]; ++m) {
        const int64_t slot = r->n + m - k->t.row_begin[b];
        for (int64_t h = 0; h < c->Hkv; ++h) {
            memcpy(key + (h * r->cap + slot) * c->A, k->k + (m * c->Hkv + h) * c->A, bytes);
            memcpy(value + (h * r->cap + slot) * c->A, k->v + (m * c->Hkv + h) * c->A, bytes);
        }
    }
}

/* first[i]: the first stored token of the document of the row's i-th new token. */
static void visible_from(const REF(ref_call) * k, int64_t b, int64_t *first)
{
    const fh1_cache_row *r = &k->cache->rows[b];
    const int64_t begin = k->t.row_begin[b], n = k->t.row_begin[b + 1] - begin;
    int64_t doc = r->doc, from = r->doc_begin;
    for (int64_t i = 0; i < n; ++i) {
        if (k->t.doc[begin + i] != doc) {
            doc = k->t.doc[begin + i];
            from = r->n + i;
        }
        first[i] = from;
        if (k->pads_kept > 0) first[i] = i < k->pads_kept ? 0 : k->pads_kept; /* padding sees padding only */
    }
}

/* bound: where the sink wants it, [M, Hq·A] for attention_gauge, else NULL. */
static fh1_status attend(REF(ref_call) * k, int64_t layer, real *bound)
{
    const fh1_config *c = k->c;
    int64_t *first = malloc((size_t)(k->t.M + 1) * sizeof *first);
    if (!first) return fh1_no_memory((size_t)(k->t.M + 1) * sizeof *first, "attention ranges");
    fh1_status s = NULL;
    for (int64_t b = 0; b < k->t.B && !s; ++b) {
        const fh1_cache_row *r = &k->cache->rows[b];
        const int64_t begin = k->t.row_begin[b], n = k->t.row_begin[b + 1] - begin;
        append(k, layer, b);
        visible_from(k, b, first);
        REF(ref_attention_args)
        a = {.T = n,
             .S = r->n + n,
             .Hq = c->Hq,
             .Hkv = c->Hkv,
             .A = c->A,
             .ld_kv = r->cap,
             .q = k->q + begin * c->Hq * c->A,
             .k = r->key[layer],
             .v = r->value[layer],
             .first = first,
             .out = k->ctx + begin * c->Hq * c->A};
        s = REF(ref_attention_fwd)(&a, k->p);
        if (!s && bound) s = REF(ref_attention_gauge)(&a, bound + begin * c->Hq * c->A);
    }
    free(first);
    return s;
}

/* The context tap, with its gauge where an exact engine is asked for it. */
static fh1_status context(REF(ref_call) * k, int64_t layer)
{
    real *bound = NULL;
    const double *shown = NULL;
#if REF_BITS == 64
    if (k->sink && k->sink->want_abs_sum && k->sink->want_abs_sum(k->sink->user, FH1_TAP_CONTEXT, layer)) {
        const size_t n = (size_t)(k->t.M * k->c->Hq * k->c->A + 1);
        if (!(bound = malloc(n * sizeof *bound))) return fh1_no_memory(n * sizeof *bound, "the gauge of attention");
        shown = bound;
    }
#endif
    fh1_status s = attend(k, layer, bound);
    if (!s) s = REF(ref_show)(k, FH1_TAP_CONTEXT, layer, k->t.M, NULL, k->ctx, shown);
    free(bound);
    return s;
}

fh1_status REF(ref_self_attn_fwd)(REF(ref_call) * k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const int64_t M = k->t.M;

    REF(ref_scale_input)(k, FH1_TAP_Q_PROJ, layer, c->m_attn_in);
    FH1_TRY(REF(ref_linear_tap)(k, FH1_TAP_Q_PROJ, layer, M, NULL, k->scaled, &l->q_w, &l->q_b, 1, k->q));
    FH1_TRY(REF(ref_linear_tap)(k, FH1_TAP_K_PROJ, layer, M, NULL, k->scaled, &l->k_w, &l->k_b, 1, k->k));
    FH1_TRY(REF(ref_linear_tap)(k, FH1_TAP_V_PROJ, layer, M, NULL, k->scaled, &l->v_w, &l->v_b, 1, k->v));

    const real m_key = REF_FAULT(KEY_MULTIPLIER_DROPPED) ? 1 : (real)c->m_key;
    for (int64_t i = 0; i < M * c->Hkv * c->A; ++i) k->k[i] *= m_key; /* after the bias, before the rotation */
    REF(ref_round_row)(k->p->at[FH1_RP_KEY], M * c->Hkv * c->A, k->k);
    REF(ref_rope_fwd)(M, c->Hq, c->A, k->cos_sin, k->p, k->q);
    REF(ref_rope_fwd)(M, c->Hkv, c->A, k->cos_sin, k->p, k->k);
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_Q_ROPE, layer, k->q));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_K_ROPE, layer, k->k));

    FH1_TRY(context(k, layer));
    return REF(ref_linear_tap)(k, FH1_TAP_O_PROJ, layer, M, NULL, k->ctx, &l->o_w, &l->o_b, 1, k->attn);
}
