/* The whole model from its ops; the formula of each stands in its header. */
#include "reference/call.h"
#include "reference/cross_entropy.h"
#include "reference/embed.h"
#include "reference/gauge_call.h"
#include "reference/linear.h"
#include "reference/lora.h"
#include "reference/rmsnorm.h"
#include "reference/rope.h"

#include <stdlib.h>
#include <string.h>

static fh1_status allocate(REF(ref_call) * k)
{
    const fh1_config *c = k->c;
    const int64_t M = k->t.M;
    struct {
        real **at;
        int64_t width;
    } part[] = {{&k->x, c->D},
                {&k->n, c->D},
                {&k->scaled, c->D},
                {&k->proj, fh1_in_proj_dim(c)},
                {&k->conv, fh1_conv_dim(c)},
                {&k->xp, fh1_x_proj_dim(c)},
                {&k->inner, fh1_x_proj_dim(c)},
                {&k->dt, c->H},
                {&k->y, c->d_ssm},
                {&k->mixer, c->D},
                {&k->attn, c->D},
                {&k->q, c->Hq * c->A},
                {&k->k, c->Hkv * c->A},
                {&k->v, c->Hkv * c->A},
                {&k->ctx, c->Hq * c->A},
                {&k->gate, c->F},
                {&k->up, c->F},
                {&k->down, c->D},
                {&k->cos_sin, c->A}};
    const size_t n_parts = sizeof part / sizeof *part;
    int64_t width = 0, total, bytes;
    for (size_t i = 0; i < n_parts; ++i) width += part[i].width;
    if (!fh1_mul_i64(width, M + 1, &total) || !fh1_mul_i64(total, (int64_t)sizeof(real), &bytes))
        return fh1_hint(FH1_BAD("a call of %lld tokens does not fit any memory", (long long)M), "split the prompt");
    if (!(k->memory = malloc((size_t)bytes))) return fh1_no_memory((size_t)bytes, "the activations of one call");
    real *next = k->memory;
    for (size_t i = 0; i < n_parts; ++i) {
        *part[i].at = next;
        next += M * part[i].width;
    }
    return NULL;
}

static fh1_status embed(REF(ref_call) * k)
{
    const fh1_config *c = k->c;
    REF(ref_embed_fwd)(k->t.M, k->t.id, &k->m->embed, k->x);
    REF(ref_round_row)(k->p->at[FH1_RP_EMBED], k->t.M * c->D, k->x); /* a table in a wider type than the pipeline's */
    REF_GAUGE(ref_gauge_embed(k));
    if (k->m->embed_lora) FH1_TRY(REF(ref_lora_embed)(k->t.M, k->t.id, k->m->embed_lora, k->p, k->x));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_EMBED, 0, k->x));
    if (c->family == FH1_FALCON_MAMBA) return NULL; /* no multiplier */
    REF_GAUGE(ref_gauge_input(k));
    for (int64_t i = 0; i < k->t.M * c->D; ++i) k->x[i] *= (real)c->m_emb;
    REF(ref_round_row)(k->p->at[FH1_RP_EMBED], k->t.M * c->D, k->x);
    return REF(ref_tap)(k, FH1_TAP_INPUT, 0, k->x);
}

static fh1_status gauge_of_loss(REF(ref_call) * k, const real *logits, const int64_t *label)
{
    (void)k, (void)logits, (void)label;
    REF_GAUGE(ref_gauge_loss(k, logits, label));
    return NULL;
}

/* labels are stored unshifted: token m predicts the label of the next column of its row. */
static fh1_status loss(REF(ref_call) * k, const fh1_batch *b, real *logits)
{
    const fh1_tokens *t = &k->t;
    int64_t *label = malloc((size_t)(t->M + 1) * sizeof *label);
    if (!label) return fh1_no_memory((size_t)(t->M + 1) * sizeof *label, "labels");
    const int64_t shift = REF_FAULT(LOSS_NOT_SHIFTED) ? 0 : REF_FAULT(LOSS_SHIFTED_TWICE) ? 2 : 1;
    for (int64_t m = 0; m < t->M; ++m)
        label[m] = t->col[m] + shift < t->T ? b->labels[t->row[m] * t->T + t->col[m] + shift] : -100;
    for (int64_t i = 0; REF_FAULT(LOSS_WITHOUT_HEAD_MULTIPLIER) && i < t->M * k->c->V; ++i)
        logits[i] /= (real)k->c->m_lm;
    real value = (real)REF(ref_cross_entropy_fwd)(t->M, k->c->V, logits, label);
    fh1_status s = gauge_of_loss(k, logits, label);
    free(label);
    if (s) return s;
    fh1_tap_event ev = {.id = FH1_TAP_LOSS, .tokens = t, .value = fh1_view(&value, REF_DTYPE, 0, NULL)};
    return REF(ref_send)(k, &ev);
}

static int64_t n_layers_run(const REF(ref_call) * k)
{
    if (REF_FAULT(ONLY_LAYER_0) && k->cache->n_cols == 0) return 1;
    return k->c->n_layers - (REF_FAULT(LAST_LAYER_SKIPPED) && k->c->n_layers > 1);
}

/* Logits of the last n_logits columns: the kept tokens only, then scattered to [B, n_logits, V]. */
static fh1_status head(REF(ref_call) * k, const fh1_batch *b, int64_t n_logits, real *out)
{
    const fh1_config *c = k->c;
    const fh1_tokens *t = &k->t;
    if (n_logits == 0 || (!out && !k->sink)) return NULL;
    int64_t *kept = malloc((size_t)(t->M + 1) * sizeof *kept), n = 0;
    if (!kept) return fh1_no_memory((size_t)(t->M + 1) * sizeof *kept, "logits");
    for (int64_t m = 0; m < t->M; ++m)
        if (t->col[m] >= t->T - n_logits) {
            const real *h = (REF_FAULT(HEAD_READS_RESIDUAL) ? k->x : k->n) + m * c->D;
            if (REF_FAULT(LOGITS_ONE_POSITION_LATE) && t->col[m] > 0 && m > 0) h -= c->D;
            memmove(k->scaled + n * c->D, h, (size_t)c->D * sizeof(real));
            kept[n++] = m;
        }
    fh1_status s = NULL;
    const size_t bytes = (size_t)(n * c->V + 1) * sizeof(real);
    real *logits = malloc(bytes);
    if (!logits) s = fh1_no_memory(bytes, "logits");
    if (!s) s = REF(ref_linear_tap)(k, FH1_TAP_LOGITS, 0, n, kept, k->scaled, &k->m->lm_head, NULL, c->m_lm, logits);
    if (!s && b->labels && k->sink && n == t->M) s = loss(k, b, logits);
    if (!s && out) {
        memset(out, 0, (size_t)(t->B * n_logits * c->V) * sizeof *out);
        for (int64_t i = 0; i < n; ++i)
            memcpy(out + (t->row[kept[i]] * n_logits + t->col[kept[i]] - (t->T - n_logits)) * c->V, logits + i * c->V,
                   (size_t)c->V * sizeof *out);
    }
    free(logits);
    free(kept);
    return s;
}

/* FH1_VAR_PADS_IN_MIXER, a padded batch of one in transformers up to 5.14: the mixer ignores the mask, so
 * padding is computed as if it were tokens; attention keeps the two apart. */
static void keep_pads(REF(ref_call) * k, fh1_batch *b)
{
    if (!(k->e->variants & FH1_VAR_PADS_IN_MIXER) || b->B != 1 || !b->mask) return;
    if (k->cache->n_cols == 0)
        while (k->pads_kept < b->T && b->mask[k->pads_kept] == 0) ++k->pads_kept;
    b->mask = NULL;
}

/* cos and sin of the call's positions; dynamic rope looks at the longest sequence that the cache has seen. */
static void rope_table(REF(ref_call) * k)
{
    if (k->c->family == FH1_FALCON_MAMBA) return;
    const int64_t longest = k->t.max_position + 1, seen = k->cache->rope_seq_len;
    const int64_t seq_len = longest > seen ? longest : seen;
    if (k->e->variants & FH1_VAR_THETA_CLASS_DEFAULT) {
        fh1_config c = *k->c;
        c.rope = (fh1_rope){.theta = 1e5};
        REF(ref_rope_table)(&c, k->t.M, k->t.position, seq_len, k->p, k->cos_sin);
    } else {
        REF(ref_rope_table)(k->c, k->t.M, k->t.position, seq_len, k->p, k->cos_sin);
    }
}

static fh1_status run(REF(ref_call) * k, const fh1_batch *b, int64_t n_logits, real *logits)
{
    FH1_TRY(allocate(k));
    FH1_TRY(fh1_cache_prepare(k->cache, &k->t));
    rope_table(k);
    FH1_TRY(embed(k));
    const int64_t first = k->sink ? k->sink->first_layer : 0;
    fh1_status (*const layer)(REF(ref_call) *, int64_t) =
        k->c->family == FH1_FALCON_MAMBA ? REF(ref_mamba_layer_fwd) : REF(ref_layer_fwd);
    if (first > 0) FH1_TRY(REF(ref_tap)(k, FH1_TAP_LAYER, first - 1, k->x));
    const int64_t stop = k->sink ? k->sink->end_layer : 0;
    for (int64_t i = first; i < (stop > 0 ? stop : n_layers_run(k)); ++i) FH1_TRY(layer(k, i));
    if (stop > 0) return NULL; /* the cache is not committed: nobody goes on from half a call */
    const fh1_profile last = fh1_profile_final_norm(k->p);
    if (REF_FAULT(LAST_NORM_READS_ROUNDED_RESIDUAL)) REF(ref_round_row)(FH1_ROUND_BF16, k->t.M * k->c->D, k->x);
    FH1_TRY(REF(ref_rmsnorm_fwd)(k->t.M, k->c->D, k->x, &k->m->final_layernorm, k->c->eps, &last, k->n));
    if (REF_FAULT(FINAL_NORM_SKIPPED)) memcpy(k->n, k->x, (size_t)(k->t.M * k->c->D) * sizeof *k->n);
    if (REF_FAULT(FINAL_NORM_TWICE))
        FH1_TRY(REF(ref_rmsnorm_fwd)(k->t.M, k->c->D, k->n, &k->m->final_layernorm, k->c->eps, &last, k->n));
    REF_GAUGE(ref_gauge_norm(k, FH1_TAP_FINAL_LAYERNORM, 0, k->x, &k->m->final_layernorm));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_FINAL_LAYERNORM, 0, k->n));
    FH1_TRY(head(k, b, n_logits, logits));
    fh1_cache_commit(k->cache, &k->t);
    if (k->pads_kept > 0) k->cache->rows[0].doc_begin = k->pads_kept;
    return NULL;
}

fh1_status REF(ref_forward)(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                            void *logits, const fh1_tap_sink *sink)
{
    REF_ENTER(e);
    REF(ref_call)
    k = {.e = e, .m = m, .c = &m->config, .p = fh1_profile_for(e->profile, &m->config), .cache = cache, .sink = sink};
    if (REF_FAULT(ACTIVATIONS_IN_BF16)) k.p = fh1_profile_for(fh1_profile_find("hf-eager-bf16"), k.c);
    fh1_batch inputs = *b;
    keep_pads(&k, &inputs);
    k.one_token = b->T == 1 && cache->n_cols > 0;
    FH1_TRY(fh1_tokens_pack(&inputs, m->config.V, cache, &k.t));
    if (n_logits < 0 || n_logits > b->T) n_logits = b->T;
    fh1_status s = run(&k, b, n_logits, logits);
    free(k.memory);
    for (int i = 0; i < 2; ++i) fh1_gauge_free(&k.gauge[i].g);
    fh1_gauge_free(&k.hidden_xp);
    fh1_tokens_free(&k.t);
    return s;
}
