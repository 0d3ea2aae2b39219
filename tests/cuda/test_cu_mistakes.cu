/* Mistakes in kernels and in the use of the runtime API, each planted once: the host-execution layer reports it. */
#include "tests/cuda/harness.h"

#if CU_HOST
#include "tests/cuda/dies.h"

namespace CU_NS
{
namespace
{

enum { T = 64 };

__global__ void divergent_barrier(int which)
{
    if (static_cast<int>(threadIdx.x) < which) __syncthreads();
    else __syncthreads();
}
__global__ void missing_half(int n)
{
    if (static_cast<int>(threadIdx.x) < n) named_barrier_sync(1, T);
}
__global__ void wrong_count()
{
    named_barrier_sync(1, threadIdx.x < 32 ? 64 : 96);
}
__global__ void twice_at_a_barrier()
{
    named_barrier_arrive(2, T);
    named_barrier_arrive(2, T);
}
__global__ void lane_not_there(float *o)
{
    if (threadIdx.x % 32 < 16) o[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
    __syncthreads();
}
__global__ void source_not_in_mask(float *o)
{
    if (threadIdx.x % 32 < 8) o[threadIdx.x] = __shfl_sync(0xffu, 1.f, 9);
}
__global__ void not_in_own_mask(float *o)
{
    o[threadIdx.x] = __shfl_sync(0xffffu, 1.f, 0);
}
__global__ void two_collectives(float *o)
{
    if (threadIdx.x % 2) o[threadIdx.x] = __shfl_sync(0xffffffffu, 1.f, 0);
    else o[threadIdx.x] = static_cast<float>(__ballot_sync(0xffffffffu, 1));
}
__global__ void lane_has_ended(float *o)
{
    if (threadIdx.x == 0) return;
    o[threadIdx.x] = __shfl_sync(0xffffffffu, 1.f, 1);
}
__global__ void copy_in_flight(const float *x)
{
    SHARED(float, s, [T * 4]);
    cp_async16(&s[threadIdx.x * 4], x);
    cp_async_commit();
}
__global__ void copy_not_aligned(const float *x)
{
    SHARED(float, s, [T * 4 + 4]);
    cp_async16(&s[threadIdx.x * 4 + 1], x);
    cp_async_commit();
    cp_async_wait<0>();
}
#if !CU_HOST_MSAN /* which would report them */
__global__ void copy_read_too_early(const float *x, float *o)
{
    SHARED(float, s, [T * 4]);
    cp_async16(&s[threadIdx.x * 4], x);
    cp_async_commit();
    o[threadIdx.x] = s[threadIdx.x * 4];
    cp_async_wait<0>();
}
__global__ void reads_fresh_shared(float *o)
{
    SHARED(float, s, [T]);
    o[threadIdx.x] = s[threadIdx.x];
}
#endif
__global__ void writes(float *p, int64_t at)
{
    p[at] = 1;
}
__global__ void reads(const float *p, int64_t at, float *o)
{
    *o = p[at];
}
__global__ void past_static_shared(int n)
{
    SHARED(float, s, [16]);
    SHARED(float, t, [16]);
    for (int i = 0; i < n; ++i) *(static_cast<volatile float *>(s) + i) = 1;
    t[0] = 1;
}
struct two_pieces {
    float *a, *b;
};
__host__ __device__ inline size_t carve(two_pieces *p, unsigned char *base)
{
    cu_carve c(base);
    p->a = c.take<float>(16);
    p->b = c.take<float>(16);
    return c.off;
}
__global__ void past_a_piece(int n)
{
    DYN_SMEM(base);
    two_pieces p;
    carve(&p, base);
    for (int i = 0; i < n; ++i) *(static_cast<volatile float *>(p.a) + i) = 1;
}
__global__ void waits_for_the_grid()
{
    grid_sync();
}
__global__ void one_block_stays_away()
{
    if (blockIdx.x) grid_sync();
}
__global__ void meet_by_spinning(unsigned *count)
{
    atomicAdd(count, 1u);
    while (atomicAdd(count, 0u) % gridDim.x) spin_hint();
}
__global__ void much_static_shared()
{
    SHARED(float, s, [13000]);
    s[threadIdx.x] = 1;
}
CU_FN int deep(int n, volatile char *up)
{
    volatile char here[4096];
    here[0] = up ? up[0] : 0;
    return n ? deep(n - 1, here) + here[0] : here[0];
}
__global__ void much_stack(int n, int *o)
{
    *o = deep(n, nullptr);
}
__global__ void add_one(float *p)
{
    p[threadIdx.x] += 1;
}

} // namespace
} // namespace CU_NS

/* One kernel, whose launch must end the process. */
#define KILLS(text, ...) ck_assert(dies([&] { __VA_ARGS__; }, text))
#define KILLS_MEMORY(text, ...) ck_assert(dies([&] { __VA_ARGS__; }, text, true))

START_TEST(barriers)
{
    KILLS("divergent barrier", LAUNCH(divergent_barrier, 1, T, 0, nullptr, 32));
    KILLS("deadlock", LAUNCH(missing_half, 1, T, 0, nullptr, 32));
    KILLS("test_cu_mistakes.cu", LAUNCH(missing_half, 1, T, 0, nullptr, 32));
    KILLS("came to it first", LAUNCH(wrong_count, 1, 96, 0, nullptr));
    KILLS("arrives twice", LAUNCH(twice_at_a_barrier, 1, T, 0, nullptr));
    KILLS("not launched by LAUNCH_COOP", LAUNCH(waits_for_the_grid, 1, T, 0, nullptr));
    KILLS("deadlock", LAUNCH_COOP(one_block_stays_away, 2, T, 0, nullptr));
    unsigned *count = to_device(std::vector<unsigned>{0});
    KILLS("not cooperative", LAUNCH(meet_by_spinning, 2, 1, 0, nullptr, count));
    LAUNCH_COOP(meet_by_spinning, 2, 1, 0, nullptr, count);
    LAUNCH(missing_half, 1, T, 0, nullptr, 64); /* and the right one passes */
    LAUNCH(divergent_barrier, 1, T, 0, nullptr, 64);
    LAUNCH_COOP(waits_for_the_grid, 3, T, 0, nullptr);
    good(cudaDeviceSynchronize());
    free_device();
}
END_TEST

START_TEST(warps)
{
    float *o = device_new<float>(T);
    KILLS("deadlock", LAUNCH(lane_not_there, 1, T, 0, nullptr, o));
    KILLS("not in mask", LAUNCH(source_not_in_mask, 1, T, 0, nullptr, o));
    KILLS("not in its own mask", LAUNCH(not_in_own_mask, 1, T, 0, nullptr, o));
    KILLS("__ballot_sync", LAUNCH(two_collectives, 1, T, 0, nullptr, o));
    KILLS("ended", LAUNCH(lane_has_ended, 1, T, 0, nullptr, o));
    free_device();
}
END_TEST

START_TEST(copies)
{
    float *x = to_device(std::vector<float>(4, 2));
    KILLS("never waited for", LAUNCH(copy_in_flight, 1, T, 0, nullptr, x));
    KILLS("multiple of 16", LAUNCH(copy_not_aligned, 1, T, 0, nullptr, x));
#if !CU_HOST_MSAN
    float *o = device_new<float>(T);
    LAUNCH(copy_read_too_early, 1, T, 0, nullptr, x, o);
    for (float v : from_device(o, T)) ck_assert(v != v);
    LAUNCH(reads_fresh_shared, 1, T, 0, nullptr, o);
    for (float v : from_device(o, T)) ck_assert(v != v);
    for (float v : from_device(device_new<float>(100), 100)) ck_assert(v != v);
#endif
    free_device();
}
END_TEST

START_TEST(memory)
{
    /* An allocation ends, rounded up to 256 bytes, where a page begins that faults. */
    float *p = to_device(std::vector<float>(1024, 1)), *o = device_new<float>(64);
    KILLS_MEMORY("out of bounds: byte 4096 of a device allocation of 4096 bytes",
                 LAUNCH(writes, 1, 1, 0, nullptr, p, 1024));
    KILLS_MEMORY("out of bounds", LAUNCH(reads, 1, 1, 0, nullptr, p, 1024, o));
    KILLS_MEMORY("use after cudaFree", good(cudaFree(p)); LAUNCH(writes, 1, 1, 0, nullptr, p, 7));
    KILLS_MEMORY("no memory", LAUNCH(reads, 1, 1, 0, nullptr, static_cast<const float *>(nullptr), 2, o));
    KILLS_MEMORY("past the end of a piece of shared memory: byte 64 of s",
                 LAUNCH(past_static_shared, 1, 1, 0, nullptr, 17));
    two_pieces t;
    const size_t bytes = carve(&t, nullptr);
    KILLS_MEMORY("past the end of a piece", LAUNCH(past_a_piece, 1, 1, bytes, nullptr, 17));
    KILLS("the launch gave", LAUNCH(past_a_piece, 1, 1, bytes - 16, nullptr, 16));
    KILLS("48 KiB", LAUNCH(much_static_shared, 1, 32, 0, nullptr));
    KILLS_MEMORY("stack overflow", LAUNCH(much_stack, 1, 1, 0, nullptr, 1000, reinterpret_cast<int *>(o)));
    LAUNCH(past_static_shared, 1, 1, 0, nullptr, 16);
    LAUNCH(past_a_piece, 1, 1, bytes, nullptr, 16);
    LAUNCH(writes, 1, 1, 0, nullptr, p, 1023);
    good(cudaDeviceSynchronize());
    free_device();
}
END_TEST

#define REFUSED(call, error)                                      \
    do {                                                          \
        const cudaError_t e_ = (call);                            \
        ck_assert_msg(e_ == (error), "%s", cudaGetErrorName(e_)); \
        (void)cudaGetLastError();                                 \
    } while (0)

START_TEST(transfers)
{
    float *p = to_device(std::vector<float>(100, 1)), h[101] = {};
    REFUSED(cudaMemcpy(p, h, 404, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    REFUSED(cudaMemcpy(p + 1, h, 400, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    REFUSED(cudaMemcpy(h, p, 404, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    REFUSED(cudaMemcpy(h, h, 40, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    REFUSED(cudaMemcpy(p, p + 50, 40, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    REFUSED(cudaMemcpy(p, h, 40, static_cast<cudaMemcpyKind>(9)), cudaErrorInvalidMemcpyDirection);
    REFUSED(cudaMemset(p, 0, 401), cudaErrorInvalidValue);
    REFUSED(cudaMemset(h, 0, 4), cudaErrorInvalidValue);
    REFUSED(cudaFree(p + 1), cudaErrorInvalidValue);
    float *q = to_device(std::vector<float>(8, 1));
    device_arrays.pop_back();
    good(cudaFree(q));
    REFUSED(cudaFree(q), cudaErrorInvalidValue);
    REFUSED(cudaMemset(q, 0, 4), cudaErrorInvalidValue);
    good(cudaMemcpy(h, p, 400, cudaMemcpyDefault));
    ck_assert(h[99] == 1);
    free_device();
}
END_TEST

START_TEST(captures)
{
    float *p = to_device(std::vector<float>(T, 0));
    cudaStream_t s;
    good(cudaStreamCreate(&s));
    cudaGraph_t g;
    void *more;
    REFUSED(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported);
    good(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    REFUSED(cudaMalloc(&more, 16), cudaErrorStreamCaptureUnsupported);
    REFUSED(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureInvalidated);
    good(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    REFUSED(LAUNCH(add_one, 1, T, 0, nullptr, p), cudaErrorStreamCaptureImplicit);
    REFUSED(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureInvalidated);
    good(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    LAUNCH(add_one, 1, T, 0, s, p);
    good(cudaMalloc(&more, 16)); /* allowed when relaxed */
    good(cudaStreamEndCapture(s, &g));
    good(cudaFree(more));
    ck_assert(from_device(p, T)[0] == 0); /* captured, not run */
    good(cudaGraphDestroy(g));
    good(cudaStreamDestroy(s));
    REFUSED(LAUNCH(add_one, 1, T, 0, s, p), cudaErrorInvalidResourceHandle);
    free_device();
}
END_TEST

/* With deferred streams work runs when something waits for it, and not before. */
START_TEST(streams_that_nobody_waits_for)
{
    float *p = to_device(std::vector<float>(T, 0)), *pinned;
    good(cudaMallocHost(&pinned, T * sizeof *pinned));
    for (int i = 0; i < T; ++i) pinned[i] = -1;
    const bool deferred = getenv("FH1_CUDA_STREAMS") && !strcmp(getenv("FH1_CUDA_STREAMS"), "deferred");
    ck_assert_int_eq(cu_host_set_streams("deferred"), 0);
    cudaStream_t s, other;
    good(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    good(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    LAUNCH(add_one, 1, T, 0, s, p);
    good(cudaMemcpyAsync(pinned, p, T * sizeof *p, cudaMemcpyDeviceToHost, s));
    good(cudaStreamSynchronize(other));
    ck_assert(pinned[3] == -1);
    cudaEvent_t e;
    good(cudaEventCreate(&e));
    good(cudaEventRecord(e, s));
    good(cudaStreamWaitEvent(other, e));
    good(cudaStreamSynchronize(other));
    ck_assert(pinned[3] == 1);
    good(cudaEventDestroy(e));
    good(cudaStreamDestroy(s));
    good(cudaStreamDestroy(other));
    good(cudaFreeHost(pinned));
    ck_assert_int_eq(cu_host_set_streams(deferred ? "deferred" : "eager"), 0);
    ck_assert_int_eq(cu_host_set_order("sideways"), -1);
    free_device();
}
END_TEST

int main()
{
    Suite *s = suite_create("cuda mistakes");
    TCase *c = tcase_create("mistakes");
    tcase_add_test(c, barriers);
    tcase_add_test(c, warps);
    tcase_add_test(c, copies);
    tcase_add_test(c, memory);
    tcase_add_test(c, transfers);
    tcase_add_test(c, captures);
    tcase_add_test(c, streams_that_nobody_waits_for);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return run_suite(s);
}
#else
int main()
{
    printf("skipped: the host-execution layer is meant\n");
    return SKIPPED;
}
#endif
