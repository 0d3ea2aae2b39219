/* The planted faults of the mixer by the ops that they are in, for the two programs that share them. */
#pragma once

#include "tests/faults_fixture.h"

static const fh1_fault mixer_faults[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_mixer.h"
#undef FH1_FAULT
};

/* Those in one of `ops` (names between blanks), or with `others` those in none of them; returns how many. */
static inline int mixer_faults_of(const char *ops, bool others, fh1_fault out[N_OF(mixer_faults)])
{
    int n = 0;
    for (int i = 0; i < N_OF(mixer_faults); i++) {
        char op[64];
        snprintf(op, sizeof op, " %s ", fh1_fault_get(mixer_faults[i])->op);
        if ((strstr(ops, op) != NULL) != others) out[n++] = mixer_faults[i];
    }
    ck_assert_int_gt(n, 0);
    return n;
}
