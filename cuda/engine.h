/* The CUDA engine behind fh1_engine (oracle/engine.h), in two builds of the same sources:
 *   cuda-host  every kernel on the CPU, thread by thread (cuda/host/); always there
 *   cuda       on the device; there where the program was built with nvcc
 * C linkage; nothing of CUDA is seen from here. */
#pragma once

#include "oracle/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "cuda" or "cuda-host". `profile` NULL: the contract follows the checkpoint, cuda-bf16 where its matrices are bf16,
 * else fp32 (decided by fh1_engine.open). Variants other than 0 are FH1_E_INPUT: this engine has one semantics. "cuda"
 * without a build, a device or a driver that is new enough is FH1_E_INPUT, one line that says which and what to do.
 * Freed by its free(). */
fh1_status cu_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_engine **out);

/* The names that cu_engine_new knows, NULL past the last: "cuda" too where it was not built. */
const char *cu_engine_name_at(int i);

/* NULL when "cuda" can run here, else why not (the error of cu_engine_new). For tests: skip with 77. */
fh1_status cu_device_missing(void);

/* What the engine `name` runs on, one line; the error of cu_engine_new where it cannot. */
fh1_status cu_device_describe(const char *name, char *line, size_t size);

#ifdef __cplusplus
}
#endif
