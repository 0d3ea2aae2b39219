/* The weights that bitsandbytes quantised in a checkpoint, and the tensors that each of them consists of. */
#pragma once

#include "convert/bnb_state.h"
#include "convert/checkpoint.h"

/* Tensors are indices of the checkpoint. */
typedef struct {
    const char *name; /* of the weight; belongs to the checkpoint */
    cvt_bnb_state state;
    int64_t weight, absmax; /* int8: absmax is SCB */
    int64_t nested_absmax;  /* -1: the scales are not quantised */
    float *map;             /* CVT_BNB_MAP entries, or NULL */
} cvt_bnb_weight;

typedef struct {
    cvt_bnb_weight *at;
    int64_t n;
    int64_t *of; /* by tensor of the checkpoint: which of `at`, -1: none */
    bool *part;  /* by tensor of the checkpoint: part of a weight, not the weight itself */
} cvt_bnb_weights;

/* Finds and checks them: types, lengths, shapes against config.json, nothing missing, nothing left over. Scales are
 * looked at when they are read. To be freed also after a failure. */
fh1_status cvt_bnb_weights_find(cvt_ckpt *c, cvt_bnb_weights *out);
void cvt_bnb_weights_free(cvt_bnb_weights *w);

bool cvt_bnb_is_part(const char *tensor);
/* Refuses a quantization_config of another method. */
fh1_status cvt_bnb_check_method(cvt_ckpt *c);
