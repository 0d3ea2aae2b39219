/* Which op a wrong gradient points to. A backward pass runs from the loss to the embedding: the first wrong gradient
 * was made wrong by the op of its own parameter, or by one that stands between it and the parameter before it. */
#include "golden/gradcheck.h"

#include <stdio.h>
#include <string.h>

/* The parameters of a family in backward order, and what stands between each and the one before it. */
typedef struct {
    const char *module, *ops;
} place;

static const place of_h1[] = {
    {"lm_head", "cross_entropy, lm_head (dw)"},
    {"model.final_layernorm", "lm_head (dx), the final rmsnorm (dw)"},
    {"feed_forward.down_proj", "residual, down multiplier, down_proj; what the layer above left of the stream (rmsnorm "
                               "dx)"},
    {"feed_forward.up_proj", "down_proj (dx), swiglu (dup), up_proj (dw)"},
    {"feed_forward.gate_proj", "swiglu (dgate), gate multiplier, gate_proj (dw)"},
    {"pre_ff_layernorm", "gate_proj and up_proj (dx), rmsnorm (dw)"},
    {"self_attn.o_proj", "rmsnorm (dx), residual, attention_out_multiplier, o_proj (dw)"},
    {"self_attn.v_proj", "o_proj (dx), attention (dv), v_proj (dw)"},
    {"self_attn.k_proj", "attention (dk), rope, key_multiplier, k_proj (dw)"},
    {"self_attn.q_proj", "attention (dq), rope, q_proj (dw)"},
    {"attn_layernorm", "q, k, v (dx), attention_in_multiplier, rmsnorm (dw)"},
    {"mamba.out_proj", "ssm_out_multiplier, out_proj (dw)"},
    {"mamba.norm", "out_proj (dx), gated_norm (dw)"},
    {"mamba.D", "out_proj (dx), gated_norm (dy), ssd_scan (dD)"},
    {"mamba.A_log", "gated_norm (dy), ssd_scan (dA_log)"},
    {"mamba.dt_bias", "ssd_scan (ddt), dt_softplus"},
    {"mamba.conv1d", "ssd_scan (dx, dB, dC), conv1d (dw)"},
    {"mamba.in_proj", "gated_norm (dz), conv1d (dx), dt_softplus (draw), ssm_multipliers, in_proj (dw)"},
    {"input_layernorm", "in_proj and q, k, v (dx), their in multipliers, rmsnorm (dw)"},
    {"model.embed_tokens", "input_layernorm (dx), embedding_multiplier, embed; the share of a tied head"},
};

static const place of_mamba[] = {
    {"lm_head", "cross_entropy, lm_head (dw)"},
    {"backbone.norm_f", "lm_head (dx), the final rmsnorm (dw)"},
    {"mixer.out_proj", "residual; what the layer above left of the stream (rmsnorm dx); out_proj (dw)"},
    {"mixer.D", "out_proj (dx), gated_norm (dy), selective_scan (dD)"},
    {"mixer.A_log", "gated_norm (dy), selective_scan (dA_log)"},
    {"mixer.dt_proj", "selective_scan (ddt), dt_softplus, the norm of dt, dt_proj (dw)"},
    {"mixer.x_proj", "dt_proj (dx), selective_scan (dB, dC), the norms of dt, B and C (rmsnorm dx), x_proj (dw)"},
    {"mixer.conv1d", "selective_scan (dx), x_proj (dx), conv1d (dw)"},
    {"mixer.in_proj", "gated_norm (dz), conv1d (dx), in_proj (dw)"},
    {".norm.weight", "in_proj (dx), rmsnorm (dw)"},
    {"backbone.embeddings", "norm (dx), embed; the share of a tied head"},
};

static const struct {
    const place *places;
    int n;
} families[] = {
    [FH1_FALCON_H1] = {of_h1, sizeof of_h1 / sizeof *of_h1},
    [FH1_FALCON_MAMBA] = {of_mamba, sizeof of_mamba / sizeof *of_mamba},
};

static int place_of(fh1_family f, const char *param)
{
    for (int i = 0; i < families[f].n; ++i)
        if (strstr(param, families[f].places[i].module)) return i;
    return -1;
}

/* A name of its own tells the family; that of a head is of both. */
static const place *place_named(const char *param)
{
    const fh1_family f = strstr(param, "backbone.") ? FH1_FALCON_MAMBA : FH1_FALCON_H1;
    const int i = place_of(f, param);
    return i < 0 ? NULL : &families[f].places[i];
}

const char *gld_grad_points_to(const char *param)
{
    const place *p = place_named(param);
    return p ? p->ops : "its own op";
}

void gld_grad_point(fh1_tap_result *r, const char *param)
{
    const size_t used = strlen(r->reason);
    snprintf(r->reason + used, sizeof r->reason - used, "; look at %s", gld_grad_points_to(param));
}

/* The first module in backward order whose gradient reads the backward pass of the op that makes this tap. */
static const char *module_of_mamba(fh1_tap_id id)
{
    switch (id) {
    case FH1_TAP_LOSS:
    case FH1_TAP_LOGITS: return "lm_head";
    case FH1_TAP_FINAL_LAYERNORM: return "backbone.norm_f";
    case FH1_TAP_GATED:
    case FH1_TAP_SSD: return "mixer.D";
    case FH1_TAP_DT: return "mixer.dt_proj";
    case FH1_TAP_X_PROJ: return "mixer.x_proj";
    case FH1_TAP_CONV_ACT: return "mixer.conv1d";
    case FH1_TAP_IN_PROJ: return "mixer.in_proj";
    case FH1_TAP_INPUT_LAYERNORM: return ".norm.weight";
    case FH1_TAP_EMBED:
    case FH1_TAP_INPUT: return "backbone.embeddings";
    default: return "mixer.out_proj"; /* the residual */
    }
}

static const char *module_of_h1(fh1_tap_id id)
{
    switch (id) {
    case FH1_TAP_LOSS:
    case FH1_TAP_LOGITS: return "lm_head";
    case FH1_TAP_FINAL_LAYERNORM: return "model.final_layernorm";
    case FH1_TAP_LAYER:
    case FH1_TAP_DOWN_PROJ: return "feed_forward.down_proj";
    case FH1_TAP_ACT:
    case FH1_TAP_UP_PROJ: return "feed_forward.up_proj";
    case FH1_TAP_GATE_PROJ: return "feed_forward.gate_proj";
    case FH1_TAP_PRE_FF_LAYERNORM: return "pre_ff_layernorm";
    case FH1_TAP_MID:
    case FH1_TAP_O_PROJ: return "self_attn.o_proj";
    case FH1_TAP_CONTEXT:
    case FH1_TAP_V_PROJ: return "self_attn.v_proj";
    case FH1_TAP_K_ROPE:
    case FH1_TAP_K_PROJ: return "self_attn.k_proj";
    case FH1_TAP_Q_ROPE:
    case FH1_TAP_Q_PROJ: return "self_attn.q_proj";
    case FH1_TAP_ATTN_LAYERNORM: return "attn_layernorm";
    case FH1_TAP_MID_SSM:
    case FH1_TAP_OUT_PROJ: return "mamba.out_proj";
    case FH1_TAP_GATED: return "mamba.norm";
    case FH1_TAP_SSD: return "mamba.D";
    case FH1_TAP_DT: return "mamba.dt_bias";
    case FH1_TAP_CONV_ACT: return "mamba.conv1d";
    case FH1_TAP_IN_PROJ: return "mamba.in_proj";
    case FH1_TAP_INPUT_LAYERNORM: return "input_layernorm";
    default: return "model.embed_tokens";
    }
}

int64_t gld_grad_first_of(const fh1_grads *g, fh1_tap_id id, int64_t layer)
{
    const bool mamba = fh1_grads_find(g, "backbone.norm_f.weight") >= 0;
    const fh1_family f = mamba ? FH1_FALCON_MAMBA : FH1_FALCON_H1;
    const int want = place_of(f, mamba ? module_of_mamba(id) : module_of_h1(id));
    for (int64_t i = 0; i < g->n; ++i) {
        const fh1_param *p = &g->params[i];
        const bool of_layer = p->layer >= 0 && fh1_tap_is_per_layer(id);
        if (of_layer && p->layer > layer) continue;
        if (place_of(f, p->name) >= want || (of_layer && p->layer < layer)) return i;
    }
    return g->n - 1;
}
