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
    fault_block = FH1_BLOCK_S_A_M;
    return faults_main("faults in the block S_A_M", tests);
}
