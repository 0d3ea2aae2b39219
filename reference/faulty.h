/* The second copy of the reference, with planted faults (oracle/fault.h). It is linked for `fh1 faults`, for
 * suspects and for tests, never for truth. */
#pragma once

#include "oracle/engine.h"
#include "oracle/fault.h"

/* As ref_engine_new, with fault `f` switched on (FH1_FAULT_NONE: none, then it equals the first copy bit for bit).
 * e->fault tells it. The switch is global: one faulty engine runs at a time. */
fh1_engine *ref_faulty_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_fault f);
