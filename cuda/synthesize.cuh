/* Weights made on the device, for measuring sizes that no file is there for: the numbers that `fh1 init` would write
 * for the same seed (convert/hf_recipe.h), to the bit, each a function of (seed, name, ordinal) alone. Trained-like
 * scales and no zeros: products of zeros are faster than real ones. */
#pragma once

#include "cuda/weights.h"

#include "cuda/session.h" /* behind oracle/, which has no linkage of its own */

namespace CU_NS
{

/* Elements [first, first + n) of a tensor, at `out`. */
struct cu_synthetic {
    cu_type type;
    int64_t first, n;
    cu_matrix_recipe recipe;
    void *out;
};

/* R(mean + std[k]·bell(u64(key, ordinal))), in f64 with one rounding at the end. */
fh1_status cu_synthesize_fwd(const cu_ctx *k, const cu_synthetic *a);

/* Every matrix of `w` anew; `recipe` by the tensor's name. */
fh1_status cu_weights_synthesize(const cu_ctx *k, cu_weights *w, cu_recipe_of recipe, void *user);

} // namespace CU_NS
