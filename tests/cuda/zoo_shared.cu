/* Mistakes with shared memory. */
#include "tests/cuda/zoo.h"

namespace CU_NS
{
namespace
{

__global__ void barrier_missing(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    const int i = threadIdx.x;
    s[i] = x[i];
    if (!bug) __syncthreads();
    o[i] = s[T - 1 - i];
}
/* The buffer is written again while others still read it. */
__global__ void second_barrier_missing(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    const int i = threadIdx.x;
    float sum = 0;
    for (int k = 0; k < 4; ++k) {
        s[i] = x[i] * static_cast<float>(k - 1);
        __syncthreads();
        sum += s[T - 1 - i];
        if (!bug) __syncthreads();
    }
    o[i] = sum * 0.5f;
}
__global__ void syncwarp_missing(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    const int i = threadIdx.x;
    s[i] = x[i];
    if (!bug) __syncwarp();
    o[i] = s[i ^ 1];
}
/* The lanes of a half wait for each other, not for those that they read from. */
__global__ void syncwarp_of_half(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    const int i = threadIdx.x;
    s[i] = x[i];
    __syncwarp(bug ? (i & 16 ? 0xffff0000u : 0xffffu) : 0xffffffffu);
    o[i] = s[i ^ 31];
}
__global__ void shuffle_as_barrier(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    const int i = threadIdx.x;
    s[i] = x[i];
    const float v = __shfl_xor_sync(0xffffffffu, x[i], 1);
    if (!bug) __syncwarp();
    o[i] = s[i ^ 1] + (v - v);
}
/* The producers say that they are done before they are. */
__global__ void arrives_before_writing(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    const int i = threadIdx.x;
    if (i >= T / 2) {
        if (bug) named_barrier_arrive(1, T);
        s[i] = x[i];
        s[i - T / 2] = x[i - T / 2];
        if (!bug) named_barrier_arrive(1, T);
        o[i] = x[i];
    } else {
        named_barrier_sync(1, T);
        o[i] = s[T - 1 - i] - x[T - 1 - i] + s[i];
    }
}
__global__ void static_overrun(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    const int i = threadIdx.x;
    s[i + bug] = x[i];
    __syncthreads();
    o[i] = bug && i < T - 1 ? s[i + 1] : x[i];
}
__global__ void static_read_past(float *o, const float *x, int bug)
{
    SHARED(float, s, [T]);
    const int i = threadIdx.x;
    s[i] = x[i];
    __syncthreads();
    const float v = s[i + bug];
    o[i] = bug ? x[i] : v;
    if (v == 1e30f) o[i] = 0;
}
struct pieces {
    float *a, *b;
};
__host__ __device__ inline size_t carve(pieces *p, unsigned char *base)
{
    cu_carve c(base);
    p->a = c.take<float>(T);
    p->b = c.take<float>(T);
    return c.off;
}
__global__ void piece_overrun(float *o, const float *x, int bug)
{
    DYN_SMEM(base);
    pieces p;
    carve(&p, base);
    const int i = threadIdx.x;
    p.b[i] = 0;
    p.a[i] = x[i];
    if (bug && i == 0) p.a[T] = 1;
    __syncthreads();
    o[i] = p.a[T - 1 - i] + p.b[i] * 0;
}
/* One element that nobody wrote. */
__global__ void shared_unwritten(float *o, const float *x, int bug)
{
    SHARED(float, s, [T + 1]);
    const int i = threadIdx.x;
    s[i] = x[i];
    if (!bug && i == 0) s[T] = 0;
    __syncthreads();
    o[i] = x[i] + s[i + 1] * 0;
}
/* The same, and what was read does not matter. */
__global__ void shared_unwritten_unused(float *o, const float *x, int bug)
{
    SHARED(float, s, [T + 1]);
    const int i = threadIdx.x;
    s[i] = x[i];
    if (!bug && i == 0) s[T] = 0;
    __syncthreads();
    const float v = *static_cast<volatile float *>(&s[i + 1]);
    o[i] = i < T - 1 ? v : x[T - 1];
}
/* The kernel cuts more than the launch gives. */
__global__ void launch_gives_less(float *o, const float *x, int)
{
    DYN_SMEM(base);
    pieces p;
    carve(&p, base);
    const int i = threadIdx.x;
    p.a[i] = x[i];
    p.b[i] = x[T - 1 - i];
    __syncthreads();
    o[i] = p.a[i] + p.b[T - 1 - i] - x[i];
}

float next(const float *x, int i)
{
    return i < T - 1 ? x[i + 1] : x[T - 1];
}

void with_pieces(cage *c)
{
    pieces p;
    LAUNCH(piece_overrun, 1, T, carve(&p, nullptr), nullptr, c->o, c->x, c->bug);
}
void with_few_bytes(cage *c)
{
    pieces p;
    const size_t bytes = carve(&p, nullptr);
    LAUNCH(launch_gives_less, 1, T, c->bug ? bytes - T * sizeof(float) : bytes, nullptr, c->o, c->x, c->bug);
}

} // namespace

const std::vector<animal> zoo_shared = {
    {"barrier_missing", ONE_LAUNCH(barrier_missing), reversed},
    {"second_barrier_missing", ONE_LAUNCH(second_barrier_missing), reversed},
    {"syncwarp_missing", ONE_LAUNCH(syncwarp_missing), neighbour},
    {"syncwarp_of_half", ONE_LAUNCH(syncwarp_of_half), [](const float *x, int i) { return x[i ^ 31]; }},
    {"shuffle_as_barrier", ONE_LAUNCH(shuffle_as_barrier), neighbour},
    {"arrives_before_writing", ONE_LAUNCH(arrives_before_writing), same},
    {"static_overrun", ONE_LAUNCH(static_overrun), same},
    {"static_read_past", ONE_LAUNCH(static_read_past), same},
    {"piece_overrun", with_pieces, reversed},
    {"shared_unwritten", ONE_LAUNCH(shared_unwritten), same},
    {"shared_unwritten_unused", ONE_LAUNCH(shared_unwritten_unused), next},
    {"launch_gives_less", with_few_bytes, same},
};

} // namespace CU_NS
