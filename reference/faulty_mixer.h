/* Planted faults of the mixer that are no switch inside one op: what known bugs do to the rows of a call between its
 * ops. Each function looks at the fault of the running engine and mostly does nothing; the copy that computes truth has
 * none of these calls. */
#pragma once

#include "reference/call.h"
#include "reference/conv1d.h"
#include "reference/ssd_scan.h"

#ifdef REF_FAULTY
#define REF_SPOIL(call) call

/* k->scaled, the input of in_proj, and k->x behind it. */
fh1_status REF(ref_spoil_input)(REF(ref_call) * k, const fh1_layer *l);
/* The columns of in_proj before they are scaled. */
fh1_status REF(ref_spoil_proj)(REF(ref_call) * k);
/* Row b before its conv, after all convs; all dt; row b before its scan and after it. */
fh1_status REF(ref_spoil_conv)(REF(ref_call) * k, int64_t layer, int64_t b, REF(ref_conv1d_args) * a);
void REF(ref_spoil_conv_act)(REF(ref_call) * k);
void REF(ref_spoil_dt)(REF(ref_call) * k);
fh1_status REF(ref_spoil_scan)(REF(ref_call) * k, int64_t layer, int64_t b, REF(ref_ssd_args) * a);
fh1_status REF(ref_spoil_row)(REF(ref_call) * k, int64_t layer, int64_t b, const REF(ref_ssd_args) * a);
/* What both kinds of mixer have in common of these two: the state that row b of T tokens begins with, and what stays of
 * window and state behind it. ref_spoil_copy_state: *out, ours, is what ref_spoil_cache takes for the state before the
 * last token. */
real *REF(ref_spoil_state)(const REF(ref_call) * k, int64_t layer, int64_t b, int64_t T, real *state);
fh1_status REF(ref_spoil_cache)(REF(ref_call) * k, int64_t layer, int64_t b, int64_t T, real *state);
fh1_status REF(ref_spoil_copy_state)(const REF(ref_call) * k, const real *state, real **out);
/* z before it gates. */
void REF(ref_spoil_gate)(REF(ref_call) * k);
#else
#define REF_SPOIL(call) ((void)0)
#endif
