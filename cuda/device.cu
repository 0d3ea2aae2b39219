#include "cuda/device.h"

#include "cuda/blas.h"

namespace CU_NS
{

fh1_status cu_device_usable(void)
{
#if CU_HOST
    return NULL;
#else
    int n = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess && n > 0) return NULL;
    cudaGetLastError();
    if (e == cudaErrorInsufficientDriver) {
        int have = 0, need = 0;
        cudaDriverGetVersion(&have);
        cudaRuntimeGetVersion(&need);
        cudaGetLastError();
        const char *hint = "install a newer driver of the GPU, or take --engine cuda-host";
        if (have == 0) return fh1_hint(FH1_BAD("engine cuda: no driver of an NVIDIA GPU on this machine"), "%s", hint);
        fh1_status s = FH1_BAD("engine cuda: the driver is too old for this build");
        s = fh1_expected(s, "CUDA %d.%d or newer", need / 1000, need % 1000 / 10);
        return fh1_hint(fh1_found(s, "CUDA %d.%d", have / 1000, have % 1000 / 10), "%s", hint);
    }
    const fh1_status s =
        FH1_BAD("engine cuda: no GPU (%s)", e == cudaSuccess ? "none is visible" : cudaGetErrorString(e));
    return fh1_hint(s, "see nvidia-smi and CUDA_VISIBLE_DEVICES, or take --engine cuda-host");
#endif
}

/* On the CPU FH1_CUDA_ARCH=80 takes the kernels that the newest devices do not need. */
static int arch_of(const cudaDeviceProp *p)
{
    const char *other = CU_HOST ? getenv("FH1_CUDA_ARCH") : NULL;
    return other && *other ? atoi(other) : 10 * p->major + p->minor;
}

static fh1_status properties(cu_device *d)
{
    cudaDeviceProp p;
    CU_TRY(cudaSetDevice(0), "choosing the device");
    CU_TRY(cudaGetDeviceProperties(&p, 0), "reading the device's properties");
    d->k.sms = p.multiProcessorCount;
    d->k.arch = arch_of(&p);
    snprintf(d->name, sizeof d->name, "%.100s", CU_HOST ? "the CPU, kernels thread by thread" : p.name);
    if (d->k.arch >= 80) return cu_status(cudaMemGetInfo(&d->free_now, &d->total), "reading the device's memory");
    const fh1_status s = FH1_BAD("engine cuda: the GPU is too old");
    return fh1_found(fh1_expected(s, "compute capability 8.0 or newer"), "%d.%d (%s)", d->k.arch / 10, d->k.arch % 10,
                     d->name);
}

fh1_status cu_device_open(cu_device *d)
{
    *d = {};
    FH1_TRY(cu_device_usable());
    FH1_TRY(properties(d));
    CU_TRY(cudaStreamCreate(&d->k.stream), "making a stream");
    return cu_blas_new(NULL, &d->k.blas);
}

void cu_device_close(cu_device *d)
{
    if (d->k.blas) cu_blas_free(d->k.blas);
    if (d->k.stream) cudaStreamDestroy(d->k.stream);
    *d = {};
}

fh1_status cu_buffer_need(cu_buffer *b, size_t bytes)
{
    const bool fits = CU_HOST ? b->bytes == bytes : b->bytes >= bytes;
    if (b->p && fits) return NULL;
    cu_buffer_free(b);
    CU_TRY(cudaMalloc(&b->p, bytes ? bytes : 1), "allocating activations");
    b->bytes = bytes;
    return NULL;
}

fh1_status cu_send(void *device, const void *host, size_t bytes, cudaStream_t stream, const char *what)
{
    if (bytes) CU_TRY(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream), what);
    return cu_status(cudaStreamSynchronize(stream), what);
}

fh1_status cu_fetch(void *host, const void *device, size_t bytes, cudaStream_t stream, const char *what)
{
    if (bytes) CU_TRY(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream), what);
    return cu_status(cudaStreamSynchronize(stream), what);
}

void cu_buffer_free(cu_buffer *b)
{
    if (b->p) cudaFree(b->p);
    *b = {};
}

} // namespace CU_NS
