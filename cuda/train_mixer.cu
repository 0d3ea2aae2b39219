/* The mixer on the way back: out_proj, gate, scan, convolution, step sizes, in_proj. */
#include "cuda/train.h"

namespace CU_NS
{
namespace
{

fh1_status gate_bwd(cu_train_run *r, const cu_layer *l, const fh1_layer *p)
{
    const fh1_config *c = r->c;
    cu_gated_norm_bwd_args a = {};
    a.M = r->call.t.M;
    a.d = static_cast<int>(c->d_ssm);
    a.G = static_cast<int>(c->G);
    a.y = cu_train_f32(r, CU_SSD);
    a.z = static_cast<const float *>(r->call.proj) + fh1_in_proj_gate(c);
    a.ldz = r->call.ld_proj;
    a.m_z = static_cast<float>(c->m_ssm[0]);
    a.w = l->norm;
    a.eps = static_cast<float>(c->eps);
    a.norm_before_gate = c->norm_before_gate;
    a.dout = cu_train_at(r, CU_TRAIN_DGATED);
    a.dy = cu_train_at(r, CU_TRAIN_DSSD);
    a.dz = cu_train_at(r, CU_TRAIN_DPROJ) + fh1_in_proj_gate(c);
    a.lddz = fh1_in_proj_dim(c);
    a.dw = cu_train_grad(r, &p->norm);
    FH1_TRY(cu_train_scratch(r, cu_gated_norm_bwd_scratch(&a), &a.scratch));
    return cu_gated_norm_bwd(r->call.k, &a);
}

fh1_status scan_bwd(cu_train_run *r, const cu_layer *l, const fh1_layer *p)
{
    const fh1_config *c = r->c;
    cu_ssd_scan_bwd_args a = {};
    a.t = r->call.t;
    a.H = static_cast<int>(c->H);
    a.P = static_cast<int>(c->P);
    a.N = static_cast<int>(c->N);
    a.G = static_cast<int>(c->G);
    a.xbc = cu_train_f32(r, CU_CONV);
    a.ldx = a.lddx = fh1_conv_dim(c);
    a.dt = cu_train_f32(r, CU_DT);
    a.A = l->A;
    a.D = l->D;
    a.dy = cu_train_at(r, CU_TRAIN_DSSD);
    a.dxbc = cu_train_at(r, CU_TRAIN_DCONV);
    a.ddt = cu_train_at(r, CU_TRAIN_DDT);
    a.dA_log = cu_train_grad(r, &p->A_log);
    a.dD = cu_train_grad(r, &p->D);
    FH1_TRY(cu_train_scratch(r, cu_ssd_scan_bwd_scratch(&a), &a.scratch));
    return cu_ssd_scan_bwd(r->call.k, &a);
}

fh1_status convolution_bwd(cu_train_run *r, const cu_layer *l, const fh1_layer *p)
{
    const fh1_config *c = r->c;
    cu_conv1d_bwd_args a = {};
    a.t = r->call.t;
    a.d_ssm = static_cast<int>(c->d_ssm);
    a.GN = static_cast<int>((fh1_conv_dim(c) - c->d_ssm) / 2); /* 0 in Falcon-Mamba */
    a.K = static_cast<int>(c->K);
    a.x = static_cast<const float *>(r->call.proj) + fh1_in_proj_conv(c);
    a.ldx = r->call.ld_proj;
    a.m_x = static_cast<float>(c->m_ssm[1]);
    a.m_B = static_cast<float>(c->m_ssm[2]);
    a.m_C = static_cast<float>(c->m_ssm[3]);
    a.w = l->conv_w;
    a.b = l->conv_b;
    a.dy = cu_train_at(r, CU_TRAIN_DCONV);
    a.dx = cu_train_at(r, CU_TRAIN_DPROJ) + fh1_in_proj_conv(c);
    a.lddx = fh1_in_proj_dim(c);
    a.dw = cu_train_grad(r, &p->conv_w);
    a.db = cu_train_grad(r, &p->conv_b);
    FH1_TRY(cu_train_scratch(r, cu_conv1d_bwd_scratch(&a), &a.scratch));
    return cu_conv1d_bwd(r->call.k, &a);
}

} // namespace

fh1_status cu_train_step_sizes_bwd(cu_train_run *r, const cu_layer *l, const fh1_layer *p)
{
    const fh1_config *c = r->c;
    const int64_t in = fh1_in_proj_dim(c), at = in - c->H;
    const bool own = c->family == FH1_FALCON_MAMBA; /* a product of its own, else columns of in_proj */
    cu_dt_softplus_bwd_args a = {};
    a.M = r->call.t.M;
    a.H = static_cast<int>(c->H);
    a.raw = own ? cu_train_f32(r, CU_DT_RAW) : static_cast<const float *>(r->call.proj) + at;
    a.ld = own ? c->H : r->call.ld_proj;
    a.m_dt = static_cast<float>(c->m_ssm[4]);
    a.bias = l->dt_bias;
    a.lo = static_cast<float>(c->dt_lo);
    a.hi = static_cast<float>(c->dt_hi);
    a.ddt = cu_train_at(r, CU_TRAIN_DDT);
    a.draw = own ? cu_train_at(r, CU_TRAIN_DRAW) : cu_train_at(r, CU_TRAIN_DPROJ) + at;
    a.lddraw = own ? c->H : in;
    a.dbias = cu_train_grad(r, &p->dt_bias);
    FH1_TRY(cu_train_scratch(r, cu_dt_softplus_bwd_scratch(&a), &a.scratch));
    return cu_dt_softplus_bwd(r->call.k, &a);
}

fh1_status cu_train_mixer_bwd(cu_train_run *r, int64_t layer)
{
    const fh1_config *c = r->c;
    const fh1_layer *p = &r->m->layers[layer];
    const cu_layer *l = r->view.layers;
    const int M = r->call.t.M;
    const int64_t D = c->D, d = c->d_ssm, in = fh1_in_proj_dim(c);
    const cu_train_product out = {FH1_TAP_OUT_PROJ,
                                  layer,
                                  M,
                                  cu_train_f32(r, CU_GATED),
                                  d,
                                  1,
                                  static_cast<const float *>(l->out),
                                  cu_train_at(r, CU_TRAIN_BRANCH),
                                  D,
                                  false,
                                  cu_train_at(r, CU_TRAIN_DGATED),
                                  d};
    FH1_TRY(cu_train_linear_bwd(r, &out));
    FH1_TRY(gate_bwd(r, l, p));
    const bool selective = c->family == FH1_FALCON_MAMBA;
    FH1_TRY(selective ? cu_train_selective_bwd(r, layer) : scan_bwd(r, l, p));
    FH1_TRY(convolution_bwd(r, l, p));
    if (!selective) FH1_TRY(cu_train_step_sizes_bwd(r, l, p));
    const cu_train_product proj = {FH1_TAP_IN_PROJ,
                                   layer,
                                   M,
                                   cu_train_f32(r, CU_N),
                                   D,
                                   c->m_ssm_in,
                                   static_cast<const float *>(l->in_qkv),
                                   cu_train_at(r, CU_TRAIN_DPROJ),
                                   in,
                                   false,
                                   cu_train_at(r, CU_TRAIN_DN),
                                   D};
    return cu_train_linear_bwd(r, &proj);
}

} // namespace CU_NS
