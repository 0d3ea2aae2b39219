#pragma once

#include "oracle/gauge.h"

/* The gauge of attention.h, prefill and step alike: scores, softmax, weighted sum, with the roundings FH1_RP_SCORE
 * (twice), FH1_RP_PROB, FH1_RP_PROB_TILE and FH1_RP_CONTEXT. Layout as ref_attention_args: q, out [T,Hq,A], k, v
 * [Hkv,ld_kv,A] of which the first S are used, query t sees keys first[t] … S-T+t. out true, g [T,Hq,A] assigned.
 * FH1_E_INTERNAL without memory. */
typedef struct {
    int64_t T, S, Hq, Hkv, A, ld_kv;
    const double *q, *k, *v;
    const int64_t *first;
    const double *out;
} ref_attention_gauge_args;

fh1_status ref_attention_op_gauge(const fh1_profile *contract, const ref_attention_gauge_args *a, const fh1_gauge *g);
