/* Gauges of the steps that Falcon-Mamba's mixer has between two taps: the norms inside, which truth computes again from
 * the judged x_proj, and what stands behind them. */
#include "reference/conv1d_gauge.h" /* ref_gauge_from */
#include "reference/dt_softplus_gauge.h"
#include "reference/gauge_call.h"
#include "reference/gauge_open.h"
#include "reference/gauge_parts.h"
#include "reference/linear.h"
#include "reference/linear_gauge.h"
#include "reference/lora.h"
#include "reference/lora_gauge.h"
#include "reference/merged_gauge.h"
#include "reference/rmsnorm.h"
#include "reference/rmsnorm_gauge.h"
#include "reference/selective_gauge.h"

#include <stdlib.h>
#include <string.h>

static const fh1_tensor none;

/* The hidden error of columns [first, first + n) of x_proj, for `rows` tokens from `begin` on: dense, zero where x_proj
 * is the judged engine's own. */
static fh1_status column_error(const ref_call_f64 *k, int64_t begin, int64_t rows, int64_t first, int64_t n,
                               fh1_gauge *g)
{
    const int64_t width = fh1_x_proj_dim(k->c), from = begin * width;
    FH1_TRY(fh1_gauge_new(rows * n, g));
    if (!k->hidden_xp.worst) return NULL;
    ref_columns_f64(rows, width, k->hidden_xp.worst + from, first, n, g->worst);
    ref_columns_f64(rows, width, k->hidden_xp.variance + from, first, n, g->variance);
    ref_columns_f64(rows, width, k->hidden_xp.shared + from, first, n, g->shared);
    return NULL;
}

/* A norm without a weight, of x [M,D] with errors `in`: its error, dense. */
static fh1_status norm_error(const ref_call_f64 *k, int64_t M, int64_t D, const double *x, const fh1_gauge *in,
                             fh1_gauge *g)
{
    FH1_TRY(fh1_gauge_new(M * D, g));
    FH1_TRY(ref_rmsnorm_gauge(ref_gauge_request(k)->contract, M, D, x, &none, k->c->mixer_eps, g));
    ref_rmsnorm_input_gauge(M, D, x, k->c->mixer_eps, in, g);
    return NULL;
}

/* The norm of columns [first, first + n) of x_proj. */
static fh1_status inner_error(const ref_call_f64 *k, int64_t begin, int64_t rows, int64_t first, int64_t n,
                              fh1_gauge *g)
{
    const int64_t width = fh1_x_proj_dim(k->c);
    fh1_gauge in = {0};
    double *x = malloc((size_t)(rows * n + 1) * sizeof *x);
    if (!x) return fh1_no_memory((size_t)(rows * n) * sizeof *x, "the input of an inner norm");
    ref_columns_f64(rows, width, k->xp + begin * width, first, n, x);
    fh1_status s = column_error(k, begin, rows, first, n, &in);
    if (!s) s = norm_error(k, rows, n, x, &in, g);
    fh1_gauge_free(&in);
    free(x);
    return s;
}

/* Adds what errors of the inputs [M,K] do to a product, |W| times the bounds and W² times the variances. All outputs of
 * a token share its K errors, and an RMS over them scatters as one over K: λ/√(2K) of their deviation is in common. */
static fh1_status through_product(int64_t M, const fh1_tensor *w, const fh1_gauge *in, const fh1_gauge *g)
{
    const int64_t n = M * w->shape[0], k = M * w->shape[1];
    double *sum = malloc((size_t)(n + k + 1) * sizeof *sum), *deviation = sum + n;
    if (!sum) return fh1_no_memory((size_t)(n + k) * sizeof *sum, "the gauge of a product");
    fh1_status s = ref_linear_abs_sum_f64(M, in->worst, w, NULL, sum);
    for (int64_t i = 0; !s && i < n; ++i) g->worst[i] += sum[i];
    if (!s) s = ref_linear_abs_sum_f64(M, in->shared, w, NULL, sum);
    for (int64_t i = 0; !s && i < n; ++i) g->shared[i] += sum[i];
    for (int64_t i = 0; !s && i < k; ++i) deviation[i] = sqrt(in->variance[i]);
    if (!s) s = ref_linear_square_sum_f64(M, deviation, w, sum);
    const double scatter = fh1_gauge_sigmas(M) / sqrt(2 * (double)w->shape[1]);
    for (int64_t i = 0; !s && i < n; ++i) {
        g->variance[i] += sum[i];
        g->shared[i] = fmin(g->shared[i] + scatter * sqrt(sum[i]), g->worst[i]);
    }
    free(sum);
    return s;
}

/* The error of dt_proj's product, its adapters included. */
static fh1_status product_error(ref_call_f64 *k, int64_t layer, const fh1_gauge *in, fh1_gauge *raw)
{
    const fh1_gauge_request *r = ref_gauge_request(k);
    const fh1_tensor *w = &k->m->layers[layer].dt_w;
    const fh1_lora *lora = fh1_lora_of(k->m, FH1_TAP_DT, layer);
    const int64_t M = k->t.M;
    FH1_TRY(ref_linear_gauge(r->contract, M, k->inner, w, &none, k->dt, raw));
    FH1_TRY(through_product(M, w, in, raw));
    if (lora) FH1_TRY(ref_lora_gauge(r->contract, M, k->inner, lora, &none, k->dt, raw));
    return r->merged ? ref_merged_gauge(r, FH1_TAP_DT, layer, M, k->inner, w, &none, raw) : NULL;
}

/* The product with its adapters: what softplus reads. Freed by the caller. */
static fh1_status adapted(const ref_call_f64 *k, int64_t layer, double **out)
{
    const fh1_lora *lora = fh1_lora_of(k->m, FH1_TAP_DT, layer);
    const size_t n = (size_t)(k->t.M * k->c->H);
    if (!(*out = malloc((n + 1) * sizeof **out))) return fh1_no_memory(n * sizeof **out, "the gauge of dt");
    memcpy(*out, k->dt, n * sizeof **out);
    return lora ? ref_lora_add_f64(k->t.M, k->inner, lora, &none, k->p, *out) : NULL;
}

/* ref_norm_is_late: v [M,H] with the error `raw` through the norm behind the product, both in place. */
static fh1_status late_norm(const ref_call_f64 *k, double *v, fh1_gauge *raw)
{
    fh1_gauge behind = {0};
    fh1_status s = norm_error(k, k->t.M, k->c->H, v, raw, &behind);
    fh1_gauge_free(raw);
    *raw = behind;
    return s ? s : ref_rmsnorm_fwd_f64(k->t.M, k->c->H, v, &none, k->c->mixer_eps, k->p, v);
}

fh1_status ref_gauge_mamba_dt(ref_call_f64 *k, int64_t layer)
{
    const fh1_config *c = k->c;
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open(k, FH1_TAP_DT, layer, k->t.M * c->H, &g));
    if (!g) return NULL;
    fh1_gauge in = {0}, raw = {0};
    double *v = NULL;
    const bool late = ref_norm_is_late(k->e);
    fh1_status s = (late ? column_error : inner_error)(k, 0, k->t.M, 0, c->R, &in);
    if (!s) s = fh1_gauge_new(k->t.M * c->H, &raw);
    if (!s) s = product_error(k, layer, &in, &raw);
    if (!s) s = adapted(k, layer, &v);
    if (!s && late) s = late_norm(k, v, &raw);
    if (!s)
        ref_dt_softplus_gauge(ref_gauge_request(k)->contract, k->t.M, c->H, v, c->H, &k->m->layers[layer].dt_bias, 0,
                              (double)INFINITY, &raw, g);
    free(v);
    fh1_gauge_free(&in);
    fh1_gauge_free(&raw);
    return s;
}

fh1_status ref_gauge_selective(ref_call_f64 *k, int64_t layer, int64_t row, const ref_selective_args_f64 *a)
{
    const fh1_config *c = k->c;
    const int64_t begin = k->t.row_begin[row];
    const fh1_gauge *g;
    FH1_TRY(ref_gauge_open_rows(k, FH1_TAP_SSD, layer, k->t.M * c->H, &g));
    if (!g || a->T == 0) return NULL;
    const fh1_gauge_request *r = ref_gauge_request(k);
    const fh1_gauge *state = &r->cache->ssm[layer * k->t.B + row], at = ref_gauge_from(g, begin * c->H);
    fh1_gauge B = {0}, C = {0};
    fh1_status s = inner_error(k, begin, a->T, c->R, c->N, &B);
    if (!s) s = inner_error(k, begin, a->T, c->R + c->N, c->N, &C);
    if (!s)
        s = (k->one_token && a->T == 1 ? ref_selective_step_gauge : ref_selective_scan_gauge)(r->contract, a, &B, &C,
                                                                                              state, &at);
    fh1_gauge_free(&B);
    fh1_gauge_free(&C);
    return s;
}
