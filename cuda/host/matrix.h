/* Tensor-core operations of a warp on the CPU: mma.sync m16n8k16 and ldmatrix. */
#pragma once

#include "cuda/host/thread.h"

namespace cu_host
{
namespace sim
{

/* d += a·b, fragments as in the PTX ISA. Products are exact, sums in f32, k ascending, then added to d. */
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site s);

/* The row addresses of the 32 lanes, until the warp's next call. */
const void *const *gather_rows(const void *row, Site s);

/* Lanes 8i … 8i+7 name the rows of matrix i; each lane reads its own part, so that a sanitizer sees who reads what. */
template <int N, bool TRANSPOSED> static inline void ldmatrix(uint32_t (&r)[N], const void *row, Site s)
{
    const void *const *rows = gather_rows(row, s);
    const unsigned l = cur->lane;
    for (unsigned i = 0; i < N; ++i)
        if (!TRANSPOSED) r[i] = static_cast<const uint32_t *>(rows[i * 8 + l / 4])[l % 4];
        else
            r[i] = static_cast<const uint16_t *>(rows[i * 8 + l % 4 * 2])[l / 4] |
                   static_cast<uint32_t>(static_cast<const uint16_t *>(rows[i * 8 + l % 4 * 2 + 1])[l / 4]) << 16;
}

} // namespace sim
} // namespace cu_host
