/* Threads that do not come together, and launches that the device refuses. */
#include "tests/cuda/zoo.h"

namespace CU_NS
{
namespace
{

__global__ void divergent_barrier(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    if (bug && i < T / 2) __syncthreads();
    else __syncthreads();
    o[i] = x[i];
}
__global__ void half_never_arrives(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    if (!bug || i < T / 2) named_barrier_sync(1, T);
    o[i] = x[i];
}
__global__ void shuffle_in_a_branch(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    float v = x[i];
    if (!bug || i % 32 < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
    o[i] = v;
}
__global__ void shuffle_after_return(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    if (bug && i == T - 1) return;
    o[i] = __shfl_xor_sync(0xffffffffu, x[i], 1);
}
__global__ void source_lane_not_in_mask(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    o[i] = x[i];
    if (i % 32 < 8) o[i] = __shfl_sync(0xffu, x[i], i % 8 + 8 * bug);
}
/* A block waits for the other one, which need not run. */
__global__ void waits_for_a_block(float *o, const float *x, unsigned *count)
{
    if (threadIdx.x == 0) {
        atomicAdd(count, 1u);
        while (atomicAdd(count, 0u) < gridDim.x) spin_hint();
    }
    __syncthreads();
    if (blockIdx.x == 0) o[threadIdx.x] = x[threadIdx.x];
}
__global__ void much_shared(float *o, const float *x, int)
{
    DYN_SMEM(base);
    float *s = reinterpret_cast<float *>(base);
    s[threadIdx.x] = x[threadIdx.x];
    o[threadIdx.x] = s[threadIdx.x];
}

void two_blocks_meet(cage *c)
{
    unsigned *count = nullptr;
    (void)cudaMalloc(&count, sizeof *count);
    (void)cudaMemset(count, 0, sizeof *count);
    if (c->bug) LAUNCH(waits_for_a_block, 2, T, 0, nullptr, c->o, c->x, count);
    else LAUNCH_COOP(waits_for_a_block, 2, T, 0, nullptr, c->o, c->x, count);
}
void many_bytes(cage *c)
{
    const int bytes = 60 * 1024;
    if (!c->bug) (void)cudaFuncSetAttribute(much_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    LAUNCH(much_shared, 1, T, bytes, nullptr, c->o, c->x, 0);
}
void many_threads(cage *c)
{
    LAUNCH(divergent_barrier, 1, c->bug ? 2048 : T, 0, nullptr, c->o, c->x, 0);
}

} // namespace

const std::vector<animal> zoo_threads = {
    {"divergent_barrier", ONE_LAUNCH(divergent_barrier), same},
    {"half_never_arrives", ONE_LAUNCH(half_never_arrives), same},
    {"shuffle_in_a_branch", ONE_LAUNCH(shuffle_in_a_branch), neighbour},
    {"shuffle_after_return", ONE_LAUNCH(shuffle_after_return), neighbour},
    {"source_lane_not_in_mask", ONE_LAUNCH(source_lane_not_in_mask), same},
    {"waits_for_a_block", two_blocks_meet, same},
    {"shared_without_attribute", many_bytes, same},
    {"too_many_threads", many_threads, same},
};

} // namespace CU_NS
