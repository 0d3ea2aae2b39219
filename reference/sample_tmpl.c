#include "reference/sample.h"

void REF(ref_sample_greedy)(int64_t M, int64_t V, const real *logits, int64_t *token)
{
    for (int64_t m = 0; m < M; ++m) {
        const real *row = logits + m * V;
        int64_t best = 0;
        for (int64_t v = 0; v < V && best >= 0; ++v) {
            if (isnan(row[v]) && !REF_FAULT(SAMPLE_PASSES_NAN)) best = -1;
            else if (row[v] > row[best] || (REF_FAULT(SAMPLE_TIE_TAKES_LAST) && row[v] == row[best])) best = v;
        }
        token[m] = best;
    }
}
