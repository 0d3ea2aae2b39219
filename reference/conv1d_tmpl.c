#include "reference/conv1d.h"

#include "oracle/reached.h"
#include "oracle/thread.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 64 /* channels a piece: the accumulators stay in registers or L1 */

typedef struct {
    const REF(ref_conv1d_args) * a;
    const fh1_profile *p;
    real *wt; /* [K + 1, c]: taps transposed, bias last */
} conv_job;

/* The column t of the call, or of the window for t < 0; NULL where tap s of token t must be skipped. */
static const real *column(const REF(ref_conv1d_args) * a, const real *window_t, int64_t s, int64_t t)
{
    const int64_t doc = a->doc ? a->doc[t] : 0;
    if (s >= 0) return !a->doc || a->doc[s] == doc ? a->x + s * a->ldx : NULL;
    const int64_t i = a->K - 1 + s - REF_FAULT(CONV_WINDOW_READ_AS_K);
    return i >= 0 && (!a->doc || a->window_doc == doc) ? window_t + i * a->c : NULL;
}

FH1_CLONES static void add_tap(int64_t n, const real *w, const real *x, real *acc)
{
    for (int64_t j = 0; j < n; ++j) acc[j] += w[j] * x[j];
}

static void add_tap_of_silu(int64_t n, const real *w, const real *x, real *acc)
{
    for (int64_t j = 0; j < n; ++j) acc[j] += w[j] * REF(ref_silu)(x[j]);
}

static real activate(real v)
{
    return REF_FAULT(CONV_WITHOUT_SILU) || REF_FAULT(CONV_SILU_FIRST) ? v : REF(ref_silu)(v);
}

typedef struct {
    conv_job job;
    const real *window_t; /* [K-1, c] */
} conv_ctx;

static void channels(void *ctx, int64_t j0, int64_t j1, int thread)
{
    (void)thread;
    const conv_ctx *x = ctx;
    const REF(ref_conv1d_args) *a = x->job.a;
    const int64_t n = j1 - j0;
    void (*const add)(int64_t, const real *, const real *, real *) =
        REF_FAULT(CONV_SILU_FIRST) ? add_tap_of_silu : add_tap;
    real acc[BLOCK];
    for (int64_t t = 0; t < a->T; ++t) {
        memcpy(acc, x->job.wt + a->K * a->c + j0, (size_t)n * sizeof *acc);
        for (int64_t k = 0; k < a->K; ++k) {
            const real *col = column(a, x->window_t, t - (a->K - 1) + k, t);
            if (col) add(n, x->job.wt + k * a->c + j0, col + j0, acc);
        }
        REF(ref_round_row)(x->job.p->at[FH1_RP_CONV], n, acc);
        real *y = a->y + t * a->c + j0;
        for (int64_t j = 0; j < n; ++j) y[j] = activate(acc[j]);
        REF(ref_round_row)(x->job.p->at[FH1_RP_CONV_ACT], n, y);
    }
}

/* Which column of the call becomes column i of the window: one of the last K-1, but for planted faults. */
static int64_t kept_column(const REF(ref_conv1d_args) * a, int64_t i)
{
    const int64_t W = a->K - 1;
    if (REF_FAULT(CONV_WINDOW_FIRST_COLUMNS) && a->T >= W) return i;
    if (REF_FAULT(CONV_WINDOW_LEFT_ALIGNED) && a->T < W) return i;
    if (REF_FAULT(CONV_WINDOW_ONE_SHORT)) return a->T - W + i - 1;
    return a->T - W + i;
}

/* The window after the call: the last K-1 columns of the document of the last token. */
static void next_window(const REF(ref_conv1d_args) * a, const real *window_t)
{
    if (a->T == 0 || (REF_FAULT(CONV_WINDOW_NOT_STORED_IN_SHORT_CALLS) && a->T < a->K - 1)) return;
    FH1_REACHED(a->doc && a->T > 1 && a->doc[a->T - 1] != a->doc[0]); /* the window is cut by a document */
    for (int64_t i = 0; i < a->K - 1; ++i) {
        const int64_t s = kept_column(a, i);
        const real *col = s < a->T ? column(a, window_t, s, a->T - 1) : NULL;
        if (REF_FAULT(CONV_WINDOW_POST_CONV) && col && s >= 0) col = a->y + s * a->c;
        for (int64_t j = 0; j < a->c; ++j) a->window[j * (a->K - 1) + i] = col ? col[j] : 0;
    }
}

/* Where tap k of channel j stands in w [c,1,K]. */
static int64_t tap_at(const REF(ref_conv1d_args) * a, int64_t j, int64_t k)
{
    return REF_FAULT(CONV_STRIDE_OF_FOUR) ? (4 * j + k) % (a->c * a->K) : j * a->K + k;
}

fh1_status REF(ref_conv1d_fwd)(const REF(ref_conv1d_args) * a, const fh1_profile *p)
{
    const size_t n = (size_t)(3 * a->K * a->c);
    real *wt = malloc(n * sizeof *wt);
    if (!wt) return fh1_no_memory(n * sizeof *wt, "conv1d taps");
    real *window_t = wt + (a->K + 1) * a->c, *flat = window_t + (a->K - 1) * a->c;
    REF(ref_widen)(flat, a->w, a->K * a->c);
    for (int64_t j = 0; j < a->c; ++j) {
        for (int64_t k = 0; k < a->K; ++k) wt[k * a->c + j] = flat[tap_at(a, j, k)];
        for (int64_t i = 0; i < a->K - 1; ++i) window_t[i * a->c + j] = a->window[j * (a->K - 1) + i];
    }
    memset(wt + a->K * a->c, 0, (size_t)a->c * sizeof *wt);
    if (a->b->data) REF(ref_widen)(wt + a->K * a->c, a->b, a->c);
    FH1_REACHED(a->T < a->K - 1);
    FH1_REACHED(a->T == a->K - 1);
    FH1_REACHED(a->T >= a->K);
    FH1_REACHED(a->K == 2);
    FH1_REACHED(!a->b->data);
    FH1_REACHED(a->c > BLOCK && a->c % BLOCK != 0);
    conv_ctx ctx = {{a, p, wt}, window_t};
    fh1_parallel_for(a->c, BLOCK, channels, &ctx);
    next_window(a, window_t);
    free(wt);
    return NULL;
}

void REF(ref_conv1d_push)(int64_t c, int64_t K, const real *col, int64_t n, real *window)
{
    const int64_t W = K - 1;
    for (int64_t j = 0; j < c; ++j)
        for (int64_t i = 0; i < W; ++i) window[j * W + i] = i + n < W ? window[j * W + i + n] : col[j];
}
