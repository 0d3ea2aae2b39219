/* The next token of each row from its logits, on the device.
 *
 * A row with a NaN gives -1. Greedy (temperature 0): the largest logit, the lowest id of equal ones (-0 equals 0).
 * Else, l the logits and m the largest, in this order:
 *
 *   weight  w = exp((l - m)/temperature) as a whole number of 2^-40: 2^40 where l = m (infinite or not), 0 below
 *           2^-41. (l - m)·s with s = log2(e)/temperature in f64; 2^ of it by exp2_fixed() in sample_fwd.cu, made of
 *           operations that every device rounds alike
 *   order   by logit, the largest first; equal ones by id, the lowest first
 *   top-k   the first top_k survive (0, or V and more: all)
 *   top-p   of these the shortest beginning whose weights add up to ceil(top_p · Σ w), product in f64, at least one
 *           token (1: all)
 *   draw    r = 64 random bits, W = Σ w of the survivors, t = floor(r·W / 2^64): the survivor at which the running
 *           sum of w in the order of ids first exceeds t
 *
 * Sums are of whole numbers, so that neither the order of threads nor the device changes one. r = the first two words
 * (the first is the low half) of Philox4x32-10 with the counter (low and high half of step, of stream) and the key
 * (low and high half of seed): where `stream` names the row, its token does not depend on the rows beside it. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_sample {
    int M, V;
    const float *logits; /* [M, V] */
    float temperature;   /* 0: greedy */
    int top_k;           /* 0: all */
    float top_p;         /* 1: all */
    uint64_t seed;
    const int64_t *step;   /* [M] counter of the row, e.g. its position; not read by greedy */
    int *token;            /* [M] */
    void *scratch;         /* cu_sample_scratch bytes, aligned to 16 */
    const int64_t *stream; /* [M] name of the row's random numbers, or NULL: m */
};

/* Also what cu_sample_fwd refuses (FH1_E_INPUT): a temperature that is negative or not finite, top_k < 0, top_p outside
 * of [0, 1], a row without logits. M = 0 does nothing. */
size_t cu_sample_scratch(int M, int V);
fh1_status cu_sample_fwd(cu_ctx *k, const cu_sample *a);

} // namespace CU_NS
