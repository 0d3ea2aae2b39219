/* The mixer's part of reference/faulty_model.h: planted faults that are an edit of config or weights, or a variant of a
 * real library (oracle/contract.h) that nobody declared. */
#pragma once

#include "reference/faulty_model.h"

/* Whether the fault is an edit of the config, which is then done. */
bool ref_edit_mixer_config(fh1_fault f, fh1_config *c);
/* One layer of the copy; *edited tells whether the fault is an edit of weights. FH1_E_INTERNAL without memory. */
fh1_status ref_edit_mixer_layer(fh1_fault f, ref_edited_model *e, fh1_layer *l, bool *edited);
/* fh1_variant bits that the fault is. */
unsigned ref_fault_variants(fh1_fault f);
