#include "reference/lm_head.h"

#include "reference/linear.h"

fh1_status REF(ref_lm_head_fwd)(int64_t M, const real *h, const fh1_tensor *w, double m_lm, const fh1_profile *p,
                                real *logits)
{
    const fh1_round stored = REF_FAULT(LOGITS_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_LOGITS];
    FH1_TRY(REF(ref_linear_fwd)(M, h, w, NULL, p, logits));
    for (int64_t i = 0; i < M * w->shape[0]; ++i) logits[i] = r_round(stored, logits[i] * (real)m_lm);
    return NULL;
}
