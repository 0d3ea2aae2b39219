#include "reference/attention_row.h"

real REF(ref_attention_scale)(int64_t A)
{
    if (REF_FAULT(SCORES_NOT_SCALED)) return 1;
    if (REF_FAULT(SCORES_SCALED_TWICE)) return (real)(1 / (double)A);
    return (real)(1 / sqrt((double)A));
}

void REF(ref_attention_weigh)(int64_t n, real scale, const fh1_profile *p, real *s)
{
    if (n < 1) return; /* a query that sees nothing: its sum is empty, its output 0 */
    const fh1_round r = REF_FAULT(SCORES_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_SCORE];
    for (int64_t i = 0; i < n; ++i) s[i] = r_round(r, r_round(r, s[i]) * scale);
    for (int64_t i = 0; REF_FAULT(SCORES_HAVE_A_POSITION_TERM) && i < n; ++i) s[i] += (real)i / 64;
    real max = s[0], sum = 0;
    for (int64_t i = 1; i < n; ++i)
        if (r_re(s[i]) > r_re(max)) max = s[i];
    if (REF_FAULT(SOFTMAX_WITHOUT_MAX)) max = 0;
    for (int64_t i = 0; i < n; ++i) sum += s[i] = r_exp(s[i] - max);
    if (REF_FAULT(SOFTMAX_COUNTS_AN_EMPTY_SLOT)) sum += r_exp(-max);
    REF(ref_round_row)(p->at[FH1_RP_PROB_TILE], n, s); /* the sum is that of what was not rounded */
    for (int64_t i = 0; i < n; ++i) s[i] /= sum;
    REF(ref_round_row)(REF_FAULT(SOFTMAX_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_PROB], n, s);
}

FH1_CLONES void REF(ref_attention_add)(int64_t n, real w, const real *v, real *out)
{
    for (int64_t i = 0; i < n; ++i) out[i] += w * v[i];
}
