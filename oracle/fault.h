/* Planted faults: known bugs of real ports, each a switch in a second copy of the reference (reference/faulty.h).
 * The copy that computes truth is compiled without them. The registry names for each the public thread it comes
 * from and the case that must catch it; `fh1 faults` lists it, ci/faults proves it, and `fh1 check` tries the ones
 * that touch the first divergence as explanations. */
#pragma once

#include "oracle/tap.h"

typedef enum {
    FH1_FAULT_NONE,
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list.h"
#undef FH1_FAULT
    FH1_FAULT_COUNT
} fh1_fault;

typedef struct {
    const char *name;   /* snake_case: what is wrong, as key_multiplier_dropped */
    const char *op;     /* of DESIGN's list, or cache, config, schedule */
    fh1_tap_id tap;     /* where it must show first in a trace with all taps (of Falcon-H1, if it can have it) */
    const char *source; /* "MU2 ml-explore/mlx-lm#1622" */
    const char
        *caught_by; /* rules of ci/faults that must be red, separated by blanks: check, law.NAME, lattice …, gradient */
    const char *what; /* one sentence: what the faulty engine does */
} fh1_fault_info;

/* 1 <= f < FH1_FAULT_COUNT. */
const fh1_fault_info *fh1_fault_get(fh1_fault f);
/* Whether models of the family can have it: the others lack the op, the tensor or the number. */
bool fh1_fault_acts_on(fh1_fault f, fh1_family family);
/* Where it must show first there; info->tap where the family cannot have it. */
fh1_tap_id fh1_fault_tap(fh1_fault f, fh1_family family);
/* A fault of backward passes: no forward pass shows it. */
bool fh1_fault_is_gradient(fh1_fault f);
/* FH1_FAULT_NONE for an unknown name. */
fh1_fault fh1_fault_find(const char *name);
