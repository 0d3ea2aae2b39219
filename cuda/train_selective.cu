/* What Falcon-Mamba's mixer has of its own, on the way back: scan, step sizes, dt_proj, the three inner norms with
 * their Jacobians, x_proj. */
#include "cuda/train.h"

namespace CU_NS
{
namespace
{

fh1_status scan_bwd(cu_train_run *r, const cu_layer *l, const fh1_layer *p)
{
    const fh1_config *c = r->c;
    cu_selective_scan_bwd_args a = {};
    a.t = r->call.t;
    a.I = static_cast<int>(c->H);
    a.N = static_cast<int>(c->N);
    a.x = cu_train_f32(r, CU_CONV);
    a.ldx = a.lddx = c->d_ssm;
    a.B = cu_train_f32(r, CU_BC);
    a.C = a.B + c->N;
    a.ldbc = a.lddbc = 2 * c->N;
    a.dt = cu_train_f32(r, CU_DT);
    a.A = l->A;
    a.D = l->D;
    a.dy = cu_train_at(r, CU_TRAIN_DSSD);
    a.dx = cu_train_at(r, CU_TRAIN_DCONV);
    a.dB = cu_train_at(r, CU_TRAIN_DBC);
    a.dC = a.dB + c->N;
    a.ddt = cu_train_at(r, CU_TRAIN_DDT);
    a.dA_log = cu_train_grad(r, &p->A_log);
    a.dD = cu_train_grad(r, &p->D);
    FH1_TRY(cu_train_scratch(r, cu_selective_scan_bwd_scratch(&a), &a.scratch));
    return cu_selective_scan_bwd(r->call.k, &a);
}

/* n columns of x_proj's output from `at` on. */
fh1_status inner_norm_bwd(cu_train_run *r, int64_t at, int64_t n, const float *dy, int64_t lddy)
{
    cu_rmsnorm_bwd_args a = {};
    a.M = r->call.t.M;
    a.D = static_cast<int>(n);
    a.x = cu_train_f32(r, CU_X_PROJ) + at;
    a.ldx = r->call.ld_x_proj;
    a.eps = static_cast<float>(r->c->mixer_eps);
    a.dy = dy;
    a.lddy = lddy;
    a.dx = cu_train_at(r, CU_TRAIN_DX_PROJ) + at;
    a.lddx = fh1_x_proj_dim(r->c);
    FH1_TRY(cu_train_scratch(r, cu_rmsnorm_bwd_scratch(&a), &a.scratch));
    return cu_rmsnorm_bwd(r->call.k, &a);
}

} // namespace

fh1_status cu_train_selective_bwd(cu_train_run *r, int64_t layer)
{
    const fh1_config *c = r->c;
    const fh1_layer *p = &r->m->layers[layer];
    const cu_layer *l = r->view.layers;
    const int M = r->call.t.M;
    const int64_t R = c->R, N = c->N, I = c->H, n = fh1_x_proj_dim(c);
    const float *dbc = cu_train_at(r, CU_TRAIN_DBC), *x = cu_train_f32(r, CU_CONV);
    float *dlow = cu_train_at(r, CU_TRAIN_DLOW), *draw = cu_train_at(r, CU_TRAIN_DRAW);
    const float *dt_w = static_cast<const float *>(l->dt_proj), *x_w = static_cast<const float *>(l->x_proj);
    FH1_TRY(scan_bwd(r, l, p));
    FH1_TRY(cu_train_step_sizes_bwd(r, l, p));
    const cu_train_product dt = {FH1_TAP_DT, layer, M, cu_train_f32(r, CU_DT_LOW), R, 1, dt_w, draw, I, false, dlow, R};
    FH1_TRY(cu_train_linear_bwd(r, &dt));
    FH1_TRY(inner_norm_bwd(r, 0, R, dlow, R));
    FH1_TRY(inner_norm_bwd(r, R, N, dbc, 2 * N));
    FH1_TRY(inner_norm_bwd(r, R + N, N, dbc + N, 2 * N));
    const cu_train_product proj = {FH1_TAP_X_PROJ,
                                   layer,
                                   M,
                                   x,
                                   c->d_ssm,
                                   1,
                                   x_w,
                                   cu_train_at(r, CU_TRAIN_DX_PROJ),
                                   n,
                                   true,
                                   cu_train_at(r, CU_TRAIN_DCONV),
                                   c->d_ssm};
    return cu_train_linear_bwd(r, &proj);
}

} // namespace CU_NS
