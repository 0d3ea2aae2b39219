/* The mixer of a layer: in_proj, convolution, step sizes, scan, gate, out_proj. The mup vector is applied by the
 * readers of in_proj's output, in f32. */
#include "cuda/call.h"
#include "cuda/conv1d.cuh"
#include "cuda/dt_softplus.cuh"
#include "cuda/gated_norm.cuh"
#include "cuda/ssd_step.cuh"

namespace CU_NS
{
namespace
{

fh1_status convolve(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    cu_conv1d a = {};
    a.type = call->w->type;
    a.t = call->t;
    a.d_ssm = static_cast<int>(c->d_ssm);
    a.GN = static_cast<int>((fh1_conv_dim(c) - c->d_ssm) / 2); /* 0 in Falcon-Mamba */
    a.K = static_cast<int>(c->K);
    a.x = cu_at(a.type, call->proj, fh1_in_proj_conv(c));
    a.ldx = call->ld_proj;
    a.m_x = static_cast<float>(c->m_ssm[1]);
    a.m_B = static_cast<float>(c->m_ssm[2]);
    a.m_C = static_cast<float>(c->m_ssm[3]);
    a.w = l->conv_w;
    a.b = l->conv_b;
    a.window = cu_cache_conv(call->cache, layer);
    a.slot = cu_cache_slot(call->cache);
    a.y = cu_part_of(call, CU_CONV);
    return cu_conv1d_fwd(call->k, &a);
}

fh1_status step_sizes(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    cu_dt_softplus a = {};
    a.type = call->w->type;
    a.M = call->t.M;
    a.H = static_cast<int>(c->H);
    if (c->family == FH1_FALCON_MAMBA) {
        a.raw = cu_part_of(call, CU_DT_RAW);
        a.ld = c->H;
    } else {
        a.raw = cu_at(a.type, call->proj, fh1_in_proj_dim(c) - c->H);
        a.ld = call->ld_proj;
    }
    a.m_dt = static_cast<float>(c->m_ssm[4]);
    a.bias = call->w->layers[layer].dt_bias;
    a.lo = static_cast<float>(c->dt_lo);
    a.hi = static_cast<float>(c->dt_hi);
    a.dt = static_cast<float *>(cu_part_of(call, CU_DT));
    return cu_dt_softplus_fwd(call->k, &a);
}

cu_ssd scan_args(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    cu_ssd a = {};
    a.type = call->w->type;
    a.t = call->t;
    a.H = static_cast<int>(c->H);
    a.P = static_cast<int>(c->P);
    a.N = static_cast<int>(c->N);
    a.G = static_cast<int>(c->G);
    a.xbc = cu_part_of(call, CU_CONV);
    a.ldx = fh1_conv_dim(c);
    a.dt = static_cast<const float *>(cu_part_of(call, CU_DT));
    a.A = l->A;
    a.D = l->D;
    a.state = cu_cache_ssm(call->cache, layer);
    a.slot = cu_cache_slot(call->cache);
    a.y = cu_part_of(call, CU_SSD);
    a.scratch = cu_part_of(call, CU_SCAN);
    return a;
}

/* The gate follows in the same kernel where there is no norm: in a step of one token, and in Falcon-Mamba always. */
bool gate_in_scan(const cu_call *call, int64_t layer)
{
    return call->c->family == FH1_FALCON_MAMBA || (call->one_token && !call->w->layers[layer].norm);
}

fh1_status scan(cu_call *call, int64_t layer)
{
    if (call->c->family == FH1_FALCON_MAMBA) return cu_call_selective_scan(call, layer);
    const cu_ssd s = scan_args(call, layer);
    if (!call->one_token) return cu_ssd_scan_fwd(call->k, &s, CU_SSD_AUTO);
    cu_ssd_step a = {};
    a.s = s;
    if (gate_in_scan(call, layer)) {
        a.z = call->proj;
        a.ldz = call->ld_proj;
        a.m_z = static_cast<float>(call->c->m_ssm[0]);
        a.gated = cu_part_of(call, CU_GATED);
        if (!call->sink) a.s.y = NULL;
    }
    return cu_ssd_step_fwd(call->k, &a);
}

fh1_status gate(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    cu_gated_norm a = {};
    a.type = call->w->type;
    a.M = call->t.M;
    a.d = static_cast<int>(c->d_ssm);
    a.G = static_cast<int>(c->G);
    a.y = cu_part_of(call, CU_SSD);
    a.z = cu_at(a.type, call->proj, fh1_in_proj_gate(c));
    a.ldz = call->ld_proj;
    a.m_z = static_cast<float>(c->m_ssm[0]);
    a.w = call->w->layers[layer].norm;
    a.eps = static_cast<float>(c->eps);
    a.norm_before_gate = c->norm_before_gate;
    a.out = cu_part_of(call, CU_GATED);
    return cu_gated_norm_fwd(call->k, &a);
}

} // namespace

fh1_status cu_call_in_proj(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const void *n = cu_part_of(call, CU_N);
    FH1_TRY(cu_call_linear(call, call->t.M, n, c->D, l->in_qkv, l->in_qkv_b, 0, fh1_in_proj_dim(c), c->m_ssm_in,
                           call->proj, call->ld_proj));
    return cu_call_adapt(call, layer, FH1_TAP_IN_PROJ, n, c->D, c->m_ssm_in, call->proj, call->ld_proj);
}

fh1_status cu_call_mixer_inner(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_type type = call->w->type;
    const int64_t M = call->t.M, conv = fh1_conv_dim(c);
    const cu_shown in_proj = {type, call->proj, M, call->ld_proj, 0, fh1_in_proj_dim(c), NULL};
    const cu_shown conv_act = {type, cu_part_of(call, CU_CONV), M, conv, 0, conv, NULL};
    const cu_shown dt = {CU_F32, cu_part_of(call, CU_DT), M, c->H, 0, c->H, NULL};
    const cu_shown ssd = {type, cu_part_of(call, CU_SSD), M, c->d_ssm, 0, c->d_ssm, NULL};
    const cu_shown gated = {type, cu_part_of(call, CU_GATED), M, c->d_ssm, 0, c->d_ssm, NULL};
    FH1_TRY(cu_call_tap(call, FH1_TAP_IN_PROJ, layer, &in_proj));
    FH1_TRY(convolve(call, layer));
    FH1_TRY(cu_call_tap(call, FH1_TAP_CONV_ACT, layer, &conv_act));
    if (c->family == FH1_FALCON_MAMBA) FH1_TRY(cu_call_selective_proj(call, layer));
    FH1_TRY(step_sizes(call, layer));
    FH1_TRY(cu_call_tap(call, FH1_TAP_DT, layer, &dt));
    FH1_TRY(scan(call, layer));
    bool to_gate = !gate_in_scan(call, layer);
    FH1_TRY(cu_call_tap(call, FH1_TAP_SSD, layer, &ssd, &to_gate));
    if (to_gate) FH1_TRY(gate(call, layer));
    return cu_call_tap(call, FH1_TAP_GATED, layer, &gated);
}

fh1_status cu_call_mixer(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const cu_shown out = {call->w->type, cu_part_of(call, CU_MIXER), call->t.M, c->D, 0, c->D, NULL};
    FH1_TRY(cu_call_in_proj(call, layer));
    FH1_TRY(cu_call_mixer_inner(call, layer));
    const void *gated = cu_part_of(call, CU_GATED);
    FH1_TRY(cu_call_linear(call, call->t.M, gated, c->d_ssm, l->out, l->out_b, 0, c->D, 1, out.p, c->D));
    FH1_TRY(cu_call_adapt(call, layer, FH1_TAP_OUT_PROJ, gated, c->d_ssm, 1, out.p, c->D));
    return cu_call_tap(call, FH1_TAP_OUT_PROJ, layer, &out);
}

} // namespace CU_NS
