/* Planted faults of embedding, norms, rope, MLP, residual and head: each is found where it shows first. Those of
 * attention have a program of their own, test_faults_attention. */
#include "tests/faults_fixture.h"

#include <math.h>

static const fh1_fault network[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_network.h"
#undef FH1_FAULT
};

START_TEST(every_fault_is_found)
{
    fh1_fault list[N_OF(network)];
    faults_are_found(list, faults_of_op(network, N_OF(network), "attention", true, list));
}
END_TEST

/* What no trace holds: the token that is chosen. */
START_TEST(faults_of_the_choice_are_found)
{
    static const float tie[] = {-1, 3, 3, 2}, nan_among[] = {1, (float)NAN, 2, 0};
    static const struct {
        fh1_fault f;
        const float *logits;
        int64_t right, wrong;
    } cases[] = {{FH1_FAULT_SAMPLE_TIE_TAKES_LAST, tie, 1, 2}, {FH1_FAULT_SAMPLE_PASSES_NAN, nan_among, -1, 2}};
    for (int i = 0; i < N_OF(cases); i++) {
        fh1_engine *honest = ref_engine_new("ref-f32", NULL, 0);
        fh1_engine *faulty = ref_faulty_engine_new("ref-f32", NULL, 0, cases[i].f);
        int64_t token;
        OK(honest->ops->sample(honest, 1, 4, cases[i].logits, &token));
        ck_assert_int_eq(token, cases[i].right);
        OK(faulty->ops->sample(faulty, 1, 4, cases[i].logits, &token));
        ck_assert_int_eq(token, cases[i].wrong);
        honest->free(honest);
        faulty->free(faulty);
    }
}
END_TEST

START_TEST(the_second_copy_without_a_fault_is_the_first)
{
    fh1_fault list[N_OF(network)];
    no_fault_is_no_change(list, faults_of_op(network, N_OF(network), "attention", true, list));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {every_fault_is_found, faults_of_the_choice_are_found,
                            the_second_copy_without_a_fault_is_the_first, NULL};
    return faults_main("faults of the network", tests);
}
