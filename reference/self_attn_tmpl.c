/* The attention branch of a layer: projections, rotation, append to the cache, attention, o_proj. */
#include "reference/attention.h"
#include "reference/call.h"
#include "reference/gauge_call.h"
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
            if (REF_FAULT(DECODE_OVERWRITES_LAST_KEY) && k->one_token && slot > 0)
                memcpy(key + (h * r->cap + slot - 1) * c->A, k->k + (m * c->Hkv + h) * c->A, bytes);
            if (!REF_FAULT(KV_CACHE_IN_BF16)) continue;
            REF(ref_round_row)(FH1_ROUND_BF16, c->A, key + (h * r->cap + slot) * c->A);
            REF(ref_round_row)(FH1_ROUND_BF16, c->A, value + (h * r->cap + slot) * c->A);
        }
    }
}

/* The first key that the i-th new token sees, `from` unless a fault is planted. */
static int64_t first_seen(const REF(ref_call) * k, const fh1_cache_row *r, int64_t i, int64_t from)
{
    const int64_t self = r->n + i;
    if (REF_FAULT(DOCUMENTS_IGNORED_IN_ATTENTION)) return 0;
    if (REF_FAULT(CONTINUED_CALL_SEES_NEW_KEYS_ONLY) && k->t.T > 1 && from < r->n) return r->n;
    if (REF_FAULT(DECODE_SEES_NEW_KEY_ONLY) && k->one_token) return self;
    if (REF_FAULT(FIRST_KEY_NOT_SEEN) && from < self) return from + 1;
    if (REF_FAULT(SLIDING_WINDOW) && self - from >= 32) return self - 31;
    return from;
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
        first[i] = first_seen(k, r, i, from);
        if (k->pads_kept > 0) first[i] = i < k->pads_kept ? 0 : k->pads_kept; /* padding sees padding only */
    }
}

static fh1_status gauge_of_row(REF(ref_call) * k, int64_t layer, int64_t begin, const REF(ref_attention_args) * a)
{
    (void)k, (void)layer, (void)begin, (void)a;
    REF_GAUGE(ref_gauge_attention(k, layer, begin, a));
    return NULL;
}

static fh1_status attend(REF(ref_call) * k, int64_t layer)
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
        const fh1_cache_row *first_row = &k->cache->rows[0];
        const bool of_row_0 = REF_FAULT(KEYS_OF_ROW_0) && first_row->n + k->t.row_begin[1] >= r->n + n;
        const fh1_cache_row *kv = of_row_0 ? first_row : r;
        REF(ref_attention_args)
        a = {.T = n,
             .S = r->n + n,
             .Hq = c->Hq,
             .Hkv = c->Hkv,
             .A = c->A,
             .ld_kv = kv->cap,
             .q = k->q + begin * c->Hq * c->A,
             .k = kv->key[layer],
             .v = kv->value[layer],
             .first = first,
             .out = k->ctx + begin * c->Hq * c->A};
        s = REF(ref_attention_fwd)(&a, k->p);
        if (!s) s = gauge_of_row(k, layer, begin, &a);
    }
    free(first);
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
    for (int64_t i = 0; REF_FAULT(KEY_MULTIPLIER_ON_QUERIES) && i < M * c->Hq * c->A; ++i) k->q[i] *= m_key;
    for (int64_t i = 0; REF_FAULT(KEY_MULTIPLIER_ON_VALUES) && i < M * c->Hkv * c->A; ++i) k->v[i] *= m_key;
    REF_GAUGE(ref_gauge_rope(k, layer));
    if (!REF_FAULT(ROPE_QUERIES_NOT_ROTATED)) REF(ref_rope_fwd)(M, c->Hq, c->A, k->cos_sin, k->p, k->q);
    if (!REF_FAULT(ROPE_KEYS_NOT_ROTATED)) REF(ref_rope_fwd)(M, c->Hkv, c->A, k->cos_sin, k->p, k->k);
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_Q_ROPE, layer, k->q));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_K_ROPE, layer, k->k));
    const real wrong_scale = (real)sqrt((double)(c->A * c->Hq) / (double)c->D);
    for (int64_t i = 0; REF_FAULT(SCORES_SCALED_BY_HIDDEN) && i < M * c->Hq * c->A; ++i) k->q[i] *= wrong_scale;

    FH1_TRY(attend(k, layer));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_CONTEXT, layer, k->ctx));
    return REF(ref_linear_tap)(k, FH1_TAP_O_PROJ, layer, M, NULL, k->ctx, &l->o_w, &l->o_b, 1, k->attn);
}
