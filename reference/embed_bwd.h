#pragma once

#include "reference/real.h"

/* Backward of ref_embed_fwd: dtable[ids[m],:] += dy[m,:], in the order of the tokens where an id occurs again. The row
 * `pad` gets nothing (padding_idx of torch.nn.Embedding; -1: none), what it holds stays.
 * dy [M,D], dtable [V,D] added to (NULL: nothing to do); ids in [0,V), checked by the caller. */
void REF(ref_embed_bwd)(int64_t M, const int64_t *ids, int64_t V, int64_t D, int64_t pad, const real *dy, real *dtable);
