/* What the kernels of the selective scan share that keep the state in registers (selective_scan_fwd.cu,
 * selective_scan_bwd.cu): who has which columns of it. */
#pragma once

#include "cuda/selective_scan.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{

constexpr float LOG2_E = 1.44269504088896340736f;

/* A thread of a block: lane `part` of its channel, columns 4·(part + LANES·i) .. + 4 from n0 on, so that neighbours
 * read 16 bytes beside each other. */
template <typename CUT> struct selective_place {
    int part, local, channel; /* local: of the block's channels */
    bool on;                  /* there is such a channel */
};

template <typename CUT> CU_FN selective_place<CUT> selective_place_of(int I)
{
    constexpr int LANES = CUT::LANES;
    const int local = static_cast<int>(threadIdx.x) / LANES;
    const int channel = static_cast<int>(blockIdx.x) * (CU_SELECTIVE_THREADS / LANES) + local;
    return {static_cast<int>(threadIdx.x) % LANES, local, channel, channel < I};
}

/* The column of element i of a thread's registers, from n0 on. */
template <typename CUT> CU_FN int selective_column(const selective_place<CUT> &p, int i)
{
    constexpr int LANES = CUT::LANES;
    return 4 * (p.part + LANES * (i / 4)) + i % 4;
}

/* A thread's columns of one token in shared memory, [WIDTH] floats. */
template <typename CUT>
CU_FN void selective_columns(const float *row, const selective_place<CUT> &p, float (&v)[CUT::PER])
{
    constexpr int LANES = CUT::LANES, PER = CUT::PER;
#pragma unroll
    for (int i = 0; i < PER; i += 4) {
        const float4 q = *reinterpret_cast<const float4 *>(row + 4 * (p.part + LANES * (i / 4)));
        v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
    }
}

/* The sum over the lanes of a channel, in all of them. */
template <typename CUT> CU_FN float selective_sum(float v)
{
    constexpr int LANES = CUT::LANES;
#pragma unroll
    for (int o = LANES / 2; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

} // namespace CU_NS
