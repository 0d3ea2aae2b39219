/* What every file of cuda/ starts from: the standard headers, the shared types of oracle/ (C headers, so inside
 * extern "C" and after the standard headers they include), storage types, and errors of the CUDA runtime as statuses.
 *
 * The folder is compiled twice: by nvcc into namespace cu_gpu, and as C++ into namespace cu_host, where cuda/host/ runs
 * every CUDA thread on the CPU. Both live in one program; only cuda/engine.h has C linkage. */
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" {
#include "oracle/status.h"
}

#include "cuda/gpu.h"

namespace CU_NS
{

/* What activations, linear weights, keys and values are stored in; sums and everything between two stored tensors are
 * f32. Small parameters (norm weights, biases, conv taps, A_log, D, dt_bias) are f32 on the device in both. */
enum cu_type { CU_F32, CU_BF16 };

static inline size_t cu_size(cu_type t)
{
    return t == CU_F32 ? 4 : 2;
}

/* Which kernels a launcher may choose. CU_GENERAL: the general path, that any shape can take. */
enum cu_path { CU_AUTO, CU_GENERAL };

/* Where and how launchers run. Borrowed by every call, owned by the engine. */
struct cu_blas; /* cuda/blas.h */
struct cu_ctx {
    cudaStream_t stream;
    cu_blas *blas; /* NULL: no matrix product of the library is needed */
    int sms;       /* multiprocessors */
    int arch;      /* compute capability: 80, 90 */
    cu_path path;
};

/* A failed CUDA call as a status: what was being done, the error's name and text. NULL for cudaSuccess.
 * Out of memory is FH1_E_INTERNAL with what to do; the rest FH1_E_INTERNAL with the call. */
fh1_status cu_status(cudaError_t e, const char *doing);
/* After a LAUNCH: its error, if any. */
fh1_status cu_launched(const char *kernel);

#define CU_TRY(call, doing) FH1_TRY(cu_status((call), (doing)))

} // namespace CU_NS
