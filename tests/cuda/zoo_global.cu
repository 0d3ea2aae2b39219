/* Mistakes with device memory, within a block and between blocks. */
#include "tests/cuda/zoo.h"

namespace CU_NS
{
namespace
{

__global__ void copy(float *o, const float *x, int)
{
    o[threadIdx.x] = x[threadIdx.x];
}
__global__ void global_read_past(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    const float v = x[i + bug];
    o[i] = bug ? (v == 1e30f ? 0 : x[i]) : v;
}
__global__ void global_write_past(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    o[i] = x[i];
    if (bug && i == T - 1) o[T] = 0;
}
__global__ void global_write_before(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    o[i] = x[i];
    if (bug && i == 0) o[-1] = 0;
}
/* 31 threads copy 4 numbers each, from the first or from the second on, one thread the other 4. */
__global__ void misaligned_vector(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    if (i < 31) {
        const float4 v = *reinterpret_cast<const float4 *>(x + bug + i * 4);
        float *to = o + bug + i * 4;
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else if (i == 31)
        for (int k = 0; k < 4; ++k) {
            const int at = bug && !k ? 0 : T - 4 + k;
            o[at] = x[at];
        }
}
__global__ void index_overflow(float *o, const float *x, int bug)
{
    volatile int row = 4; /* else the compiler multiplies, and nothing overflows */
    const int i = threadIdx.x, stride = bug ? 1 << 30 : 1 << 20, at = stride * row;
    o[i] = x[i] + static_cast<float>(at == 77);
}
__global__ void local_overrun(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    float a[4] = {0, 0, 0, x[i]};
    const int at = 3 + bug * (1 + i % 2);
    o[i] = a[at];
}
/* Every block writes all of o. */
__global__ void blocks_write_one_element(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    if (bug || static_cast<int>(blockIdx.x) == i / 64) o[i] = x[i];
}
__global__ void blocks_accumulate(float *o, const float *x, int bug)
{
    const int i = threadIdx.x;
    if (bug) o[i] += x[i] * 0.5f;
    else atomicAdd(&o[i], x[i] * 0.5f);
}
__global__ void threads_accumulate(float *o, const float *x, int bug)
{
    const int i = threadIdx.x, to = i & ~1;
    if (bug) o[to] += x[i];
    else atomicAdd(&o[to], x[i]);
}
/* The last block adds up what the blocks left. scratch: 2 T numbers and the counter. */
__global__ void last_block(float *o, const float *x, int bug, float *scratch, unsigned *counter)
{
    SHARED(unsigned, rank, [1]);
    const int i = threadIdx.x;
    scratch[blockIdx.x * T + i] = x[i] * 0.5f;
    if (!bug) __threadfence();
    __syncthreads();
    if (i == 0) rank[0] = atomicAdd(counter, 1u);
    __syncthreads();
    if (rank[0] == gridDim.x - 1) o[i] = scratch[i] + scratch[T + i];
}
/* The other half of x, as another block left it. */
__global__ void grid_barrier_missing(float *o, const float *x, int bug, float *scratch)
{
    const int i = blockIdx.x * (T / 2) + threadIdx.x;
    scratch[i] = x[i];
    if (!bug) grid_sync();
    o[i] = scratch[T - 1 - i];
}

float pair_sum(const float *x, int i)
{
    return i & 1 ? 0 : x[i] + x[i + 1];
}

float *new_floats(size_t n)
{
    float *p = nullptr;
    (void)cudaMalloc(&p, n * sizeof *p);
    return p;
}

void two_blocks_write(cage *c)
{
    LAUNCH(blocks_write_one_element, 2, T, 0, nullptr, c->o, c->x, c->bug);
}
void two_blocks_add(cage *c)
{
    LAUNCH(blocks_accumulate, 2, T, 0, nullptr, c->o, c->x, c->bug);
}
void last_block_adds(cage *c)
{
    float *scratch = new_floats(2 * T), *counter = new_floats(1);
    (void)cudaMemset(counter, 0, 4);
    LAUNCH(last_block, 2, T, 0, nullptr, c->o, c->x, c->bug, scratch, reinterpret_cast<unsigned *>(counter));
}
void grid_reverses(cage *c)
{
    LAUNCH_COOP(grid_barrier_missing, 2, T / 2, 0, nullptr, c->o, c->x, c->bug, new_floats(T));
}
void freed(cage *c)
{
    float *p = new_floats(T);
    if (c->bug) (void)cudaFree(p);
    LAUNCH(copy, 1, T, 0, nullptr, p, c->x, 0);
    LAUNCH(copy, 1, T, 0, nullptr, c->o, c->x, 0);
    (void)cudaDeviceSynchronize();
}
void never_written(cage *c)
{
    float *p = new_floats(T);
    if (!c->bug) (void)cudaMemcpy(p, c->x, T * sizeof *p, cudaMemcpyDeviceToDevice);
    LAUNCH(copy, 1, T, 0, nullptr, c->o, p, 0);
}

} // namespace

const std::vector<animal> zoo_global = {
    {"global_read_past", ONE_LAUNCH(global_read_past), same},
    {"global_write_past", ONE_LAUNCH(global_write_past), same},
    {"global_write_before", ONE_LAUNCH(global_write_before), same},
    {"misaligned_vector", ONE_LAUNCH(misaligned_vector), same},
    {"index_overflow", ONE_LAUNCH(index_overflow), same},
    {"local_overrun", ONE_LAUNCH(local_overrun), same},
    {"blocks_write_one_element", two_blocks_write, same},
    {"blocks_accumulate", two_blocks_add, same},
    {"threads_accumulate", ONE_LAUNCH(threads_accumulate), pair_sum},
    {"fence_missing", last_block_adds, same},
    {"grid_barrier_missing", grid_reverses, reversed},
    {"use_after_free", freed, same},
    {"never_written", never_written, same},
};

} // namespace CU_NS
