/* loss = mean over labels != -100 of logsumexp(logits) - logits[label], sums in f64; NaN when no label counts. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_cross_entropy {
    int M, V;
    const float *logits; /* [M, V] */
    const int *label;    /* [M] shifted, -100: ignored */
    double *row;         /* [M] scratch */
    double *loss;        /* [1] on the device */
};

fh1_status cu_cross_entropy_fwd(cu_ctx *k, const cu_cross_entropy *a);

} // namespace CU_NS
