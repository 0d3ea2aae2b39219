/* One token per row against the recurrence in f64, and against the scan. Bounds: ssd_fixture.h. */
#include "tests/cuda/ssd_fixture.h"

/* Rows of one token each, where every second row has none if `with_empty` says so; every third begins a document. */
static ssd_call make_step(cu_type type, int B, int I, int N, bool with_empty)
{
    std::vector<int> lengths(static_cast<size_t>(B), 1);
    for (int b = 0; with_empty && b < B; b += 2) lengths[b] = 0;
    ssd_call c = make_selective(type, lengths, I, N, 0.3);
    for (int t = 0; t < c.tokens(); t += 3) c.begins[t] = true;
    return c;
}

static void check_step(const ssd_call &c)
{
    const ssd_truth want = truth_of(c);
    check_scan(c, run_selective(c, true), want, "step");
    check_scan(c, run_selective(c, true, CU_GENERAL), want, "general step");
    check_scan(c, run_selective(c, false), want, "scan of one token");
}

START_TEST(agrees)
{
    for (cu_type type : {CU_F32, CU_BF16}) {
        for (int N : {8, 16, 64}) { /* kernels of their own; channels that fill no block, one and more */
            check_step(make_step(type, 4, 40, N, true));
            check_step(make_step(type, 3, 5, N, false));
            check_step(make_step(type, 2, 128, N, false));
        }
        for (int N : {1, 5, 12, 96, 300}) check_step(make_step(type, 2, 7, N, false));
    }
}
END_TEST

/* A document that begins does not read the state, which may never have been written. */
START_TEST(new_documents_start_from_zero)
{
    for (int N : {8, 16, 20}) {
        ssd_call c = make_step(CU_BF16, 4, 9, N, false);
        for (int b = 0; b < c.rows(); ++b)
            if (c.begins[b]) spoil_state(c, b);
        check_step(c);
    }
}
END_TEST

/* Token after token through the step: the bits of the scan, which adds up in the same order where lanes are as many. */
START_TEST(steps_make_a_scan)
{
    ssd_call c = make_selective(CU_F32, {40}, 9, 16);
    c.begins[13] = true;
    const ssd_result whole = run_selective(c, false);
    ssd_result r = {{}, c.state};
    for (int t = 0; t < 40; ++t) {
        const ssd_result one = run_selective(part(c, t, t + 1, r.state), true);
        r.y.insert(r.y.end(), one.y.begin(), one.y.end());
        r.state = one.state;
    }
    ck_assert(r.state == whole.state);
    check_scan(c, r, truth_of(c), "steps");
}
END_TEST

START_TEST(faults_are_seen)
{
    for (int N : {8, 13}) {
        const ssd_call c = make_step(CU_F32, 6, 9, N, false);
        const ssd_result r = run_selective(c, true);
        for (ssd_fault f : {SSD_LEAKS, SSD_NO_SKIP, SSD_A_TRANSPOSED, SSD_B_IS_C}) {
            const ssd_truth wrong = truth_of(c, f);
            ck_assert_msg(beyond(r.y, wrong.y, wrong.y_err) > 0, "fault %d is not seen", f);
        }
    }
}
END_TEST

/* The gate of the step, from y as it is stored. */
START_TEST(gate_in_the_same_kernel)
{
    for (int N : {16, 20}) {
        const ssd_call c = make_step(CU_BF16, 3, 9, N, false);
        const size_t n = static_cast<size_t>(c.tokens()) * c.H;
        const std::vector<float> z = as_stored(CU_BF16, draw("z", n, 4));
        const ssd_result plain = run_selective(c, true);
        cu_ctx k = context();
        cu_selective a = device_selective(c);
        a.y = nullptr, a.z = to_device(CU_BF16, z), a.ldz = c.H, a.gated = device_new(CU_BF16, n);
        good(cu_selective_step_fwd(&k, &a));
        const std::vector<float> got = from_device(CU_BF16, a.gated, n);
        free_device();
        for (size_t i = 0; i < n; ++i) {
            const double want = plain.y[i] * z[i] / (1 + exp(-static_cast<double>(z[i])));
            ck_assert(fabs(got[i] - want) <= fabs(want) * (8 * ldexp(1, -24) + ldexp(1, -8)));
        }
    }
}
END_TEST

START_TEST(no_tokens)
{
    check_step(make_selective(CU_BF16, {0, 0}, 3, 16));
}
END_TEST

int main()
{
    Suite *s = suite_create("selective_step");
    TCase *c = tcase_create("selective_step");
    tcase_add_test(c, agrees);
    tcase_add_test(c, new_documents_start_from_zero);
    tcase_add_test(c, steps_make_a_scan);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, gate_in_the_same_kernel);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
