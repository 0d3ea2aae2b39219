/* Two pinned buffers and an event for each: a copy from pinned memory runs beside the host, one from pageable memory
 * does not. */
#include "cuda/upload.h"

namespace CU_NS
{

fh1_status cu_upload_open(cu_upload *u, size_t size, cudaStream_t stream)
{
    *u = cu_upload{};
    u->stream = stream;
    u->size = size;
    for (int i = 0; i < 2; ++i) {
        const cudaError_t e = cudaMallocHost(&u->buffer[i], size);
        if (e != cudaSuccess) u->buffer[i] = nullptr;
        if (e == cudaErrorMemoryAllocation) return fh1_no_memory(size, "a pinned buffer for copies to the device");
        CU_TRY(e, "cudaMallocHost");
        CU_TRY(cudaEventCreate(&u->copied[i]), "cudaEventCreate");
    }
    return NULL;
}

fh1_status cu_upload_take(cu_upload *u, void **buffer)
{
    CU_TRY(cudaEventSynchronize(u->copied[u->next]), "a copy to the device");
    *buffer = u->buffer[u->next];
    return NULL;
}

fh1_status cu_upload_send(cu_upload *u, void *to, size_t n)
{
    const int i = u->next;
    u->next = 1 - i;
    CU_TRY(cudaMemcpyAsync(to, u->buffer[i], n, cudaMemcpyHostToDevice, u->stream), "a copy to the device");
    return cu_status(cudaEventRecord(u->copied[i], u->stream), "cudaEventRecord");
}

fh1_status cu_upload_finish(cu_upload *u)
{
    return cu_status(cudaStreamSynchronize(u->stream), "a copy to the device");
}

void cu_upload_close(cu_upload *u)
{
    for (int i = 0; i < 2; ++i) {
        if (u->copied[i]) cudaEventSynchronize(u->copied[i]);
        if (u->copied[i]) cudaEventDestroy(u->copied[i]);
        if (u->buffer[i]) cudaFreeHost(u->buffer[i]);
    }
    *u = cu_upload{};
}

} // namespace CU_NS
