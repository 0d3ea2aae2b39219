/* Planted faults of scan and gate: each is found where it shows first. */
#include "tests/faults_mixer_fixture.h"

START_TEST(every_fault_is_found)
{
    fh1_fault list[N_OF(mixer_faults)];
    faults_are_found(list, mixer_faults_of(" ssd_scan gated_norm ", false, list));
}
END_TEST

START_TEST(the_second_copy_without_a_fault_is_the_first)
{
    fh1_fault list[N_OF(mixer_faults)];
    no_fault_is_no_change(list, mixer_faults_of(" ssd_scan gated_norm ", false, list));
}
END_TEST

/* A fault that no short trace reaches: y of a scan in one piece, around the token at which the carry is lost. */
START_TEST(a_carry_lost_once_shows_at_its_token_and_not_before)
{
    enum { LOST = 50000, T = LOST + 3, P = 2, N = 3 };
    static float x[T * P], B[T * N], C[T * N], dt[T], y[2][T * P];
    float A_log[1] = {-3}, D[1] = {0.5F};
    for (int t = 0; t < T; t++) {
        dt[t] = 0.01F;
        for (int i = 0; i < P; i++) x[t * P + i] = 1;
        for (int n = 0; n < N; n++) B[t * N + n] = C[t * N + n] = 1;
    }
    const fh1_fault fault[2] = {FH1_FAULT_NONE, FH1_FAULT_CARRY_LOST_AT_50000};
    const fh1_tensor a = fh1_view1(A_log, FH1_F32, 1), d = fh1_view1(D, FH1_F32, 1);
    for (int k = 0; k < 2; k++) {
        float state[P * N] = {0};
        fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, fault[k]);
        OK(e->ops->ssd_scan(e, T, 1, P, N, 1, x, B, C, dt, &a, &d, NULL, -1, state, y[k]));
        e->free(e);
    }
    ck_assert_mem_eq(y[0], y[1], (size_t)(LOST * P) * sizeof(float));
    for (int i = LOST * P; i < T * P; i++) ck_assert_float_lt(y[1][i], y[0][i] / 2);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {every_fault_is_found, the_second_copy_without_a_fault_is_the_first,
                            a_carry_lost_once_shows_at_its_token_and_not_before, NULL};
    return faults_main("faults of the scan", tests);
}
