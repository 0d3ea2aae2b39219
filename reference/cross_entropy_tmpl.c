#include "reference/cross_entropy.h"

#include "oracle/reached.h"

ref_wide REF(ref_cross_entropy_fwd)(int64_t M, int64_t V, const real *logits, const int64_t *labels)
{
    real total = 0;
    int64_t n = 0;
    for (int64_t m = 0; m < M; ++m) {
        n += REF_FAULT(LOSS_COUNTS_IGNORED) && labels[m] == -100;
        if (labels[m] == -100) continue;
        const real *row = logits + m * V;
        real max = row[0], sum = 0;
        for (int64_t v = 1; v < V; ++v)
            if (r_re(row[v]) > r_re(max)) max = row[v];
        if (REF_FAULT(LOSS_WITHOUT_MAX)) max = 0;
        for (int64_t v = 0; v < V; ++v) sum += r_exp(row[v] - max);
        total += r_log(sum) + max - row[labels[m]];
        ++n;
    }
    FH1_REACHED(n == 0); /* no label counts */
    FH1_REACHED(n > 0 && n < M);
    if (REF_FAULT(LOSS_SUMMED)) n = n > 0;
    return n ? (ref_wide)(total / (real)n) : (ref_wide)NAN;
}
