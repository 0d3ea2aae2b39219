#include "reference/selective_step.h"

#include <assert.h>

fh1_status REF(ref_selective_step_fwd)(const REF(ref_selective_args) * a, const fh1_profile *p)
{
    assert(a->T == 1);
    const fh1_round r = p->at[FH1_RP_STEP];
    if (r == FH1_ROUND_NONE) return REF(ref_selective_scan_fwd)(a, p);
    return REF(ref_selective_scan_rounded)(a, r, r);
}
