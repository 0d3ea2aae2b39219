#pragma once

#include "reference/real.h"

/* y[m,:] = table[ids[m],:]: y [M,D] assigned; ids checked by the caller against the rows of table [V,D]. */
void REF(ref_embed_fwd)(int64_t M, const int64_t *ids, const fh1_tensor *table, real *y);
