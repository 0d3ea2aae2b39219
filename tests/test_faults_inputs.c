/* Planted faults of masks, positions, documents and ids: each is found where it shows first. */
#include "tests/faults_fixture.h"

static const fh1_fault inputs[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_inputs.h"
#undef FH1_FAULT
};

START_TEST(every_fault_is_found)
{
    faults_are_found(inputs, N_OF(inputs));
}
END_TEST

START_TEST(the_second_copy_without_a_fault_is_the_first)
{
    no_fault_is_no_change(inputs, N_OF(inputs));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {every_fault_is_found, the_second_copy_without_a_fault_is_the_first, NULL};
    return faults_main("faults of the inputs", tests);
}
