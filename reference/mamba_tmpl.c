/* A layer of Falcon-Mamba: one norm, one mixer, one residual. What it shares with Falcon-H1's mixer (rows of the conv,
 * padding and documents) stands in mixer_tmpl.c; spec of the steps: docs/numerics.md, "Falcon-Mamba". */
#include "reference/call.h"
#include "reference/dt_softplus.h"
#include "reference/faulty_mamba.h"
#include "reference/gated_norm.h"
#include "reference/gauge_call.h"
#include "reference/linear.h"
#include "reference/lora.h"
#include "reference/mixer_rows.h"
#include "reference/residual.h"
#include "reference/rmsnorm.h"
#include "reference/selective_step.h"

#include <stdlib.h>
#include <string.h>

/* The columns [first, first + n) of x_proj through their norm, dense, to out [M,n]: weightless, over n. */
static fh1_status inner_norm(REF(ref_call) * k, int64_t first, int64_t n, double eps, real *out)
{
    static const fh1_tensor no_weight;
    const int64_t M = k->t.M;
    REF(ref_columns)(M, fh1_x_proj_dim(k->c), k->xp, first, n, out);
    return REF(ref_rmsnorm_fwd)(M, n, out, &no_weight, eps, k->p, out);
}

fh1_status REF(ref_mamba_inner_norms)(REF(ref_call) * k)
{
    const fh1_config *c = k->c;
    const int64_t M = k->t.M;
    if (ref_norm_is_late(k->e)) REF(ref_columns)(M, fh1_x_proj_dim(c), k->xp, 0, c->R, k->inner);
    else FH1_TRY(inner_norm(k, 0, c->R, c->mixer_eps, k->inner));
    FH1_TRY(inner_norm(k, c->R, c->N, c->mixer_eps, k->inner + M * c->R));
    FH1_TRY(inner_norm(k, c->R + c->N, c->N, c->mixer_eps, k->inner + M * (c->R + c->N)));
    REF_SPOIL(FH1_TRY(REF(ref_spoil_inner)(k)));
    return NULL;
}

/* Δ = softplus(dt·W_dtᵀ + b), one per channel; under FH1_VAR_DT_NORM_AFTER_DT_PROJ softplus(N(dt·W_dtᵀ) + b). */
static fh1_status time_step(REF(ref_call) * k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const fh1_tensor none = {.data = NULL};
    const fh1_lora *lora = fh1_lora_of(k->m, FH1_TAP_DT, layer);
    const int64_t M = k->t.M;
    FH1_TRY(REF(ref_linear_fwd)(M, k->inner, &l->dt_w, &none, k->p, k->dt));
    REF_GAUGE(ref_gauge_mamba_dt(k, layer));
    if (lora) FH1_TRY(REF(ref_lora_add)(M, k->inner, lora, &none, k->p, k->dt));
    if (ref_norm_is_late(k->e)) FH1_TRY(REF(ref_rmsnorm_fwd)(M, c->H, k->dt, &none, c->mixer_eps, k->p, k->dt));
    REF_SPOIL(FH1_TRY(REF(ref_spoil_raw_dt)(k, l)));
    REF(ref_dt_softplus_fwd)(M, c->H, k->dt, c->H, &l->dt_bias, 0, (double)INFINITY, k->p, k->dt);
    REF_SPOIL(REF(ref_spoil_mamba_dt)(k));
    return REF(ref_tap)(k, FH1_TAP_DT, layer, k->dt);
}

/* The row's state over its right padding: x is zero there, and dt is that of the bias. zero [3I + N] are zeros. */
static fh1_status decay_over_pads(REF(ref_call) * k, const fh1_layer *l, int64_t b, const REF(ref_row) * v, real *zero)
{
    const fh1_config *c = k->c;
    real *dt = zero + c->H + c->N, *y = dt + c->H;
    REF(ref_dt_softplus_fwd)(1, c->H, dt, c->H, &l->dt_bias, 0, (double)INFINITY, k->p, dt);
    const REF(ref_selective_args) a = {.T = 1,
                                       .I = c->H,
                                       .N = c->N,
                                       .ldx = c->H,
                                       .ldb = c->N,
                                       .ldc = c->N,
                                       .x = zero,
                                       .B = zero,
                                       .C = zero,
                                       .dt = dt,
                                       .A_log = &l->A_log,
                                       .D = &l->D,
                                       .state = v->state,
                                       .y = y};
    for (int64_t i = 0; i < k->t.n_right[b]; ++i) FH1_TRY(REF(ref_selective_scan_fwd)(&a, k->p));
    REF_GAUGE(ref_gauge_mamba_pad_state(k, l - k->m->layers, b, k->t.n_right[b], zero, dt, v->state));
    return NULL;
}

/* FH1_VAR_RIGHT_PAD_CACHE: the window ends in padding columns and the state decays over them. */
static fh1_status cache_at_pads(REF(ref_call) * k, const fh1_layer *l, int64_t b, const REF(ref_row) * v)
{
    if (!(k->e->variants & FH1_VAR_RIGHT_PAD_CACHE) || k->t.n_right[b] == 0) return NULL;
    if (!REF_FAULT(STATE_DECAYS_OVER_RIGHT_PADS)) FH1_TRY(REF(ref_pad_window)(k, l, b, v, k->t.n_right[b]));
    if (REF_FAULT(CONV_WINDOW_AT_RIGHT_PADS)) return NULL;
    const size_t n = (size_t)(3 * k->c->H + k->c->N);
    real *zero = calloc(n, sizeof *zero);
    if (!zero) return fh1_no_memory(n * sizeof *zero, "a padding column");
    fh1_status s = decay_over_pads(k, l, b, v, zero);
    free(zero);
    return s;
}

static fh1_status scan_rows(REF(ref_call) * k, const fh1_layer *l, int64_t layer)
{
    const fh1_config *c = k->c;
    const real *B = k->inner + k->t.M * c->R, *C = B + k->t.M * c->N;
    for (int64_t b = 0; b < k->t.B; ++b) {
        const REF(ref_row) v = REF(ref_row_of)(k, layer, b);
        if ((k->e->variants & FH1_VAR_SCAN_RESTARTS) && k->t.T > 1)
            memset(v.state, 0, (size_t)(c->H * c->N) * sizeof(real));
        REF(ref_selective_args)
        a = {.T = v.n,
             .I = c->H,
             .N = c->N,
             .ldx = c->H,
             .ldb = c->N,
             .ldc = c->N,
             .x = k->conv + v.begin * c->H,
             .B = B + v.begin * c->N,
             .C = C + v.begin * c->N,
             .dt = k->dt + v.begin * c->H,
             .A_log = &l->A_log,
             .D = &l->D,
             .doc = v.doc,
             .state_doc = v.held_doc,
             .reset = fh1_doc_reset(k->e->variants),
             .state = v.state,
             .y = k->y + v.begin * c->H};
        REF_SPOIL(FH1_TRY(REF(ref_spoil_selective)(k, layer, b, &a)));
        REF_GAUGE(ref_gauge_selective(k, layer, b, &a));
        if (k->one_token && v.n == 1) FH1_TRY(REF(ref_selective_step_fwd)(&a, k->p));
        else FH1_TRY(REF(ref_selective_scan_fwd)(&a, k->p));
        FH1_TRY(cache_at_pads(k, l, b, &v));
        REF_SPOIL(FH1_TRY(REF(ref_spoil_cache)(k, layer, b, v.n, a.state)));
    }
    return NULL;
}

static fh1_status mixer(REF(ref_call) * k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const int64_t M = k->t.M, width = fh1_in_proj_dim(c);
    const fh1_tensor none = {.data = NULL};
    REF_SPOIL(REF(ref_spoil_mamba_input)(k));
    FH1_TRY(REF(ref_linear_tap)(k, FH1_TAP_IN_PROJ, layer, M, NULL, k->n, &l->in_w, &l->in_b, 1, k->proj));
    REF_SPOIL(REF(ref_spoil_mamba_proj)(k));
    FH1_TRY(REF(ref_conv_rows)(k, l, layer));
    REF_SPOIL(REF(ref_spoil_mamba_conv_act)(k));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_CONV_ACT, layer, k->conv));
    FH1_TRY(REF(ref_linear_tap)(k, FH1_TAP_X_PROJ, layer, M, NULL, k->conv, &l->x_w, &none, 1, k->xp));
    FH1_TRY(REF(ref_mamba_inner_norms)(k));
    FH1_TRY(time_step(k, layer));
    FH1_TRY(scan_rows(k, l, layer));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_SSD, layer, k->y));
    REF_GAUGE(ref_gauge_gated(k, layer));
    REF_SPOIL(REF(ref_spoil_gate)(k));
    FH1_TRY(REF(ref_gated_norm_fwd)(M, c->d_ssm, 1, k->y, k->proj + fh1_in_proj_gate(c), width, &none, 0, false, k->p,
                                    k->y));
    REF_SPOIL(REF(ref_spoil_gated)(k, l));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_GATED, layer, k->y));
    return REF(ref_linear_tap)(k, FH1_TAP_OUT_PROJ, layer, M, NULL, k->y, &l->out_w, &l->out_b, 1, k->mixer);
}

/* What the layer's norm reads: a residual in f32 is rounded to the model's type first. Where truth judges a contract
 * and knows its residual, it repeats that rounding. */
static const real *norm_input(REF(ref_call) * k, int64_t layer)
{
    fh1_round r = k->p->wide_residual;
    if (k->sink && k->sink->input_round) r = k->sink->input_round(k->sink->user, FH1_TAP_INPUT_LAYERNORM, layer);
    if (r == FH1_ROUND_NONE || REF_FAULT(NORM_READS_WIDE_RESIDUAL)) return k->x;
    const int64_t n = k->t.M * k->c->D;
    memcpy(k->scaled, k->x, (size_t)n * sizeof *k->scaled);
    REF(ref_round_row)(r, n, k->scaled);
    return k->scaled;
}

fh1_status REF(ref_mamba_layer_fwd)(REF(ref_call) * k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const int64_t M = k->t.M;
    const real *x = norm_input(k, layer);
    FH1_TRY(REF(ref_rmsnorm_fwd)(M, c->D, x, &l->input_layernorm, c->eps, k->p, k->n));
    REF_GAUGE(ref_gauge_norm(k, FH1_TAP_INPUT_LAYERNORM, layer, x, &l->input_layernorm));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_INPUT_LAYERNORM, layer, k->n));
    FH1_TRY(mixer(k, layer));
    const REF(ref_branches) b = {.mlp = k->mixer, .m_mlp = 1};
    REF_GAUGE(ref_gauge_residual(k, FH1_TAP_LAYER, layer, &b));
    REF(ref_residual_fwd)(M * c->D, &b, k->p, k->x);
    return REF(ref_tap)(k, FH1_TAP_LAYER, layer, k->x);
}
