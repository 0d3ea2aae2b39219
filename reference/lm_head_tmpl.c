#include "reference/lm_head.h"

#include "reference/linear.h"

void REF(ref_lm_head_scale)(int64_t n, double m_lm, const fh1_profile *p, real *logits)
{
    const fh1_round stored = REF_FAULT(LOGITS_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_LOGITS];
    for (int64_t i = 0; i < n; ++i) logits[i] = r_round(stored, logits[i] * (real)m_lm);
}

fh1_status REF(ref_lm_head_fwd)(int64_t M, const real *h, const fh1_tensor *w, double m_lm, const fh1_profile *p,
                                real *logits)
{
    const fh1_profile head = fh1_profile_head(p);
    FH1_TRY(REF(ref_linear_fwd)(M, h, w, NULL, &head, logits));
    REF(ref_lm_head_scale)(M * w->shape[0], m_lm, p, logits);
    return NULL;
}
