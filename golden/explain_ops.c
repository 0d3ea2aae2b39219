/* What each tap depends on: the parameters and multipliers of its op, by family and block. */
#include "golden/explain_move.h"

static fh1_status of_mixer(gld_search *q, fh1_config *c, fh1_layer *l)
{
    const int64_t conv = fh1_conv_dim(c);
    static const char *const segment[] = {"ssm_multipliers[0] (z)", "ssm_multipliers[1] (x)", "ssm_multipliers[2] (B)",
                                          "ssm_multipliers[3] (C)", "ssm_multipliers[4] (dt)"};
    switch (q->r->id) {
    case FH1_TAP_CONV_ACT:
        for (int s = 1; s <= 3; ++s) FH1_TRY(gld_move_number(q, &c->m_ssm[s], segment[s], false));
        for (int64_t k = 0; k < c->K; ++k) FH1_TRY(gld_move_weight(q, &l->conv_w, "conv1d.weight", conv, c->K, k));
        return gld_move_weight(q, &l->conv_b, "conv1d.bias", conv, 1, 0);
    case FH1_TAP_DT:
        FH1_TRY(gld_move_number(q, &c->m_ssm[4], segment[4], false));
        FH1_TRY(gld_move_number(q, &c->dt_lo, "time_step_limit[0]", false));
        FH1_TRY(gld_move_number(q, &c->dt_hi, "time_step_limit[1]", false));
        return gld_move_weight(q, &l->dt_bias, "dt_bias", c->H, 1, 0);
    case FH1_TAP_CACHE_SSM: return gld_move_weight(q, &l->A_log, "A_log", c->H, 1, 0);
    case FH1_TAP_SSD:
        FH1_TRY(gld_move_weight(q, &l->D, "D", c->H, 1, 0));
        return gld_move_weight(q, &l->A_log, "A_log", c->H, 1, 0);
    case FH1_TAP_GATED:
        FH1_TRY(gld_move_number(q, &c->m_ssm[0], segment[0], false));
        FH1_TRY(gld_move_number(q, &c->eps, "rms_norm_eps", true));
        return gld_move_weight(q, &l->norm, "mamba.norm.weight", c->d_ssm, 1, 0);
    default: return NULL;
    }
}

/* Each column of a weight [parts, columns], while the cost allows. */
static fh1_status of_columns(gld_search *q, fh1_tensor *w, const char *name, int64_t parts, int64_t columns)
{
    if (2 * (double)columns * gld_replay_work(q->r->j, q->s) > fh1_rule.suspect_work) return NULL;
    for (int64_t k = 0; k < columns; ++k) FH1_TRY(gld_move_weight(q, w, name, parts, columns, k));
    return NULL;
}

/* Falcon-Mamba's: no multipliers, weightless norms inside, a rate for each element of the state. */
static fh1_status of_mamba_mixer(gld_search *q, fh1_config *c, fh1_layer *l)
{
    switch (q->r->id) {
    case FH1_TAP_CONV_ACT:
        FH1_TRY(of_columns(q, &l->conv_w, "conv1d.weight", c->d_ssm, c->K));
        return gld_move_weight(q, &l->conv_b, "conv1d.bias", c->d_ssm, 1, 0);
    case FH1_TAP_DT:
        FH1_TRY(gld_move_number(q, &c->mixer_eps, "mixer_rms_eps", true));
        FH1_TRY(gld_move_weight(q, &l->dt_bias, "dt_proj.bias", c->H, 1, 0));
        return of_columns(q, &l->dt_w, "dt_proj.weight", c->H, c->R);
    case FH1_TAP_SSD: FH1_TRY(gld_move_weight(q, &l->D, "D", c->H, 1, 0)); /* fall through */
    case FH1_TAP_CACHE_SSM:
        FH1_TRY(gld_move_number(q, &c->mixer_eps, "mixer_rms_eps", true));
        return of_columns(q, &l->A_log, "A_log", c->H, c->N);
    case FH1_TAP_GATED: return gld_move_input(q, FH1_TAP_IN_PROJ, "scale of the gate");
    case FH1_TAP_LAYER: return gld_move_input(q, FH1_TAP_OUT_PROJ, "scale of the mixer's output");
    default: return NULL;
    }
}

static fh1_status of_norm(gld_search *q, fh1_config *c, fh1_tensor *w, const char *name)
{
    FH1_TRY(gld_move_number(q, &c->eps, fh1_eps_key(c->family), true));
    return gld_move_weight(q, w, name, c->D, 1, 0);
}

static fh1_status of_linear(gld_search *q, fh1_config *c, const fh1_layer *l)
{
    static const fh1_tensor none = {0};
    switch (q->r->id) {
    case FH1_TAP_Q_PROJ: return gld_move_rows(q, "q_proj", &l->q_b);
    case FH1_TAP_K_PROJ: return gld_move_rows(q, "k_proj", &l->k_b);
    case FH1_TAP_V_PROJ: return gld_move_rows(q, "v_proj", &l->v_b);
    case FH1_TAP_O_PROJ: return gld_move_rows(q, "o_proj", &l->o_b);
    case FH1_TAP_IN_PROJ:
        if (c->family == FH1_FALCON_H1) FH1_TRY(gld_move_number(q, &c->m_ssm_in, "ssm_in_multiplier", false));
        return gld_move_rows(q, "in_proj", &l->in_b);
    case FH1_TAP_OUT_PROJ: return gld_move_rows(q, "out_proj", &l->out_b);
    case FH1_TAP_GATE_PROJ: return gld_move_rows(q, "gate_proj", &l->gate_b);
    case FH1_TAP_UP_PROJ: return gld_move_rows(q, "up_proj", &l->up_b);
    case FH1_TAP_DOWN_PROJ: return gld_move_rows(q, "down_proj", &l->down_b);
    case FH1_TAP_X_PROJ: return gld_move_rows(q, "x_proj", &none);
    case FH1_TAP_LOGITS:
        if (c->family == FH1_FALCON_H1) FH1_TRY(gld_move_number(q, &c->m_lm, "lm_head_multiplier", false));
        return gld_move_rows(q, "lm_head", &none);
    default: return NULL;
    }
}

/* Behind taps that were not recorded any multiplier may be it. */
static fh1_status of_chain(gld_search *q, fh1_config *c)
{
    const bool mamba = c->family == FH1_FALCON_MAMBA;
    const struct {
        double *at;
        const char *name;
        bool positive;
    } all[] = {
        {&c->eps, fh1_eps_key(c->family), true},
        {&c->mixer_eps, "mixer_rms_eps", true}, /* those two are all that Falcon-Mamba has */
        {&c->m_emb, "embedding_multiplier", false},
        {&c->m_attn_in, "attention_in_multiplier", false},
        {&c->m_key, "key_multiplier", false},
        {&c->m_attn_out, "attention_out_multiplier", false},
        {&c->m_ssm_in, "ssm_in_multiplier", false},
        {&c->m_ssm_out, "ssm_out_multiplier", false},
        {&c->m_ssm[0], "ssm_multipliers[0] (z)", false},
        {&c->m_ssm[1], "ssm_multipliers[1] (x)", false},
        {&c->m_ssm[2], "ssm_multipliers[2] (B)", false},
        {&c->m_ssm[3], "ssm_multipliers[3] (C)", false},
        {&c->m_ssm[4], "ssm_multipliers[4] (dt)", false},
        {&c->m_gate, "mlp_multipliers[0] (gate)", false},
        {&c->m_down, "mlp_multipliers[1] (down)", false},
        {&c->m_lm, "lm_head_multiplier", false},
        {&c->rope.theta, "rope_theta", true},
    };
    const int n = mamba ? 2 : sizeof all / sizeof *all;
    if (3 * n * gld_replay_work(q->r->j, q->s) > fh1_rule.suspect_work) return NULL;
    for (int i = 0; i < n; ++i)
        if (all[i].at != &c->mixer_eps || mamba) FH1_TRY(gld_move_number(q, all[i].at, all[i].name, all[i].positive));
    return NULL;
}

/* The multipliers with which the mixer's and attention's output enter the same sum. */
static fh1_status of_branches(gld_search *q, fh1_config *c)
{
    if (c->block != FH1_BLOCK_S_A_M) FH1_TRY(gld_move_number(q, &c->m_ssm_out, "ssm_out_multiplier", false));
    return gld_move_number(q, &c->m_attn_out, "attention_out_multiplier", false);
}

static fh1_status of_tap(gld_search *q)
{
    fh1_config *c = &q->model.config;
    const bool mamba = c->family == FH1_FALCON_MAMBA;
    fh1_layer *l = &q->layers[q->r->layer < 0 ? 0 : q->r->layer];
    switch (q->r->id) {
    case FH1_TAP_INPUT: return gld_move_number(q, &c->m_emb, "embedding_multiplier", false);
    case FH1_TAP_INPUT_LAYERNORM:
        return of_norm(q, c, &l->input_layernorm, mamba ? "norm.weight" : "input_layernorm.weight");
    case FH1_TAP_ATTN_LAYERNORM: return of_norm(q, c, &l->attn_layernorm, "attn_layernorm.weight");
    case FH1_TAP_PRE_FF_LAYERNORM: return of_norm(q, c, &l->pre_ff_layernorm, "pre_ff_layernorm.weight");
    case FH1_TAP_FINAL_LAYERNORM:
        return of_norm(q, c, &q->model.final_layernorm, mamba ? "norm_f.weight" : "final_layernorm.weight");
    case FH1_TAP_K_ROPE: FH1_TRY(gld_move_number(q, &c->m_key, "key_multiplier", false)); /* fall through */
    case FH1_TAP_Q_ROPE: return gld_move_number(q, &c->rope.theta, "rope_theta", true);
    case FH1_TAP_CONTEXT:
        FH1_TRY(gld_move_input(q, FH1_TAP_Q_ROPE, "scale of the attention scores"));
        return gld_move_input(q, FH1_TAP_V_PROJ, "scale of the values");
    case FH1_TAP_MID_SSM: return gld_move_number(q, &c->m_ssm_out, "ssm_out_multiplier", false);
    case FH1_TAP_MID: return of_branches(q, c);
    case FH1_TAP_ACT: return gld_move_number(q, &c->m_gate, "mlp_multipliers[0] (gate)", false);
    case FH1_TAP_LAYER:
        if (mamba) return of_mamba_mixer(q, c, l);
        if (c->block == FH1_BLOCK_SAM) FH1_TRY(of_branches(q, c));
        return gld_move_number(q, &c->m_down, "mlp_multipliers[1] (down)", false);
    default:
        if (fh1_tap_is_linear(q->r->id)) return of_linear(q, c, l);
        return mamba ? of_mamba_mixer(q, c, l) : of_mixer(q, c, l);
    }
}

fh1_status gld_move_all(gld_search *q)
{
    return q->s->far ? of_chain(q, &q->model.config) : of_tap(q);
}
