#include "oracle/fault.h"

#include <assert.h>
#include <string.h>

static const fh1_fault_info table[FH1_FAULT_COUNT] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) \
    [FH1_FAULT_##id] = {name, op, FH1_TAP_##tap, source, caught_by, what},
#include "oracle/fault_list.h"
#undef FH1_FAULT
};

enum { H1_ONLY = 0, ON_BOTH, MAMBA_ONLY }; /* the families that can have a fault */

static const struct {
    char families;
    fh1_tap_id tap; /* of Falcon-Mamba */
} reach[FH1_FAULT_COUNT] = {
#define FH1_FAULT_SHARED(id, tap) [FH1_FAULT_##id] = {ON_BOTH, FH1_TAP_##tap},
#include "oracle/fault_mamba.h"
#undef FH1_FAULT_SHARED
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) [FH1_FAULT_##id] = {MAMBA_ONLY, FH1_TAP_##tap},
#include "oracle/fault_list_mamba.h"
#undef FH1_FAULT
};

const fh1_fault_info *fh1_fault_get(fh1_fault f)
{
    assert(f > FH1_FAULT_NONE && f < FH1_FAULT_COUNT);
    return &table[f];
}

bool fh1_fault_acts_on(fh1_fault f, fh1_family family)
{
    assert(f > FH1_FAULT_NONE && f < FH1_FAULT_COUNT);
    return reach[f].families == ON_BOTH || (reach[f].families == MAMBA_ONLY) == (family == FH1_FALCON_MAMBA);
}

fh1_tap_id fh1_fault_tap(fh1_fault f, fh1_family family)
{
    return family == FH1_FALCON_MAMBA && reach[f].families != H1_ONLY ? reach[f].tap : fh1_fault_get(f)->tap;
}

bool fh1_fault_is_gradient(fh1_fault f)
{
    return strcmp(fh1_fault_get(f)->caught_by, "gradient") == 0;
}

fh1_fault fh1_fault_find(const char *name)
{
    for (int f = FH1_FAULT_NONE + 1; f < FH1_FAULT_COUNT; ++f)
        if (strcmp(table[f].name, name) == 0) return (fh1_fault)f;
    return FH1_FAULT_NONE;
}
