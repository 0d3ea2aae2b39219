/* Planted faults of attention: each is found where it shows first. */
#include "tests/faults_fixture.h"

static const fh1_fault network[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_network.h"
#undef FH1_FAULT
};

START_TEST(every_fault_is_found)
{
    fh1_fault list[N_OF(network)];
    faults_are_found(list, faults_of_op(network, N_OF(network), "attention", false, list));
}
END_TEST

START_TEST(the_second_copy_without_a_fault_is_the_first)
{
    fh1_fault list[N_OF(network)];
    no_fault_is_no_change(list, faults_of_op(network, N_OF(network), "attention", false, list));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {every_fault_is_found, the_second_copy_without_a_fault_is_the_first, NULL};
    return faults_main("faults of attention", tests);
}
