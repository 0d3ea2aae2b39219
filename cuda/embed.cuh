/* y[m] = R(table[id[m]]) and x[m] = R(y[m]·m_emb): the lookup and what enters the first layer, not rounded
 * where the stream is `wide`. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_embed {
    cu_type type;
    int M, D;
    const int *id;     /* [M], each in [0, V) */
    const void *table; /* [V, D] of `type` */
    float m_emb;
    void *y;   /* [M, D] the lookup, or NULL: not wanted */
    bool wide; /* x is f32 whatever `type` is */
    void *x;   /* [M, D] */
};

fh1_status cu_embed_fwd(cu_ctx *k, const cu_embed *a);

} // namespace CU_NS
