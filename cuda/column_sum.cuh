/* Sums over the tokens of a call, one per column: 32 columns in a block of 256 threads, which read a row's neighbours
 * together. Eight partial sums per column, added up in their order. */
#pragma once

#include "cuda/warp_ops.h"

namespace CU_NS
{

enum { CU_COLUMNS = 32, CU_COLUMN_LANES = 8, CU_COLUMN_THREADS = 256 };

/* out[n] += alpha·Σ_m term(m, n) for the 32 columns of this block; all of its threads call. */
template <typename F>
CU_FN void column_sum(int64_t M, int64_t N, float alpha, F term, float (*part)[CU_COLUMNS + 1], float *out)
{
    const int column = static_cast<int>(threadIdx.x) % CU_COLUMNS, lane = static_cast<int>(threadIdx.x) / CU_COLUMNS;
    const int64_t n = static_cast<int64_t>(blockIdx.x) * CU_COLUMNS + column;
    float sum = 0.f;
    if (n < N)
        for (int64_t m = lane; m < M; m += CU_COLUMN_LANES) sum += term(m, n);
    part[lane][column] = sum;
    __syncthreads();
    if (lane || n >= N) return;
    sum = part[0][column];
#pragma unroll
    for (int i = 1; i < CU_COLUMN_LANES; ++i) sum += part[i][column];
    out[n] += alpha * sum;
}

static inline unsigned column_blocks(int64_t N)
{
    return static_cast<unsigned>((N + CU_COLUMNS - 1) / CU_COLUMNS);
}

} // namespace CU_NS
