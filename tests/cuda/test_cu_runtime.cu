/* The host-execution layer and the runtime API, as far as both worlds have them: cooperative launches, named barriers,
 * votes, widths, graphs, events, atomics, launches that are refused. */
#include "tests/cuda/harness.h"

namespace CU_NS
{
namespace
{

/* Two phases over all blocks. */
__global__ void two_phases(float *a, float *b, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    SHARED(float, s, [128]);
    s[threadIdx.x] = a[i];
    grid_sync();
    b[i] = a[(i + n / 2) % n] + s[threadIdx.x];
    grid_sync();
    a[i] = b[(i + 1) % n];
}

/* Warps 0 and 1 produce, warps 2 and 3 consume, two slots: 1, 2 full, 3, 4 empty. */
__global__ void two_slots(int *o, int n)
{
    SHARED(int, s, [2][64]);
    const bool producer = threadIdx.x < 64;
    const int t = threadIdx.x & 63;
    int sum = 0;
    for (int i = 0; i < n; ++i) {
        const int slot = i & 1;
        if (producer) {
            if (i >= 2) named_barrier_sync(3 + slot, 128);
            s[slot][t] = i * 100 + t;
            named_barrier_arrive(1 + slot, 128);
        } else {
            named_barrier_sync(1 + slot, 128);
            sum += s[slot][t ^ 1];
            if (i + 2 < n) named_barrier_arrive(3 + slot, 128);
        }
    }
    if (!producer) o[t] = sum;
}

/* The block that comes last adds up what all wrote. */
__global__ void last_block(float *part, unsigned *count, float *out, const float *x, int n)
{
    SHARED(float, red, [32]);
    SHARED(bool, last);
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = block_sum(v, red);
    if (threadIdx.x == 0) {
        part[blockIdx.x] = v;
        __threadfence();
        last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        float t = threadIdx.x < gridDim.x ? part[threadIdx.x] : 0.f;
        t = block_sum(t, red);
        if (threadIdx.x == 0) *out = t;
    }
}

enum { VOTES = 16 };
__global__ void votes(int *o)
{
    const int t = static_cast<int>(threadIdx.x), l = t & 31;
    int *r = o + t * VOTES;
    r[0] = static_cast<int>(__ballot_sync(0xffffffffu, t % 3 == 0));
    r[1] = __syncthreads_count(t % 5 == 0);
    r[2] = __shfl_up_sync(0xffffffffu, t, 1, 8);
    r[3] = __shfl_down_sync(0xffffffffu, t, 3, 16);
    r[4] = __shfl_sync(0xffffffffu, t, 13, 8);
    r[5] = __shfl_xor_sync(0xffffffffu, t, 5, 4);
    if (l < 16) r[6] = static_cast<int>(__ballot_sync(0x0000ffffu, l & 1));
    else r[6] = static_cast<int>(__ballot_sync(0xffff0000u, 1));
    r[7] = __syncthreads_or(t == 37) * 2 + __syncthreads_and(t != 37);
    r[8] = __any_sync(0xffffffffu, t == 33) * 2 + __all_sync(0xffffffffu, t != 33);
    r[9] = __reduce_add_sync(0xffffffffu, t);
    r[10] = __reduce_min_sync(0xffffffffu, t - 40);
    r[11] = static_cast<int>(__reduce_max_sync(0xffffffffu, static_cast<unsigned>(t ^ 21)));
    r[12] = static_cast<int>(__match_any_sync(0xffffffffu, l / 5));
    r[13] = __syncthreads_and(1);
    r[14] = __syncthreads_count(1);
    r[15] = static_cast<int>(__brev(static_cast<unsigned>(t))) ^ static_cast<int>(__funnelshift_l(7u, 9u, t));
}

__global__ void add(float *a, float v, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) a[i] += v;
}

/* y = 2 y, so that order shows. */
__global__ void twice(float *a, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) a[i] *= 2;
}

__global__ void count_up(int *n, unsigned *u, float *f, unsigned long long *l)
{
    atomicAdd(n, 2);
    atomicAdd(f, 0.5f);
    atomicAdd(l, 1ull << 33);
    atomicMax(u, threadIdx.x);
    atomicMin(u + 1, threadIdx.x + 5);
    atomicOr(u + 2, 1u << (threadIdx.x % 32));
    atomicExch(u + 3, 9u);
    atomicCAS(u + 4, 0u, threadIdx.x + 1);
}

__global__ void places(int *o, dim3 grid)
{
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    o[block * blockDim.x * blockDim.y * blockDim.z + thread] =
        static_cast<int>(block * 1000 + thread + (grid.x != gridDim.x));
}

struct pieces {
    float *a;
    int *b;
};
__host__ __device__ inline size_t carve(pieces *p, unsigned char *base, int n)
{
    cu_carve c(base);
    p->a = c.take<float>(n);
    p->b = c.take<int>(n, 128);
    return c.off;
}
__global__ void big_shared(float *o, int n)
{
    DYN_SMEM(base);
    pieces p;
    carve(&p, base, n);
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        p.a[i] = static_cast<float>(i);
        p.b[i] = -i;
    }
    __syncthreads();
    for (int i = threadIdx.x; !blockIdx.x && i < n; i += blockDim.x) o[i] = p.a[n - 1 - i] + static_cast<float>(p.b[i]);
}

} // namespace
} // namespace CU_NS

static std::vector<float> ramp(size_t n)
{
    std::vector<float> v(n);
    for (size_t i = 0; i < n; ++i) v[i] = static_cast<float>(i);
    return v;
}

START_TEST(all_blocks_meet)
{
    float *a = to_device(ramp(1024)), *b = device_new<float>(1024);
    LAUNCH_COOP(two_phases, 8, 128, 0, nullptr, a, b, 1024);
    good(cudaGetLastError());
    const std::vector<float> r = from_device(a, 1024);
    for (int i = 0; i < 1024; ++i) {
        const int j = (i + 1) % 1024;
        ck_assert(r[i] == static_cast<float>((j + 512) % 1024 + j));
    }
    free_device();
}
END_TEST

START_TEST(producers_and_consumers)
{
    int *o = device_new<int>(64);
    LAUNCH(two_slots, 1, 128, 0, nullptr, o, 7);
    const std::vector<int> r = from_device(o, 64);
    for (int t = 0; t < 64; ++t) ck_assert_int_eq(r[t], 2100 + 7 * (t ^ 1));
    free_device();
}
END_TEST

START_TEST(the_last_block_sums)
{
    float *x = to_device(ramp(1024)), *part = device_new<float>(10), *out = device_new<float>(1);
    unsigned *n = to_device(std::vector<unsigned>{0});
    LAUNCH(last_block, 10, 1024, 0, nullptr, part, n, out, x, 1024);
    ck_assert(from_device(out, 1)[0] == 1023.f * 512);
    free_device();
}
END_TEST

START_TEST(votes_and_shuffles)
{
    enum { T = 96 };
    int *o = device_new<int>(T * VOTES);
    LAUNCH(votes, 1, T, 0, nullptr, o);
    const std::vector<int> got = from_device(o, T * VOTES);
    for (int t = 0; t < T; ++t) {
        const int *r = &got[t * VOTES], l = t & 31, w = t - l;
        unsigned third = 0, same = 0, most = 0;
        int sum = 0;
        for (int i = 0; i < 32; ++i) {
            third |= static_cast<unsigned>((w + i) % 3 == 0) << i;
            same |= static_cast<unsigned>(i / 5 == l / 5) << i;
            sum += w + i;
            const unsigned x = static_cast<unsigned>((w + i) ^ 21);
            most = x > most ? x : most;
        }
        ck_assert_int_eq(r[0], static_cast<int>(third));
        ck_assert_int_eq(r[1], (T + 4) / 5);
        ck_assert_int_eq(r[2], t % 8 ? t - 1 : t);
        ck_assert_int_eq(r[3], t % 16 + 3 < 16 ? t + 3 : t);
        ck_assert_int_eq(r[4], (t & ~7) + 5);
        /* A lane past the segment of 4 gives the own value; one before it is read. */
        ck_assert_int_eq(r[5], ((l ^ 5) <= (l | 3)) ? t ^ 5 : t);
        ck_assert_int_eq(r[6], l < 16 ? 0xaaaa : static_cast<int>(0xffff0000u));
        ck_assert_int_eq(r[7], 2);
        ck_assert_int_eq(r[8], w == 32 ? 2 : 1);
        ck_assert_int_eq(r[9], sum);
        ck_assert_int_eq(r[10], w - 40);
        ck_assert_int_eq(r[11], static_cast<int>(most));
        ck_assert_int_eq(r[12], static_cast<int>(same));
        ck_assert_int_eq(r[13], 1);
        ck_assert_int_eq(r[14], T);
        unsigned brev = 0;
        for (int i = 0; i < 32; ++i) brev |= (static_cast<unsigned>(t) >> i & 1) << (31 - i);
        const unsigned shifted = static_cast<unsigned>(((9ull << 32 | 7ull) << (t & 31)) >> 32);
        ck_assert_int_eq(r[15], static_cast<int>(brev ^ shifted));
    }
    free_device();
}
END_TEST

START_TEST(graphs_fork_and_join)
{
    enum { N = 300 };
    float *a = to_device(std::vector<float>(N, 1)), *b = to_device(std::vector<float>(N, 0));
    cudaStream_t s, other;
    cudaEvent_t forked, joined;
    good(cudaStreamCreate(&s));
    good(cudaStreamCreate(&other));
    good(cudaEventCreate(&forked));
    good(cudaEventCreate(&joined));
    good(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    float by_value = 1;
    LAUNCH(add, 3, 128, 0, s, a, by_value, static_cast<int>(N));
    by_value = 77; /* the graph has its own */
    good(cudaEventRecord(forked, s));
    good(cudaStreamWaitEvent(other, forked, 0));
    LAUNCH(add, 3, 128, 0, other, b, 2.f, static_cast<int>(N));
    good(cudaEventRecord(joined, other));
    LAUNCH(twice, 3, 128, 0, s, a, static_cast<int>(N));
    good(cudaStreamWaitEvent(s, joined, 0));
    LAUNCH(add, 3, 128, 0, s, a, 10.f, static_cast<int>(N));
    cudaGraph_t g;
    good(cudaStreamEndCapture(s, &g));
    cudaGraphExec_t x;
    good(cudaGraphInstantiate(&x, g, 0));
    good(cudaGraphDestroy(g));
    for (int i = 0; i < 3; ++i) good(cudaGraphLaunch(x, s));
    good(cudaStreamSynchronize(s));
    /* a = 2 (a + 1) + 10 thrice from 1 */
    ck_assert(from_device(a, N)[N - 1] == 92.f);
    ck_assert(from_device(b, N)[5] == 6.f);

    /* Work of a forked stream that is never joined makes no graph. */
    good(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    good(cudaEventRecord(forked, s));
    good(cudaStreamWaitEvent(other, forked, 0));
    LAUNCH(add, 3, 128, 0, other, b, 2.f, static_cast<int>(N));
    ck_assert(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureUnjoined);
    (void)cudaGetLastError();

    good(cudaGraphExecDestroy(x));
    good(cudaEventDestroy(forked));
    good(cudaEventDestroy(joined));
    good(cudaStreamDestroy(s));
    good(cudaStreamDestroy(other));
    free_device();
}
END_TEST

START_TEST(streams_wait_by_events)
{
    enum { N = 200 };
    float *a = to_device(std::vector<float>(N, 3)), *pinned;
    good(cudaMallocHost(&pinned, N * sizeof *pinned));
    cudaStream_t s, other;
    good(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    good(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    cudaEvent_t first, last;
    good(cudaEventCreate(&first));
    good(cudaEventCreate(&last));
    good(cudaEventRecord(first, s));
    LAUNCH(add, 2, 128, 0, s, a, 4.f, static_cast<int>(N));
    cudaEvent_t added;
    good(cudaEventCreateWithFlags(&added, cudaEventDisableTiming));
    good(cudaEventRecord(added, s));
    good(cudaStreamWaitEvent(other, added, 0));
    LAUNCH(twice, 2, 128, 0, other, a, static_cast<int>(N));
    good(cudaMemcpyAsync(pinned, a, N * sizeof *a, cudaMemcpyDeviceToHost, other));
    good(cudaStreamSynchronize(other));
    for (int i = 0; i < N; ++i) ck_assert(pinned[i] == 14.f);
    good(cudaEventRecord(last, s));
    good(cudaEventSynchronize(last));
    float ms = -1;
    good(cudaEventElapsedTime(&ms, first, last));
    ck_assert(ms >= 0);
    while (cudaStreamQuery(s) == cudaErrorNotReady) {
    }
    good(cudaEventQuery(last));
    good(cudaEventDestroy(first));
    good(cudaEventDestroy(last));
    good(cudaEventDestroy(added));
    good(cudaStreamDestroy(s));
    good(cudaStreamDestroy(other));
    good(cudaFreeHost(pinned));
    free_device();
}
END_TEST

START_TEST(atomics_count)
{
    int *n = to_device(std::vector<int>{5});
    unsigned *u = to_device(std::vector<unsigned>{0, 100, 0, 0, 0});
    float *f = to_device(std::vector<float>{1});
    unsigned long long *l = to_device(std::vector<unsigned long long>{7});
    LAUNCH(count_up, 3, 160, 0, nullptr, n, u, f, l);
    ck_assert_int_eq(from_device(n, 1)[0], 5 + 2 * 480);
    ck_assert(from_device(f, 1)[0] == 241.f);
    ck_assert(from_device(l, 1)[0] == 7 + 480 * (1ull << 33));
    const std::vector<unsigned> r = from_device(u, 5);
    ck_assert(r[0] == 159 && r[1] == 5 && r[2] == ~0u && r[3] == 9 && r[4] >= 1 && r[4] <= 160);
    free_device();
}
END_TEST

START_TEST(every_thread_has_its_place)
{
    const dim3 grid(3, 2, 2), block(5, 7, 3);
    const int n = 12, t = 105;
    int *o = device_new<int>(n * t);
    LAUNCH(places, grid, block, 0, nullptr, o, grid);
    const std::vector<int> r = from_device(o, n * t);
    for (int b = 0; b < n; ++b)
        for (int i = 0; i < t; ++i) ck_assert_int_eq(r[b * t + i], b * 1000 + i);
    free_device();
}
END_TEST

START_TEST(large_shared_memory_is_asked_for)
{
    const int n = 12000; /* 96 KB */
    pieces p;
    const size_t bytes = carve(&p, nullptr, n);
    float *o = device_new<float>(n);
    LAUNCH(big_shared, 1, 256, bytes, nullptr, o, n);
    ck_assert(cudaGetLastError() == cudaErrorInvalidValue);
    good(cudaFuncSetAttribute(big_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
    LAUNCH(big_shared, 2, 256, bytes, nullptr, o, n);
    good(cudaGetLastError());
    const std::vector<float> r = from_device(o, n);
    for (int i = 0; i < n; ++i) ck_assert(r[i] == static_cast<float>(n - 1 - 2 * i));
    ck_assert(cudaFuncSetAttribute(big_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 * 1024) != cudaSuccess);
    (void)cudaGetLastError();
    free_device();
}
END_TEST

START_TEST(bad_launches_are_refused)
{
    float *a = device_new<float>(16);
    LAUNCH(add, 1, 1025, 0, nullptr, a, 1.f, 0);
    ck_assert(cudaGetLastError() == cudaErrorInvalidConfiguration);
    LAUNCH(add, 0, 32, 0, nullptr, a, 1.f, 0);
    ck_assert(cudaGetLastError() == cudaErrorInvalidConfiguration);
    LAUNCH(add, dim3(1, 65536), 32, 0, nullptr, a, 1.f, 0);
    ck_assert(cudaGetLastError() == cudaErrorInvalidConfiguration);
    LAUNCH(add, 1, dim3(1, 1, 65), 0, nullptr, a, 1.f, 0);
    ck_assert(cudaGetLastError() == cudaErrorInvalidConfiguration);
    LAUNCH_COOP(two_phases, 1 << 20, 128, 0, nullptr, a, a, 1);
    ck_assert(cudaGetLastError() == cudaErrorCooperativeLaunchTooLarge);
    good(cudaGetLastError()); /* it was taken */
    good(cudaDeviceSynchronize());
    free_device();
}
END_TEST

START_TEST(the_device_tells_about_itself)
{
    int n = 0, v = 0;
    good(cudaGetDeviceCount(&n));
    ck_assert_int_ge(n, 1);
    cudaDeviceProp p;
    good(cudaGetDeviceProperties(&p, 0));
    ck_assert_int_gt(p.multiProcessorCount, 0);
    ck_assert_int_eq(p.warpSize, 32);
    good(cudaDeviceGetAttribute(&v, cudaDevAttrMultiProcessorCount, 0));
    ck_assert_int_eq(v, p.multiProcessorCount);
    good(cudaDriverGetVersion(&v));
    ck_assert_int_ge(v, 11000);
    good(cudaRuntimeGetVersion(&v));
    ck_assert_int_ge(v, 11000);
    good(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&v, add, 128, 0));
    ck_assert_int_ge(v, 1);
    size_t all, left, less;
    good(cudaMemGetInfo(&left, &all));
    ck_assert(left <= all && all == p.totalGlobalMem);
    ck_assert_str_eq(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation");
    void *huge = nullptr;
    ck_assert(cudaMalloc(&huge, all + (static_cast<size_t>(1) << 40)) == cudaErrorMemoryAllocation);
    ck_assert(cudaGetLastError() == cudaErrorMemoryAllocation);
    void *some;
    good(cudaMalloc(&some, 64 << 20));
    good(cudaMemGetInfo(&less, &all));
    ck_assert(less <= left - (64 << 20));
    good(cudaFree(some));
    good(cudaMallocAsync(&some, 1 << 20, nullptr));
    good(cudaMemsetAsync(some, 0, 1 << 20, nullptr));
    good(cudaFreeAsync(some, nullptr));
    good(cudaDeviceSynchronize());
}
END_TEST

START_TEST(rectangles_are_copied)
{
    const std::vector<float> h = ramp(7 * 10);
    float *d = to_device(std::vector<float>(5 * 16, -1));
    good(cudaMemcpy2D(d, 16 * 4, h.data(), 10 * 4, 9 * 4, 5, cudaMemcpyHostToDevice));
    const std::vector<float> r = from_device(d, 5 * 16);
    for (int i = 0; i < 5; ++i)
        for (int j = 0; j < 16; ++j) ck_assert(r[i * 16 + j] == (j < 9 ? h[i * 10 + j] : -1));
    free_device();
}
END_TEST

int main()
{
    Suite *s = suite_create("cuda runtime");
    TCase *c = tcase_create("runtime");
    tcase_add_test(c, all_blocks_meet);
    tcase_add_test(c, producers_and_consumers);
    tcase_add_test(c, the_last_block_sums);
    tcase_add_test(c, votes_and_shuffles);
    tcase_add_test(c, graphs_fork_and_join);
    tcase_add_test(c, streams_wait_by_events);
    tcase_add_test(c, atomics_count);
    tcase_add_test(c, every_thread_has_its_place);
    tcase_add_test(c, large_shared_memory_is_asked_for);
    tcase_add_test(c, bad_launches_are_refused);
    tcase_add_test(c, the_device_tells_about_itself);
    tcase_add_test(c, rectangles_are_copied);
    suite_add_tcase(s, c);
    return run_suite(s);
}
