#include "reference/cross_entropy_bwd.h"

#include "oracle/thread.h"

#include <string.h>

#define IGNORED (-100)
#define ROWS 256 /* at a time: their losses are added up in order */

typedef struct {
    int64_t V;
    const real *logits;
    const int64_t *labels;
    real divisor;
    real *dlogits;
    double loss[ROWS];
} entropy_job;

/* One row, by two paths: logsumexp, whose derivative is the softmax, and the label's own logit. d, which may be the
 * logits, takes the exponentials while they are added up. At the label p - 1 is minus the share of all others: of a
 * token that the model is sure of, a difference would leave the rounding of 1 and nothing else. */
static double row(const entropy_job *j, const real *logits, int64_t label, real *d)
{
    real max = logits[0], sum = 0, others = 0;
    for (int64_t v = 1; v < j->V; ++v)
        if (logits[v] > max) max = logits[v];
    const real own = label == IGNORED ? 0 : logits[label];
    for (int64_t v = 0; v < j->V; ++v) {
        const real e = r_exp(logits[v] - max);
        sum += e;
        if (v != label) others += e;
        if (d) d[v] = e;
    }
    const double loss = label == IGNORED ? 0 : (double)(r_log(sum) + max - own);
    if (!d) return loss;
    const real share = 1 / sum;
    for (int64_t v = 0; v < j->V; ++v) d[v] *= share;
    if (label != IGNORED && !(REF_FAULT(GRAD_LOSS_LABEL_0_WITHOUT_ONEHOT) && label == 0)) d[label] = -others * share;
    for (int64_t v = 0; v < j->V; ++v) d[v] /= j->divisor;
    return loss;
}

static void rows(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    entropy_job *j = ctx;
    for (int64_t m = m0; m < m1; ++m) {
        real *d = j->dlogits ? j->dlogits + m * j->V : NULL;
        j->loss[m] = 0;
        if (j->labels[m] != IGNORED || REF_FAULT(GRAD_LOSS_IGNORED_ROWS_KEPT)) {
            j->loss[m] = row(j, j->logits + m * j->V, j->labels[m], d);
        } else if (d) {
            memset(d, 0, (size_t)j->V * sizeof *d);
        }
    }
}

double REF(ref_cross_entropy_bwd)(int64_t M, int64_t V, const real *logits, const int64_t *labels, double divisor,
                                  real *dlogits)
{
    double total = 0;
    for (int64_t m = 0; REF_FAULT(GRAD_LOSS_DIVISOR_COUNTS_IGNORED) && m < M; ++m) divisor += labels[m] == IGNORED;
    for (int64_t m0 = 0; m0 < M; m0 += ROWS) {
        const int64_t n = m0 + ROWS < M ? ROWS : M - m0;
        entropy_job j = {V, logits + m0 * V, labels + m0, (real)divisor, dlogits ? dlogits + m0 * V : NULL, {0}};
        fh1_parallel_for(n, 1, rows, &j);
        for (int64_t m = 0; m < n; ++m) total += j.loss[m];
    }
    return total;
}
