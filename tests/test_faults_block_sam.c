/* Planted faults in models of the block SAM. */
#include "tests/faults_block_fixture.h"

/* A norm that the block does not have. */
static const elsewhere table[] = {{FH1_FAULT_PRE_FF_NORM_WEIGHT_MISSING, FH1_TAP_COUNT},
                                  {FH1_FAULT_LAYER_NORMS_SWAPPED, FH1_TAP_COUNT}};

FAULTS_OF_BLOCK(FH1_BLOCK_SAM, "faults in the block SAM")
