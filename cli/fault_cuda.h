/* Planted faults in the engine cuda-host: at its launches (cuda/faulty.h), or, where the fault is an edit of the model
 * or of the inputs, the same edit that the reference's faulty copy makes (reference/faulty_model.h, faulty_batch.h). */
#pragma once

#include "oracle/engine.h"
#include "oracle/fault.h"

/* Whether the fault is one of an op, and has a meaning in that engine. */
bool fault_cuda_has(fh1_fault f);
/* Why a fault of an op has none, a sentence; NULL where it has, and for faults of caches, schedules and configs. */
const char *fault_cuda_lacks(fh1_fault f);

/* Under fp32 or cuda-bf16, as the checkpoint says. One at a time: the switch is global. Freed by its free(). */
fh1_status fault_cuda_engine_new(fh1_fault f, fh1_engine **out);
/* Without a fault; `threads`: forward, reverse or random:SEED, from here on for the whole process. */
fh1_status fault_cuda_honest_new(const fh1_profile *p, const char *threads, bool general, fh1_engine **out);
