/* y += scale·(B·(A·alpha·x) + b): an adapter beside a product, f32; cuda/backward.cuh has its gradients. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

/* One adapter on the device. */
struct cu_adapter {
    int r;             /* 0: there is none */
    const float *A;    /* [r, K]; of the embedding table [V, r] */
    const float *B;    /* [N, r] */
    const float *bias; /* [N] or NULL */
    float scale;
};

struct cu_lora {
    int M, N, K;
    const float *x; /* [M, ldx] */
    int64_t ldx;
    cu_adapter adapter;
    float alpha;
    float *t; /* [M, r] scratch */
    float *y; /* [M, ldy] */
    int64_t ldy;
};

fh1_status cu_lora_fwd(cu_ctx *k, const cu_lora *a);

} // namespace CU_NS
