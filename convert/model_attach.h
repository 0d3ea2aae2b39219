/* Adapters attached to a model in memory: y = W·x + bias + s·B·(A·x), nothing merged (oracle/model.h, fh1_lora). */
#pragma once

#include "convert/adapter.h"
#include "oracle/model.h"

/* Whose numbers the attached model has. */
typedef enum {
    CVT_ATTACH_PEFT, /* replaced tensors, and parameters (target_parameters) as R(W + R(s·B·A)), in the base's type */
    CVT_ATTACH_EXACT,     /* as the adapter's file has them, nothing rounded */
    CVT_ATTACH_BASE_DTYPE /* PEFT without autocast: besides, A and B are rounded to the type of their weight */
} cvt_attach_as;

/* Adds an adapter to `m`, after those that are attached already: its replacements and token rows take the place of the
 * base's tensors, its low-rank pairs stand beside the weights. `weight` multiplies the scale; 1 is what the adapter
 * says. `a` must outlive the model, whose weight tables stay those of the base.
 * A tied base: an end that has a low-rank pair, or a tensor of its own (cvt_replacement.copy), leaves the other end
 * alone; a tensor that PEFT loads into the shared parameter changes both.
 * FH1_E_INPUT names the module: unknown, a wrong shape, DoRA behind another adapter, a norm of zero. */
fh1_status cvt_model_attach(fh1_model *m, const cvt_adapter *a, double weight, cvt_attach_as as);

/* Adapter folders to attach, in this order. */
typedef struct {
    const char *const *adapters;
    const double *weights; /* NULL: all 1 */
    int n;
    cvt_attach_as as;
    const char *initial; /* as in cvt_adapter_open */
    cvt_ckpt *base;      /* decode the model from this, the caller's; NULL: open it */
    void (*warn)(const char *adapter, const char *sentence); /* told what an adapter warns of; NULL: nobody */
} cvt_attach;

/* Opens a model and its adapters and attaches them; the model owns them. n = 0: cvt_model_open. */
fh1_status cvt_model_open_attached(const char *path, const cvt_attach *a, fh1_model *out);

/* f and f_terms of a DoRA pair on W [out, in] (an embedding's table [V, D] with `embedding`): f = m / ‖W + s·B·A‖ per
 * output, over the vocabulary for a table. Both [out], assigned. FH1_E_INPUT: a norm that is zero or not finite. */
fh1_status cvt_dora_factors(const fh1_lora *l, const fh1_tensor *W, bool embedding, const fh1_tensor *magnitude,
                            double *f, double *f_terms);
