/* One layer in training: forward, and again with its way back through MLP, norms and attention. */
#include "cuda/rmsnorm.cuh"
#include "cuda/train.h"

namespace CU_NS
{
namespace
{

/* The call sees the layer at hand as its layer 0, whose keys, windows and states the cache of one layer holds. */
const cu_layer *begin_at(cu_train_run *r, int64_t layer)
{
    r->view.layers = r->w->layers + layer;
    r->call.adapters = r->adapters->of.empty() ? NULL : r->adapters->of.data() + layer * FH1_TAP_LAYER;
    return r->view.layers;
}

/* CU_X to the stream between the two halves, CU_N its norm. */
fh1_status mixers_fwd(cu_train_run *r, const cu_layer *l)
{
    const fh1_config *c = r->c;
    FH1_TRY(cu_train_norm_fwd(r, cu_part_of(&r->call, CU_X), l->input_layernorm));
    FH1_TRY(cu_call_attention(&r->call, 0));
    FH1_TRY(cu_call_mixer(&r->call, 0));
    cu_rmsnorm a = {};
    a.type = CU_F32;
    a.M = r->call.t.M;
    a.D = static_cast<int>(c->D);
    a.x = cu_part_of(&r->call, CU_X);
    a.a = cu_part_of(&r->call, CU_MIXER);
    a.m_a = static_cast<float>(c->m_ssm_out);
    a.b = cu_part_of(&r->call, CU_ATTN);
    a.m_b = static_cast<float>(c->m_attn_out);
    a.w = l->pre_ff_layernorm;
    a.eps = static_cast<float>(c->eps);
    a.n = cu_part_of(&r->call, CU_N);
    return cu_rmsnorm_fwd(r->call.k, &a);
}

/* The stream's derivative times the multipliers of two branches. */
fh1_status branches(cu_train_run *r, double m, float *d, double m_2, float *d_2)
{
    const cu_residual_bwd_args a = {
        r->call.t.M * r->c->D, cu_train_at(r, CU_TRAIN_DX), static_cast<float>(m), static_cast<float>(m_2), d, d_2};
    return cu_residual_bwd(r->call.k, &a);
}

/* From CU_N, the norm, with gate | up and act of the MLP computed again. */
fh1_status mlp_bwd(cu_train_run *r, int64_t layer, const cu_layer *l)
{
    const fh1_config *c = r->c;
    const int M = r->call.t.M;
    const int64_t ld = r->call.ld_gate_up, D = c->D, F = c->F;
    float *gate = cu_train_f32(r, CU_GATE_UP), *up = gate + r->call.ld_up, *dn = cu_train_at(r, CU_TRAIN_DN);
    float *branch = cu_train_at(r, CU_TRAIN_BRANCH), *dact = cu_train_at(r, CU_TRAIN_DACT);
    const float *n = cu_train_f32(r, CU_N), *w = static_cast<const float *>(l->gate_up);
    FH1_TRY(branches(r, c->m_down, branch, 0, NULL));
    const cu_train_product down = {FH1_TAP_DOWN_PROJ,
                                   layer,
                                   M,
                                   cu_train_f32(r, CU_ACT),
                                   F,
                                   1,
                                   static_cast<const float *>(l->down),
                                   branch,
                                   D,
                                   false,
                                   dact,
                                   F};
    FH1_TRY(cu_train_linear_bwd(r, &down));
    const cu_swiglu_bwd_args act = {M, static_cast<int>(F), gate, up, ld, static_cast<float>(c->m_gate), dact, gate, up,
                                    ld};
    FH1_TRY(cu_swiglu_bwd(r->call.k, &act));
    const cu_train_product by_gate = {FH1_TAP_GATE_PROJ, layer, M, n, D, 1, w, gate, ld, false, dn, D};
    const cu_train_product by_up = {FH1_TAP_UP_PROJ, layer, M, n, D, 1, w + F * D, up, ld, true, dn, D};
    FH1_TRY(cu_train_linear_bwd(r, &by_gate));
    FH1_TRY(cu_train_linear_bwd(r, &by_up));
    return cu_train_norm_bwd(r, cu_train_f32(r, CU_X), l->pre_ff_layernorm, &r->m->layers[layer].pre_ff_layernorm, dn,
                             true, cu_train_at(r, CU_TRAIN_DX));
}

/* dq, dk and dv side by side, by what q_proj, k_proj and v_proj gave. */
fh1_status attend_bwd(cu_train_run *r)
{
    const fh1_config *c = r->c;
    const int64_t q = c->Hq * c->A, kv = c->Hkv * c->A, ld = q + 2 * kv;
    const float *qkv = static_cast<const float *>(r->call.qkv);
    float *d = cu_train_at(r, CU_TRAIN_DQKV);
    cu_attention_bwd_args a = {};
    a.t = r->call.t;
    a.Hq = static_cast<int>(c->Hq);
    a.Hkv = static_cast<int>(c->Hkv);
    a.A = static_cast<int>(c->A);
    a.q = qkv;
    a.k = qkv + q;
    a.v = qkv + q + kv;
    a.ldq = a.ldkv = r->call.ld_qkv;
    a.kv_head = a.dkv_head = c->A;
    a.dout = cu_train_at(r, CU_TRAIN_DCONTEXT);
    a.dq = d;
    a.dk = d + q;
    a.dv = d + q + kv;
    a.lddq = a.lddkv = ld;
    FH1_TRY(cu_train_scratch(r, cu_attention_bwd_scratch(&a), &a.scratch));
    FH1_TRY(cu_attention_bwd(r->call.k, &a));
    cu_rope_bwd_args b = {};
    b.t = a.t;
    b.Hq = a.Hq;
    b.Hkv = a.Hkv;
    b.A = a.A;
    b.inv_freq = r->call.inv_freq;
    b.scale = r->call.rope_scale;
    b.m_key = static_cast<float>(c->m_key);
    b.dq = a.dq;
    b.dk = a.dk;
    b.ldq = b.ldk = ld;
    return cu_rope_bwd(r->call.k, &b);
}

/* dn added to. */
fh1_status attention_bwd(cu_train_run *r, int64_t layer, const cu_layer *l)
{
    const fh1_config *c = r->c;
    const int M = r->call.t.M;
    const int64_t D = c->D, q = c->Hq * c->A, kv = c->Hkv * c->A, ld = q + 2 * kv;
    const float *n = cu_train_f32(r, CU_N), *w = static_cast<const float *>(l->in_qkv) + fh1_in_proj_dim(c) * D;
    float *dn = cu_train_at(r, CU_TRAIN_DN);
    const cu_train_product out = {FH1_TAP_O_PROJ,
                                  layer,
                                  M,
                                  cu_train_f32(r, CU_CONTEXT),
                                  q,
                                  1,
                                  static_cast<const float *>(l->o),
                                  cu_train_at(r, CU_TRAIN_BRANCH_2),
                                  D,
                                  false,
                                  cu_train_at(r, CU_TRAIN_DCONTEXT),
                                  q};
    FH1_TRY(cu_train_linear_bwd(r, &out));
    FH1_TRY(attend_bwd(r));
    const struct {
        fh1_tap_id id;
        int64_t at;
    } parts[] = {{FH1_TAP_Q_PROJ, 0}, {FH1_TAP_K_PROJ, q}, {FH1_TAP_V_PROJ, q + kv}};
    for (const auto &p : parts) {
        const cu_train_product in = {
            p.id, layer, M, n, D, c->m_attn_in, w + p.at * D, cu_train_at(r, CU_TRAIN_DQKV) + p.at, ld, true, dn, D};
        FH1_TRY(cu_train_linear_bwd(r, &in));
    }
    return NULL;
}

} // namespace

fh1_status cu_train_layer_fwd(cu_train_run *r, int64_t layer)
{
    FH1_TRY(mixers_fwd(r, begin_at(r, layer)));
    FH1_TRY(cu_call_mlp(&r->call, 0));
    return cu_call_sum(&r->call, cu_part_of(&r->call, CU_DOWN), r->c->m_down, NULL, 0);
}

fh1_status cu_train_layer_bwd(cu_train_run *r, int64_t layer)
{
    const fh1_config *c = r->c;
    const cu_layer *l = begin_at(r, layer);
    float *input = cu_train_at(r, CU_TRAIN_CHECKPOINT) + layer * r->call.t.M * c->D;
    FH1_TRY(mixers_fwd(r, l));
    FH1_TRY(cu_call_gate_up(&r->call, 0));
    FH1_TRY(cu_call_act(&r->call));
    FH1_TRY(mlp_bwd(r, layer, l));
    FH1_TRY(
        branches(r, c->m_ssm_out, cu_train_at(r, CU_TRAIN_BRANCH), c->m_attn_out, cu_train_at(r, CU_TRAIN_BRANCH_2)));
    FH1_TRY(cu_train_norm_fwd(r, input, l->input_layernorm)); /* CU_N held that of the other half */
    FH1_TRY(cu_train_mixer_bwd(r, layer));
    FH1_TRY(attention_bwd(r, layer, l));
    return cu_train_norm_bwd(r, input, l->input_layernorm, &r->m->layers[layer].input_layernorm,
                             cu_train_at(r, CU_TRAIN_DN), true, cu_train_at(r, CU_TRAIN_DX));
}

} // namespace CU_NS
