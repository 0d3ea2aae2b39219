/* Errors that the variants for padding bring into window and state: columns that hold the bias of in_proj, and decays
 * over a Δ that no trace records. */
#include "oracle/gauge_request.h"
#include "reference/conv1d_gauge.h"
#include "reference/dt_softplus_gauge.h"
#include "reference/gauge_call.h"

/* The bias is rounded on its way where it is stored in a longer type, and the sum where an adapter adds one. */
static fh1_err bias_error(const ref_call_f64 *k, int64_t layer, int64_t i, double sum)
{
    const fh1_layer *l = &k->m->layers[layer];
    const fh1_profile *contract = k->sink->gauges->contract;
    const fh1_round r = contract->at[FH1_RP_LINEAR];
    const bool longer = l->in_b.data && fh1_dtype_ulp(l->in_b.dtype, 1) < fh1_dtype_ulp(contract->storage, 1);
    bool adapted = false;
    for (const fh1_lora *a = l->lora[FH1_TAP_IN_PROJ]; a; a = a->next) adapted |= a->bias.data != NULL;
    fh1_err e = {0};
    if (longer) e = fh1_err_function(e, contract, r, 4, fh1_get(&l->in_b, i));
    return adapted ? fh1_err_function(e, contract, r, 4, sum) : e;
}

/* A padding column: the bias, and in Falcon-H1 its products with the mup vector. Dense, [in_proj width]. */
static fh1_status column_error(const ref_call_f64 *k, int64_t layer, const double *col, fh1_gauge *g)
{
    const fh1_config *c = k->c;
    const fh1_profile *contract = k->sink->gauges->contract;
    const int64_t width = fh1_in_proj_dim(c), GN = c->G * c->N;
    const int64_t end[5] = {c->d_ssm, 2 * c->d_ssm, 2 * c->d_ssm + GN, 2 * c->d_ssm + 2 * GN, width};
    const bool multiplied = c->family == FH1_FALCON_H1;
    FH1_TRY(fh1_gauge_new(width, g));
    if (multiplied) ref_mup_gauge(contract, width, col, 1, 1, g);
    int s = 0;
    for (int64_t i = 0; i < width; ++i) {
        while (i >= end[s]) ++s;
        const double m = multiplied ? k->mup[s] : 1, bias = m != 0 ? col[i] / m : 0;
        const fh1_err e = bias_error(k, layer, i, bias);
        fh1_gauge_set(g, i, fh1_err_add(fh1_gauge_at(g, i), fh1_err_scale(e, m)));
    }
    return NULL;
}

static void push(int64_t c, int64_t W, const fh1_gauge *col, int64_t n, const fh1_gauge *window)
{
    for (int64_t j = 0; j < c; ++j)
        for (int64_t i = 0; i < W; ++i)
            fh1_gauge_set(window, j * W + i, i + n < W ? fh1_gauge_at(window, j * W + i + n) : fh1_gauge_at(col, j));
}

fh1_status ref_gauge_pad_window(ref_call_f64 *k, int64_t layer, int64_t row, const double *col, int64_t n)
{
    if (!k->sink || !k->sink->gauges || !k->sink->gauges->cache) return NULL;
    const int64_t conv = fh1_conv_dim(k->c);
    fh1_gauge g;
    FH1_TRY(column_error(k, layer, col, &g));
    const fh1_gauge at = ref_gauge_from(&g, fh1_in_proj_conv(k->c));
    push(conv, k->c->K - 1, &at, n, &k->sink->gauges->cache->conv[layer * k->t.B + row]);
    fh1_gauge_free(&g);
    return NULL;
}

/* States [begin, end) that have decayed by exp(-n Δ A): an error e of Δ is one of n·A·e, relative; n products and exps
 * add theirs. */
static void decayed(const fh1_profile *contract, double A, double dt, double dt_error, int64_t n, int64_t begin,
                    int64_t end, const double *state, const fh1_gauge *held)
{
    const double steps = (double)n, relative = expm1(fmin(steps * A * dt_error, 64)) +
                                               steps * (contract->exp_units * (1 + dt * A) + 2) * contract->u;
    for (int64_t i = begin; i < end; ++i) {
        const fh1_err e = fh1_err_scale(fh1_gauge_at(held, i), exp(-steps * dt * A));
        fh1_gauge_set(held, i, fh1_err_add(e, fh1_err_shared(relative * fabs(state[i]))));
    }
}

fh1_status ref_gauge_pad_state(ref_call_f64 *k, int64_t layer, int64_t row, const double *col, double lo, double hi,
                               int64_t n, const double *dt, const double *state)
{
    if (!k->sink || !k->sink->gauges || !k->sink->gauges->cache) return NULL;
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const fh1_profile *contract = k->sink->gauges->contract;
    const int64_t first = c->d_ssm + fh1_conv_dim(c);
    fh1_gauge raw, g;
    FH1_TRY(column_error(k, layer, col, &raw));
    fh1_status s = fh1_gauge_new(c->H, &g);
    if (!s) {
        const fh1_gauge raw_err = ref_gauge_from(&raw, first),
                        *held = &k->sink->gauges->cache->ssm[layer * k->t.B + row];
        ref_dt_softplus_gauge(contract, 1, c->H, col + first, c->H, &l->dt_bias, lo, hi, &raw_err, &g);
        for (int64_t h = 0; h < c->H; ++h)
            decayed(contract, exp(fh1_get(&l->A_log, h)), dt[h], g.worst[h], n, h * c->P * c->N, (h + 1) * c->P * c->N,
                    state, held);
        fh1_gauge_free(&g);
    }
    fh1_gauge_free(&raw);
    return s;
}

fh1_status ref_gauge_mamba_pad_state(ref_call_f64 *k, int64_t layer, int64_t row, int64_t n, const double *zero,
                                     const double *dt, const double *state)
{
    if (!k->sink || !k->sink->gauges || !k->sink->gauges->cache) return NULL;
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const fh1_profile *contract = k->sink->gauges->contract;
    const fh1_gauge *held = &k->sink->gauges->cache->ssm[layer * k->t.B + row];
    fh1_gauge g;
    FH1_TRY(fh1_gauge_new(c->H, &g));
    ref_dt_softplus_gauge(contract, 1, c->H, zero, c->H, &l->dt_bias, 0, (double)INFINITY, NULL, &g);
    for (int64_t i = 0; i < c->H * c->N; ++i)
        decayed(contract, exp(fh1_get(&l->A_log, i)), dt[i / c->N], g.worst[i / c->N], n, i, i + 1, state, held);
    fh1_gauge_free(&g);
    return NULL;
}
