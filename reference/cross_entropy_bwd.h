#pragma once

#include "reference/real.h"

/* The sum over the rows with label != -100 of logsumexp(logits[m,:]) - logits[m,label], not divided, and
 *   dlogits[m,v] = (softmax(logits[m,:])[v] - [v = label]) / divisor
 * exactly 0 in rows whose label is -100, of which no logit is read. logits [M,V]; labels [M] already shifted, as in
 * ref_cross_entropy_fwd; divisor > 0; dlogits [M,V] assigned, may be logits (NULL: not wanted). */
double REF(ref_cross_entropy_bwd)(int64_t M, int64_t V, const real *logits, const int64_t *labels, double divisor,
                                  real *dlogits);
