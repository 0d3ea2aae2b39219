#pragma once

#include "reference/selective_scan.h"

/* One token of the recurrence of selective_scan.h with the rounding points of a decode step (FH1_RP_STEP):
 *   y = R(R(Σ R(S)·C) + R(D·x));
 * what enters the state is not rounded, unlike in ssd_step.h, nor is the state itself. Without a rounding there, the
 * scan of one token. T must be 1. */
fh1_status REF(ref_selective_step_fwd)(const REF(ref_selective_args) * a, const fh1_profile *p);
