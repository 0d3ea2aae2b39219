/* Which values a synthetic model's tensors get (see cvt_hf_folder_init). */
#pragma once

#include "oracle/config.h"

typedef enum { CVT_RECIPE_NORMAL, CVT_RECIPE_A_LOG, CVT_RECIPE_DT_BIAS } cvt_recipe_kind;

/* NORMAL: mean + std[k]·(a bell-shaped number of variance 1), k the segment of the element's ordinal. */
typedef struct {
    cvt_recipe_kind kind;
    double mean;
    int n_segments;
    int64_t end[5]; /* ordinal behind the segment */
    double std[5];
} cvt_recipe;

/* FH1_E_INTERNAL for a name that fh1_config_weights does not visit. */
fh1_status cvt_hf_recipe(const fh1_config *c, const char *name, int64_t n_elems, cvt_recipe *out);

/* Elements [first, first + n) of the tensor: a pure function of (seed, name, ordinal). */
void cvt_hf_recipe_fill(const fh1_config *c, const cvt_recipe *r, uint64_t seed, const char *name, int64_t first,
                        int64_t n, double *out);
