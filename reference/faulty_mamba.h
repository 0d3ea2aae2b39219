/* Planted faults of Falcon-Mamba's mixer that are no switch inside one op, as reference/faulty_mixer.h, whose REF_SPOIL
 * calls them. */
#pragma once

#include "reference/conv1d.h"
#include "reference/faulty_mixer.h"
#include "reference/selective_scan.h"

#ifdef REF_FAULTY
/* k->n, the input of in_proj, and k->x behind it; in_proj's columns. */
void REF(ref_spoil_mamba_input)(REF(ref_call) * k);
void REF(ref_spoil_mamba_proj)(REF(ref_call) * k);
/* Row b before its conv; all rows after it. */
void REF(ref_spoil_mamba_conv)(REF(ref_call) * k, int64_t b, REF(ref_conv1d_args) * a);
void REF(ref_spoil_mamba_conv_act)(REF(ref_call) * k);
/* dt, B and C behind their norms; dt behind dt_proj, and behind softplus. */
fh1_status REF(ref_spoil_inner)(REF(ref_call) * k);
fh1_status REF(ref_spoil_raw_dt)(REF(ref_call) * k, const fh1_layer *l);
void REF(ref_spoil_mamba_dt)(REF(ref_call) * k);
/* Row b before its scan. */
fh1_status REF(ref_spoil_selective)(REF(ref_call) * k, int64_t layer, int64_t b, REF(ref_selective_args) * a);
/* Behind the gate. */
void REF(ref_spoil_gated)(REF(ref_call) * k, const fh1_layer *l);
#endif
