#pragma once

#include "oracle/gauge.h"
#include "reference/ssd_scan.h"

/* Gauges of ssd_scan.h, ssd_chunk.h and ssd_step.h: what an honest engine with `contract` may be off by, carried
 * through the recurrence beside the truth. `a` as for the forward with the state as it was before the call, which stays
 * as it is; a->y is not read.
 * g_state [H,P,N]: read, the error of the incoming state, then assigned that of the state after the last token; NULL:
 * the incoming state is the judged engine's own, and nothing is wanted of the one after.
 * g [T, H·P] assigned, NULL: only g_state is wanted. Derivation: docs/numerics.md, "Gauges". FH1_E_INTERNAL without
 * memory. */

/* Many tokens, in sequence or in chunks of any length up to `columns` (ref_ssd_columns); 1: known to be sequential.
 * pad_dt [H]: Δ of padding columns, over which a pipeline may sum before the first token; NULL: there are none. */
fh1_status ref_ssd_scan_gauge(const fh1_profile *contract, const REF(ref_ssd_args) * a, int64_t columns,
                              const double *pad_dt, const fh1_gauge *g_state, const fh1_gauge *g);

/* One token of a decode step (T must be 1) with the roundings of FH1_RP_STEP; without any, a scan of one token. */
fh1_status ref_ssd_step_gauge(const fh1_profile *contract, const REF(ref_ssd_args) * a, const fh1_gauge *g_state,
                              const fh1_gauge *g);

/* The longest chunk of an engine with this contract: `columns` tokens of the batch, padding included (a pipeline may
 * compute on it), model chunk Q. */
int64_t ref_ssd_columns(const fh1_profile *contract, int64_t columns, int64_t Q);
