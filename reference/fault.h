/* The switches of the planted faults. Templates ask REF_FAULT(ID) where a known bug departs from the formula. In the
 * copy that computes truth the question is the constant false, so that no switch is left in it; the second copy,
 * compiled with REF_FAULTY and its own symbols, asks which fault the running engine has: each entry point of an engine
 * begins with REF_ENTER(e). */
#pragma once

#include "oracle/fault.h"

#ifdef REF_FAULTY
/* Of the faulty engine that runs now. One at a time: faulty engines are not for concurrent callers. */
extern fh1_fault ref_fault_now;
#define REF_FAULT(id) (ref_fault_now == FH1_FAULT_##id)
#define REF_ENTER(e) (ref_fault_now = (e)->fault)
#else
#define REF_FAULT(id) false
#define REF_ENTER(e) ((void)(e))
#endif
