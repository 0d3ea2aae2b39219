/* CUDA C on the CPU: what cuda/gpu.h includes where nvcc does not compile. Everything is in namespace cu_host. */
#pragma once

#include "cuda/host/types.h"

#include "cuda/host/bf16.h"
#include "cuda/host/intrinsics.h"

#include "cuda/host/atomics.h"
#include "cuda/host/copy_async.h"
#include "cuda/host/matrix.h"
#include "cuda/host/runtime_api.h"
#include "cuda/host/warp.h"

#define LAUNCH(kernel, grid, block, smem, stream, ...) \
    ::cu_host::sim::launch_kernel(kernel, #kernel, (grid), (block), (smem), (stream), false, ##__VA_ARGS__)
#define LAUNCH_COOP(kernel, grid, block, smem, stream, ...) \
    ::cu_host::sim::launch_kernel(kernel, #kernel, (grid), (block), (smem), (stream), true, ##__VA_ARGS__)
#define SHARED(T, name, ...)                                                 \
    using name##_shared_type = T __VA_ARGS__;                                \
    static const ::cu_host::sim::SharedVar name##_shared_var = {             \
        sizeof(name##_shared_type),                                          \
        alignof(name##_shared_type) > 16 ? alignof(name##_shared_type) : 16, \
        #name,                                                               \
        {__FILE__, __LINE__}};                                               \
    name##_shared_type &name = *static_cast<name##_shared_type *>(::cu_host::sim::static_shared(&name##_shared_var))
#define DYN_SMEM(name) unsigned char *name = ::cu_host::sim::dynamic_shared(128)
#define DYN_SMEM_1024(name) unsigned char *name = ::cu_host::sim::dynamic_shared(1024)

namespace cu_host
{

static inline void grid_sync(sim::Site s = CU_HOST_HERE)
{
    sim::sync_grid(s);
}
/* In loops that wait for another thread. */
static inline void spin_hint()
{
    sim::yield();
}

} // namespace cu_host
