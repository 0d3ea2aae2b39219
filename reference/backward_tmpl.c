/* Loss and gradients of a batch: forward with checkpoints, then layer by layer back. */
#include "reference/backward.h"

#include "reference/embed_bwd.h"
#include "reference/linear_bwd.h"
#include "reference/lora_bwd.h"
#include "reference/rope.h"

#include <stdlib.h>
#include <string.h>

/* Taps that some op reads again on the way back. */
static const fh1_tap_id kept_tap[] = {FH1_TAP_INPUT_LAYERNORM,
                                      FH1_TAP_Q_ROPE,
                                      FH1_TAP_K_ROPE,
                                      FH1_TAP_V_PROJ,
                                      FH1_TAP_CONTEXT,
                                      FH1_TAP_IN_PROJ,
                                      FH1_TAP_CONV_ACT,
                                      FH1_TAP_X_PROJ,
                                      FH1_TAP_DT,
                                      FH1_TAP_SSD,
                                      FH1_TAP_GATED,
                                      FH1_TAP_MID_SSM,
                                      FH1_TAP_ATTN_LAYERNORM,
                                      FH1_TAP_MID,
                                      FH1_TAP_PRE_FF_LAYERNORM,
                                      FH1_TAP_GATE_PROJ,
                                      FH1_TAP_UP_PROJ,
                                      FH1_TAP_ACT};
enum { N_KEPT = sizeof kept_tap / sizeof *kept_tap };

fh1_status REF(ref_bwd_new)(REF(ref_bwd) * b, int64_t n, real **out)
{
    int64_t bytes;
    if (!fh1_mul_i64(n + 1, (int64_t)sizeof(real), &bytes))
        return fh1_hint(FH1_BAD("a backward pass over %lld tokens does not fit any memory", (long long)b->k.t.M),
                        "take fewer rows, or shorter ones");
    if (!(*out = malloc((size_t)bytes))) return fh1_no_memory((size_t)bytes, "a backward pass");
    b->bytes += (size_t)bytes;
    if (b->bytes > b->peak) b->peak = b->bytes;
    return NULL;
}

void REF(ref_bwd_delete)(REF(ref_bwd) * b, int64_t n, real *p)
{
    if (p) b->bytes -= (size_t)(n + 1) * sizeof(real);
    free(p);
}

/* -- the forward pass, and that of one layer again -- */

/* The input of layer 0. */
static fh1_tap_id input_tap(const REF(ref_bwd) * b)
{
    int64_t of;
    return fh1_tap_stream(b->k.c, 0, &of);
}

/* What the layer at hand starts from: put in by the layer before, or by the embedding. */
static bool is_checkpoint(const REF(ref_bwd) * b, const fh1_tap_event *ev)
{
    int64_t of;
    return b->first >= 0 && ev->id == fh1_tap_stream(b->k.c, b->first, &of) && ev->layer == of;
}

static fh1_status catch_tap(void *user, const fh1_tap_event *ev)
{
    REF(ref_bwd) *b = user;
    const fh1_tap_sink *other = b->o->sink;
    const size_t stream = (size_t)(b->k.t.M * b->k.c->D), bytes = fh1_n_bytes(&ev->value);
    void *value = ev->value.data;
    if (is_checkpoint(b, ev)) {
        memcpy(value, b->checkpoint + (size_t)b->first * stream, bytes);
        if (REF_FAULT(GRAD_CHECKPOINTS_IN_BF16)) REF(ref_round_row)(FH1_ROUND_BF16, (int64_t)stream, value);
        return NULL;
    }
    if (other) FH1_TRY(other->tap(other->user, ev));
    if (b->first < 0 && ev->id == input_tap(b)) memcpy(b->checkpoint, value, bytes);
    if (b->first < 0 && ev->id == FH1_TAP_LAYER) memcpy(b->checkpoint + (size_t)(ev->layer + 1) * stream, value, bytes);
    if (ev->id == FH1_TAP_FINAL_LAYERNORM) memcpy(b->h, value, bytes);
    if (ev->id < FH1_TAP_INPUT_LAYERNORM || ev->id >= FH1_TAP_LAYER) return NULL;
    if (b->first < 0 && !b->o->keep) return NULL;
    real *to = REF(ref_bwd_acts)(b, ev->layer)->tap[ev->id];
    if (to) memcpy(to, value, bytes);
    return NULL;
}

/* All layers (first < 0), or one of them from its checkpoint. Each on a cache of its own: a training step has no past.
 */
static fh1_status forward(REF(ref_bwd) * b, int64_t first)
{
    fh1_cache *cache;
    FH1_TRY(fh1_cache_new(b->k.c, REF_DTYPE, b->batch->B, &cache));
    const size_t of_cache = (size_t)(b->k.t.M * 2 * b->k.c->Hkv * b->k.c->A * b->k.c->n_layers) * sizeof(real);
    fh1_tap_sink sink = {.user = b, .tap = catch_tap};
    if (first >= 0) {
        sink.first_layer = first;
        sink.end_layer = first + 1;
    }
    b->first = first;
    if (b->bytes + of_cache > b->peak) b->peak = b->bytes + of_cache;
    fh1_status s = REF(ref_forward)(b->k.e, b->k.m, b->batch, cache, 0, NULL, &sink);
    fh1_cache_free(cache);
    return s;
}

/* -- memory -- */

static int64_t tap_width(const REF(ref_bwd) * b, fh1_tap_id id)
{
    if (!fh1_tap_exists(b->k.c, id)) return 0;
    const fh1_tensor t = fh1_tap_packed_shape(b->k.c, id, 1);
    return fh1_n_elems(&t);
}

static int64_t acts_size(const REF(ref_bwd) * b)
{
    int64_t width = 0;
    for (int i = 0; i < N_KEPT; ++i) width += tap_width(b, kept_tap[i]);
    return b->k.t.M * width;
}

static fh1_status allocate(REF(ref_bwd) * b)
{
    const fh1_config *c = b->k.c;
    const int64_t M = b->k.t.M, D = c->D, n_acts = b->o->keep ? c->n_layers : 1;
    real **part[] = {&b->h, &b->dx, &b->branch, &b->dn, &b->scaled, &b->dscaled};
    const int n_parts = (int)(sizeof part / sizeof *part);
    FH1_TRY(REF(ref_bwd_new)(b, (c->n_layers + 1) * M * D, &b->checkpoint));
    FH1_TRY(REF(ref_bwd_new)(b, M * (n_parts * D + c->A), &b->memory));
    for (int i = 0; i < n_parts; ++i) *part[i] = b->memory + i * M * D;
    b->cos_sin = b->memory + n_parts * M * D;
    if (!(b->acts = calloc((size_t)n_acts, sizeof *b->acts)))
        return fh1_no_memory((size_t)n_acts * sizeof *b->acts, "a backward pass");
    for (int64_t l = 0; l < n_acts; ++l) {
        REF(ref_acts) *a = &b->acts[l];
        FH1_TRY(REF(ref_bwd_new)(b, acts_size(b), &a->memory));
        real *next = a->memory;
        for (int i = 0; i < N_KEPT; ++i) {
            if (fh1_tap_exists(c, kept_tap[i])) a->tap[kept_tap[i]] = next;
            next += M * tap_width(b, kept_tap[i]);
        }
    }
    return NULL;
}

static void release(REF(ref_bwd) * b)
{
    for (int64_t l = 0; b->acts && l < (b->o->keep ? b->k.c->n_layers : 1); ++l) free(b->acts[l].memory);
    free(b->acts);
    free(b->checkpoint);
    free(b->memory);
    fh1_tokens_free(&b->k.t);
}

/* -- pieces that the layers share -- */

fh1_status REF(ref_bwd_flow)(const REF(ref_bwd) * b, fh1_tap_id id, int64_t layer, int64_t rows, real *d)
{
    if (!b->o->flow) return NULL;
    fh1_tensor t = fh1_tap_packed_shape(b->k.c, id, rows);
    t.data = d;
    t.dtype = REF_DTYPE;
    return b->o->flow(b->o->flow_user, id, layer, &t);
}

fh1_status REF(ref_bwd_linear)(REF(ref_bwd) * b, fh1_tap_id id, int64_t layer, int64_t rows, const real *x, real *dy,
                               bool add, real *dx)
{
    FH1_TRY(REF(ref_bwd_flow)(b, id, layer, rows, dy));
    return REF(ref_bwd_product)(b, id, layer, rows, x, dy, add, dx);
}

fh1_status REF(ref_bwd_product)(REF(ref_bwd) * b, fh1_tap_id id, int64_t layer, int64_t rows, const real *x,
                                const real *dy, bool add, real *dx)
{
    const fh1_grads *g = b->o->grads;
    const fh1_linear l = fh1_model_linear((fh1_model *)(uintptr_t)b->k.m, id, layer); /* for its addresses only */
    const fh1_lora *lora = *l.lora;
    real *db = id == FH1_TAP_DT ? NULL : fh1_grad_of(g, l.b);
    FH1_TRY(REF(ref_linear_bwd)(rows, x, l.w, dy, add, dx, fh1_grad_of(g, l.w), db));
    if (!lora || (REF_FAULT(GRAD_OUT_PROJ_ADAPTER_NOT_SEEN) && id == FH1_TAP_OUT_PROJ)) return NULL;
    return REF(ref_lora_bwd)(rows, x, lora, dy, dx, fh1_grad_of(g, &lora->A), fh1_grad_of(g, &lora->B),
                             fh1_grad_of(g, &lora->bias));
}

void REF(ref_bwd_scale)(REF(ref_bwd) * b, const real *n, double m)
{
    const int64_t size = b->k.t.M * b->k.c->D;
    if (REF_FAULT(GRAD_WEIGHTS_FROM_UNSCALED_INPUT)) m = 1;
    for (int64_t i = 0; i < size; ++i) b->scaled[i] = n[i] * (real)m;
    REF(ref_round_row)(b->k.p->at[FH1_RP_SCALE_IN], size, b->scaled);
}

/* The input of layer 0 is the table's row times embedding_multiplier; an adapter of the table adds to the row. */
static fh1_status embedding(REF(ref_bwd) * b)
{
    const fh1_model *m = b->k.m;
    const fh1_config *c = b->k.c;
    const fh1_tokens *t = &b->k.t;
    const fh1_grads *g = b->o->grads;
    FH1_TRY(REF(ref_bwd_flow)(b, input_tap(b), 0, t->M, b->dx));
    const real m_emb = REF_FAULT(GRAD_EMBEDDING_MULTIPLIER_DROPPED) ? 1 : (real)c->m_emb;
    for (int64_t i = 0; i < t->M * c->D; ++i) b->dx[i] *= m_emb;
    REF(ref_embed_bwd)(t->M, t->id, c->V, c->D, fh1_padding_idx(c), b->dx, fh1_grad_of(g, &m->embed));
    const fh1_lora *lora = m->embed_lora;
    if (!lora) return NULL;
    return REF(ref_lora_embed_bwd)(t->M, t->id, lora, fh1_padding_idx(c), b->dx, fh1_grad_of(g, &lora->A),
                                   fh1_grad_of(g, &lora->B));
}

static fh1_status run(REF(ref_bwd) * b)
{
    const fh1_tokens *t = &b->k.t;
    FH1_TRY(allocate(b));
    fh1_config rope = *b->k.c;
    if (b->k.e->variants & FH1_VAR_THETA_CLASS_DEFAULT) rope.rope = (fh1_rope){.theta = 1e5};
    if (rope.Hq > 0) REF(ref_rope_table)(&rope, t->M, t->position, t->max_position + 1, b->k.p, b->cos_sin);
    FH1_TRY(forward(b, -1));
    FH1_TRY(REF(ref_bwd_head)(b));
    for (int64_t i = b->k.c->n_layers; i-- > 0;) {
        if (!b->o->keep) FH1_TRY(forward(b, i));
        FH1_TRY(REF(ref_bwd_layer)(b, i));
    }
    return embedding(b);
}

/* A pass that cannot be done right is refused. */
static fh1_status check(const fh1_engine *e, const fh1_model *m, const fh1_batch *b, const fh1_backward *o)
{
    if (!b->labels && !o->dlogits)
        return fh1_hint(FH1_BAD("a backward pass without labels"), "give the labels of the batch (-100: none)");
    if (e->variants & FH1_VAR_PADS_IN_MIXER)
        return fh1_hint(FH1_BAD("the variant pads_in_mixer has no backward pass"), "take the padding away");
    const fh1_lora *const ends[] = {m->embed_lora, m->head_lora};
    for (int i = 0; i < 2; ++i)
        if (ends[i] && (ends[i]->f || ends[i]->next))
            return fh1_hint(FH1_BAD("DoRA, or two adapters on one module, has no backward pass"), "merge it first");
    for (int64_t l = 0; l < m->config.n_layers; ++l)
        for (int id = 0; id < FH1_TAP_LAYER; ++id) {
            const fh1_lora *a = m->layers[l].lora[id];
            if (a && (a->f || a->next))
                return fh1_hint(FH1_BAD("DoRA, or two adapters on one module, has no backward pass"), "merge it first");
        }
    return NULL;
}

fh1_status REF(ref_backward)(fh1_engine *e, const fh1_model *m, const fh1_batch *batch, fh1_backward *o)
{
    REF_ENTER(e);
    o->loss = (double)NAN;
    o->n_labels = 0;
    o->peak = 0;
    FH1_TRY(check(e, m, batch, o));
    REF(ref_bwd)
    b = {.k = {.e = e, .m = m, .c = &m->config, .p = fh1_profile_for(e->profile, &m->config)}, .batch = batch, .o = o};
    FH1_TRY(fh1_tokens_pack(batch, m->config.V, NULL, &b.k.t));
    fh1_status s = run(&b);
    o->peak = b.peak;
    release(&b);
    return s;
}
