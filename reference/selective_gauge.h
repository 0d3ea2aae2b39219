#pragma once

#include "oracle/gauge.h"
#include "reference/selective_scan.h"

/* Gauges of selective_scan.h and selective_step.h: what an honest engine with `contract` may be off by, carried through
 * the recurrence beside the truth. `a` as for the forward with the state as it was before the call, which stays as it
 * is; a->y is not read.
 * g_B, g_C [T,N] dense: what B and C themselves may be off by, where they are the truth's own (recomputed by the norms
 * before the scan); NULL: exact. All channels share them.
 * g_state [I,N]: read, the error of the incoming state, then assigned that of the state after the last token; NULL: the
 * incoming state is the judged engine's own, and nothing is wanted of the one after.
 * g [T,I] assigned, NULL: only g_state is wanted. Token after token or as an associative scan of any shape: a decay of
 * its own for each element leaves no other. Derivation: docs/numerics.md, "Gauges". FH1_E_INTERNAL without memory. */
fh1_status ref_selective_scan_gauge(const fh1_profile *contract, const REF(ref_selective_args) * a,
                                    const fh1_gauge *g_B, const fh1_gauge *g_C, const fh1_gauge *g_state,
                                    const fh1_gauge *g);

/* One token (T must be 1) with the roundings of FH1_RP_STEP; without any, a scan of one token. */
fh1_status ref_selective_step_gauge(const fh1_profile *contract, const REF(ref_selective_args) * a,
                                    const fh1_gauge *g_B, const fh1_gauge *g_C, const fh1_gauge *g_state,
                                    const fh1_gauge *g);
