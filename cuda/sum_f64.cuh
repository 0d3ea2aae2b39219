/* Sums over a block in f64, and the largest of its floats; in one order. */
#pragma once

#include "cuda/warp_ops.h"

namespace CU_NS
{

/* Every thread gets the sum; `red`: one number per warp, free again on return. */
template <int THREADS> CU_FN double block_sum_f64(double v, double *red)
{
    const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    if (lane == 0) red[warp] = v;
    __syncthreads();
    v = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) v += red[i];
    __syncthreads();
    return v;
}

/* The largest; NaN may be dropped, a sum of exponentials finds it again. */
template <int THREADS> CU_FN float block_max(float v, float *red)
{
    v = warp_max(v);
    if ((threadIdx.x & 31) == 0) red[threadIdx.x >> 5] = v;
    __syncthreads();
    v = red[0];
#pragma unroll
    for (int i = 1; i < THREADS / 32; ++i) v = fmaxf(v, red[i]);
    __syncthreads();
    return v;
}

} // namespace CU_NS
