/* The Mamba-2 branch of a layer. Per row of the batch, since conv window and state belong to rows. */
#include "oracle/gauge_request.h"
#include "reference/call.h"
#include "reference/conv1d_gauge.h" /* ref_mup_factor */
#include "reference/conv1d_step.h"
#include "reference/dt_softplus.h"
#include "reference/faulty_mixer.h"
#include "reference/gated_norm.h"
#include "reference/gauge_call.h"
#include "reference/lora.h"
#include "reference/mixer.h"
#include "reference/mixer_rows.h"
#include "reference/ssd_chunk.h"
#include "reference/ssd_step.h"

#include <stdlib.h>
#include <string.h>

/* A multiplier as the engine holds it: a constant, known bit for bit, so that a truth which judges another contract
 * takes that contract's. */
static real held(const REF(ref_call) * k, double m)
{
#if REF_BITS == 64
    if (k->sink && k->sink->gauges) return ref_mup_factor(k->sink->gauges->contract, m);
#endif
    return r_round(k->p->at[FH1_RP_MUP_VECTOR], (real)m);
}

/* transformers holds the vector in the model's type. */
void REF(ref_mup_vector)(const REF(ref_call) * k, real u[5])
{
    const bool rounded = k->e->variants & FH1_VAR_MUP_ROUNDED;
    for (int s = 0; s < 5; ++s) {
        u[s] = held(k, k->c->m_ssm[s]);
        if (rounded) u[s] = (real)fh1_round_f64(FH1_ROUND_BF16, (double)(float)k->c->m_ssm[s]);
        if (REF_FAULT(MUP_AFTER_CONV) && s >= 1 && s <= 3) u[s] = 1;
    }
}

/* Segment bounds of in_proj's columns: z | x | B | C | dt. */
static void segments(const fh1_config *c, int64_t bound[6])
{
    const int64_t GN = c->G * c->N, width[5] = {c->d_ssm, c->d_ssm, GN, GN, c->H};
    bound[0] = 0;
    for (int s = 0; s < 5; ++s) bound[s + 1] = bound[s] + width[s];
}

void REF(ref_mup_apply)(const REF(ref_call) * k, int64_t rows, real *proj)
{
    const int64_t width = fh1_in_proj_dim(k->c);
    int64_t bound[6];
    real u[5];
    segments(k->c, bound);
    REF(ref_mup_vector)(k, u);
    for (int64_t m = 0; m < rows; ++m) {
        real *pm = proj + m * width;
        for (int s = 0; s < 5; ++s)
            for (int64_t i = bound[s]; i < bound[s + 1]; ++i) pm[i] *= u[s];
        REF(ref_round_row)(k->p->at[FH1_RP_MUP], width, pm);
    }
}

/* What a padding column holds after in_proj and the mup vector when its input was masked: the bias, that of adapters
 * included. Room for H more. */
static fh1_status pad_column(const REF(ref_call) * k, const fh1_layer *l, real **out)
{
    const int64_t width = fh1_in_proj_dim(k->c);
    const fh1_lora *lora = l->lora[FH1_TAP_IN_PROJ];
    real *col = calloc((size_t)(width + k->c->H + k->c->D), sizeof *col);
    if (!col) return fh1_no_memory((size_t)width * sizeof *col, "a padding column");
    if (l->in_b.data) {
        REF(ref_widen)(col, &l->in_b, width);
        REF(ref_round_row)(k->p->at[FH1_RP_LINEAR], width, col);
    }
    const real *masked = col + width + k->c->H; /* zeros */
    fh1_status s = lora ? REF(ref_lora_add)(1, masked, lora, &l->in_b, k->p, col) : NULL;
    if (s) free(col);
    if (s) return s;
    if ((l->in_b.data || lora) && k->c->family == FH1_FALCON_H1) REF(ref_mup_apply)(k, 1, col);
    *out = col;
    return NULL;
}

static void dt_limits(const REF(ref_call) * k, double *lo, double *hi)
{
    *lo = k->c->dt_lo;
    *hi = k->c->dt_hi;
    const unsigned v = k->e->variants;
    if ((v & FH1_VAR_NO_DT_LIMIT) || ((v & FH1_VAR_DECODE_NO_DT_LIMIT) && k->one_token)) {
        *lo = 0;
        *hi = (double)INFINITY;
    }
    if (REF_FAULT(DT_CLAMPED_IN_STEPS_ONLY) && !k->one_token) {
        *lo = 0;
        *hi = (double)INFINITY;
    }
}

REF(ref_row) REF(ref_row_of)(const REF(ref_call) * k, int64_t layer, int64_t b)
{
    fh1_cache_row *r = &k->cache->rows[b];
    REF(ref_row)
    v = {.window = r->conv[layer],
         .state = r->ssm[layer],
         .begin = k->t.row_begin[b],
         .n = k->t.row_begin[b + 1] - k->t.row_begin[b],
         .held_doc = r->doc};
    if (!(k->e->variants & FH1_VAR_MIXER_LEAKS_DOCS)) v.doc = k->t.doc + v.begin;
    return v;
}

fh1_status REF(ref_pad_window)(REF(ref_call) * k, const fh1_layer *l, int64_t b, const REF(ref_row) * v, int64_t n)
{
    const fh1_config *c = k->c;
    real *col;
    (void)b; /* of the gauge alone */
    FH1_TRY(pad_column(k, l, &col));
    REF(ref_conv1d_push)(fh1_conv_dim(c), c->K, col + fh1_in_proj_conv(c), n, v->window);
    REF_GAUGE(ref_gauge_pad_window(k, l - k->m->layers, b, col, n));
    free(col);
    return NULL;
}

/* Variants of real libraries that change what a row starts from. */
static fh1_status before_row(REF(ref_call) * k, const fh1_layer *l, int64_t b, const REF(ref_row) * v)
{
    const fh1_config *c = k->c;
    if ((k->e->variants & FH1_VAR_HISTORY_DROPPED) && k->t.T > 1) {
        memset(v->window, 0, (size_t)(fh1_conv_dim(c) * (c->K - 1)) * sizeof(real));
        memset(v->state, 0, (size_t)(c->H * c->P * c->N) * sizeof(real));
    }
    if (!(k->e->variants & FH1_VAR_IN_PROJ_BIAS_AT_PADS) || k->t.n_left[b] == 0) return NULL;
    return REF(ref_pad_window)(k, l, b, v, k->t.n_left[b]);
}

/* FH1_VAR_RIGHT_PAD_CACHE: the window ends in padding columns and the state decays over them. */
static fh1_status after_row(REF(ref_call) * k, const fh1_layer *l, int64_t b, const REF(ref_row) * v)
{
    const fh1_config *c = k->c;
    if (!(k->e->variants & FH1_VAR_RIGHT_PAD_CACHE) || k->t.n_right[b] == 0) return NULL;
    real *col, *dt; /* one block: the column, then its Δ */
    FH1_TRY(pad_column(k, l, &col));
    dt = col + fh1_in_proj_dim(c);
    double lo, hi;
    dt_limits(k, &lo, &hi);
    REF(ref_dt_softplus_fwd)(1, c->H, dt - c->H, c->H, &l->dt_bias, lo, hi, k->p, dt);
    if (!REF_FAULT(STATE_DECAYS_OVER_RIGHT_PADS))
        REF(ref_conv1d_push)(fh1_conv_dim(c), c->K, col + fh1_in_proj_conv(c), k->t.n_right[b], v->window);
    if (!REF_FAULT(CONV_WINDOW_AT_RIGHT_PADS))
        REF(ref_ssd_decay)(c->H, c->P, c->N, dt, &l->A_log, k->t.n_right[b], v->state);
    REF_GAUGE(ref_gauge_pad_window(k, l - k->m->layers, b, col, k->t.n_right[b]));
    REF_GAUGE(ref_gauge_pad_state(k, l - k->m->layers, b, col, lo, hi, k->t.n_right[b], dt, v->state));
    free(col);
    return NULL;
}

/* Where a left-padded row starts in a window that already holds padding columns, the document of the
 * window is the one that begins: otherwise the selection by document would skip them. */
static int64_t window_doc(const REF(ref_call) * k, int64_t b, const REF(ref_row) * v)
{
    const bool pads_count = (k->e->variants & FH1_VAR_IN_PROJ_BIAS_AT_PADS) && k->t.n_left[b] > 0;
    return pads_count && v->n > 0 ? k->t.doc[v->begin] : v->held_doc;
}

fh1_status REF(ref_conv_rows)(REF(ref_call) * k, const fh1_layer *l, int64_t layer)
{
    const fh1_config *c = k->c;
    const int64_t width = fh1_in_proj_dim(c), conv = fh1_conv_dim(c);
    for (int64_t b = 0; b < k->t.B; ++b) {
        const REF(ref_row) v = REF(ref_row_of)(k, layer, b);
        FH1_TRY(before_row(k, l, b, &v));
        REF(ref_conv1d_args)
        a = {.T = v.n,
             .c = conv,
             .K = c->K,
             .ldx = width,
             .w = &l->conv_w,
             .b = &l->conv_b,
             .x = k->proj + v.begin * width + fh1_in_proj_conv(c),
             .doc = v.doc,
             .window_doc = window_doc(k, b, &v),
             .window = v.window,
             .y = k->conv + v.begin * conv};
        REF_SPOIL(FH1_TRY(REF(ref_spoil_conv)(k, layer, b, &a)));
        REF_GAUGE(ref_gauge_conv1d(k, layer, b, &a));
        FH1_TRY(v.n == 1 ? REF(ref_conv1d_step_fwd)(&a, k->p) : REF(ref_conv1d_fwd)(&a, k->p));
    }
    return NULL;
}

static fh1_status scan_rows(REF(ref_call) * k, const fh1_layer *l, int64_t layer)
{
    const fh1_config *c = k->c;
    for (int64_t b = 0; b < k->t.B; ++b) {
        const REF(ref_row) v = REF(ref_row_of)(k, layer, b);
        REF(ref_ssd_args)
        a = {.T = v.n,
             .H = c->H,
             .P = c->P,
             .N = c->N,
             .G = c->G,
             .ldx = fh1_conv_dim(c),
             .xbc = k->conv + v.begin * fh1_conv_dim(c),
             .dt = k->dt + v.begin * c->H,
             .A_log = &l->A_log,
             .D = &l->D,
             .doc = v.doc,
             .state_doc = v.held_doc,
             .reset = fh1_doc_reset(k->e->variants),
             .state = v.state,
             .y = k->y + v.begin * c->d_ssm};
        REF_SPOIL(FH1_TRY(REF(ref_spoil_scan)(k, layer, b, &a)));
        REF_GAUGE(ref_gauge_ssd(k, layer, b, &a));
        if (k->one_token && v.n == 1) REF(ref_ssd_step_fwd)(&a, k->p);
        else if (k->e->chunked) FH1_TRY(REF(ref_ssd_chunk_fwd)(&a, c->Q, k->p));
        else REF(ref_ssd_scan_fwd)(&a, k->p);
        FH1_TRY(after_row(k, l, b, &v));
        REF_SPOIL(FH1_TRY(REF(ref_spoil_row)(k, layer, b, &a)));
    }
    return NULL;
}

fh1_status REF(ref_mixer_fwd)(REF(ref_call) * k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const int64_t M = k->t.M, width = fh1_in_proj_dim(c);
    double lo, hi;

    REF(ref_scale_input)(k, FH1_TAP_IN_PROJ, layer, c->m_ssm_in);
    REF_SPOIL(FH1_TRY(REF(ref_spoil_input)(k, l)));
    FH1_TRY(REF(ref_linear_tap)(k, FH1_TAP_IN_PROJ, layer, M, NULL, k->scaled, &l->in_w, &l->in_b, 1, k->proj));
    REF_SPOIL(FH1_TRY(REF(ref_spoil_proj)(k)));
    REF(ref_mup_apply)(k, M, k->proj);
    REF(ref_mup_vector)(k, k->mup);

    FH1_TRY(REF(ref_conv_rows)(k, l, layer));
    REF_SPOIL(REF(ref_spoil_conv_act)(k));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_CONV_ACT, layer, k->conv));

    dt_limits(k, &lo, &hi);
    REF_GAUGE(ref_gauge_dt(k, layer, lo, hi));
    REF(ref_dt_softplus_fwd)(M, c->H, k->proj + c->d_ssm + fh1_conv_dim(c), width, &l->dt_bias, lo, hi, k->p, k->dt);
    REF_SPOIL(REF(ref_spoil_dt)(k));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_DT, layer, k->dt));

    FH1_TRY(scan_rows(k, l, layer));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_SSD, layer, k->y));

    REF_GAUGE(ref_gauge_gated(k, layer));
    REF_SPOIL(REF(ref_spoil_gate)(k));
    FH1_TRY(REF(ref_gated_norm_fwd)(M, c->d_ssm, c->G, k->y, k->proj, width, &l->norm, c->eps, c->norm_before_gate,
                                    k->p, k->y));
    FH1_TRY(REF(ref_tap)(k, FH1_TAP_GATED, layer, k->y));
    return REF(ref_linear_tap)(k, FH1_TAP_OUT_PROJ, layer, M, NULL, k->y, &l->out_w, &l->out_b, 1, k->mixer);
}
