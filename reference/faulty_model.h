/* Planted faults that are an edit of the model: a multiplier that is 1, another theta, a bias that is not read. The
 * faulty engine runs on the edited model, so that no op needs a switch for them. */
#pragma once

#include "oracle/engine.h"
#include "oracle/fault.h"

typedef struct {
    const fh1_model *model; /* what to run: `copy`, or the original where the fault is no edit */
    fh1_model copy;         /* shallow */
    fh1_layer *layers;
    void *owned; /* replaced weights, a list */
} ref_edited_model;

/* Freed by ref_edited_model_free in any case; moving *out moves what out->model points at. FH1_E_INTERNAL without
 * memory. */
fh1_status ref_edited_model_new(fh1_fault f, const fh1_model *m, ref_edited_model *out);
/* Makes *t, a weight of the copy, w·factor + term in f32 of its own; a weight that the model lacks stays absent. */
fh1_status ref_edit_scale(ref_edited_model *e, fh1_tensor *t, double factor, double term);
void ref_edited_model_free(ref_edited_model *e);
