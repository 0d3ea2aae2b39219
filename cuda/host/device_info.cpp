/* The device that is pretended: one, of compute capability 9.0, with the memory and multiprocessors of the settings. */
#include "cuda/host/internal.h"

namespace cu_host
{

using sim::fail;
using sim::settings;

enum { VERSION = 13000, THREADS_PER_SM = 2048, SHARED_PER_SM = 228 * 1024, REGISTERS = 65536, L2 = 50 << 20 };

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *d)
{
    *d = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int d)
{
    return d ? fail(cudaErrorInvalidDevice, "cudaSetDevice(%d): there is device 0 only", d) : cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d)
{
    if (d) return fail(cudaErrorInvalidDevice, "cudaGetDeviceProperties of device %d: there is device 0 only", d);
    *p = cudaDeviceProp{};
    snprintf(p->name, sizeof p->name, "cuda-host");
    p->major = 9;
    p->multiProcessorCount = settings().sms;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = THREADS_PER_SM;
    p->sharedMemPerBlock = sim::SHARED_STATIC_MAX;
    p->sharedMemPerBlockOptin = sim::SHARED_MAX;
    p->sharedMemPerMultiprocessor = SHARED_PER_SM;
    p->totalGlobalMem = settings().memory;
    p->regsPerBlock = p->regsPerMultiprocessor = REGISTERS;
    p->l2CacheSize = L2;
    p->memoryBusWidth = 5120;
    p->cooperativeLaunch = p->concurrentKernels = 1;
    p->asyncEngineCount = 2;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int d)
{
    if (d) return fail(cudaErrorInvalidDevice, "cudaDeviceGetAttribute of device %d: there is device 0 only", d);
    switch (a) {
    case cudaDevAttrMaxThreadsPerBlock: *v = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = sim::SHARED_STATIC_MAX; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    case cudaDevAttrClockRate: *v = 1000000; break;
    case cudaDevAttrMultiProcessorCount: *v = settings().sms; break;
    case cudaDevAttrMemoryClockRate: *v = 1000000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *v = 5120; break;
    case cudaDevAttrL2CacheSize: *v = L2; break;
    case cudaDevAttrComputeCapabilityMajor: *v = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *v = 0; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = SHARED_PER_SM; break;
    case cudaDevAttrCooperativeLaunch: *v = 1; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = sim::SHARED_MAX; break;
    default: return fail(cudaErrorInvalidValue, "cudaDeviceGetAttribute(%d)", static_cast<int>(a));
    }
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *v)
{
    *v = VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = VERSION;
    return cudaSuccess;
}

namespace sim
{

cudaError_t occupancy(int *blocks, const void *, int block_size, size_t smem)
{
    if (block_size <= 0 || block_size > 1024 || smem > SHARED_MAX)
        return fail(cudaErrorInvalidValue, "occupancy of blocks of %d threads with %zu bytes", block_size, smem);
    const int by_threads = THREADS_PER_SM / ((block_size + 31) / 32 * 32);
    const int by_shared = static_cast<int>(SHARED_PER_SM / (smem + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    if (*blocks > 32) *blocks = 32;
    return cudaSuccess;
}

} // namespace sim
} // namespace cu_host
