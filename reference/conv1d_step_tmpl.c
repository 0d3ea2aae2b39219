#include "reference/conv1d_step.h"

#include "oracle/thread.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 256 /* channels a piece */

typedef struct {
    const REF(ref_conv1d_args) * a;
    const fh1_profile *p;
    real *scratch; /* [threads, BLOCK * (K + 1)]: taps of the block, then biases */
} step_job;

static fh1_tensor part(const fh1_tensor *t, int64_t first, int64_t n)
{
    return fh1_view1((char *)t->data + (size_t)first * (size_t)(fh1_dtype_bits(t->dtype) / 8), t->dtype, n);
}

static real activate(real v)
{
    return REF_FAULT(CONV_WITHOUT_SILU) || REF_FAULT(CONV_STEP_WITHOUT_SILU) ? v : REF(ref_silu)(v);
}

/* Column i of a window. */
static real seen(const real *window, int64_t i)
{
    if (!REF_FAULT(CONV_WINDOW_READ_AS_K)) return window[i];
    return i > 0 ? window[i - 1] : 0;
}

static void channels(void *ctx, int64_t j0, int64_t j1, int thread)
{
    const step_job *job = ctx;
    const REF(ref_conv1d_args) *a = job->a;
    const int64_t K = a->K, W = K - 1, n = j1 - j0;
    real *w = job->scratch + thread * BLOCK * (K + 1), *bias = w + BLOCK * K;
    const fh1_tensor taps = part(a->w, j0 * K, n * K);
    REF(ref_widen)(w, &taps, n * K);
    memset(bias, 0, (size_t)n * sizeof *bias);
    if (a->b->data) {
        const fh1_tensor b = part(a->b, j0, n);
        REF(ref_widen)(bias, &b, n);
    }
    for (int64_t j = 0; j < n; ++j) {
        real *window = a->window + (j0 + j) * W, sum = bias[j];
        const real x = a->x[j0 + j];
        for (int64_t i = 0; i < W; ++i) sum += w[j * K + i] * seen(window, i);
        sum = r_round(job->p->at[FH1_RP_CONV], sum + w[j * K + W] * x);
        a->y[j0 + j] = r_round(job->p->at[FH1_RP_CONV_ACT], activate(sum));
        if (W > 0 && !REF_FAULT(CONV_WINDOW_FROZEN_IN_STEPS)) {
            memmove(window, window + 1, (size_t)(W - 1) * sizeof *window);
            window[W - 1] = REF_FAULT(CONV_WINDOW_POST_CONV) ? a->y[j0 + j] : x;
        }
    }
}

fh1_status REF(ref_conv1d_step_fwd)(const REF(ref_conv1d_args) * a, const fh1_profile *p)
{
    assert(a->T == 1);
    const size_t n = (size_t)fh1_threads() * (size_t)(BLOCK * (a->K + 1));
    step_job job = {a, p, malloc(n * sizeof(real))};
    if (!job.scratch) return fh1_no_memory(n * sizeof(real), "conv1d taps");
    if (a->doc && a->doc[0] != a->window_doc) memset(a->window, 0, (size_t)(a->c * (a->K - 1)) * sizeof *a->window);
    fh1_parallel_for(a->c, BLOCK, channels, &job);
    free(job.scratch);
    return NULL;
}
