#include "oracle/model.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Axes of the weights. */
typedef enum { NONE, ONE, V, D, F, Q, KV, H, IN, C, K, SSM, N, R, X } dim;

/* What makes a tensor part of the model. */
typedef enum {
    ALWAYS,
    ATTENTION_BIAS,
    MLP_BIAS,
    PROJ_BIAS,
    PROJECTORS_BIAS,
    CONV_BIAS,
    RMS_NORM,
    UNTIED,
    MLP_NORM,
    ATTENTION_NORM
} need;

typedef struct {
    const char *name; /* behind "model.layers.<i>." or "backbone.layers.<i>." for those of a layer */
    size_t offset;    /* in fh1_layer, or in fh1_model */
    need when;
    dim shape[3];
} entry;

#define L(field) offsetof(fh1_layer, field)
#define M(field) offsetof(fh1_model, field)

/* In the order of the library's state_dict. */
static const entry h1_first = {"model.embed_tokens.weight", M(embed), ALWAYS, {V, D, NONE}};
static const entry h1_layer[] = {
    {"feed_forward.gate_proj.weight", L(gate_w), ALWAYS, {F, D, NONE}},
    {"feed_forward.gate_proj.bias", L(gate_b), MLP_BIAS, {F, NONE, NONE}},
    {"feed_forward.up_proj.weight", L(up_w), ALWAYS, {F, D, NONE}},
    {"feed_forward.up_proj.bias", L(up_b), MLP_BIAS, {F, NONE, NONE}},
    {"feed_forward.down_proj.weight", L(down_w), ALWAYS, {D, F, NONE}},
    {"feed_forward.down_proj.bias", L(down_b), MLP_BIAS, {D, NONE, NONE}},
    {"mamba.dt_bias", L(dt_bias), ALWAYS, {H, NONE, NONE}},
    {"mamba.A_log", L(A_log), ALWAYS, {H, NONE, NONE}},
    {"mamba.D", L(D), ALWAYS, {H, NONE, NONE}},
    {"mamba.conv1d.weight", L(conv_w), ALWAYS, {C, ONE, K}},
    {"mamba.conv1d.bias", L(conv_b), CONV_BIAS, {C, NONE, NONE}},
    {"mamba.in_proj.weight", L(in_w), ALWAYS, {IN, D, NONE}},
    {"mamba.in_proj.bias", L(in_b), PROJ_BIAS, {IN, NONE, NONE}},
    {"mamba.norm.weight", L(norm), RMS_NORM, {SSM, NONE, NONE}},
    {"mamba.out_proj.weight", L(out_w), ALWAYS, {D, SSM, NONE}},
    {"mamba.out_proj.bias", L(out_b), PROJECTORS_BIAS, {D, NONE, NONE}},
    {"self_attn.q_proj.weight", L(q_w), ALWAYS, {Q, D, NONE}},
    {"self_attn.q_proj.bias", L(q_b), ATTENTION_BIAS, {Q, NONE, NONE}},
    {"self_attn.k_proj.weight", L(k_w), ALWAYS, {KV, D, NONE}},
    {"self_attn.k_proj.bias", L(k_b), ATTENTION_BIAS, {KV, NONE, NONE}},
    {"self_attn.v_proj.weight", L(v_w), ALWAYS, {KV, D, NONE}},
    {"self_attn.v_proj.bias", L(v_b), ATTENTION_BIAS, {KV, NONE, NONE}},
    {"self_attn.o_proj.weight", L(o_w), ALWAYS, {D, Q, NONE}},
    {"self_attn.o_proj.bias", L(o_b), ATTENTION_BIAS, {D, NONE, NONE}},
    {"input_layernorm.weight", L(input_layernorm), ALWAYS, {D, NONE, NONE}},
    {"attn_layernorm.weight", L(attn_layernorm), ATTENTION_NORM, {D, NONE, NONE}},
    {"pre_ff_layernorm.weight", L(pre_ff_layernorm), MLP_NORM, {D, NONE, NONE}},
};
static const entry h1_last[] = {
    {"model.final_layernorm.weight", M(final_layernorm), ALWAYS, {D, NONE, NONE}},
    {"lm_head.weight", M(lm_head), UNTIED, {V, D, NONE}},
};

static const entry mamba_first = {"backbone.embeddings.weight", M(embed), ALWAYS, {V, D, NONE}};
static const entry mamba_layer[] = {
    {"norm.weight", L(input_layernorm), ALWAYS, {D, NONE, NONE}},
    {"mixer.A_log", L(A_log), ALWAYS, {H, N, NONE}},
    {"mixer.D", L(D), ALWAYS, {H, NONE, NONE}},
    {"mixer.conv1d.weight", L(conv_w), ALWAYS, {C, ONE, K}},
    {"mixer.conv1d.bias", L(conv_b), CONV_BIAS, {C, NONE, NONE}},
    {"mixer.in_proj.weight", L(in_w), ALWAYS, {IN, D, NONE}},
    {"mixer.in_proj.bias", L(in_b), PROJ_BIAS, {IN, NONE, NONE}},
    {"mixer.x_proj.weight", L(x_w), ALWAYS, {X, SSM, NONE}},
    {"mixer.dt_proj.weight", L(dt_w), ALWAYS, {SSM, R, NONE}},
    {"mixer.dt_proj.bias", L(dt_bias), ALWAYS, {H, NONE, NONE}},
    {"mixer.out_proj.weight", L(out_w), ALWAYS, {D, SSM, NONE}},
    {"mixer.out_proj.bias", L(out_b), PROJECTORS_BIAS, {D, NONE, NONE}},
};
static const entry mamba_last[] = {
    {"backbone.norm_f.weight", M(final_layernorm), ALWAYS, {D, NONE, NONE}},
    {"lm_head.weight", M(lm_head), UNTIED, {V, D, NONE}},
};

enum { N_LAST = 2 };

/* The tensors of a family. */
typedef struct {
    const entry *first, *of_layer, *last;
    int n_of_layer;
} checkpoint;

static const checkpoint checkpoints[] = {
    [FH1_FALCON_H1] = {&h1_first, h1_layer, h1_last, sizeof h1_layer / sizeof *h1_layer},
    [FH1_FALCON_MAMBA] = {&mamba_first, mamba_layer, mamba_last, sizeof mamba_layer / sizeof *mamba_layer},
};

static int64_t extent(const fh1_config *c, dim d)
{
    switch (d) {
    case V: return c->V;
    case D: return c->D;
    case F: return c->F;
    case Q: return c->Hq * c->A;
    case KV: return c->Hkv * c->A;
    case H: return c->H;
    case IN: return fh1_in_proj_dim(c);
    case C: return fh1_conv_dim(c);
    case K: return c->K;
    case SSM: return c->d_ssm;
    case N: return c->N;
    case R: return c->R;
    case X: return fh1_x_proj_dim(c);
    default: return 1;
    }
}

static bool wanted(const fh1_config *c, need n)
{
    switch (n) {
    case ATTENTION_BIAS: return c->attention_bias;
    case MLP_BIAS: return c->mlp_bias;
    case PROJ_BIAS: return c->mamba_proj_bias;
    case PROJECTORS_BIAS: return c->projectors_bias;
    case CONV_BIAS: return c->mamba_conv_bias;
    case RMS_NORM: return c->mamba_rms_norm;
    case UNTIED: return !c->tied;
    case MLP_NORM: return c->block != FH1_BLOCK_SAM;
    case ATTENTION_NORM: return c->block == FH1_BLOCK_S_A_M;
    default: return true;
    }
}

/* What config.json says where a need is there (or not), NULL for ALWAYS. */
static const char *key_of(const fh1_config *c, need n, bool there)
{
    const bool mamba = c->family == FH1_FALCON_MAMBA;
    switch (n) {
    case ATTENTION_BIAS: return there ? "attention_bias = true" : "attention_bias = false";
    case MLP_BIAS: return there ? "mlp_bias = true" : "mlp_bias = false";
    case PROJ_BIAS:
        if (mamba) return there ? "use_bias = true" : "use_bias = false";
        return there ? "mamba_proj_bias = true" : "mamba_proj_bias = false";
    case PROJECTORS_BIAS:
        if (mamba) return there ? "use_bias = true" : "use_bias = false";
        return there ? "projectors_bias = true" : "projectors_bias = false";
    case CONV_BIAS:
        if (mamba) return there ? "use_conv_bias = true" : "use_conv_bias = false";
        return there ? "mamba_conv_bias = true" : "mamba_conv_bias = false";
    case RMS_NORM: return there ? "mamba_rms_norm = true" : "mamba_rms_norm = false";
    case UNTIED: return there ? "tie_word_embeddings = false" : "tie_word_embeddings = true";
    case MLP_NORM: return there ? "fh1_block other than SAM" : "fh1_block = SAM";
    case ATTENTION_NORM: return there ? "fh1_block = S_A_M" : "fh1_block other than S_A_M";
    default: return NULL;
    }
}

/* Visits the entries that the config asks for; layer is -1 for those of the whole model. */
typedef fh1_status (*entry_visit)(void *user, const entry *e, int64_t layer, const char *name, int rank,
                                  const int64_t *shape);

static fh1_status visit_entry(const fh1_config *c, const entry *e, int64_t layer, entry_visit visit, void *user)
{
    char name[128];
    int64_t shape[3];
    int rank = 0;
    if (!wanted(c, e->when)) return NULL;
    for (; rank < 3 && e->shape[rank] != NONE; rank++) shape[rank] = extent(c, e->shape[rank]);
    if (layer < 0) snprintf(name, sizeof name, "%s", e->name);
    else snprintf(name, sizeof name, "%s.%lld.%s", fh1_layers_module(c->family), (long long)layer, e->name);
    return visit(user, e, layer, name, rank, shape);
}

static fh1_status visit_entries(const fh1_config *c, entry_visit visit, void *user)
{
    const checkpoint *f = &checkpoints[c->family];
    FH1_TRY(visit_entry(c, f->first, -1, visit, user));
    for (int64_t i = 0; i < c->n_layers; i++)
        for (int k = 0; k < f->n_of_layer; k++) FH1_TRY(visit_entry(c, &f->of_layer[k], i, visit, user));
    for (int k = 0; k < N_LAST; k++) FH1_TRY(visit_entry(c, &f->last[k], -1, visit, user));
    return NULL;
}

typedef struct {
    fh1_weight_visit visit;
    void *user;
} outer_visit;

static fh1_status pass_on(void *user, const entry *e, int64_t layer, const char *name, int rank, const int64_t *shape)
{
    const outer_visit *o = user;
    (void)e;
    (void)layer;
    return o->visit(o->user, name, rank, shape);
}

bool fh1_weight_is_matrix(const char *name, int rank)
{
    const char *last = strrchr(name, '.');
    return rank == 2 && !(last && strcmp(last, ".A_log") == 0);
}

fh1_status fh1_config_weights(const fh1_config *c, fh1_weight_visit visit, void *user)
{
    outer_visit o = {visit, user};
    return visit_entries(c, pass_on, &o);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const fh1_weight *)a)->name, ((const fh1_weight *)b)->name);
}

static fh1_weight *find(const fh1_model *m, const char *name)
{
    fh1_weight key = {.name = (char *)name};
    if (m->n_weights == 0) return NULL;
    return bsearch(&key, m->weights, (size_t)m->n_weights, sizeof key, by_name);
}

typedef struct {
    fh1_model *m;
    bool *used; /* per weight */
} binding;

static fh1_status missing(const fh1_config *c, const entry *e, int64_t layer, const char *name)
{
    fh1_status s = fh1_where(FH1_BAD("a tensor is missing"), "%s", name);
    const char *key = key_of(c, e->when, true);
    if (key) return fh1_hint(s, "%s in config.json asks for it", key);
    if (layer < 0) return fh1_hint(s, "every %s model has it", fh1_family_name(c->family));
    return fh1_hint(s, "every layer has it, and num_hidden_layers is %lld", (long long)c->n_layers);
}

static fh1_status check_one(void *user, const entry *e, int64_t layer, const char *name, int rank, const int64_t *shape)
{
    binding *b = user;
    fh1_weight *w = find(b->m, name);
    if (!w) return missing(&b->m->config, e, layer, name);
    b->used[w - b->m->weights] = true;
    if (!fh1_dtype_is_float(w->t.dtype)) {
        fh1_status s = fh1_where(FH1_BAD("a weight is not of a float type"), "%s", name);
        return fh1_found(fh1_expected(s, "F64, F32, BF16 or F16"), "%s", fh1_dtype_name(w->t.dtype));
    }
    fh1_tensor want = fh1_view(NULL, w->t.dtype, rank, shape);
    if (!fh1_same_shape(&want, &w->t)) {
        char expected[128], found[128];
        fh1_status s = fh1_where(FH1_BAD("a weight has another shape than config.json says"), "%s", name);
        s = fh1_expected(s, "%s", fh1_shape_text(&want, expected, sizeof expected));
        return fh1_found(s, "%s", fh1_shape_text(&w->t, found, sizeof found));
    }
    return NULL;
}

static fh1_status assign_one(void *user, const entry *e, int64_t layer, const char *name, int rank,
                             const int64_t *shape)
{
    fh1_model *m = user;
    char *base = layer < 0 ? (char *)m : (char *)&m->layers[layer];
    (void)rank;
    (void)shape;
    memcpy(base + e->offset, &find(m, name)->t, sizeof(fh1_tensor));
    return NULL;
}

/* Why a tensor that nobody asked for may be there. */
static fh1_status hint_extra(fh1_status s, const fh1_config *c, const char *name)
{
    const checkpoint *f = &checkpoints[c->family];
    char *rest;
    const char *layers = fh1_layers_module(c->family);
    const size_t prefix = strlen(layers);
    if (strncmp(name, layers, prefix) == 0 && name[prefix] == '.') {
        long long layer = strtoll(name + prefix + 1, &rest, 10);
        if (layer >= c->n_layers)
            return fh1_hint(s, "num_hidden_layers is %lld in config.json", (long long)c->n_layers);
        for (int k = 0; k < f->n_of_layer; k++)
            if (*rest == '.' && strcmp(rest + 1, f->of_layer[k].name) == 0 && f->of_layer[k].when != ALWAYS)
                return fh1_hint(s, "is %s in config.json right?", key_of(c, f->of_layer[k].when, false));
    }
    return fh1_hint(s, "remove it, or convert the file with the tool that wrote it");
}

/* A tied head may be stored too, if it says the same. */
static fh1_status check_stored_head(const fh1_model *m, const fh1_tensor *head)
{
    const char *embed = checkpoints[m->config.family].first->name;
    const fh1_tensor *e = &find(m, embed)->t;
    bool same = e->dtype == head->dtype && fh1_same_shape(e, head) && fh1_is_dense(e) && fh1_is_dense(head) &&
                memcmp(e->data, head->data, fh1_n_bytes(e)) == 0;
    if (same) return NULL;
    fh1_status s = fh1_where(FH1_BAD("a tied head is stored with other values than %s", embed), "lm_head.weight");
    return fh1_hint(s, "set tie_word_embeddings to false in config.json, or remove the tensor");
}

static fh1_status check_extra(const fh1_model *m, const bool *used)
{
    for (int64_t i = 0; i < m->n_weights; i++) {
        const fh1_weight *w = &m->weights[i];
        if (used[i]) continue;
        if (strcmp(w->name, "lm_head.weight") == 0) {
            FH1_TRY(check_stored_head(m, &w->t));
            continue;
        }
        fh1_status s = fh1_where(
            FH1_BAD("the tensor is not part of a %s model with this config", fh1_family_name(m->config.family)), "%s",
            w->name);
        return hint_extra(s, &m->config, w->name);
    }
    return NULL;
}

/* config.json may round the vocabulary up or down; the table decides. */
static void take_vocabulary(fh1_model *m)
{
    const fh1_weight *w = find(m, checkpoints[m->config.family].first->name);
    if (w && w->t.rank == 2 && w->t.shape[0] > 0) m->config.V = w->t.shape[0];
}

static fh1_status check_weights(fh1_model *m, bool *used)
{
    binding b = {m, used};
    for (int64_t i = 1; i < m->n_weights; i++)
        if (strcmp(m->weights[i - 1].name, m->weights[i].name) == 0)
            return fh1_where(FH1_BAD("a tensor appears twice"), "%s", m->weights[i].name);
    take_vocabulary(m);
    FH1_TRY(fh1_config_check(&m->config));
    FH1_TRY(visit_entries(&m->config, check_one, &b));
    return check_extra(m, used);
}

static void free_tables(fh1_model *m)
{
    for (int64_t i = 0; i < m->n_weights; i++) free(m->weights[i].name);
    free(m->weights);
    free(m->layers);
    m->weights = NULL;
    m->layers = NULL;
    m->n_weights = 0;
}

fh1_status fh1_model_bind(fh1_model *m, const fh1_config *config, fh1_weight *weights, int64_t n)
{
    fh1_config_copy(&m->config, config);
    m->weights = weights;
    m->n_weights = n;
    m->layers = NULL;
    if (n > 0) qsort(weights, (size_t)n, sizeof *weights, by_name);

    bool *used = calloc((size_t)n + 1, sizeof *used);
    fh1_status s = used ? check_weights(m, used) : fh1_no_memory((size_t)n, "the weight table");
    free(used);
    if (!s) { /* every layer has been found, so n_layers is no mere claim */
        m->layers = calloc((size_t)m->config.n_layers, sizeof *m->layers);
        if (!m->layers) s = fh1_no_memory((size_t)m->config.n_layers * sizeof *m->layers, "the layer table");
    }
    if (s) {
        free_tables(m);
        return s;
    }
    s = visit_entries(&m->config, assign_one, m);
    if (m->config.tied) m->lm_head = m->embed;
    return s;
}

fh1_linear fh1_model_linear(fh1_model *m, fh1_tap_id id, int64_t layer)
{
    if (id == FH1_TAP_LOGITS) return (fh1_linear){&m->lm_head, NULL, &m->head_lora};
    fh1_layer *l = &m->layers[layer];
    fh1_linear x = {NULL, NULL, &l->lora[id]};
    switch (id) {
    case FH1_TAP_Q_PROJ: x.w = &l->q_w, x.b = &l->q_b; break;
    case FH1_TAP_K_PROJ: x.w = &l->k_w, x.b = &l->k_b; break;
    case FH1_TAP_V_PROJ: x.w = &l->v_w, x.b = &l->v_b; break;
    case FH1_TAP_O_PROJ: x.w = &l->o_w, x.b = &l->o_b; break;
    case FH1_TAP_IN_PROJ: x.w = &l->in_w, x.b = &l->in_b; break;
    case FH1_TAP_X_PROJ: x.w = &l->x_w; break;
    case FH1_TAP_DT: x.w = &l->dt_w, x.b = &l->dt_bias; break;
    case FH1_TAP_OUT_PROJ: x.w = &l->out_w, x.b = &l->out_b; break;
    case FH1_TAP_GATE_PROJ: x.w = &l->gate_w, x.b = &l->gate_b; break;
    case FH1_TAP_UP_PROJ: x.w = &l->up_w, x.b = &l->up_b; break;
    default: x.w = &l->down_w, x.b = &l->down_b; break;
    }
    return x;
}

typedef struct {
    fh1_model *m;
    const char *name;
    fh1_tensor *slot;
} slot_search;

static fh1_status is_slot(void *user, const entry *e, int64_t layer, const char *name, int rank, const int64_t *shape)
{
    slot_search *s = user;
    (void)rank;
    (void)shape;
    if (strcmp(name, s->name) != 0) return NULL;
    char *base = layer < 0 ? (char *)s->m : (char *)&s->m->layers[layer];
    s->slot = (fh1_tensor *)(void *)(base + e->offset);
    return NULL;
}

fh1_tensor *fh1_model_slot(fh1_model *m, const char *name)
{
    slot_search s = {m, name, NULL};
    if (strcmp(name, "lm_head.weight") == 0) return &m->lm_head;
    visit_entries(&m->config, is_slot, &s); /* is_slot never fails */
    return s.slot;
}

void fh1_model_free(fh1_model *m)
{
    free_tables(m);
    if (m->free_owner) m->free_owner(m->owner);
    m->owner = NULL;
    m->free_owner = NULL;
}
