/* One token per row against the recurrence in f64, and against the scan. Bounds: ssd_fixture.h. */
#include "tests/cuda/ssd_fixture.h"

/* Rows of one token each, where row b has none if `empty` says so; every third token begins a document. */
static ssd_call make_step(cu_type type, int B, int H, int P, int N, int G, bool with_empty)
{
    std::vector<int> lengths(static_cast<size_t>(B), 1);
    if (with_empty)
        for (int b = 0; b < B; b += 2) lengths[b] = 0;
    ssd_call c = make_call(type, lengths, H, P, N, G, 0.3);
    for (int t = 0; t < c.tokens(); t += 3) c.begins[t] = true;
    return c;
}

static ssd_result run_step(const ssd_call &c, cu_path path = CU_AUTO)
{
    cu_ctx k = context(path);
    cu_ssd_step a = {};
    a.s = device_call(c);
    good(cu_ssd_step_fwd(&k, &a));
    const ssd_result r = result_of(c, a.s);
    free_device();
    return r;
}

static void check_step(const ssd_call &c)
{
    const ssd_truth want = truth_of(c);
    check_scan(c, run_step(c), want, "step");
    check_scan(c, run_step(c, CU_GENERAL), want, "general step");
    check_scan(c, run_scan(c, CU_SSD_SEQUENTIAL), want, "scan of one token");
}

START_TEST(agrees)
{
    for (cu_type type : {CU_F32, CU_BF16}) {
        check_step(make_step(type, 2, 2, 64, 128, 1, false));
        check_step(make_step(type, 3, 2, 128, 256, 1, true));
        check_step(make_step(type, 4, 4, 20, 64, 2, true));
        check_step(make_step(type, 5, 3, 17, 32, 3, false));
        for (int N : {1, 5, 96, 300}) check_step(make_step(type, 2, 2, 7, N, 2, false));
    }
}
END_TEST

/* A document that begins does not read the state, which may never have been written. */
START_TEST(new_documents_start_from_zero)
{
    ssd_call c = make_step(CU_BF16, 4, 2, 16, 64, 1, false);
    const size_t n = static_cast<size_t>(c.H) * c.P * c.N;
    for (int b = 0; b < c.rows(); ++b)
        if (c.begins[b]) std::fill(c.state.begin() + c.slot[b] * n, c.state.begin() + (c.slot[b] + 1) * n, NAN);
    check_step(c);
}
END_TEST

START_TEST(lattice_is_exact)
{
    ssd_call c = make_step(CU_BF16, 5, 2, 16, 128, 1, false);
    for (float &v : c.xbc) v = nearbyintf(v);
    for (float &v : c.state) v = nearbyintf(3 * v);
    for (float &v : c.D) v = nearbyintf(v);
    for (float &v : c.dt) v = 2.f;
    c.A = {0.f, -1024.f};
    const ssd_truth want = truth_of(c);
    const ssd_result r = run_step(c);
    for (size_t i = 0; i < r.state.size(); ++i) ck_assert(r.state[i] == want.state[i]);
    for (size_t i = 0; i < r.y.size(); ++i)
        ck_assert(r.y[i] == __bfloat162float(__float2bfloat16_rn(static_cast<float>(want.y[i]))));
}
END_TEST

/* R(R(y)·silu(z·m_z)): from the engine's own y, so that the bound is 8u of the product and half an ulp. */
static void check_gate(cu_type type, int P, int N, cu_path path, bool keep_y)
{
    const ssd_call c = make_step(type, 3, 2, P, N, 1, true);
    const int d = c.H * c.P, ldz = d + 3;
    const std::vector<float> z = as_stored(type, draw("z", static_cast<size_t>(c.tokens()) * ldz, 4));
    const ssd_result plain = run_step(c, path);
    cu_ctx k = context(path);
    cu_ssd_step a = {};
    a.s = device_call(c);
    void *y = a.s.y;
    if (!keep_y) a.s.y = NULL;
    a.z = to_device(type, z), a.ldz = ldz, a.m_z = 0.7f;
    a.gated = device_new(type, static_cast<size_t>(c.tokens()) * d);
    good(cu_ssd_step_fwd(&k, &a));
    const std::vector<float> got = from_device(type, a.gated, static_cast<size_t>(c.tokens()) * d);
    if (keep_y) ck_assert(from_device(type, y, plain.y.size()) == plain.y);
    ck_assert(from_device(a.s.state, c.state.size()) == plain.state);
    free_device();
    size_t wrong = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        const double v = 0.7f * static_cast<double>(z[i / d * ldz + i % d]), s = v / (1 + exp(-v)),
                     want = plain.y[i] * s;
        /* z·m_z is rounded before the exponential: |v|·u; exp, sum, quotient, product to a few u */
        const double err = fabs(want) * ((8 + fabs(v)) * ldexp(1, -24) + (type == CU_BF16 ? ldexp(1, -8) : 0));
        ck_assert_msg(fabs(got[i] - want) <= err, "gated[%zu] = %g, not %g", i, got[i], want);
        wrong += fabs(got[i] - plain.y[i] / (1 + exp(-v))) > err; /* a sigmoid for silu must not pass */
    }
    ck_assert(wrong > got.size() / 2);
}

START_TEST(gate_in_the_same_kernel)
{
    for (cu_type type : {CU_F32, CU_BF16})
        for (bool keep : {true, false}) {
            check_gate(type, 16, 128, CU_AUTO, keep);
            check_gate(type, 9, 20, CU_AUTO, keep);
            check_gate(type, 16, 128, CU_GENERAL, keep);
        }
}
END_TEST

START_TEST(faults_are_seen)
{
    const ssd_call c = make_step(CU_F32, 6, 4, 8, 64, 2, false);
    const ssd_result r = run_step(c);
    for (ssd_fault f : {SSD_LEAKS, SSD_NO_SKIP, SSD_GROUPS_TILED}) {
        const ssd_truth wrong = truth_of(c, f);
        ck_assert_msg(beyond(r.y, wrong.y, wrong.y_err) > 0, "fault %d is not seen", f);
    }
}
END_TEST

START_TEST(no_tokens)
{
    const ssd_call c = make_call(CU_BF16, {0, 0}, 1, 16, 64, 1);
    check_scan(c, run_step(c), truth_of(c), "no tokens");
}
END_TEST

int main()
{
    Suite *s = suite_create("ssd_step");
    TCase *c = tcase_create("ssd_step");
    tcase_add_test(c, agrees);
    tcase_add_test(c, new_documents_start_from_zero);
    tcase_add_test(c, lattice_is_exact);
    tcase_add_test(c, gate_in_the_same_kernel);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
