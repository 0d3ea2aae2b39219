#include "reference/conv1d_bwd.h"

#include "oracle/thread.h"
#include "reference/silu_bwd.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 64  /* channels a piece: their sums stand alone */
#define TOKENS 64 /* of a partial sum */

typedef struct {
    const REF(ref_conv1d_bwd_args) * a;
    real *wt;        /* [K + 1, c]: taps transposed, bias last */
    real *window_t;  /* [K-1, c] */
    real *dwindow_t; /* [K-1, c] */
    double *dwt;     /* [K + 1, c]: gradients of wt */
    real *scratch;   /* [threads, (K + 3) * BLOCK] */
} conv_job;

/* Whether token t sees column s of the call, or of the window for s < 0. */
static bool sees(const REF(ref_conv1d_bwd_args) * a, int64_t t, int64_t s)
{
    if (!a->doc) return true;
    return (s >= 0 ? a->doc[s] : a->window_doc) == a->doc[t];
}

FH1_CLONES static void add_product(int64_t n, const real *x, const real *y, real *acc)
{
    for (int64_t j = 0; j < n; ++j) acc[j] += x[j] * y[j];
}

static void add_to_wide(int64_t n, const real *part, double *sum)
{
    for (int64_t j = 0; j < n; ++j) sum[j] += (double)part[j];
}

/* Column s of what the convolution reads, and where its gradient goes (NULL: not wanted), from channel j0 on. */
static const real *column(const conv_job *x, int64_t s, int64_t j0)
{
    return s >= 0 ? x->a->x + s * x->a->ldx + j0 : x->window_t + (x->a->K - 1 + s) * x->a->c + j0;
}

static real *gradient(const conv_job *x, int64_t s, int64_t j0)
{
    if (s >= 0) return x->a->dx ? x->a->dx + s * x->a->lddx + j0 : NULL;
    return x->dwindow_t + (x->a->K - 1 + s) * x->a->c + j0;
}

static real slope(real u)
{
    return REF_FAULT(GRAD_CONV_SLOPE_IS_SIGMOID) ? 1 / (1 + r_exp(-u)) : REF(ref_silu_both)(u).slope;
}

/* g = dy·silu'(u) of token t, n channels from j0 on. */
static void through_silu(const conv_job *x, int64_t t, int64_t j0, int64_t n, real *g)
{
    const REF(ref_conv1d_bwd_args) *a = x->a;
    memcpy(g, x->wt + a->K * a->c + j0, (size_t)n * sizeof *g);
    for (int64_t k = 0; k < a->K; ++k) {
        const int64_t s = t - (a->K - 1) + k;
        if (sees(a, t, s)) add_product(n, x->wt + k * a->c + j0, column(x, s, j0), g);
    }
    for (int64_t j = 0; j < n; ++j) g[j] = a->dy[t * a->c + j0 + j] * slope(g[j]);
}

/* What the window after the call keeps of a column, its gradient returns: dx and dwindow begin with it. */
static void begin(const conv_job *x, int64_t j0, int64_t n)
{
    const REF(ref_conv1d_bwd_args) *a = x->a;
    const int64_t W = a->K - 1;
    for (int64_t s = -W; s < a->T; ++s) {
        real *d = gradient(x, s, j0);
        if (!d) continue;
        const int64_t i = s - (a->T - W); /* its column in the window after the call */
        const bool kept =
            i >= 0 && a->dwindow_out && (a->T == 0 || sees(a, a->T - 1, s)) && !REF_FAULT(GRAD_CONV_WINDOW_OUT_IGNORED);
        for (int64_t j = 0; j < n; ++j) d[j] = kept ? a->dwindow_out[(j0 + j) * W + i] : 0;
    }
}

/* The column that a product of dw is formed with. */
static int64_t summed(const REF(ref_conv1d_bwd_args) * a, int64_t s)
{
    return REF_FAULT(GRAD_CONV_WEIGHT_SHIFTED) && s > -(a->K - 1) ? s - 1 : s;
}

static void channels(void *ctx, int64_t j0, int64_t j1, int thread)
{
    const conv_job *x = ctx;
    const REF(ref_conv1d_bwd_args) *a = x->a;
    const int64_t K = a->K, n = j1 - j0;
    real *part = x->scratch + thread * (K + 3) * BLOCK, *g = part + (K + 1) * BLOCK, *ones = g + BLOCK;
    for (int64_t j = 0; j < n; ++j) ones[j] = 1;
    begin(x, j0, n);
    for (int64_t t0 = 0; t0 < a->T; t0 += TOKENS) {
        memset(part, 0, (size_t)((K + 1) * BLOCK) * sizeof *part);
        for (int64_t t = t0; t < a->T && t < t0 + TOKENS; ++t) {
            through_silu(x, t, j0, n, g);
            add_product(n, ones, REF_FAULT(GRAD_CONV_BIAS_AFTER_SILU) ? a->dy + t * a->c + j0 : g, part + K * BLOCK);
            for (int64_t k = 0; k < K; ++k) {
                const int64_t s = t - (K - 1) + k;
                const bool seen = sees(a, t, s);
                if (seen) add_product(n, g, column(x, summed(a, s), j0), part + k * BLOCK);
                real *d = seen || REF_FAULT(GRAD_CONV_LEAKS_DOCUMENTS) ? gradient(x, s, j0) : NULL;
                const int64_t tap = REF_FAULT(GRAD_CONV_TAPS_REVERSED) ? K - 1 - k : k;
                if (d) add_product(n, g, x->wt + tap * a->c + j0, d);
            }
        }
        for (int64_t k = 0; k <= K; ++k) add_to_wide(n, part + k * BLOCK, x->dwt + k * a->c + j0);
    }
}

/* Taps, bias and window with the channels side by side. */
static void transpose(const conv_job *x)
{
    const REF(ref_conv1d_bwd_args) *a = x->a;
    const int64_t W = a->K - 1;
    for (int64_t j = 0; j < a->c; ++j) {
        for (int64_t k = 0; k < a->K; ++k) x->wt[k * a->c + j] = (real)fh1_get(a->w, j * a->K + k);
        x->wt[a->K * a->c + j] = a->b->data ? (real)fh1_get(a->b, j) : 0;
        for (int64_t i = 0; i < W; ++i) x->window_t[i * a->c + j] = a->window ? a->window[j * W + i] : 0;
    }
}

static void hand_over(const conv_job *x)
{
    const REF(ref_conv1d_bwd_args) *a = x->a;
    const int64_t W = a->K - 1;
    const real window = REF_FAULT(GRAD_CONV_WINDOW_DROPPED) ? 0 : 1;
    for (int64_t j = 0; j < a->c; ++j) {
        for (int64_t k = 0; a->dw && k < a->K; ++k) a->dw[j * a->K + k] += (real)x->dwt[k * a->c + j];
        if (a->db) a->db[j] += (real)x->dwt[a->K * a->c + j];
        for (int64_t i = 0; a->dwindow && i < W; ++i) a->dwindow[j * W + i] = window * x->dwindow_t[i * a->c + j];
    }
}

fh1_status REF(ref_conv1d_bwd)(const REF(ref_conv1d_bwd_args) * a)
{
    const size_t K = (size_t)a->K, c = (size_t)a->c, n_scratch = (size_t)fh1_threads() * (K + 3) * BLOCK;
    const size_t wide = (K + 1) * c * sizeof(double), narrow = ((K + 1 + 2 * (K - 1)) * c + n_scratch) * sizeof(real);
    double *memory = calloc(1, wide + narrow);
    if (!memory) return fh1_no_memory(wide + narrow, "the gradients of conv1d");
    conv_job x = {.a = a, .dwt = memory, .wt = (real *)(memory + (K + 1) * c)};
    x.window_t = x.wt + (K + 1) * c;
    x.dwindow_t = x.window_t + (K - 1) * c;
    x.scratch = x.dwindow_t + (K - 1) * c;
    transpose(&x);
    fh1_parallel_for(a->c, BLOCK, channels, &x);
    hand_over(&x);
    free(memory);
    return NULL;
}
