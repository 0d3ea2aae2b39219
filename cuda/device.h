/* The device under an engine: its stream and properties, and device memory that is kept between calls. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_device {
    cu_ctx k;
    char name[128];
    size_t total, free_now; /* bytes */
};

/* NULL when this world can run, else one line: no device, or a driver that is older than the runtime. */
fh1_status cu_device_usable(void);
/* Device 0, one stream of our own, the library's handle. Closed in any case. */
fh1_status cu_device_open(cu_device *d);
void cu_device_close(cu_device *d);

struct cu_buffer {
    void *p;
    size_t bytes;
};

/* At least `bytes`; contents are lost when it has to move. On the CPU it has exactly `bytes` and is its own allocation,
 * so that an overrun is seen. */
fh1_status cu_buffer_need(cu_buffer *b, size_t bytes);
void cu_buffer_free(cu_buffer *b);

/* Copies that are done when they return, in the order of `stream`. */
fh1_status cu_send(void *device, const void *host, size_t bytes, cudaStream_t stream, const char *what);
fh1_status cu_fetch(void *host, const void *device, size_t bytes, cudaStream_t stream, const char *what);

} // namespace CU_NS
