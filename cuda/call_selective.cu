/* What Falcon-Mamba's mixer has of its own: dt, B and C out of x_proj, their norms without a weight, dt_proj, and a
 * scan with a state per channel that gates in the same kernel. */
#include "cuda/call.h"
#include "cuda/rmsnorm.cuh"
#include "cuda/selective_scan.cuh"

namespace CU_NS
{
namespace
{

/* n columns of x_proj's output from `at` on, normalised over themselves, to rows of `out` that are ld apart. */
fh1_status inner_norm(cu_call *call, int64_t at, int64_t n, void *out, int64_t ld)
{
    cu_rmsnorm a = {};
    a.type = call->w->type;
    a.M = call->t.M;
    a.D = static_cast<int>(n);
    a.x = cu_at(a.type, cu_part_of(call, CU_X_PROJ), at);
    a.ldx = call->ld_x_proj;
    a.eps = static_cast<float>(call->c->mixer_eps);
    a.n = out;
    a.ldn = ld;
    return cu_rmsnorm_fwd(call->k, &a);
}

} // namespace

fh1_status cu_call_selective_proj(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const int M = call->t.M;
    const int64_t R = c->R, N = c->N, n = fh1_x_proj_dim(c), ld = call->ld_x_proj;
    const void *x = cu_part_of(call, CU_CONV);
    void *low = cu_part_of(call, CU_DT_LOW), *raw = cu_part_of(call, CU_DT_RAW), *bc = cu_part_of(call, CU_BC);
    const cu_shown x_proj = {call->w->type, cu_part_of(call, CU_X_PROJ), M, ld, 0, n, NULL};
    FH1_TRY(cu_call_linear(call, M, x, c->d_ssm, l->x_proj, NULL, 0, n, 1, x_proj.p, ld));
    FH1_TRY(cu_call_adapt(call, layer, FH1_TAP_X_PROJ, x, c->d_ssm, 1, x_proj.p, ld));
    FH1_TRY(cu_call_tap(call, FH1_TAP_X_PROJ, layer, &x_proj));
    FH1_TRY(inner_norm(call, 0, R, low, R));
    FH1_TRY(inner_norm(call, R, N, bc, 2 * N));
    FH1_TRY(inner_norm(call, R + N, N, cu_at(call->w->type, bc, N), 2 * N));
    FH1_TRY(cu_call_linear(call, M, low, R, l->dt_proj, NULL, 0, c->H, 1, raw, c->H));
    return cu_call_adapt(call, layer, FH1_TAP_DT, low, R, 1, raw, c->H);
}

fh1_status cu_call_selective_scan(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    cu_selective a = {};
    a.type = call->w->type;
    a.t = call->t;
    a.I = static_cast<int>(c->H);
    a.N = static_cast<int>(c->N);
    a.x = cu_part_of(call, CU_CONV);
    a.ldx = c->d_ssm;
    a.B = cu_part_of(call, CU_BC);
    a.C = cu_at(a.type, a.B, c->N);
    a.ldbc = 2 * c->N;
    a.dt = static_cast<const float *>(cu_part_of(call, CU_DT));
    a.A = l->A;
    a.D = l->D;
    a.state = cu_cache_ssm(call->cache, layer);
    a.slot = cu_cache_slot(call->cache);
    a.y = call->sink || call->keep_scan ? cu_part_of(call, CU_SSD) : NULL;
    a.z = cu_at(a.type, call->proj, fh1_in_proj_gate(c));
    a.ldz = call->ld_proj;
    a.gated = cu_part_of(call, CU_GATED);
    return call->one_token ? cu_selective_step_fwd(call->k, &a) : cu_selective_scan_fwd(call->k, &a);
}

} // namespace CU_NS
