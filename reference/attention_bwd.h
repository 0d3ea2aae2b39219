#pragma once

#include "reference/real.h"

/* Backward of ref_attention_fwd. The probabilities p are computed again, a tile of queries at a time:
 *   dp[t,s] = dout[t]·v[s],   ds = p∘(dp - Σ_s p·dp)·A^-½
 *   dq[t] = Σ_s ds[t,s]·k[s],   dk[s] = Σ_t ds[t,s]·q[t],   dv[s] = Σ_t p[t,s]·dout[t]
 * dk and dv are summed over the Hq/Hkv query heads of the kv head too, in their order. Query t sees the keys
 * first[t] … S-T+t; no other key is read for it, and a key that no query sees gets 0.
 * q, dout, dq [T,Hq,A]; k, v, dk, dv [Hkv,ld_kv,A], the first S of each head used and assigned: past keys (S > T) have
 * gradients too. dq, dk, dv: NULL: not wanted; none overlaps an input. FH1_E_INTERNAL without memory. */
typedef struct {
    int64_t T, S, Hq, Hkv, A, ld_kv;
    const real *q, *k, *v;
    const int64_t *first;
    const real *dout;
    real *dq, *dk, *dv;
} REF(ref_attention_bwd_args);

fh1_status REF(ref_attention_bwd)(const REF(ref_attention_bwd_args) * a);
