/* Planted faults in models of the block S_A_M. */
#include "tests/faults_block_fixture.h"

/* The mixer comes first; what touches attention alone shows behind it. */
static const elsewhere table[] = {{FH1_FAULT_ATTENTION_OUT_MULTIPLIER_DROPPED, FH1_TAP_MID},
                                  {FH1_FAULT_ATTENTION_OUT_MULTIPLIER_TWICE, FH1_TAP_MID},
                                  {FH1_FAULT_ATTENTION_BRANCH_DROPPED, FH1_TAP_MID},
                                  {FH1_FAULT_BRANCH_IN_MULTIPLIERS_SWAPPED, FH1_TAP_IN_PROJ},
                                  {FH1_FAULT_LINEAR_TF32, FH1_TAP_IN_PROJ},
                                  {FH1_FAULT_LINEAR_BF16_ACCUMULATOR, FH1_TAP_IN_PROJ},
                                  {FH1_FAULT_LINEAR_LAST_K_DROPPED, FH1_TAP_IN_PROJ},
                                  {FH1_FAULT_LONG_PREFILL_IN_F16, FH1_TAP_IN_PROJ}};

FAULTS_OF_BLOCK(FH1_BLOCK_S_A_M, "faults in the block S_A_M")
