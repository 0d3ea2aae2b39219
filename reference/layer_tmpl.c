/* A layer of Falcon-H1: mixer, attention and MLP as its block puts them together (fh1_block, oracle/config.h). The
 * three blocks are three orders of the same pieces. */
#include "reference/call.h"
#include "reference/gauge_call.h"
#include "reference/linear.h"
#include "reference/residual.h"
#include "reference/rmsnorm.h"
#include "reference/swiglu.h"

#include <string.h>

/* n = norm(x) */
static fh1_status norm(REF(ref_call) * k, fh1_tap_id id, int64_t layer, const fh1_tensor *w)
{
    FH1_TRY(REF(ref_rmsnorm_fwd)(k->t.M, k->c->D, k->x, w, k->c->eps, k->p, k->n));
    REF_GAUGE(ref_gauge_norm(k, id, layer, k->x, w));
    if (REF_FAULT(ATTN_LAYERNORM_SKIPPED) && id == FH1_TAP_ATTN_LAYERNORM)
        memcpy(k->n, k->x, (size_t)(k->t.M * k->c->D) * sizeof *k->n);
    return REF(ref_tap)(k, id, layer, k->n);
}

/* The norm that each block begins with. */
static fh1_status first_norm(REF(ref_call) * k, int64_t layer)
{
    const int64_t n = k->t.M * k->c->D;
    FH1_TRY(norm(k, FH1_TAP_INPUT_LAYERNORM, layer, &k->m->layers[layer].input_layernorm));
    for (int64_t i = 0; REF_FAULT(ATTENTION_IN_ON_RESIDUAL) && i < n; ++i) k->x[i] *= (real)k->c->m_attn_in;
    if (REF_FAULT(RESIDUAL_FROM_NORM)) memcpy(k->x, k->n, (size_t)n * sizeof *k->x);
    return NULL;
}

/* x += what the branches give */
static fh1_status add(REF(ref_call) * k, fh1_tap_id id, int64_t layer, const REF(ref_branches) * b)
{
    REF_GAUGE(ref_gauge_residual(k, id, layer, b));
    REF(ref_residual_fwd)(k->t.M * k->c->D, b, k->p, k->x);
    return REF(ref_tap)(k, id, layer, k->x);
}

/* Reads n, assigns k->down, before its multiplier. */
static fh1_status mlp_fwd(REF(ref_call) * k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const int64_t M = k->t.M;
    real *in = REF_FAULT(MLP_READS_RESIDUAL) ? k->x : k->n;
    FH1_TRY(REF(ref_linear_tap)(k, FH1_TAP_GATE_PROJ, layer, M, NULL, in, &l->gate_w, &l->gate_b, 1, k->gate));
    FH1_TRY(REF(ref_linear_tap)(k, FH1_TAP_UP_PROJ, layer, M, NULL, in, &l->up_w, &l->up_b, 1, k->up));
    REF_GAUGE(ref_gauge_act(k, layer));
    REF(ref_swiglu_fwd)(M, c->F, k->gate, c->m_gate, k->up, k->p, k->gate);
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_ACT, layer, k->gate));
    return REF(ref_linear_tap)(k, FH1_TAP_DOWN_PROJ, layer, M, NULL, k->gate, &l->down_w, &l->down_b, 1, k->down);
}

/* The MLP behind the mixers, which SA_M and S_A_M end with. */
static fh1_status mlp_step(REF(ref_call) * k, int64_t layer)
{
    const REF(ref_branches) b = {.mlp = k->down, .m_mlp = k->c->m_down};
    FH1_TRY(norm(k, FH1_TAP_PRE_FF_LAYERNORM, layer, &k->m->layers[layer].pre_ff_layernorm));
    FH1_TRY(mlp_fwd(k, layer));
    return add(k, FH1_TAP_LAYER, layer, &b);
}

static fh1_status sa_m(REF(ref_call) * k, int64_t layer)
{
    const REF(ref_branches) b = {.a = k->mixer, .m_a = k->c->m_ssm_out, .b = k->attn, .m_b = k->c->m_attn_out};
    FH1_TRY(first_norm(k, layer));
    FH1_TRY(REF(ref_self_attn_fwd)(k, layer));
    FH1_TRY(REF(ref_mixer_fwd)(k, layer));
    FH1_TRY(add(k, FH1_TAP_MID, layer, &b));
    return mlp_step(k, layer);
}

/* What a port of the released block does to SAM: the MLP reads the stream behind the mixers. */
static fh1_status renorm(REF(ref_call) * k, int64_t layer)
{
    const REF(ref_branches) b = {.a = k->mixer, .m_a = k->c->m_ssm_out, .b = k->attn, .m_b = k->c->m_attn_out};
    const int64_t M = k->t.M, D = k->c->D;
    const fh1_tensor ones = {.data = NULL};
    const bool released = REF_FAULT(BLOCK_SAM_AS_RELEASED);
    if (!released && !REF_FAULT(SAM_MLP_READS_MID)) return NULL;
    memcpy(k->scaled, k->x, (size_t)(M * D) * sizeof *k->scaled);
    REF(ref_residual_fwd)(M * D, &b, k->p, k->scaled);
    const fh1_tensor *w = released ? &ones : &k->m->layers[layer].input_layernorm;
    return REF(ref_rmsnorm_fwd)(M, D, k->scaled, w, k->c->eps, k->p, k->n);
}

static fh1_status sam(REF(ref_call) * k, int64_t layer)
{
    const fh1_config *c = k->c;
    const REF(ref_branches) b = {k->mixer, k->attn, k->down, c->m_ssm_out, c->m_attn_out, c->m_down};
    FH1_TRY(first_norm(k, layer));
    FH1_TRY(REF(ref_self_attn_fwd)(k, layer));
    FH1_TRY(REF(ref_mixer_fwd)(k, layer));
    FH1_TRY(renorm(k, layer));
    FH1_TRY(mlp_fwd(k, layer));
    for (int64_t i = 0; REF_FAULT(SAM_RESIDUAL_TWICE) && i < k->t.M * c->D; ++i) k->x[i] += k->x[i];
    return add(k, FH1_TAP_LAYER, layer, &b);
}

static fh1_status mixer_step(REF(ref_call) * k, int64_t layer)
{
    const REF(ref_branches) b = {.a = k->mixer, .m_a = k->c->m_ssm_out};
    FH1_TRY(first_norm(k, layer));
    if (REF_FAULT(ATTENTION_READS_FIRST_NORM)) memcpy(k->down, k->n, (size_t)(k->t.M * k->c->D) * sizeof *k->down);
    FH1_TRY(REF(ref_mixer_fwd)(k, layer));
    return add(k, FH1_TAP_MID_SSM, layer, &b);
}

static fh1_status attention_step(REF(ref_call) * k, int64_t layer)
{
    const REF(ref_branches) b = {.a = k->attn, .m_a = k->c->m_attn_out};
    FH1_TRY(norm(k, FH1_TAP_ATTN_LAYERNORM, layer, &k->m->layers[layer].attn_layernorm));
    if (REF_FAULT(ATTENTION_READS_FIRST_NORM)) memcpy(k->n, k->down, (size_t)(k->t.M * k->c->D) * sizeof *k->n);
    FH1_TRY(REF(ref_self_attn_fwd)(k, layer));
    return add(k, FH1_TAP_MID, layer, &b);
}

static fh1_status s_a_m(REF(ref_call) * k, int64_t layer)
{
    if (REF_FAULT(BLOCK_S_A_M_AS_RELEASED)) return sa_m(k, layer);
    if (REF_FAULT(BLOCK_ATTENTION_FIRST)) FH1_TRY(attention_step(k, layer));
    FH1_TRY(mixer_step(k, layer));
    if (!REF_FAULT(BLOCK_ATTENTION_FIRST)) FH1_TRY(attention_step(k, layer));
    return mlp_step(k, layer);
}

fh1_status REF(ref_layer_fwd)(REF(ref_call) * k, int64_t layer)
{
    switch (k->c->block) {
    case FH1_BLOCK_SAM: return sam(k, layer);
    case FH1_BLOCK_S_A_M: return s_a_m(k, layer);
    default: return sa_m(k, layer);
    }
}
