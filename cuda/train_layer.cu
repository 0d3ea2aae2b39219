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

/* The stream's derivative times the multipliers of two branches. */
fh1_status branches(cu_train_run *r, double m, float *d, double m_2, float *d_2)
{
    const cu_residual_bwd_args a = {
        r->call.t.M * r->c->D, cu_train_at(r, CU_TRAIN_DX), static_cast<float>(m), static_cast<float>(m_2), d, d_2};
    return cu_residual_bwd(r->call.k, &a);
}

/* From CU_N, the norm, with gate | up and act of the MLP computed again here, to dn: assigned, or added to. */
fh1_status mlp_bwd(cu_train_run *r, int64_t layer, const cu_layer *l, bool add)
{
    const fh1_config *c = r->c;
    const int M = r->call.t.M;
    const int64_t ld = r->call.ld_gate_up, D = c->D, F = c->F;
    float *gate = cu_train_f32(r, CU_GATE_UP), *up = gate + r->call.ld_up, *dn = cu_train_at(r, CU_TRAIN_DN);
    float *branch = cu_train_at(r, CU_TRAIN_BRANCH), *dact = cu_train_at(r, CU_TRAIN_DACT);
    const float *n = cu_train_f32(r, CU_N), *w = static_cast<const float *>(l->gate_up);
    FH1_TRY(cu_call_gate_up(&r->call, 0));
    FH1_TRY(cu_call_act(&r->call));
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
    const cu_train_product by_gate = {FH1_TAP_GATE_PROJ, layer, M, n, D, 1, w, gate, ld, add, dn, D};
    const cu_train_product by_up = {FH1_TAP_UP_PROJ, layer, M, n, D, 1, w + F * D, up, ld, true, dn, D};
    FH1_TRY(cu_train_linear_bwd(r, &by_gate));
    return cu_train_linear_bwd(r, &by_up);
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

/* From CU_TRAIN_BRANCH_2 to dn: assigned, or added to. */
fh1_status attention_bwd(cu_train_run *r, int64_t layer, const cu_layer *l, bool add)
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
        const bool more = add || p.id != FH1_TAP_Q_PROJ;
        const cu_train_product in = {
            p.id, layer, M, n, D, c->m_attn_in, w + p.at * D, cu_train_at(r, CU_TRAIN_DQKV) + p.at, ld, more, dn, D};
        FH1_TRY(cu_train_linear_bwd(r, &in));
    }
    return NULL;
}

/* ---- layers, by block: computed again, then differentiated ---- */

/* One on the way back. x: what its first norm reads, the checkpoint. */
struct layer_of {
    cu_train_run *r;
    int64_t i;
    const cu_layer *l;
    const fh1_layer *p;
    float *x;
};

/* What a norm of the stream `x` gives dn is added to the stream's derivative. */
fh1_status norm_bwd(const layer_of *o, const float *x, const float *w, const fh1_tensor *value)
{
    cu_train_run *r = o->r;
    return cu_train_norm_bwd(r, x, w, value, cu_train_at(r, CU_TRAIN_DN), true, cu_train_at(r, CU_TRAIN_DX));
}

fh1_status first_norm_bwd(const layer_of *o)
{
    return norm_bwd(o, o->x, o->l->input_layernorm, &o->p->input_layernorm);
}

/* CU_N of the stream x. */
fh1_status norm(const layer_of *o, float *x, const float *w)
{
    return cu_train_norm_fwd(o->r, x, w);
}

/* CU_X += one branch or two; then CU_N = norm(CU_X). */
fh1_status sum_and_norm(const layer_of *o, const cu_branches *s, const float *w)
{
    const fh1_config *c = o->r->c;
    cu_rmsnorm a = {};
    a.type = CU_F32;
    a.M = o->r->call.t.M;
    a.D = static_cast<int>(c->D);
    a.x = cu_part_of(&o->r->call, CU_X);
    a.a = s->a;
    a.b = s->b;
    a.m_a = static_cast<float>(s->m_a);
    a.m_b = static_cast<float>(s->m_b);
    a.w = w;
    a.eps = static_cast<float>(c->eps);
    a.n = cu_part_of(&o->r->call, CU_N);
    return cu_rmsnorm_fwd(o->r->call.k, &a);
}

float *branch(const layer_of *o)
{
    return cu_train_at(o->r, CU_TRAIN_BRANCH);
}

float *branch_2(const layer_of *o)
{
    return cu_train_at(o->r, CU_TRAIN_BRANCH_2);
}

fh1_status mamba_bwd(const layer_of *o)
{
    cu_train_run *r = o->r;
    FH1_TRY(norm(o, o->x, o->l->input_layernorm));
    FH1_TRY(cu_call_mixer(&r->call, 0));
    FH1_TRY(branches(r, 1, branch(o), 0, NULL));
    FH1_TRY(cu_train_mixer_bwd(r, o->i));
    return first_norm_bwd(o);
}

/* What the mixers' outputs are in the sum of a block that has both side by side. */
cu_branches mixers(const layer_of *o)
{
    const fh1_config *c = o->r->c;
    return {cu_part_of(&o->r->call, CU_MIXER), cu_part_of(&o->r->call, CU_ATTN), NULL, c->m_ssm_out, c->m_attn_out, 0};
}

fh1_status mixers_fwd(const layer_of *o)
{
    FH1_TRY(norm(o, o->x, o->l->input_layernorm));
    FH1_TRY(cu_call_attention(&o->r->call, 0));
    return cu_call_mixer(&o->r->call, 0);
}

fh1_status mixers_bwd(const layer_of *o)
{
    const fh1_config *c = o->r->c;
    FH1_TRY(branches(o->r, c->m_ssm_out, branch(o), c->m_attn_out, branch_2(o)));
    FH1_TRY(cu_train_mixer_bwd(o->r, o->i));
    return attention_bwd(o->r, o->i, o->l, true);
}

fh1_status sa_m_bwd(const layer_of *o)
{
    FH1_TRY(mixers_fwd(o));
    const cu_branches both = mixers(o);
    FH1_TRY(sum_and_norm(o, &both, o->l->pre_ff_layernorm));
    FH1_TRY(mlp_bwd(o->r, o->i, o->l, false));
    FH1_TRY(norm_bwd(o, cu_train_f32(o->r, CU_X), o->l->pre_ff_layernorm, &o->p->pre_ff_layernorm));
    FH1_TRY(norm(o, o->x, o->l->input_layernorm)); /* CU_N held that of the other half */
    FH1_TRY(mixers_bwd(o));
    return first_norm_bwd(o);
}

/* One norm for all three, whose derivatives by it add up. */
fh1_status sam_bwd(const layer_of *o)
{
    FH1_TRY(mixers_fwd(o));
    FH1_TRY(mixers_bwd(o));
    FH1_TRY(mlp_bwd(o->r, o->i, o->l, true));
    return first_norm_bwd(o);
}

/* The stream behind the mixer is made twice: in place of it stands that behind attention when the MLP is done. */
fh1_status s_a_m_bwd(const layer_of *o)
{
    cu_train_run *r = o->r;
    const fh1_config *c = r->c;
    float *x = cu_train_f32(r, CU_X), *attn = cu_train_f32(r, CU_ATTN);
    const size_t bytes = static_cast<size_t>(r->call.t.M * c->D) * sizeof(float);
    const cu_branches s = {cu_part_of(&r->call, CU_MIXER), NULL, NULL, c->m_ssm_out, 0, 0};
    const cu_branches a = {attn, NULL, NULL, c->m_attn_out, 0, 0};
    FH1_TRY(norm(o, o->x, o->l->input_layernorm));
    FH1_TRY(cu_call_mixer(&r->call, 0));
    FH1_TRY(sum_and_norm(o, &s, o->l->attn_layernorm));
    FH1_TRY(cu_call_attention(&r->call, 0));
    FH1_TRY(sum_and_norm(o, &a, o->l->pre_ff_layernorm));
    FH1_TRY(mlp_bwd(r, o->i, o->l, false));
    FH1_TRY(norm_bwd(o, x, o->l->pre_ff_layernorm, &o->p->pre_ff_layernorm));
    CU_TRY(cudaMemcpyAsync(x, o->x, bytes, cudaMemcpyDeviceToDevice, r->call.k->stream), "the input of a layer");
    FH1_TRY(sum_and_norm(o, &s, o->l->attn_layernorm));
    FH1_TRY(branches(r, c->m_attn_out, branch_2(o), 0, NULL));
    FH1_TRY(attention_bwd(r, o->i, o->l, false));
    FH1_TRY(norm_bwd(o, x, o->l->attn_layernorm, &o->p->attn_layernorm));
    FH1_TRY(norm(o, o->x, o->l->input_layernorm));
    FH1_TRY(branches(r, c->m_ssm_out, branch(o), 0, NULL));
    FH1_TRY(cu_train_mixer_bwd(r, o->i));
    return first_norm_bwd(o);
}

} // namespace

fh1_status cu_train_layer_fwd(cu_train_run *r, int64_t layer)
{
    begin_at(r, layer);
    return cu_call_layer(&r->call, 0);
}

fh1_status cu_train_layer_bwd(cu_train_run *r, int64_t layer)
{
    const cu_layer *l = begin_at(r, layer);
    float *input = cu_train_at(r, CU_TRAIN_CHECKPOINT) + layer * r->call.t.M * r->c->D;
    const layer_of o = {r, layer, l, &r->m->layers[layer], input};
    if (r->c->family == FH1_FALCON_MAMBA) return mamba_bwd(&o);
    switch (r->c->block) {
    case FH1_BLOCK_SAM: return sam_bwd(&o);
    case FH1_BLOCK_S_A_M: return s_a_m_bwd(&o);
    default: return sa_m_bwd(&o);
    }
}

} // namespace CU_NS
