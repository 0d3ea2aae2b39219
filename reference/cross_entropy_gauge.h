#pragma once

#include "oracle/gauge.h"

/* The gauge of cross_entropy.h. logits [M,V], labels [M] shifted, g one element, assigned (0 where no label counts). */
void ref_cross_entropy_gauge(const fh1_profile *contract, int64_t M, int64_t V, const double *logits,
                             const int64_t *labels, const fh1_gauge *g);
