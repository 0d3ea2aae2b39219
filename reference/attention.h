#pragma once

#include "reference/real.h"

/* Causal attention with grouped heads, kv head of query head j = j / (Hq/Hkv):
 *   s = R(R(q·k) · A^-½),  w = R(softmax(s)),  out = R(Σ w v)
 * Query t sees keys first[t] … S-T+t (its own last) and no other key is read at all, so that a NaN outside
 * the visible range cannot pass.
 * q, out [T,Hq,A] (out assigned), k, v [Hkv, ld_kv, A] of which the first S are used. */
typedef struct {
    int64_t T, S, Hq, Hkv, A, ld_kv;
    const real *q, *k, *v;
    const int64_t *first;
    real *out;
} REF(ref_attention_args);

fh1_status REF(ref_attention_fwd)(const REF(ref_attention_args) * a, const fh1_profile *p);
