#include "reference/gauge_call.h"

#include "reference/attention_op_gauge.h"
#include "reference/conv1d_gauge.h"
#include "reference/cross_entropy_gauge.h"
#include "reference/dt_softplus_gauge.h"
#include "reference/embed_gauge.h"
#include "reference/gated_norm_gauge.h"
#include "reference/gauge_open.h"
#include "reference/gauge_parts.h"
#include "reference/linear_gauge.h"
#include "reference/lm_head_gauge.h"
#include "reference/lora_gauge.h"
#include "reference/merged_gauge.h"
#include "reference/residual_gauge.h"
#include "reference/rmsnorm_gauge.h"
#include "reference/rope_gauge.h"
#include "reference/ssd_gauge.h"
#include "reference/swiglu_gauge.h"

#include <stdlib.h>
#include <string.h>

const fh1_gauge_request *ref_gauge_request(const ref_call_f64 *k)
{
    return k->sink ? k->sink->gauges : NULL;
}

static bool wanted(const ref_call_f64 *k, fh1_tap_id id, int64_t layer)
{
    const fh1_gauge_request *r = ref_gauge_request(k);
    return r && r->wanted && r->wanted(r->user, id, layer);
}

fh1_status ref_gauge_open(ref_call_f64 *k, fh1_tap_id id, int64_t layer, int64_t n, const fh1_gauge **g)
{
    *g = NULL;
    if (!wanted(k, id, layer)) return NULL;
    const int slot = k->gauge[0].wanted ? 1 : 0;
    FH1_TRY(fh1_gauge_new(n, &k->gauge[slot].g));
    k->gauge[slot].id = id;
    k->gauge[slot].wanted = true;
    *g = &k->gauge[slot].g;
    return NULL;
}

fh1_status ref_gauge_open_rows(ref_call_f64 *k, fh1_tap_id id, int64_t layer, int64_t n, const fh1_gauge **g)
{
    for (int i = 0; i < 2; ++i)
        if (k->gauge[i].wanted && k->gauge[i].id == id) {
            *g = &k->gauge[i].g;
            return NULL;
        }
    return ref_gauge_open(k, id, layer, n, g);
}

fh1_status ref_gauge_embed(ref_call_f64 *k)
{
    const fh1_gauge *g;
    const int64_t n = k->t.M * k->c->D;
    FH1_TRY(ref_gauge_open(k, FH1_TAP_EMBED, 0, n, &g));
    if (!g) return NULL;
    ref_embed_gauge(ref_gauge_request(k)->contract, n, k->x, g);
    const fh1_lora *lora = k->m->embed_lora;
    if (lora) FH1_TRY(ref_lora_embed_gauge(ref_gauge_request(k)->contract, k->t.M, k->t.id, lora, k->x, g));
    if (ref_gauge_request(k)->merged) ref_merged_embed_gauge(ref_gauge_request(k), k->t.M, k->t.id, &k->m->embed, g);
    return NULL;
}

fh1_status ref_gauge_input(ref_call_f64 *k)
{
    const fh1_gauge *g;
    const int64_t n = k->t.M * k->c->D;
    FH1_TRY(ref_gauge_open(k, FH1_TAP_INPUT, 0, n, &g));
    if (g) ref_multiply_gauge(ref_gauge_request(k)->contract, FH1_RP_EMBED, n, k->x, k->c->m_emb, g);
    return NULL;
}

fh1_status ref_gauge_norm(ref_call_f64 *k, fh1_tap_id id, int64_t layer, const double *x, const fh1_tensor *w)
{
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open(k, id, layer, k->t.M * k->c->D, &g));
    if (!g) return NULL;
    const fh1_profile *p = ref_gauge_request(k)->contract;
    const fh1_profile contract = id == FH1_TAP_FINAL_LAYERNORM ? fh1_profile_final_norm(p) : *p;
    return ref_rmsnorm_gauge(&contract, k->t.M, k->c->D, x, w, k->c->eps, g);
}

/* Whether an input multiplier stands before this product. */
static bool is_scaled(const fh1_config *c, fh1_tap_id id)
{
    switch (id) {
    case FH1_TAP_IN_PROJ: return c->m_ssm_in != 1;
    case FH1_TAP_Q_PROJ:
    case FH1_TAP_K_PROJ:
    case FH1_TAP_V_PROJ: return c->m_attn_in != 1;
    default: return false;
    }
}

static fh1_status linear_gauge(const ref_call_f64 *k, fh1_tap_id id, int64_t layer, int64_t rows, const double *x,
                               const fh1_tensor *w, const fh1_tensor *b, const double *y, const fh1_gauge *g)
{
    const fh1_lora *lora = fh1_lora_of(k->m, id, layer);
    const fh1_profile contract = fh1_profile_linear(ref_gauge_request(k)->contract, k->c, id, k->t.T);
    FH1_TRY((is_scaled(k->c, id) ? ref_linear_scaled_gauge : ref_linear_gauge)(&contract, rows, x, w, b, y, g));
    if (lora) FH1_TRY(ref_lora_gauge(&contract, rows, x, lora, b, y, g));
    return ref_gauge_request(k)->merged ? ref_merged_gauge(ref_gauge_request(k), id, layer, rows, x, w, b, g) : NULL;
}

fh1_status ref_gauge_linear(ref_call_f64 *k, fh1_tap_id id, int64_t layer, int64_t rows, const double *x,
                            const fh1_tensor *w, const fh1_tensor *b, const double *y)
{
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open(k, id, layer, rows * w->shape[0], &g));
    if (g) FH1_TRY(linear_gauge(k, id, layer, rows, x, w, b, y, g));
    const fh1_gauge_request *r = ref_gauge_request(k);
    if (id != FH1_TAP_X_PROJ || !r || !r->hidden) return NULL;
    fh1_gauge_free(&k->hidden_xp);
    if (!r->hidden(r->user, id, layer)) return NULL;
    FH1_TRY(fh1_gauge_new(rows * w->shape[0], &k->hidden_xp));
    return linear_gauge(k, id, layer, rows, x, w, b, y, &k->hidden_xp);
}

fh1_status ref_gauge_logits(ref_call_f64 *k, int64_t rows, double m, const double *product)
{
    for (int i = 0; i < 2; ++i)
        if (k->gauge[i].wanted && k->gauge[i].id == FH1_TAP_LOGITS)
            ref_lm_head_scale_gauge(ref_gauge_request(k)->contract, rows * k->c->V, m, product, &k->gauge[i].g);
    return NULL;
}

fh1_status ref_gauge_rope(ref_call_f64 *k, int64_t layer)
{
    fh1_config config; /* the variant's theta, as the forward takes it */
    fh1_config_copy(&config, k->c);
    if (k->e->variants & FH1_VAR_THETA_CLASS_DEFAULT) config.rope = (fh1_rope){.theta = 1e5};
    const fh1_config *c = &config;
    const int64_t M = k->t.M, n_k = M * c->Hkv * c->A, longest = k->t.max_position + 1, seen = k->cache->rope_seq_len;
    const int64_t seq_len = longest > seen ? longest : seen;
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open(k, FH1_TAP_Q_ROPE, layer, M * c->Hq * c->A, &g));
    if (g) FH1_TRY(ref_rope_gauge(ref_gauge_request(k)->contract, c, M, c->Hq, k->t.position, seq_len, k->q, NULL, g));
    FH1_TRY(ref_gauge_open(k, FH1_TAP_K_ROPE, layer, n_k, &g));
    if (!g) return NULL;
    fh1_gauge scaled;
    FH1_TRY(fh1_gauge_new(n_k, &scaled));
    /* k is scaled already: |k·m| is what a rounding of the product sees */
    ref_multiply_gauge(ref_gauge_request(k)->contract, FH1_RP_KEY, n_k, k->k, 1, &scaled);
    for (int64_t i = 0; i < n_k; ++i) { /* and the multiplier's own rounding, which a factor of 1 has not */
        const fh1_err m = fh1_err_shared(ref_gauge_request(k)->contract->u * fabs(k->k[i]));
        fh1_gauge_set(&scaled, i, fh1_err_add(fh1_gauge_at(&scaled, i), m));
    }
    fh1_status s =
        ref_rope_gauge(ref_gauge_request(k)->contract, c, M, c->Hkv, k->t.position, seq_len, k->k, &scaled, g);
    fh1_gauge_free(&scaled);
    return s;
}

fh1_status ref_gauge_attention(ref_call_f64 *k, int64_t layer, int64_t begin, const ref_attention_args_f64 *a)
{
    const fh1_gauge *g;
    const int64_t width = a->Hq * a->A;
    FH1_TRY(ref_gauge_open_rows(k, FH1_TAP_CONTEXT, layer, k->t.M * width, &g));
    if (!g || a->T == 0) return NULL;
    const ref_attention_gauge_args args = {a->T, a->S, a->Hq, a->Hkv,   a->A,  a->ld_kv,
                                           a->q, a->k, a->v,  a->first, a->out};
    const fh1_gauge row = ref_gauge_from(g, begin * width);
    return ref_attention_op_gauge(ref_gauge_request(k)->contract, &args, &row);
}

/* The error of `n` columns of the scaled in_proj from column `first` on, for rows [begin, begin + rows): dense. */
static fh1_status mup_error(const ref_call_f64 *k, int64_t begin, int64_t rows, int64_t first, int64_t n, fh1_gauge *g)
{
    const fh1_config *c = k->c;
    const int64_t width = fh1_in_proj_dim(c), GN = c->G * c->N;
    if (c->family == FH1_FALCON_MAMBA) return fh1_gauge_new(rows * n, g); /* no multipliers: zero */
    const int64_t end[5] = {c->d_ssm, 2 * c->d_ssm, 2 * c->d_ssm + GN, 2 * c->d_ssm + 2 * GN, width};
    FH1_TRY(fh1_gauge_new(rows * n, g));
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < n;) {
            int s = 0;
            while (first + i >= end[s]) ++s;
            const int64_t stop = end[s] - first < n ? end[s] - first : n;
            const fh1_gauge at = ref_gauge_from(g, r * n + i);
            /* truth has multiplied by the factor that the contract holds (k->mup): no error but the product's */
            ref_mup_gauge(ref_gauge_request(k)->contract, stop - i, k->proj + (begin + r) * width + first + i,
                          k->mup[s], k->mup[s], &at);
            i = stop;
        }
    return NULL;
}

fh1_status ref_gauge_conv1d(ref_call_f64 *k, int64_t layer, int64_t row, const ref_conv1d_args_f64 *a)
{
    const int64_t begin = k->t.row_begin[row];
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open_rows(k, FH1_TAP_CONV_ACT, layer, k->t.M * a->c, &g));
    if (!g || a->T == 0) return NULL;
    const fh1_gauge *window = &ref_gauge_request(k)->cache->conv[layer * k->t.B + row],
                    at = ref_gauge_from(g, begin * a->c);
    fh1_gauge x;
    FH1_TRY(mup_error(k, begin, a->T, fh1_in_proj_conv(k->c), a->c, &x));
    fh1_status s = ref_conv1d_gauge(ref_gauge_request(k)->contract, a, &x, window, &at);
    ref_conv1d_gauge_window(a, &x, window);
    fh1_gauge_free(&x);
    return s;
}

fh1_status ref_gauge_dt(ref_call_f64 *k, int64_t layer, double lo, double hi)
{
    const fh1_config *c = k->c;
    const int64_t first = c->d_ssm + fh1_conv_dim(c);
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open(k, FH1_TAP_DT, layer, k->t.M * c->H, &g));
    if (!g) return NULL;
    fh1_gauge raw;
    FH1_TRY(mup_error(k, 0, k->t.M, first, c->H, &raw));
    ref_dt_softplus_gauge(ref_gauge_request(k)->contract, k->t.M, c->H, k->proj + first, fh1_in_proj_dim(c),
                          &k->m->layers[layer].dt_bias, lo, hi, &raw, g);
    fh1_gauge_free(&raw);
    return NULL;
}

/* Δ where a pipeline computes on padding: the hidden vector is zero there, in_proj gives its bias. */
static double *dt_of_padding(const ref_call_f64 *k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    double *dt = malloc((size_t)c->H * sizeof *dt);
    for (int64_t h = 0; dt && h < c->H; ++h) {
        double v = fh1_get(&l->dt_bias, h);
        if (l->in_b.data) v += fh1_get(&l->in_b, fh1_in_proj_dim(c) - c->H + h) * c->m_ssm[4];
        dt[h] = fmax(c->dt_lo, v > 20 ? v : log1p(exp(v)));
    }
    return dt;
}

fh1_status ref_gauge_ssd(ref_call_f64 *k, int64_t layer, int64_t row, const ref_ssd_args_f64 *a)
{
    const fh1_config *c = k->c;
    const fh1_profile *contract = ref_gauge_request(k) ? ref_gauge_request(k)->contract : NULL;
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open_rows(k, FH1_TAP_SSD, layer, k->t.M * c->d_ssm, &g));
    if (!g || a->T == 0) return NULL;
    const fh1_gauge *state = &ref_gauge_request(k)->cache->ssm[layer * k->t.B + row];
    const fh1_gauge at = ref_gauge_from(g, k->t.row_begin[row] * c->d_ssm);
    if (k->one_token && a->T == 1) return ref_ssd_step_gauge(contract, a, state, &at);
    double *pad_dt = k->t.T > a->T ? dt_of_padding(k, layer) : NULL;
    if (k->t.T > a->T && !pad_dt) return fh1_no_memory((size_t)c->H * sizeof *pad_dt, "the padding of a scan");
    fh1_status s = ref_ssd_scan_gauge(contract, a, ref_ssd_columns(contract, k->t.T, c->Q), pad_dt, state, &at);
    free(pad_dt);
    return s;
}

fh1_status ref_gauge_gated(ref_call_f64 *k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open(k, FH1_TAP_GATED, layer, k->t.M * c->d_ssm, &g));
    if (!g) return NULL;
    fh1_gauge z;
    FH1_TRY(mup_error(k, 0, k->t.M, fh1_in_proj_gate(c), c->d_ssm, &z));
    fh1_status s = ref_gated_norm_gauge(ref_gauge_request(k)->contract, k->t.M, c->d_ssm, c->G, k->y,
                                        k->proj + fh1_in_proj_gate(c), fh1_in_proj_dim(c), &z,
                                        &k->m->layers[layer].norm, c->eps, c->norm_before_gate, g);
    fh1_gauge_free(&z);
    return s;
}

fh1_status ref_gauge_act(ref_call_f64 *k, int64_t layer)
{
    const fh1_gauge *g;
    const fh1_config *c = k->c;
    FH1_TRY(ref_gauge_open(k, FH1_TAP_ACT, layer, k->t.M * c->F, &g));
    if (g) ref_swiglu_gauge(ref_gauge_request(k)->contract, k->t.M, c->F, k->gate, c->m_gate, k->up, g);
    return NULL;
}

fh1_status ref_gauge_residual(ref_call_f64 *k, fh1_tap_id id, int64_t layer, const ref_branches_f64 *b)
{
    const fh1_gauge *g;
    const int64_t n = k->t.M * k->c->D;
    FH1_TRY(ref_gauge_open(k, id, layer, n, &g));
    if (g) ref_residual_gauge(ref_gauge_request(k)->contract, n, b, k->x, g);
    return NULL;
}

fh1_status ref_gauge_loss(ref_call_f64 *k, const double *logits, const int64_t *label)
{
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open(k, FH1_TAP_LOSS, 0, 1, &g));
    if (g) ref_cross_entropy_gauge(ref_gauge_request(k)->contract, k->t.M, k->c->V, logits, label, g);
    return NULL;
}
