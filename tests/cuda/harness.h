/* Tests of single kernels, one source for both worlds: tests/cuda/test_cu_<topic>.cu is the test cuda-host.<topic>, run
 * on the CPU, and with nvcc gpu.<topic>, run on the device and skipped (77) without one. Truth is a plain loop in
 * double. */
#pragma once

#include "cuda/warp_ops.h"

#include <check.h>
#include <vector>

extern "C" {
#include "oracle/random.h"
}

using namespace CU_NS;

enum { SKIPPED = 77 };

/* Host numbers in a storage type, and back. */
static inline std::vector<float> as_stored(cu_type t, std::vector<float> v)
{
    for (float &x : v)
        if (t == CU_BF16) x = __bfloat162float(__float2bfloat16_rn(x));
    return v;
}

static inline void good(cudaError_t e)
{
    ck_assert_msg(e == cudaSuccess, "%s", cudaGetErrorString(e));
}

static inline void good(fh1_status s)
{
    char line[1024];
    ck_assert_msg(!s, "%s", s ? fh1_status_line(s, line, sizeof line) : "");
}

/* Each array is its own allocation, so that an overrun is seen; freed by free_device. */
static std::vector<void *> device_arrays;

template <typename T> T *device_new(size_t n)
{
    void *p = nullptr;
    good(cudaMalloc(&p, (n ? n : 1) * sizeof(T)));
    device_arrays.push_back(p);
    return static_cast<T *>(p);
}

template <typename T> T *to_device(const std::vector<T> &v)
{
    T *p = device_new<T>(v.size());
    if (!v.empty()) good(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

template <typename T> std::vector<T> from_device(const T *p, size_t n)
{
    std::vector<T> v(n);
    good(cudaDeviceSynchronize());
    if (n) good(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}

/* Floats as `t` stores them; the values should be representable. */
static inline void *to_device(cu_type t, const std::vector<float> &v)
{
    if (t == CU_F32) return to_device(v);
    std::vector<bf16> h(v.size());
    for (size_t i = 0; i < v.size(); ++i) h[i] = __float2bfloat16_rn(v[i]);
    return to_device(h);
}

static inline std::vector<float> from_device(cu_type t, const void *p, size_t n)
{
    if (t == CU_F32) return from_device(static_cast<const float *>(p), n);
    const std::vector<bf16> h = from_device(static_cast<const bf16 *>(p), n);
    std::vector<float> v(n);
    for (size_t i = 0; i < n; ++i) v[i] = __bfloat162float(h[i]);
    return v;
}

static inline void *device_new(cu_type t, size_t n)
{
    return t == CU_F32 ? static_cast<void *>(device_new<float>(n)) : static_cast<void *>(device_new<bf16>(n));
}

static inline void free_device(void)
{
    for (void *p : device_arrays) good(cudaFree(p));
    device_arrays.clear();
}

/* n normal numbers · scale + shift, a function of the name alone. */
static inline std::vector<float> draw(const char *name, size_t n, double scale = 1, double shift = 0)
{
    const fh1_stream s = fh1_stream_open(1, name);
    std::vector<float> v(n);
    for (size_t i = 0; i < n; ++i) v[i] = static_cast<float>(scale * fh1_random_normal(s, i) + shift);
    return v;
}

/* A context on the default stream with no library. */
static inline cu_ctx context(cu_path path = CU_AUTO)
{
    cu_ctx k = {};
    k.sms = 4;
    k.arch = 90;
    k.path = path;
#if !CU_HOST
    cudaDeviceProp p;
    good(cudaGetDeviceProperties(&p, 0));
    k.sms = p.multiProcessorCount;
    k.arch = 10 * p.major + p.minor;
#endif
    return k;
}

/* main of a test program: the cases of `suite`, in this process (a CUDA context does not survive a fork). */
static inline int run_suite(Suite *suite)
{
#if !CU_HOST
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("skipped: no CUDA device\n");
        return SKIPPED;
    }
#endif
#if CU_HOST && CU_HOST_MSAN
    __msan_scoped_disable_interceptor_checks(); /* libcheck is not instrumented, and writes what MSan takes for fresh */
#endif
    SRunner *r = srunner_create(suite);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
