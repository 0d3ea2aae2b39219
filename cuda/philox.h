/* Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw (SC 2011): four 32-bit words as a
 * function of a counter of four and a key of two. No state, so any thread may draw any number in any order. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

CU_FN uint4 philox4x32_10(uint4 counter, uint2 key)
{
    const uint32_t mul_0 = 0xd2511f53u, mul_1 = 0xcd9e8d57u, weyl_0 = 0x9e3779b9u, weyl_1 = 0xbb67ae85u;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = static_cast<uint64_t>(mul_0) * counter.x, p1 = static_cast<uint64_t>(mul_1) * counter.z;
        counter = make_uint4(static_cast<uint32_t>(p1 >> 32) ^ counter.y ^ key.x, static_cast<uint32_t>(p1),
                             static_cast<uint32_t>(p0 >> 32) ^ counter.w ^ key.y, static_cast<uint32_t>(p0));
        key = make_uint2(key.x + weyl_0, key.y + weyl_1);
    }
    return counter;
}

} // namespace CU_NS
