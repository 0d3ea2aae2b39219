/* The one header that kernels include (through cuda/common.h) for CUDA itself: under nvcc the real thing, else
 * cuda/host/. Nothing outside of this file, cuda/blas.h and cuda/…_ops.h writes <<<>>>, __shared__ or inline PTX.
 *
 *   LAUNCH(kernel, grid, block, smem, stream, args...)   templates in parentheses: LAUNCH((k<float, 4>), …)
 *   LAUNCH_COOP(…)                                       cooperative: grid_sync() is allowed
 *   SHARED(T, name, [dims])                              static shared memory, at function scope
 *   DYN_SMEM(base)                                       dynamic shared memory, cut up by cu_carve
 *   DYN_SMEM_1024(base)                                  the same, aligned as swizzled tiles must be; rounds up the
 *                                                        static shared memory of every kernel of the file to 1024
 */
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#define CU_NS cu_gpu
#define CU_HOST 0
#define LAUNCH(kernel, grid, block, smem, stream, ...) kernel<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
#define LAUNCH_COOP(kernel, grid, block, smem, stream, ...) \
    ::cu_gpu::launch_cooperative(kernel, (grid), (block), (smem), (stream), ##__VA_ARGS__)
#define SHARED(T, name, ...) __shared__ __align__(16) T name __VA_ARGS__
#define DYN_SMEM(name) extern __shared__ __align__(128) unsigned char name[]
#define DYN_SMEM_1024(name) extern __shared__ __align__(1024) unsigned char name[]
#define CU_FN static __device__ __forceinline__
#else
#include "cuda/host/device.h"
#define CU_NS cu_host
#define CU_HOST 1
#define CU_FN static inline
#endif

namespace CU_NS
{

typedef __nv_bfloat16 bf16;

#if !CU_HOST
CU_FN void grid_sync()
{
    cooperative_groups::this_grid().sync();
}
/* In loops that wait for another thread. */
CU_FN void spin_hint()
{
    __nanosleep(20);
}

template <typename T> struct not_deduced {
    typedef T type;
};
/* Its error is also the one that cudaGetLastError gives. */
template <typename... P>
static inline void launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                                      typename not_deduced<P>::type... a)
{
    void *args[] = {const_cast<void *>(static_cast<const void *>(&a))..., nullptr};
    (void)cudaLaunchCooperativeKernel(reinterpret_cast<const void *>(kernel), grid, block, args, smem, stream);
}
#endif

/* Cuts dynamic shared memory into pieces; the host runs the same cut on NULL to get the size. On the CPU every piece is
 * followed by a poisoned gap, so that an overrun is an error and not a silent write into the next one. */
struct cu_carve {
    unsigned char *base;
    size_t off;
    __host__ __device__ explicit cu_carve(unsigned char *b) : base(b), off(0)
    {
    }
    template <typename T> __host__ __device__ T *take(size_t n, size_t align = 16)
    {
        off = (off + align - 1) / align * align;
        T *p = base ? reinterpret_cast<T *>(base + off) : nullptr;
        off += n * sizeof(T);
#if CU_HOST
        const size_t gap = 64 + (16 - off % 16) % 16;
        if (base) sim::shared_gap(base + off, gap);
        off += gap;
#endif
        return p;
    }
};

} // namespace CU_NS
