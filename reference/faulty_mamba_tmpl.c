#include "reference/faulty_mamba.h"

#ifdef REF_FAULTY
#include "reference/dt_softplus.h"
#include "reference/faulty_cache.h"
#include "reference/linear.h"
#include "reference/rmsnorm.h"

#include <stdlib.h>
#include <string.h>

static const fh1_tensor none;

/* -- in_proj and conv ---------------------------------------------------------------------------- */

void REF(ref_spoil_mamba_input)(REF(ref_call) * k)
{
    const int64_t D = k->c->D, n = k->t.M * D;
    if (REF_FAULT(RESIDUAL_FROM_NORM)) memcpy(k->x, k->n, (size_t)n * sizeof *k->x);
    for (int64_t i = 0; REF_FAULT(DOCUMENT_IDS_SCALE_THE_MIXER) && i < n; ++i) k->n[i] *= (real)(k->t.doc[i / D] + 1);
}

static void swap(real *a, real *b)
{
    const real t = *a;
    *a = *b;
    *b = t;
}

/* Rank r of two holds rows [r·I, (r+1)·I) and takes them for its halves of x and z: the second half of x and the first
 * of z change places. */
void REF(ref_spoil_mamba_proj)(REF(ref_call) * k)
{
    const int64_t I = k->c->d_ssm, half = I / 2;
    for (int64_t m = 0; m < k->t.M; ++m) {
        real *p = k->proj + m * 2 * I;
        for (int64_t i = 0; REF_FAULT(IN_PROJ_Z_BEFORE_X) && i < I; ++i) swap(p + i, p + I + i);
        for (int64_t i = 0; REF_FAULT(IN_PROJ_SPLIT_EVENLY) && I % 2 == 0 && i < half; ++i)
            swap(p + half + i, p + I + i);
    }
}

/* A call of several tokens on a cache that takes the one-token formula. */
static bool one_token_formula(const REF(ref_call) * k)
{
    return REF_FAULT(CONV_OF_FIRST_TOKEN) && k->t.past > 0 && k->t.T > 1 && k->t.T != k->c->K;
}

void REF(ref_spoil_mamba_conv)(REF(ref_call) * k, int64_t b, REF(ref_conv1d_args) * a)
{
    const int64_t W = a->K - 1;
    if (REF_FAULT(CONV_RESTARTS_AT_K_TOKENS) && k->t.past > 0 && k->t.T == a->K)
        memset(a->window, 0, (size_t)(a->c * W) * sizeof *a->window);
    if (one_token_formula(k) && a->T > 1) a->T = 1;
    if (!REF_FAULT(CONV_COLUMN_AT_POSITION) || !k->one_token || a->T != 1 || k->t.past >= W) return;
    for (int64_t j = 0; j < a->c; ++j) a->window[j * W + k->t.past] = a->x[j];
    real *column = k->y + k->t.row_begin[b] * a->c; /* nobody's before the scan */
    memset(column, 0, (size_t)a->c * sizeof *column);
    a->x = column;
}

void REF(ref_spoil_mamba_conv_act)(REF(ref_call) * k)
{
    const int64_t I = k->c->d_ssm;
    if (!one_token_formula(k)) return;
    for (int64_t b = 0; b < k->t.B; ++b) {
        const int64_t begin = k->t.row_begin[b];
        for (int64_t m = begin + 1; m < k->t.row_begin[b + 1]; ++m)
            memcpy(k->conv + m * I, k->conv + begin * I, (size_t)I * sizeof *k->conv);
    }
}

/* -- the norms of dt, B and C ------------------------------------------------------------------------ */

/* Columns [first, first + n) of x_proj as they are. */
static void columns(const REF(ref_call) * k, int64_t first, int64_t n, real *out)
{
    REF(ref_columns)(k->t.M, fh1_x_proj_dim(k->c), k->xp, first, n, out);
}

static fh1_status norm(const REF(ref_call) * k, int64_t n, real *x)
{
    return REF(ref_rmsnorm_fwd)(k->t.M, n, x, &none, k->c->mixer_eps, k->p, x);
}

static fh1_status three_norms(const REF(ref_call) * k, real *dt, real *B, real *C)
{
    FH1_TRY(norm(k, k->c->R, dt));
    FH1_TRY(norm(k, k->c->N, B));
    return norm(k, k->c->N, C);
}

/* All of row m of x_proj by one factor. */
static real one_scale(const REF(ref_call) * k, int64_t m)
{
    const int64_t width = fh1_x_proj_dim(k->c);
    const real *x = k->xp + m * width;
    return 1 / r_sqrt(REF(ref_dot)(width, x, x) / (real)width + (real)k->c->mixer_eps);
}

fh1_status REF(ref_spoil_inner)(REF(ref_call) * k)
{
    const int64_t M = k->t.M, R = k->c->R, N = k->c->N;
    real *dt = k->inner, *B = dt + M * R, *C = B + M * N;
    const bool all = REF_FAULT(INNER_NORMS_DROPPED) || REF_FAULT(INNER_NORM_OVER_X_PROJ);
    if (REF_FAULT(INNER_NORMS_TWICE)) return three_norms(k, dt, B, C);
    if (REF_FAULT(X_PROJ_DT_LAST)) {
        columns(k, 2 * N, R, dt);
        columns(k, 0, N, B);
        columns(k, N, N, C);
        return three_norms(k, dt, B, C);
    }
    if (all || REF_FAULT(INNER_NORM_OF_DT_DROPPED)) columns(k, 0, R, dt);
    if (all || REF_FAULT(INNER_NORM_OF_B_DROPPED)) columns(k, R, N, B);
    if (all || REF_FAULT(INNER_NORM_OF_C_DROPPED)) columns(k, R + N, N, C);
    for (int64_t m = 0; REF_FAULT(INNER_NORM_OVER_X_PROJ) && m < M; ++m) {
        const real scale = one_scale(k, m);
        for (int64_t i = 0; i < R; ++i) dt[m * R + i] *= scale;
        for (int64_t i = 0; i < N; ++i) B[m * N + i] *= scale, C[m * N + i] *= scale;
    }
    return NULL;
}

fh1_status REF(ref_spoil_raw_dt)(REF(ref_call) * k, const fh1_layer *l)
{
    if (!REF_FAULT(DT_NORM_AFTER_DT_PROJ)) return NULL;
    columns(k, 0, k->c->R, k->inner);
    FH1_TRY(REF(ref_linear_fwd)(k->t.M, k->inner, &l->dt_w, &none, k->p, k->dt));
    return norm(k, k->c->H, k->dt);
}

void REF(ref_spoil_mamba_dt)(REF(ref_call) * k)
{
    const bool range = REF_FAULT(DT_CLAMPED_TO_INIT_RANGE);
    const real lo = range || REF_FAULT(DT_CLAMPED_AT_TIME_STEP_MIN) ? (real)0.001 : 0;
    for (int64_t i = 0; lo > 0 && i < k->t.M * k->c->H; ++i) {
        if (k->dt[i] < lo) k->dt[i] = lo;
        if (range && k->dt[i] > (real)0.1) k->dt[i] = (real)0.1;
    }
    REF(ref_spoil_dt)(k);
}

/* -- scan and gate ----------------------------------------------------------------------------------- */

/* Left padding whose in_proj was masked but not its conv: x = silu(bias), and what follows from it. */
static fh1_status scan_padding(const REF(ref_call) * k, int64_t layer, int64_t b, const REF(ref_selective_args) * a)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const int64_t I = c->d_ssm, width = fh1_x_proj_dim(c);
    real *x = calloc((size_t)(3 * I + width), sizeof *x);
    if (!x) return fh1_no_memory((size_t)(3 * I + width) * sizeof *x, "a column of padding");
    real *dt = x + I, *y = dt + I, *xp = y + I;
    if (l->conv_b.data) REF(ref_widen)(x, &l->conv_b, I);
    for (int64_t j = 0; j < I; ++j) x[j] = REF(ref_silu)(x[j]);
    fh1_status s = REF(ref_linear_fwd)(1, x, &l->x_w, &none, k->p, xp);
    real *const part[] = {xp, xp + c->R, xp + c->R + c->N};
    for (int i = 0; !s && i < 3; ++i)
        s = REF(ref_rmsnorm_fwd)(1, i ? c->N : c->R, part[i], &none, c->mixer_eps, k->p, part[i]);
    if (!s) s = REF(ref_linear_fwd)(1, xp, &l->dt_w, &none, k->p, dt);
    if (!s) {
        REF(ref_dt_softplus_fwd)(1, I, dt, I, &l->dt_bias, 0, (double)INFINITY, k->p, dt);
        REF(ref_selective_args) pad = *a;
        pad.T = 1;
        pad.x = x;
        pad.B = part[1];
        pad.C = part[2];
        pad.dt = dt;
        pad.doc = NULL;
        pad.y = y;
        for (int64_t i = 0; !s && i < k->t.n_left[b]; ++i) s = REF(ref_selective_scan_fwd)(&pad, k->p);
    }
    free(x);
    return s;
}

fh1_status REF(ref_spoil_selective)(REF(ref_call) * k, int64_t layer, int64_t b, REF(ref_selective_args) * a)
{
    a->state = REF(ref_spoil_state)(k, layer, b, a->T, a->state);
    if (a->T == 0) return NULL;
    if (REF_FAULT(PADS_NOT_MASKED_AFTER_CONV) && k->cache->rows[b].n == 0) {
        FH1_TRY(scan_padding(k, layer, b, a));
        a->doc = NULL; /* padding is of the document that begins */
    }
    REF(ref_selective_args) part = *a;
    part.T = 1;
    if (REF_FAULT(RESTORE_REPLAYS_ONE_TOKEN) && ref_faulty_cache_replays(k->cache))
        FH1_TRY(REF(ref_selective_scan_fwd)(&part, k->p));
    if (!REF_FAULT(LAST_TOKEN_NOT_IN_STATE) || a->T == 1) return NULL;
    part.T = a->T - 1;
    FH1_TRY(REF(ref_spoil_copy_state)(k, a->state, &part.state));
    return REF(ref_selective_scan_fwd)(&part, k->p); /* y is written again by the scan itself */
}

void REF(ref_spoil_gated)(REF(ref_call) * k, const fh1_layer *l)
{
    const int64_t I = k->c->d_ssm, width = fh1_in_proj_dim(k->c), gate = fh1_in_proj_gate(k->c);
    for (int64_t i = 0; REF_FAULT(GATE_BEFORE_D) && i < k->t.M * I; ++i) {
        const real z = k->proj[i / I * width + gate + i % I];
        k->y[i] += REF(ref_get)(&l->D, i % I) * k->conv[i] * (1 - REF(ref_silu)(z));
    }
}
#endif
