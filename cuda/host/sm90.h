/* Hopper's asynchronous operations on the CPU: mbarriers, bulk and tensor copies, wgmma. Copies land as late as the
 * rules allow (when no thread can go on), their destination is NaN from the issue on; products are formed in the wait
 * that ends them, their accumulators are NaN until then. */
#pragma once

#include "cuda/host/thread.h"

namespace cu_host
{
namespace sim
{

void mbar_init(uint64_t *bar, int count, Site s);
void mbar_arrive(uint64_t *bar, int bytes, Site s); /* one arrival, after which `bytes` more are awaited */
void mbar_wait(uint64_t *bar, int parity, Site s);
bool mbar_test(uint64_t *bar, int parity, Site s);

/* A tensor in device memory, seen through boxes. dim and at: innermost first. */
struct TensorMap {
    const void *base;
    int rank, size; /* of an element */
    int64_t dim[3];
    int64_t stride[3]; /* bytes; [0] is `size` */
    int box[3];
    bool swizzled; /* rows of 128 bytes, 16-byte pieces exchanged by row modulo 8 */
};
void bulk_load(void *dst, const void *src, int bytes, uint64_t *bar, Site s);
void tensor_load(void *dst, const TensorMap *m, int x, int y, int z, uint64_t *bar, Site s);

/* One product of a warpgroup as its warps see it: 64 x n += 64 x 16 · 16 x n. */
struct WarpgroupProduct {
    int n;
    const uint32_t *a_registers; /* 4, or NULL: */
    uint64_t a, b;               /* descriptors */
    bool b_transposed;           /* n is the contiguous index of b in memory */
    bool add;                    /* false: the accumulators start from 0 */
};
void wgmma_issue(float *d, const WarpgroupProduct &p, Site s);
void wgmma_commit(Site s);
void wgmma_wait(int keep, Site s);
uint64_t shared_address(const void *p, Site s); /* in the block's shared memory, for descriptors */

} // namespace sim
} // namespace cu_host
