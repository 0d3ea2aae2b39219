/* out[m,h] = R(Σ_s p_s·v[s]), p = softmax over s of (q[m,h]·k[s])·A^-½, s from first[m] to the token's own slot; query
 * head h reads key head h / (Hq/Hkv). Softmax in f32; where tensor cores multiply p·v, exp(score - running maximum) is
 * rounded to the storage type (oracle/contract.h, FH1_RP_PROB_TILE), its sum is not. */
#pragma once

#include "cuda/kv.h"
#include "cuda/tokens.h"

namespace CU_NS
{

struct cu_attention {
    cu_type type;
    cu_tokens t;
    int Hq, Hkv, A;
    const void *q; /* [M, ldq], rotated */
    int64_t ldq;
    cu_kv kv;      /* keys and values of this call included */
    void *out;     /* [M, Hq·A] */
    void *scratch; /* cu_attention_step_scratch bytes; cu_attention_step_fwd only */
};

/* Many tokens of many rows. wgmma and TMA on sm_90, mma elsewhere, a general path for any A, Hq/Hkv and f32. */
fh1_status cu_attention_fwd(cu_ctx *k, const cu_attention *a);

/* One token per row (M = B): keys are split over blocks, partial results merged in f32. */
size_t cu_attention_step_scratch(const cu_ctx *k, const cu_attention *a, int B, int most_keys);
fh1_status cu_attention_step_fwd(cu_ctx *k, const cu_attention *a);

} // namespace CU_NS
