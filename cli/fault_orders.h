/* Honest orders of a sum: what other kernels do with the same product. Internal to cli/fault_*.c. */
#pragma once

#include "oracle/engine.h"

typedef enum { FAULT_SEQUENTIAL = 1, FAULT_PAIRWISE, FAULT_LANES, FAULT_SPLIT_K } fault_order;

/* `e` goes on with matrix products in this order, with fused multiply-adds or without: in its table of ops, which op
 * cases run, not in its forward pass. One such engine at a time. Its arithmetic must be f32. */
void fault_order_set(fh1_engine *e, fault_order order, bool fused);
