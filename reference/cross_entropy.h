#pragma once

#include "reference/real.h"

/* Mean over the rows with label != -100 of logsumexp(logits[m,:]) - logits[m,label]; NaN when there is none.
 * logits [M,V]; labels [M] already shifted: labels[m] is the token that row m predicts. */
ref_wide REF(ref_cross_entropy_fwd)(int64_t M, int64_t V, const real *logits, const int64_t *labels);
