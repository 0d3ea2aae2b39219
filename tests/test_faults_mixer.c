/* Planted faults of the mixer up to its scan, multipliers, conv and dt: each is found where it shows first. */
#include "tests/faults_mixer_fixture.h"

START_TEST(every_fault_is_found)
{
    fh1_fault list[N_OF(mixer_faults)];
    faults_are_found(list, mixer_faults_of(" ssd_scan gated_norm ", true, list));
}
END_TEST

START_TEST(the_second_copy_without_a_fault_is_the_first)
{
    fh1_fault list[N_OF(mixer_faults)];
    no_fault_is_no_change(list, mixer_faults_of(" ssd_scan gated_norm ", true, list));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {every_fault_is_found, the_second_copy_without_a_fault_is_the_first, NULL};
    return faults_main("faults of the mixer", tests);
}
