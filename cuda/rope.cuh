/* Rotation of queries and keys, and append: q = R(rot(q)), k = R(rot(k·m_key)), both in place; k and v go to slot
 * past[row] + (m - row_begin[row]) of the row. rot pairs element i with i + A/2:
 *   lo' = lo·cos - hi·sin,  hi' = hi·cos + lo·sin,   angle = position·inv_freq[i], cos and sin times `scale`.
 * The angle is reduced in f64, so that cos and sin are those of the exact angle to an ulp of f32 at any position. */
#pragma once

#include "cuda/kv.h"
#include "cuda/tokens.h"

namespace CU_NS
{

struct cu_rope {
    cu_type type;
    cu_tokens t;
    int Hq, Hkv, A;         /* Hkv = 0: queries only; kv.key NULL: nothing is appended */
    const double *inv_freq; /* [A/2] on the device, f64 */
    float scale;
    float m_key;
    bool transposed; /* by -angle: the gradient of a rotation */
    void *q, *k;     /* [M, ldq], [M, ldk]: heads one after another */
    const void *v;   /* [M, ldv] */
    int64_t ldq, ldk, ldv;
    cu_kv kv;
};

fh1_status cu_rope_fwd(cu_ctx *k, const cu_rope *a);

} // namespace CU_NS
