/* Sums over tokens that have one order: blocks of a first kernel leave partial sums of a few tokens each, threads of a
 * second add those of their element, first tokens first, in f64. What a block sums up depends on the number of tokens
 * alone, so that two devices agree too. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

/* Tokens that a block of the first kernel sums up: `least` or more, for no more than 256 parts. */
static inline int cu_part_tokens(int M, int least)
{
    const int n = M / 256 + (M % 256 != 0);
    return n > least ? n : least;
}

static inline int cu_parts(int M, int least)
{
    const int n = cu_part_tokens(M, least);
    return M / n + (M % n != 0);
}

/* Element by element: part[0], part[stride] … of `parts` of them. */
CU_FN double ordered_sum(const float *part, int64_t parts, int64_t stride)
{
    double sum = 0;
    for (int64_t i = 0; i < parts; ++i) sum += static_cast<double>(part[i * stride]);
    return sum;
}

} // namespace CU_NS
