#include "reference/conv1d_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 64 /* channels a piece */

typedef struct {
    const fh1_profile *contract;
    const REF(ref_conv1d_args) * a;
    const fh1_gauge *x_err, *window_err, *g;
    const double *w, *b; /* [c,K], [c] */
} conv_job;

/* Where tap s of token t is read: a token of the call, a column of the window, or nowhere. */
typedef enum { NOWHERE, IN_CALL, IN_WINDOW } place;

static place place_of(const REF(ref_conv1d_args) * a, int64_t s, int64_t t)
{
    const int64_t doc = a->doc ? a->doc[t] : 0;
    if (s >= 0) return !a->doc || a->doc[s] == doc ? IN_CALL : NOWHERE;
    return !a->doc || a->window_doc == doc ? IN_WINDOW : NOWHERE;
}

/* u = b + Σ w·x, and its error before the rounding at FH1_RP_CONV.
 * Each product is rounded once, together by u·Σ|w x| at most, and K additions of at most u·(Σ|w x| + |b|) follow in any
 * order: K + 1 terms of fh1_err_sum. One-token steps of transformers up to 5.14 round each product, and their sum
 * before the bias, to the stored type as well. */
static fh1_err pre_activation(const conv_job *j, int64_t t, int64_t c, double *u)
{
    const REF(ref_conv1d_args) *a = j->a;
    const fh1_round r = j->contract->at[FH1_RP_CONV];
    const bool each = a->T == 1 && (r == FH1_ROUND_BF16 || r == FH1_ROUND_F16);
    fh1_err e = {0};
    double sum = 0, abs_sum = fabs(j->b[c]);
    for (int64_t k = 0; k < a->K; ++k) {
        const int64_t s = t - (a->K - 1) + k, at = c * (a->K - 1) + a->K - 1 + s;
        const place where = place_of(a, s, t);
        if (where == NOWHERE) continue; /* skipped, not multiplied by zero: a NaN there must not pass */
        const double w = j->w[c * a->K + k], x = where == IN_CALL ? a->x[s * a->ldx + c] : a->window[at];
        const fh1_gauge *err = where == IN_CALL ? j->x_err : j->window_err;
        if (err) e = fh1_err_add(e, fh1_err_scale(fh1_gauge_at(err, where == IN_CALL ? s * a->c + c : at), w));
        if (each) e = fh1_err_round(e, j->contract, r, w * x);
        sum += w * x;
        abs_sum += fabs(w * x);
    }
    e = fh1_err_sum(e, j->contract, a->K + 1, abs_sum);
    if (each) e = fh1_err_round(e, j->contract, r, sum);
    *u = sum + j->b[c];
    return e;
}

static void channels(void *ctx, int64_t c0, int64_t c1, int thread)
{
    (void)thread;
    const conv_job *j = ctx;
    for (int64_t t = 0; t < j->a->T; ++t)
        for (int64_t c = c0; c < c1; ++c) {
            double u;
            fh1_err e = pre_activation(j, t, c, &u);
            e = fh1_err_round(e, j->contract, j->contract->at[FH1_RP_CONV], u);
            e = ref_err_silu(e, j->contract, j->contract->at[FH1_RP_CONV_ACT], u);
            fh1_gauge_set(j->g, t * j->a->c + c, e);
        }
}

fh1_status ref_conv1d_gauge(const fh1_profile *contract, const REF(ref_conv1d_args) * a, const fh1_gauge *x_err,
                            const fh1_gauge *window_err, const fh1_gauge *g)
{
    const size_t n = (size_t)((a->K + 1) * a->c + 1);
    double *w = calloc(n, sizeof *w), *b = w ? w + a->K * a->c : NULL;
    if (!w) return fh1_no_memory(n * sizeof *w, "the gauge of conv1d");
    fh1_to_f64(w, a->w->data, a->w->dtype, a->K * a->c);
    if (a->b->data) fh1_to_f64(b, a->b->data, a->b->dtype, a->c);
    conv_job j = {contract, a, x_err, window_err, g, w, b};
    fh1_parallel_for(a->c, BLOCK, channels, &j);
    free(w);
    return NULL;
}

void ref_conv1d_gauge_window(const REF(ref_conv1d_args) * a, const fh1_gauge *x_err, const fh1_gauge *window_err)
{
    const int64_t W = a->K - 1;
    if (a->T == 0) return;
    for (int64_t c = 0; c < a->c; ++c)
        for (int64_t i = 0; i < W; ++i) { /* upwards: what stays comes from the right of where it goes */
            const int64_t s = a->T - W + i;
            const place where = place_of(a, s, a->T - 1);
            fh1_err e = {0};
            if (where == IN_CALL && x_err) e = fh1_gauge_at(x_err, s * a->c + c);
            if (where == IN_WINDOW) e = fh1_gauge_at(window_err, c * W + W + s);
            fh1_gauge_set(window_err, c * W + i, e);
        }
}

double ref_mup_factor(const fh1_profile *contract, double m)
{
    if (contract->storage == FH1_F64) return m;
    return (double)fh1_round_f32(contract->at[FH1_RP_MUP_VECTOR], (float)m);
}

double ref_mup_error(const fh1_profile *contract, double m)
{
    return fabs(m - ref_mup_factor(contract, m));
}

void ref_mup_gauge(const fh1_profile *contract, int64_t n, const double *v, double used, double m, const fh1_gauge *g)
{
    const double off = fabs(used - ref_mup_factor(contract, m));
    for (int64_t i = 0; i < n; ++i) {
        const double p = used != 0 ? fabs(v[i] / used) : 0;
        fh1_gauge_set(g, i, fh1_err_round(fh1_err_shared(off * p), contract, contract->at[FH1_RP_MUP], v[i]));
    }
}
