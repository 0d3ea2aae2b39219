#pragma once

#include "reference/real.h"

/* Greedy choice: token[m] = the index of the largest of logits[m,:], the lowest one at a tie; -1 where a logit is
 * NaN. logits [M,V], token [M] assigned. */
void REF(ref_sample_greedy)(int64_t M, int64_t V, const real *logits, int64_t *token);
