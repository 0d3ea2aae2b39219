#pragma once

#include "reference/ssd_scan.h"

/* One token of the recurrence of ssd_scan.h with the rounding points of a decode step (FH1_RP_STEP):
 *   S = a S + R(R(Δ B) x),  y = R( R(Σ R(S) C) + R(D x) );
 * the state itself is kept unrounded. T must be 1; doc and state_doc as there. */
void REF(ref_ssd_step_fwd)(const REF(ref_ssd_args) * a, const fh1_profile *p);
