/* Planted faults in models of the block SAM. */
#include "tests/faults_block_fixture.h"

/* A norm that the block does not have. */
static const elsewhere table[] = {{FH1_FAULT_PRE_FF_NORM_WEIGHT_MISSING, FH1_TAP_COUNT},
                                  {FH1_FAULT_LAYER_NORMS_SWAPPED, FH1_TAP_COUNT}};
enum { PARTS = 3 };

#define PART(i)                                                  \
    START_TEST(faults_are_found_##i)                             \
    {                                                            \
        faults_are_found_in_block(table, N_OF(table), i, PARTS); \
    }                                                            \
    END_TEST
PART(0)
PART(1)
PART(2)

START_TEST(the_second_copy_without_a_fault_is_the_first)
{
    no_fault_is_no_change(all_faults, N_OF(all_faults));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {faults_are_found_0, faults_are_found_1, faults_are_found_2,
                            the_second_copy_without_a_fault_is_the_first, NULL};
    fault_block = FH1_BLOCK_SAM;
    return faults_main("faults in the block SAM", tests);
}
