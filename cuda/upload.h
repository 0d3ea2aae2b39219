/* From host to device through two pinned buffers: while one is copied the caller fills the other. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_upload {
    cudaStream_t stream;
    size_t size; /* bytes of each buffer */
    void *buffer[2];
    cudaEvent_t copied[2];
    int next;
};

fh1_status cu_upload_open(cu_upload *u, size_t size, cudaStream_t stream);
/* A buffer of u->size bytes to fill; waits until what it held last has arrived. */
fh1_status cu_upload_take(cu_upload *u, void **buffer);
/* Starts the copy of the first n bytes of the buffer taken last. */
fh1_status cu_upload_send(cu_upload *u, void *to, size_t n);
/* Waits for all copies. */
fh1_status cu_upload_finish(cu_upload *u);
/* Also of one that was not opened, or half. */
void cu_upload_close(cu_upload *u);

} // namespace CU_NS
