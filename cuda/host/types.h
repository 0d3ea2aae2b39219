/* The words and types of CUDA C as C++ sees them. Macros cannot live in a namespace; these are all there are besides
 * threadIdx & co. (thread.h), LAUNCH & co. (device.h) and __expf & co. (intrinsics.h). */
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

namespace cu_host
{

static constexpr int warpSize = 32;

#define CU_HOST_VECTOR_2(T, name, align)     \
    struct alignas(align) name {             \
        T x, y;                              \
    };                                       \
    static inline name make_##name(T x, T y) \
    {                                        \
        return name{x, y};                   \
    }
#define CU_HOST_VECTOR_3(T, name)                 \
    struct name {                                 \
        T x, y, z;                                \
    };                                            \
    static inline name make_##name(T x, T y, T z) \
    {                                             \
        return name{x, y, z};                     \
    }
#define CU_HOST_VECTOR_4(T, name, align)               \
    struct alignas(align) name {                       \
        T x, y, z, w;                                  \
    };                                                 \
    static inline name make_##name(T x, T y, T z, T w) \
    {                                                  \
        return name{x, y, z, w};                       \
    }
CU_HOST_VECTOR_2(signed char, char2, 2)
CU_HOST_VECTOR_2(unsigned char, uchar2, 2)
CU_HOST_VECTOR_2(short, short2, 4)
CU_HOST_VECTOR_2(unsigned short, ushort2, 4)
CU_HOST_VECTOR_2(int, int2, 8)
CU_HOST_VECTOR_2(unsigned, uint2, 8)
CU_HOST_VECTOR_2(float, float2, 8)
CU_HOST_VECTOR_2(long long, longlong2, 16)
CU_HOST_VECTOR_2(unsigned long long, ulonglong2, 16)
CU_HOST_VECTOR_2(double, double2, 16)
CU_HOST_VECTOR_3(int, int3)
CU_HOST_VECTOR_3(unsigned, uint3)
CU_HOST_VECTOR_3(float, float3)
CU_HOST_VECTOR_4(signed char, char4, 4)
CU_HOST_VECTOR_4(unsigned char, uchar4, 4)
CU_HOST_VECTOR_4(short, short4, 8)
CU_HOST_VECTOR_4(unsigned short, ushort4, 8)
CU_HOST_VECTOR_4(int, int4, 16)
CU_HOST_VECTOR_4(unsigned, uint4, 16)
CU_HOST_VECTOR_4(float, float4, 16)
#undef CU_HOST_VECTOR_2
#undef CU_HOST_VECTOR_3
#undef CU_HOST_VECTOR_4

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
    {
    }
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
    {
    }
};

/* Numbers and strings of CUDA; those of errors that this layer returns. */
enum cudaError_t : int {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidMemcpyDirection = 21,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorCooperativeLaunchTooLarge = 720,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureUnmatched = 903,
    cudaErrorStreamCaptureUnjoined = 904,
    cudaErrorStreamCaptureImplicit = 906,
    cudaErrorStreamCaptureIsolation = 907
};

} // namespace cu_host
