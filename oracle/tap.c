#include "oracle/tap.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
    N_HEAD = FH1_TAP_INPUT_LAYERNORM, /* model-level taps before the layers */
    N_PER_LAYER = FH1_TAP_LAYER - FH1_TAP_INPUT_LAYERNORM + 1,
    N_CACHE = FH1_TAP_CACHE_SSM - FH1_TAP_CACHE_KEY + 1
};

#define NO_INPUT FH1_TAP_COUNT

/* The table of docs/taps.md. `name` is the whole name for model-level taps, what follows
 * "model.layers.<i>" or "backbone.layers.<i>" for per-layer taps, and what follows "cache.<i>" for cache taps. */
typedef struct {
    const char *name;
    fh1_tap_id input; /* of a linear tap */
    const char *definition;
} tap;

static const tap taps[FH1_TAP_COUNT] = {
    [FH1_TAP_EMBED] = {"model.embed_tokens", NO_INPUT, "table lookup, before embedding_multiplier"},
    [FH1_TAP_INPUT] = {"model.layers.0.input", NO_INPUT, "after embedding_multiplier"},
    [FH1_TAP_INPUT_LAYERNORM] = {".input_layernorm", NO_INPUT, "norm before both mixers"},
    [FH1_TAP_Q_PROJ] = {".self_attn.q_proj", FH1_TAP_INPUT_LAYERNORM, "queries, bias included"},
    [FH1_TAP_K_PROJ] = {".self_attn.k_proj", FH1_TAP_INPUT_LAYERNORM, "keys, before key_multiplier"},
    [FH1_TAP_V_PROJ] = {".self_attn.v_proj", FH1_TAP_INPUT_LAYERNORM, "values, as cached"},
    [FH1_TAP_Q_ROPE] = {".self_attn.q_rope", NO_INPUT, "queries after the rotation"},
    [FH1_TAP_K_ROPE] = {".self_attn.k_rope", NO_INPUT, "keys after key_multiplier and rotation, as cached"},
    [FH1_TAP_CONTEXT] = {".self_attn.context", NO_INPUT, "weighted values of all heads, input of o_proj"},
    [FH1_TAP_O_PROJ] = {".self_attn.o_proj", FH1_TAP_CONTEXT, "before attention_out_multiplier"},
    [FH1_TAP_IN_PROJ] = {".mamba.in_proj", FH1_TAP_INPUT_LAYERNORM,
                         "z, x, B, C, dt in this order, before ssm_multipliers"},
    [FH1_TAP_CONV_ACT] = {".mamba.conv_act", NO_INPUT, "x, B, C after conv, silu and mask"},
    [FH1_TAP_X_PROJ] = {".mamba.x_proj", FH1_TAP_CONV_ACT, "dt, B, C in this order"},
    [FH1_TAP_DT] = {".mamba.dt", NO_INPUT, "step size after bias, softplus and clamp"},
    [FH1_TAP_SSD] = {".mamba.ssd", NO_INPUT, "scan output including D*x, before the gate"},
    [FH1_TAP_GATED] = {".mamba.gated", NO_INPUT, "after the gate or the gated norm, input of out_proj"},
    [FH1_TAP_OUT_PROJ] = {".mamba.out_proj", FH1_TAP_GATED, "before ssm_out_multiplier"},
    [FH1_TAP_MID_SSM] = {".mid_ssm", NO_INPUT, "residual after the mixer (block S_A_M)"},
    [FH1_TAP_ATTN_LAYERNORM] = {".attn_layernorm", NO_INPUT, "norm before attention (block S_A_M)"},
    [FH1_TAP_MID] = {".mid", NO_INPUT, "residual after both mixers"},
    [FH1_TAP_PRE_FF_LAYERNORM] = {".pre_ff_layernorm", NO_INPUT, "norm before the MLP"},
    [FH1_TAP_GATE_PROJ] = {".feed_forward.gate_proj", FH1_TAP_PRE_FF_LAYERNORM, "before its multiplier"},
    [FH1_TAP_UP_PROJ] = {".feed_forward.up_proj", FH1_TAP_PRE_FF_LAYERNORM, "up projection"},
    [FH1_TAP_ACT] = {".feed_forward.act", NO_INPUT, "silu(gate) * up, input of down_proj"},
    [FH1_TAP_DOWN_PROJ] = {".feed_forward.down_proj", FH1_TAP_ACT, "before its multiplier"},
    [FH1_TAP_LAYER] = {"", NO_INPUT, "layer output, the residual after the MLP"},
    [FH1_TAP_FINAL_LAYERNORM] = {"model.final_layernorm", NO_INPUT, "norm before lm_head"},
    [FH1_TAP_LOGITS] = {"logits", FH1_TAP_FINAL_LAYERNORM, "after lm_head_multiplier"},
    [FH1_TAP_CACHE_KEY] = {".key", NO_INPUT, "keys after the step"},
    [FH1_TAP_CACHE_VALUE] = {".value", NO_INPUT, "values after the step"},
    [FH1_TAP_CACHE_CONV] = {".conv", NO_INPUT,
                            "last K-1 pre-conv columns of the row's document, oldest first, missing ones 0"},
    [FH1_TAP_CACHE_SSM] = {".ssm", NO_INPUT, "state after the last real token"},
    [FH1_TAP_LOSS] = {"loss", NO_INPUT, "mean over valid shifted labels"},
};

/* Falcon-Mamba's names, behind "backbone.layers.<i>" for per-layer taps; what is not here it does not have. */
static const tap mamba_taps[FH1_TAP_COUNT] = {
    [FH1_TAP_EMBED] = {"backbone.embeddings", NO_INPUT, "table lookup"},
    [FH1_TAP_INPUT_LAYERNORM] = {".norm", NO_INPUT, "norm before the mixer"},
    [FH1_TAP_IN_PROJ] = {".mixer.in_proj", FH1_TAP_INPUT_LAYERNORM, "x, z in this order"},
    [FH1_TAP_CONV_ACT] = {".mixer.conv_act", NO_INPUT, "x after conv, silu and mask, input of x_proj"},
    [FH1_TAP_X_PROJ] = {".mixer.x_proj", FH1_TAP_CONV_ACT, "dt, B, C in this order, before their norms"},
    [FH1_TAP_DT] = {".mixer.dt", NO_INPUT, "step size of each channel: norm, dt_proj, bias, softplus"},
    [FH1_TAP_SSD] = {".mixer.scan", NO_INPUT, "scan output including D*x, before the gate"},
    [FH1_TAP_GATED] = {".mixer.gated", NO_INPUT, "after the gate, input of out_proj"},
    [FH1_TAP_OUT_PROJ] = {".mixer.out_proj", FH1_TAP_GATED, "what the mixer adds to the residual"},
    [FH1_TAP_LAYER] = {"", NO_INPUT, "layer output, the residual"},
    [FH1_TAP_FINAL_LAYERNORM] = {"backbone.norm_f", NO_INPUT, "norm before lm_head"},
    [FH1_TAP_LOGITS] = {"logits", FH1_TAP_FINAL_LAYERNORM, "scores of the next token"},
    [FH1_TAP_CACHE_CONV] = {".conv", NO_INPUT,
                            "last K-1 pre-conv columns of the row's document, oldest first, missing ones 0"},
    [FH1_TAP_CACHE_SSM] = {".ssm", NO_INPUT, "state of each channel after the last real token"},
    [FH1_TAP_LOSS] = {"loss", NO_INPUT, "mean over valid shifted labels"},
};

/* The entry of a family, NULL where it has no such tap. */
static const tap *entry_of(fh1_family f, fh1_tap_id id)
{
    const tap *t = f == FH1_FALCON_MAMBA ? &mamba_taps[id] : &taps[id];
    return t->name && (f == FH1_FALCON_MAMBA || id != FH1_TAP_X_PROJ) ? t : NULL;
}

bool fh1_tap_is_cache(fh1_tap_id id)
{
    return id >= FH1_TAP_CACHE_KEY && id <= FH1_TAP_CACHE_SSM;
}

static bool in_layer(fh1_tap_id id)
{
    return id >= FH1_TAP_INPUT_LAYERNORM && id <= FH1_TAP_LAYER;
}

bool fh1_tap_is_per_layer(fh1_tap_id id)
{
    return in_layer(id) || fh1_tap_is_cache(id);
}

bool fh1_tap_is_linear(fh1_tap_id id)
{
    return taps[id].input != NO_INPUT;
}

bool fh1_tap_exists(const fh1_config *c, fh1_tap_id id)
{
    if (!entry_of(c->family, id)) return false;
    if (c->family == FH1_FALCON_MAMBA) return true;
    if (id == FH1_TAP_MID_SSM || id == FH1_TAP_ATTN_LAYERNORM) return c->block == FH1_BLOCK_S_A_M;
    if (id == FH1_TAP_MID || id == FH1_TAP_PRE_FF_LAYERNORM) return c->block != FH1_BLOCK_SAM;
    return true;
}

fh1_tap_id fh1_tap_stream(const fh1_config *c, int64_t layer, int64_t *of)
{
    *of = layer > 0 ? layer - 1 : 0;
    if (layer > 0) return FH1_TAP_LAYER;
    return fh1_tap_exists(c, FH1_TAP_INPUT) ? FH1_TAP_INPUT : FH1_TAP_EMBED;
}

fh1_tap_id fh1_tap_linear_input(const fh1_config *c, fh1_tap_id id)
{
    assert(fh1_tap_is_linear(id));
    const bool of_attention = id == FH1_TAP_Q_PROJ || id == FH1_TAP_K_PROJ || id == FH1_TAP_V_PROJ;
    if (of_attention && c->block == FH1_BLOCK_S_A_M) return FH1_TAP_ATTN_LAYERNORM;
    if (taps[id].input == FH1_TAP_PRE_FF_LAYERNORM && c->block == FH1_BLOCK_SAM) return FH1_TAP_INPUT_LAYERNORM;
    return taps[id].input;
}

const char *fh1_tap_definition(fh1_family family, fh1_tap_id id)
{
    const tap *t = entry_of(family, id);
    return t ? t->definition : taps[id].definition;
}

const char *fh1_tap_name(fh1_family family, fh1_tap_id id, int64_t layer, char buf[FH1_TAP_NAME_SIZE])
{
    const tap *t = entry_of(family, id);
    const char *name = t ? t->name : taps[id].name;
    const long long i = (long long)layer;
    if (in_layer(id)) snprintf(buf, FH1_TAP_NAME_SIZE, "%s.%lld%s", fh1_layers_module(family), i, name);
    else if (fh1_tap_is_cache(id)) snprintf(buf, FH1_TAP_NAME_SIZE, "cache.%lld%s", i, name);
    else snprintf(buf, FH1_TAP_NAME_SIZE, "%s", name);
    return buf;
}

const char *fh1_tap_linear_module(fh1_family family, fh1_tap_id id, int64_t layer, char buf[FH1_TAP_NAME_SIZE])
{
    if (id == FH1_TAP_LOGITS) snprintf(buf, FH1_TAP_NAME_SIZE, "lm_head");
    else fh1_tap_name(family, id, layer, buf);
    if (id == FH1_TAP_DT) strncat(buf, "_proj", FH1_TAP_NAME_SIZE - 1 - strlen(buf));
    return buf;
}

/* A layer number as it is printed: digits only, no leading zero, below n. */
static bool parse_layer(const char **s, int64_t n, int64_t *out)
{
    const char *p = *s;
    int64_t v = 0;
    if (*p < '0' || *p > '9' || (p[0] == '0' && p[1] >= '0' && p[1] <= '9')) return false;
    for (; *p >= '0' && *p <= '9'; p++) {
        v = v * 10 + (*p - '0');
        if (v >= n) return false; /* also keeps v far from overflow */
    }
    *s = p;
    *out = v;
    return true;
}

static bool find_tap(fh1_family family, const char *name, int first, int last, fh1_tap_id *id)
{
    for (int i = first; i <= last; i++) {
        const tap *t = entry_of(family, (fh1_tap_id)i);
        if (!t || strcmp(name, t->name) != 0) continue;
        *id = (fh1_tap_id)i;
        return true;
    }
    return false;
}

/* What follows "<module>.<layer number>" of a name. */
static bool behind_layer(const char *name, const char *module, int64_t n_layers, int64_t *layer, const char **rest)
{
    const size_t n = strlen(module);
    if (strncmp(name, module, n) != 0 || name[n] != '.') return false;
    *rest = name + n + 1;
    return parse_layer(rest, n_layers, layer);
}

bool fh1_tap_parse(fh1_family family, const char *name, int64_t n_layers, fh1_tap_id *id, int64_t *layer)
{
    const char *rest;
    *layer = 0;
    if (find_tap(family, name, 0, N_HEAD - 1, id) ||
        find_tap(family, name, FH1_TAP_FINAL_LAYERNORM, FH1_TAP_LOGITS, id) ||
        find_tap(family, name, FH1_TAP_LOSS, FH1_TAP_LOSS, id))
        return true;
    if (behind_layer(name, fh1_layers_module(family), n_layers, layer, &rest))
        return find_tap(family, rest, FH1_TAP_INPUT_LAYERNORM, FH1_TAP_LAYER, id);
    return behind_layer(name, "cache", n_layers, layer, &rest) &&
           find_tap(family, rest, FH1_TAP_CACHE_KEY, FH1_TAP_CACHE_SSM, id);
}

bool fh1_tap_parse_any(const char *name, int64_t n_layers, fh1_tap_id *id, int64_t *layer)
{
    return fh1_tap_parse(FH1_FALCON_H1, name, n_layers, id, layer) ||
           fh1_tap_parse(FH1_FALCON_MAMBA, name, n_layers, id, layer);
}

/* The place of a tap in its layer. The block S_A_M computes the mixer before attention. */
static int64_t place_in_layer(const fh1_config *c, fh1_tap_id id)
{
    enum {
        ATTENTION = FH1_TAP_O_PROJ - FH1_TAP_Q_PROJ + 1,     /* its taps */
        MIXER = FH1_TAP_ATTN_LAYERNORM - FH1_TAP_IN_PROJ + 1 /* the mixer's, and what follows before attention */
    };
    const bool sequential = c && c->block == FH1_BLOCK_S_A_M;
    const int64_t at = id - FH1_TAP_INPUT_LAYERNORM;
    if (sequential && id >= FH1_TAP_Q_PROJ && id <= FH1_TAP_O_PROJ) return at + MIXER;
    if (sequential && id >= FH1_TAP_IN_PROJ && id <= FH1_TAP_ATTN_LAYERNORM) return at - ATTENTION;
    return at;
}

int64_t fh1_tap_order(const fh1_config *c, fh1_tap_id id, int64_t layer, int64_t n_layers)
{
    int64_t after_layers = N_HEAD + N_PER_LAYER * n_layers;
    int64_t after_logits = after_layers + FH1_TAP_LOGITS - FH1_TAP_LAYER;
    if (id < FH1_TAP_INPUT_LAYERNORM) return id;
    if (in_layer(id)) return N_HEAD + N_PER_LAYER * layer + place_in_layer(c, id);
    if (id <= FH1_TAP_LOGITS) return after_layers + (id - FH1_TAP_FINAL_LAYERNORM);
    if (fh1_tap_is_cache(id)) return after_logits + N_CACHE * layer + (id - FH1_TAP_CACHE_KEY);
    return after_logits + N_CACHE * n_layers;
}

void fh1_taps_in_order(const fh1_config *c, fh1_tap_id ids[FH1_TAP_COUNT])
{
    for (int id = 0; id < FH1_TAP_COUNT; ++id) ids[fh1_tap_order(c, (fh1_tap_id)id, 0, 1)] = (fh1_tap_id)id;
}

/* The axes of one token (of one batch row for cache taps, n_cols slots). Units lie along the first of
 * them, `per_unit` entries each: more than one where a flat axis holds heads. */
typedef struct {
    int rank;
    int64_t dim[3];
    int64_t per_unit;
} layout;

static layout flat(int64_t n, int64_t per_unit)
{
    return (layout){1, {n, 0, 0}, per_unit};
}

static layout layout_of(const fh1_config *c, fh1_tap_id id, int64_t n_cols)
{
    switch (id) {
    case FH1_TAP_Q_PROJ: return flat(c->Hq * c->A, 1);
    case FH1_TAP_K_PROJ:
    case FH1_TAP_V_PROJ: return flat(c->Hkv * c->A, 1);
    case FH1_TAP_Q_ROPE: return (layout){2, {c->Hq, c->A, 0}, 1};
    case FH1_TAP_K_ROPE: return (layout){2, {c->Hkv, c->A, 0}, 1};
    case FH1_TAP_CONTEXT: return flat(c->Hq * c->A, c->A);
    case FH1_TAP_IN_PROJ: return flat(fh1_in_proj_dim(c), 1);
    case FH1_TAP_CONV_ACT: return flat(fh1_conv_dim(c), 1);
    case FH1_TAP_X_PROJ: return flat(fh1_x_proj_dim(c), 1);
    case FH1_TAP_DT: return flat(c->H, 1);
    case FH1_TAP_SSD: return flat(c->d_ssm, c->P);
    case FH1_TAP_GATED: return flat(c->d_ssm, 1);
    case FH1_TAP_GATE_PROJ:
    case FH1_TAP_UP_PROJ:
    case FH1_TAP_ACT: return flat(c->F, 1);
    case FH1_TAP_LOGITS: return flat(c->V, 1);
    case FH1_TAP_CACHE_KEY:
    case FH1_TAP_CACHE_VALUE: return (layout){3, {c->Hkv, n_cols, c->A}, 1};
    case FH1_TAP_CACHE_CONV: return (layout){2, {fh1_conv_dim(c), c->K - 1, 0}, 1};
    case FH1_TAP_CACHE_SSM:
        if (c->family == FH1_FALCON_MAMBA) return (layout){2, {c->d_ssm, c->N, 0}, 1};
        return (layout){3, {c->H, c->P, c->N}, 1};
    case FH1_TAP_LOSS: return (layout){0, {0}, 1};
    default: return flat(c->D, 1);
    }
}

static fh1_tensor shape_with(const layout *l, int n_lead, const int64_t *lead)
{
    int64_t shape[FH1_MAX_RANK];
    int rank = 0;
    for (int i = 0; i < n_lead; i++) shape[rank++] = lead[i];
    for (int i = 0; i < l->rank; i++) shape[rank++] = l->dim[i];
    return fh1_view(NULL, FH1_F64, rank, shape);
}

fh1_tensor fh1_tap_shape(const fh1_config *c, fh1_tap_id id, int64_t B, int64_t T, int64_t n_logits, int64_t n_cols)
{
    layout l = layout_of(c, id, n_cols);
    int64_t lead[2] = {B, id == FH1_TAP_LOGITS ? n_logits : T};
    return shape_with(&l, id == FH1_TAP_LOSS ? 0 : fh1_tap_is_cache(id) ? 1 : 2, lead);
}

fh1_tensor fh1_tap_packed_shape(const fh1_config *c, fh1_tap_id id, int64_t M)
{
    assert(!fh1_tap_is_cache(id) && id != FH1_TAP_LOSS);
    layout l = layout_of(c, id, 0);
    return shape_with(&l, 1, &M);
}

int64_t fh1_tap_units(const fh1_config *c, fh1_tap_id id)
{
    layout l = layout_of(c, id, 0);
    return l.rank == 0 ? 1 : l.dim[0] / l.per_unit;
}

int64_t fh1_tap_unit_of(const fh1_config *c, fh1_tap_id id, int64_t ordinal_in_token)
{
    assert(id != FH1_TAP_CACHE_KEY && id != FH1_TAP_CACHE_VALUE); /* S is not known here */
    layout l = layout_of(c, id, 0);
    if (l.rank == 0) return 0;
    int64_t inner = l.per_unit;
    for (int i = 1; i < l.rank; i++) inner *= l.dim[i];
    return ordinal_in_token / inner;
}

int64_t fh1_tap_unit_of_index(const fh1_config *c, fh1_tap_id id, const int64_t *index)
{
    layout l = layout_of(c, id, 0);
    if (l.rank == 0) return 0;
    int n_lead = fh1_tap_is_cache(id) ? 1 : 2;
    return index[n_lead] / l.per_unit;
}
