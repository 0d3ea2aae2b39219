/* A layer of a decode step in fused products. With a sink the kernels store what they would else keep to themselves;
 * what a sink changes there is taken up by the separate kernels, from that place on. */
#include "cuda/call.h"
#include "cuda/decode_linear.cuh"

namespace CU_NS
{
namespace
{

cu_shown rows_of(const cu_call *call, cu_part p, int64_t width)
{
    return {call->w->type, cu_part_of(call, p), call->t.M, width, 0, width, NULL};
}

void *if_shown(const cu_call *call, cu_part p)
{
    return call->sink ? cu_part_of(call, p) : NULL;
}

/* The stream before a fused sum, should a sink change a term of it. */
fh1_status put_aside(cu_call *call)
{
    const size_t bytes = static_cast<size_t>(call->t.M * call->c->D) * cu_size(call->w->type);
    if (!call->sink) return NULL;
    return cu_status(cudaMemcpyAsync(cu_part_of(call, CU_ASIDE), cu_part_of(call, CU_X), bytes,
                                     cudaMemcpyDeviceToDevice, call->k->stream),
                     "keeping the residual stream");
}

fh1_status take_back(cu_call *call)
{
    const size_t bytes = static_cast<size_t>(call->t.M * call->c->D) * cu_size(call->w->type);
    return cu_status(cudaMemcpyAsync(cu_part_of(call, CU_X), cu_part_of(call, CU_ASIDE), bytes,
                                     cudaMemcpyDeviceToDevice, call->k->stream),
                     "restoring the residual stream");
}

fh1_status norm_in_qkv(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const cu_shown n = rows_of(call, CU_N, c->D);
    bool changed = false;
    cu_norm_in_qkv a = {};
    a.type = call->w->type;
    a.M = call->t.M;
    a.D = static_cast<int>(c->D);
    a.n_in = static_cast<int>(fh1_in_proj_dim(c));
    a.n_qkv = static_cast<int>((c->Hq + 2 * c->Hkv) * c->A);
    a.x = cu_part_of(call, CU_X);
    a.norm = l->input_layernorm;
    a.eps = static_cast<float>(c->eps);
    a.w = l->in_qkv;
    a.b = l->in_qkv_b;
    a.alpha_in = static_cast<float>(c->m_ssm_in);
    a.alpha_qkv = static_cast<float>(c->m_attn_in);
    a.y = call->proj;
    a.ldy = call->ld_proj;
    a.n = if_shown(call, CU_N);
    FH1_TRY(cu_norm_in_qkv_fwd(call->k, &a));
    FH1_TRY(cu_call_tap(call, FH1_TAP_INPUT_LAYERNORM, layer, &n, &changed));
    if (!changed) return NULL;
    FH1_TRY(cu_call_in_proj(call, layer));
    return cu_call_qkv(call, layer);
}

fh1_status out_o(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const cu_shown x = rows_of(call, CU_X, c->D), mixer = rows_of(call, CU_MIXER, c->D),
                   attn = rows_of(call, CU_ATTN, c->D);
    bool changed = false;
    cu_out_o a = {};
    a.type = call->w->type;
    a.M = call->t.M;
    a.D = static_cast<int>(c->D);
    a.d_ssm = static_cast<int>(c->d_ssm);
    a.d_attn = static_cast<int>(c->Hq * c->A);
    a.gated = cu_part_of(call, CU_GATED);
    a.context = cu_part_of(call, CU_CONTEXT);
    a.out = l->out;
    a.o = l->o;
    a.out_b = l->out_b;
    a.o_b = l->o_b;
    a.m_mixer = static_cast<float>(c->m_ssm_out);
    a.m_attn = static_cast<float>(c->m_attn_out);
    a.x = x.p;
    a.mixer = if_shown(call, CU_MIXER);
    a.attn = if_shown(call, CU_ATTN);
    FH1_TRY(put_aside(call));
    FH1_TRY(cu_out_o_fwd(call->k, &a));
    FH1_TRY(cu_call_tap(call, FH1_TAP_O_PROJ, layer, &attn, &changed));
    FH1_TRY(cu_call_tap(call, FH1_TAP_OUT_PROJ, layer, &mixer, &changed));
    if (changed) {
        FH1_TRY(take_back(call));
        const cu_branches s = {mixer.p, attn.p, NULL, c->m_ssm_out, c->m_attn_out, 0};
        FH1_TRY(cu_call_sum(call, &s));
    }
    return cu_call_tap(call, FH1_TAP_MID, layer, &x);
}

fh1_status norm_gate_up(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const cu_type type = call->w->type;
    const int64_t M = call->t.M;
    const cu_shown n = rows_of(call, CU_N, c->D), act = rows_of(call, CU_ACT, c->F);
    const cu_shown gate = {type, cu_part_of(call, CU_GATE_UP), M, call->ld_gate_up, 0, c->F, NULL};
    const cu_shown up = {type, gate.p, M, call->ld_gate_up, call->ld_up, c->F, NULL};
    bool new_norm = false, new_gate = false;
    cu_norm_gate_up a = {};
    a.type = type;
    a.M = call->t.M;
    a.D = static_cast<int>(c->D);
    a.F = static_cast<int>(c->F);
    a.x = cu_part_of(call, CU_X);
    a.norm = l->pre_ff_layernorm;
    a.eps = static_cast<float>(c->eps);
    a.w = l->gate_up;
    a.b = l->gate_up_b;
    a.m_gate = static_cast<float>(c->m_gate);
    a.act = act.p;
    a.n = if_shown(call, CU_N);
    a.gate_up = if_shown(call, CU_GATE_UP);
    FH1_TRY(cu_norm_gate_up_fwd(call->k, &a));
    FH1_TRY(cu_call_tap(call, FH1_TAP_PRE_FF_LAYERNORM, layer, &n, &new_norm));
    if (new_norm) FH1_TRY(cu_call_gate_up(call, layer));
    FH1_TRY(cu_call_tap(call, FH1_TAP_GATE_PROJ, layer, &gate, &new_gate));
    FH1_TRY(cu_call_tap(call, FH1_TAP_UP_PROJ, layer, &up, &new_gate));
    if (new_norm || new_gate) FH1_TRY(cu_call_act(call));
    return cu_call_tap(call, FH1_TAP_ACT, layer, &act);
}

fh1_status down_residual(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const cu_shown x = rows_of(call, CU_X, c->D), down = rows_of(call, CU_DOWN, c->D);
    bool changed = false;
    cu_down_residual a = {};
    a.type = call->w->type;
    a.M = call->t.M;
    a.D = static_cast<int>(c->D);
    a.F = static_cast<int>(c->F);
    a.act = cu_part_of(call, CU_ACT);
    a.w = l->down;
    a.b = l->down_b;
    a.m_down = static_cast<float>(c->m_down);
    a.x = x.p;
    a.down = if_shown(call, CU_DOWN);
    FH1_TRY(put_aside(call));
    FH1_TRY(cu_down_residual_fwd(call->k, &a));
    FH1_TRY(cu_call_tap(call, FH1_TAP_DOWN_PROJ, layer, &down, &changed));
    if (changed) {
        FH1_TRY(take_back(call));
        const cu_branches s = {down.p, NULL, NULL, c->m_down, 0, 0};
        FH1_TRY(cu_call_sum(call, &s));
    }
    return cu_call_tap(call, FH1_TAP_LAYER, layer, &x);
}

} // namespace

fh1_status cu_call_decode_layer(cu_call *call, int64_t layer)
{
    FH1_TRY(norm_in_qkv(call, layer));
    FH1_TRY(cu_call_attention_inner(call, layer));
    FH1_TRY(cu_call_mixer_inner(call, layer));
    FH1_TRY(out_o(call, layer));
    FH1_TRY(norm_gate_up(call, layer));
    return down_residual(call, layer);
}

} // namespace CU_NS
