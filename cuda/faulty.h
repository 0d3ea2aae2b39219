/* The engine cuda-host with planted faults (oracle/fault.h): a second compilation of the engine's host side whose every
 * launch goes through a spoiler, which changes the arguments or edits the buffers. Linked for `fh1 faults` and for
 * tests, never for a verdict. */
#pragma once

#include "oracle/engine.h"
#include "oracle/fault.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As cu_engine_new for "cuda-host", with fault `f` at its launches; FH1_FAULT_NONE: none, then it equals cuda-host bit
 * for bit. FH1_E_INPUT for a fault that is not planted there (cu_faulty_plants), and for "cuda". One such engine runs
 * at a time: the switch is global. */
fh1_status cu_faulty_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_fault f,
                                fh1_engine **out);

/* Without a fault, each launcher on its general path (cuda/common.h), no fused steps. */
fh1_status cu_general_engine_new(const fh1_profile *profile, fh1_engine **out);

/* Whether a launch has a spoiler for it. */
bool cu_faulty_plants(fh1_fault f);

#ifdef __cplusplus
}
#endif
