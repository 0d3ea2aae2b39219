/* Which op a wrong gradient points to. A backward pass runs from the loss to the embedding: the first wrong gradient
 * was made wrong by the op of its own parameter, or by one that stands between it and the parameter before it. */
#include "golden/gradcheck.h"

#include <stdio.h>
#include <string.h>

/* The parameters of a layer in backward order, and what stands between each and the one before it. */
static const struct {
    const char *module, *ops;
} places[] = {
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
enum { N_PLACES = sizeof places / sizeof *places };

static int place_of(const char *param)
{
    for (int i = 0; i < N_PLACES; ++i)
        if (strstr(param, places[i].module)) return i;
    return -1;
}

const char *gld_grad_points_to(const char *param)
{
    const int i = place_of(param);
    return i < 0 ? "its own op" : places[i].ops;
}

void gld_grad_point(fh1_tap_result *r, const char *param)
{
    const size_t used = strlen(r->reason);
    snprintf(r->reason + used, sizeof r->reason - used, "; look at %s", gld_grad_points_to(param));
}

/* The first module in backward order whose gradient reads the backward pass of the op that makes this tap. */
static const char *module_of(fh1_tap_id id)
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
    const int want = place_of(module_of(id));
    for (int64_t i = 0; i < g->n; ++i) {
        const fh1_param *p = &g->params[i];
        const bool of_layer = p->layer >= 0 && fh1_tap_is_per_layer(id);
        if (of_layer && p->layer > layer) continue;
        if (place_of(p->name) >= want || (of_layer && p->layer < layer)) return i;
    }
    return g->n - 1;
}
