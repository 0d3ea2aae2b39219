/* Mistakes with cp.async. */
#include "tests/cuda/zoo.h"

namespace CU_NS
{
namespace
{

CU_FN void fetch(float *s, const float *x)
{
    if (threadIdx.x < T / 4) cp_async16(s + threadIdx.x * 4, x + threadIdx.x * 4);
    cp_async_commit();
}
__global__ void copy_without_wait(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    fetch(s, x);
    if (!bug) cp_async_wait<0>();
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
    cp_async_wait<0>();
}
__global__ void copy_waits_too_little(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    fetch(s, x);
    if (bug) cp_async_wait<1>();
    else cp_async_wait<0>();
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
    cp_async_wait<0>();
}
__global__ void copy_without_barrier(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    fetch(s, x);
    cp_async_wait<0>();
    if (!bug) __syncthreads();
    o[threadIdx.x] = s[T - 1 - threadIdx.x];
}
/* The next copy into the buffer is issued while others still read it. */
__global__ void copy_into_a_buffer_in_use(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    float sum = 0;
    for (int k = 0; k < 2; ++k) {
        const int at = (threadIdx.x * 4 + k * T / 2) % T; /* other numbers each time */
        if (threadIdx.x < T / 4) cp_async16(s + threadIdx.x * 4, x + at);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        sum += s[T - 1 - threadIdx.x];
        if (!bug) __syncthreads();
    }
    o[threadIdx.x] = sum;
}
__global__ void copy_in_flight_at_exit(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    fetch(s, x);
    o[threadIdx.x] = x[threadIdx.x];
    if (!bug) cp_async_wait<0>();
}
__global__ void copy_misaligned(float *o, const float *x, int bug)
{
    SHARED(float, s, [T + 4]);
    fetch(s + bug, x);
    cp_async_wait<0>();
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x + bug];
}
__global__ void copy_reads_past(float *o, const float *x, int bug)
{
    SHARED(float, s, [T + 4]);
    fetch(s, x);
    if (threadIdx.x == 0) cp_async16(s + T, x + T, bug != 0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
}

} // namespace

const std::vector<animal> zoo_copies = {
    {"copy_without_wait", ONE_LAUNCH(copy_without_wait), same},
    {"copy_waits_too_little", ONE_LAUNCH(copy_waits_too_little), same},
    {"copy_without_barrier", ONE_LAUNCH(copy_without_barrier), reversed},
    {"copy_into_a_buffer_in_use", ONE_LAUNCH(copy_into_a_buffer_in_use),
     [](const float *x, int i) { return x[T - 1 - i] + x[(T - 1 - i + T / 2) % T]; }},
    {"copy_in_flight_at_exit", ONE_LAUNCH(copy_in_flight_at_exit), same},
    {"copy_misaligned", ONE_LAUNCH(copy_misaligned), same},
    {"copy_reads_past", ONE_LAUNCH(copy_reads_past), same},
};

} // namespace CU_NS
