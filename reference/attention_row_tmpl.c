#include "reference/attention_row.h"

void REF(ref_attention_weigh)(int64_t n, real scale, const fh1_profile *p, real *s)
{
    const fh1_round r = p->at[FH1_RP_SCORE];
    for (int64_t i = 0; i < n; ++i) s[i] = r_round(r, r_round(r, s[i]) * scale);
    real max = s[0], sum = 0;
    for (int64_t i = 1; i < n; ++i)
        if (s[i] > max) max = s[i];
    for (int64_t i = 0; i < n; ++i) sum += s[i] = r_exp(s[i] - max);
    for (int64_t i = 0; i < n; ++i) s[i] /= sum;
    REF(ref_round_row)(p->at[FH1_RP_PROB], n, s);
}

FH1_CLONES void REF(ref_attention_add)(int64_t n, real w, const real *v, real *out)
{
    for (int64_t i = 0; i < n; ++i) out[i] += w * v[i];
}
