/* The switches of the faults that can be planted in the converters, as reference/fault.h for the engines. The product
 * asks the constant false. A second copy, compiled with CVT_FAULTY and linked into tests only, asks the one that is
 * planted. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef enum {
    CVT_FAULT_NONE,
#define CVT_FAULT_LIST(id, name, source, what) CVT_FAULT_##id,
#include "convert/fault_list.h"
#undef CVT_FAULT_LIST
    CVT_FAULT_COUNT
} cvt_fault;

#ifdef CVT_FAULTY
extern cvt_fault cvt_fault_now; /* convert/fault.c */
#define CVT_FAULT(id) (cvt_fault_now == CVT_FAULT_##id)
#else
#define CVT_FAULT(id) false
#endif
