#include "reference/conv1d_step.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

fh1_status REF(ref_conv1d_step_fwd)(const REF(ref_conv1d_args) * a, const fh1_profile *p)
{
    assert(a->T == 1);
    const int64_t c = a->c, K = a->K, W = K - 1;
    const size_t n = (size_t)(c * (K + 1));
    real *w = malloc(n * sizeof *w), *bias = w + c * K;
    if (!w) return fh1_no_memory(n * sizeof *w, "conv1d taps");
    REF(ref_widen)(w, a->w, c * K);
    memset(bias, 0, (size_t)c * sizeof *bias);
    if (a->b->data) REF(ref_widen)(bias, a->b, c);
    if (a->doc && a->doc[0] != a->window_doc) memset(a->window, 0, (size_t)(c * W) * sizeof *a->window);
    for (int64_t j = 0; j < c; ++j) {
        real *window = a->window + j * W, sum = bias[j];
        for (int64_t i = 0; i < W; ++i) sum += w[j * K + i] * window[i];
        sum = r_round(p->at[FH1_RP_CONV], sum + w[j * K + W] * a->x[j]);
        a->y[j] = r_round(p->at[FH1_RP_CONV_ACT], REF(ref_silu)(sum));
        if (W > 0) {
            memmove(window, window + 1, (size_t)(W - 1) * sizeof *window);
            window[W - 1] = a->x[j];
        }
    }
    free(w);
    return NULL;
}
