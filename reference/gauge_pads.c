/* Errors that the variants for padding bring into window and state: columns that hold the bias of in_proj, and decays
 * over a Δ that no trace records. */
#include "oracle/gauge_request.h"
#include "reference/conv1d_gauge.h"
#include "reference/dt_softplus_gauge.h"
#include "reference/gauge_call.h"

/* Whether the bias itself is rounded on its way: it is stored in a longer type, or an adapter adds to it. */
static bool bias_rounds(const ref_call_f64 *k, int64_t layer)
{
    const fh1_layer *l = &k->m->layers[layer];
    bool adapted = false;
    for (const fh1_lora *a = l->lora[FH1_TAP_IN_PROJ]; a; a = a->next) adapted |= a->bias.data != NULL;
    return adapted ||
           (l->in_b.data && fh1_dtype_ulp(l->in_b.dtype, 1) < fh1_dtype_ulp(k->sink->gauges->contract->storage, 1));
}

/* A padding column: the bias, and its products with the mup vector. Dense, [in_proj width]. */
static fh1_status column_error(const ref_call_f64 *k, int64_t layer, const double *col, fh1_gauge *g)
{
    const fh1_config *c = k->c;
    const fh1_profile *contract = k->sink->gauges->contract;
    const int64_t width = fh1_in_proj_dim(c), GN = c->G * c->N;
    const int64_t end[5] = {c->d_ssm, 2 * c->d_ssm, 2 * c->d_ssm + GN, 2 * c->d_ssm + 2 * GN, width};
    FH1_TRY(fh1_gauge_new(width, g));
    ref_mup_gauge(contract, width, col, 1, 1, g);
    int s = 0;
    for (int64_t i = 0; bias_rounds(k, layer) && i < width; ++i) {
        while (i >= end[s]) ++s;
        const double m = k->mup[s], bias = m != 0 ? col[i] / m : 0;
        const fh1_err e = fh1_err_function((fh1_err){0}, contract, contract->at[FH1_RP_LINEAR], 4, bias);
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
    const fh1_gauge at = ref_gauge_from(&g, k->c->d_ssm);
    push(conv, k->c->K - 1, &at, n, &k->sink->gauges->cache->conv[layer * k->t.B + row]);
    fh1_gauge_free(&g);
    return NULL;
}

/* exp(-n Δ A): an error e of Δ is one of n·A·e, relative; n products and exps add theirs. */
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
        for (int64_t h = 0; h < c->H; ++h) {
            const double A = exp(fh1_get(&l->A_log, h)), steps = (double)n;
            const double relative = expm1(fmin(steps * A * g.worst[h], 64)) +
                                    steps * (contract->exp_units * (1 + dt[h] * A) + 2) * contract->u;
            for (int64_t i = h * c->P * c->N; i < (h + 1) * c->P * c->N; ++i) {
                const fh1_err e = fh1_err_scale(fh1_gauge_at(held, i), exp(-steps * dt[h] * A));
                fh1_gauge_set(held, i, fh1_err_add(e, fh1_err_shared(relative * fabs(state[i]))));
            }
        }
        fh1_gauge_free(&g);
    }
    fh1_gauge_free(&raw);
    return s;
}
