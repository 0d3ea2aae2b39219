/* Backward of the scan against the recurrence reversed token by token. Bounds: ssd_bwd_fixture.h. */
#include "tests/cuda/ssd_bwd_fixture.h"

static scan_result run(const scan_call &c, unsigned mask = ALL)
{
    cu_ctx k = context();
    cu_ssd_scan_bwd_args a = {};
    a.t = c.r.on_device(), a.H = c.H, a.P = c.P, a.N = c.N, a.G = c.G;
    a.xbc = to_device(c.xbc), a.ldx = c.ldx(), a.dt = to_device(c.dt), a.A = to_device(c.A), a.D = to_device(c.D);
    a.state = c.with_state ? to_device(c.state) : nullptr, a.slot = to_device(c.r.slot);
    a.dy = to_device(c.dy), a.dstate_out = c.with_after ? to_device(c.after) : nullptr;
    const size_t M = static_cast<size_t>(c.r.tokens()), n = M * (c.ldx() + 2);
    float *dA = to_device(c.dA_log), *dD = to_device(c.dD);
    a.dxbc = mask & DXBC ? to_device(std::vector<float>(n, 7.f)) : nullptr, a.lddx = c.ldx() + 2;
    a.ddt = mask & DDT ? device_new<float>(M * c.H) : nullptr;
    a.dA_log = mask & DA ? dA : nullptr, a.dD = mask & DD ? dD : nullptr;
    a.dstate = mask & DSTATE ? device_new<float>(c.states()) : nullptr;
    a.scratch = scratch_of(cu_ssd_scan_bwd_scratch(&a));
    good(cu_ssd_scan_bwd(&k, &a));
    scan_result r;
    const std::vector<float> all = a.dxbc ? from_device(a.dxbc, n) : std::vector<float>();
    for (size_t i = 0; i < all.size(); ++i) {
        if (static_cast<int64_t>(i % a.lddx) < c.ldx() - 7) r.dxbc.push_back(all[i]);
        else ck_assert(all[i] == 7.f);
    }
    if (a.ddt) r.ddt = from_device(a.ddt, M * c.H);
    if (a.dstate) r.dstate = from_device(a.dstate, c.states());
    r.dA_log = from_device(dA, c.H), r.dD = from_device(dD, c.H);
    free_device();
    return r;
}

static void check(const scan_call &c)
{
    const scan_result r = run(c);
    const scan_truth t = truth(c);
    ck_assert_msg(wrong(r, t) == 0, "%d tokens, H %d P %d N %d G %d: %zu dxbc, %zu ddt, %zu dA, %zu dD, %zu dstate off",
                  c.r.tokens(), c.H, c.P, c.N, c.G, beyond(r.dxbc, t.dxbc), beyond(r.ddt, t.ddt),
                  beyond(r.dA_log, t.dA_log), beyond(r.dD, t.dD), beyond(r.dstate, t.dstate));
}

START_TEST(lengths)
{
    for (int T : {1, 3, 63, 64, 65, 133}) check(make({T}, 2, 5, 7, 1));
    check(make({70, 0, 1, 64, 3, 129}, 4, 3, 9, 2)); /* numbers of chunks that are nobody's */
}
END_TEST

START_TEST(shapes)
{
    for (int G : {1, 2, 4}) check(make({20, 66}, 4, 8, 16, G));
    check(make({70}, 12, 4, 6, 2)); /* two blocks a group, the second with half as many heads */
    check(make({67}, 9, 4, 6, 1));
    check(make({70}, 1, 64, 128, 1)); /* as released */
    check(make({66}, 1, 64, 256, 1));
    check(make({66}, 1, 70, 130, 1)); /* tiles with an edge */
    check(make({66}, 1, 1, 1, 1));
}
END_TEST

START_TEST(steps)
{
    for (double dt : {1e-4, 0.5, 20.}) check(make({133}, 2, 4, 8, 1, dt));
}
END_TEST

/* States are wanted or not, known or zero. */
START_TEST(states)
{
    scan_call c = make({70, 0, 5}, 2, 4, 8, 1);
    c.with_state = false;
    check(c);
    c.with_after = false;
    check(c);
    c.r.begins[0] = c.r.begins[70] = true; /* training: every row begins a document */
    check(c);
}
END_TEST

/* Documents of every length around the edges of chunks; then NaN in every second one and in the states of rows that
 * begin one, of which nothing may be seen but in dA and dD. */
START_TEST(documents_stand_alone)
{
    scan_call c = make({150, 3, 67}, 4, 5, 9, 2);
    for (int t : {0, 1, 7, 63, 64, 65, 127, 140, 152, 153, 216, 217}) c.r.begins[t] = true;
    check(c);
    int document = 0;
    for (size_t t = 0; t < c.r.begins.size(); ++t) {
        document += c.r.begins[t];
        for (int64_t i = 0; document % 2 && i < c.ldx(); ++i) c.xbc[t * c.ldx() + i] = NAN;
    }
    for (int b : {0, 2}) {
        const size_t n = static_cast<size_t>(c.H) * c.P * c.N, at = c.r.slot[b] * n;
        std::fill(c.state.begin() + at, c.state.begin() + at + n, NAN);
    }
    check(c);
}
END_TEST

/* The same numbers, whichever outputs are wanted. */
START_TEST(in_part)
{
    scan_call c = make({70, 20}, 6, 3, 5, 1);
    const scan_result all = run(c);
    for (unsigned mask : {DXBC, DDT, DA, DD, DSTATE}) {
        const scan_result r = run(c, mask);
        ck_assert(r.dxbc == (mask == DXBC ? all.dxbc : std::vector<float>()));
        ck_assert(r.ddt == (mask == DDT ? all.ddt : std::vector<float>()));
        ck_assert(r.dstate == (mask == DSTATE ? all.dstate : std::vector<float>()));
        ck_assert(r.dA_log == (mask == DA ? all.dA_log : c.dA_log));
        ck_assert(r.dD == (mask == DD ? all.dD : c.dD));
    }
}
END_TEST

START_TEST(faults_are_seen)
{
    scan_call c = make({80, 2, 30}, 4, 4, 8, 2);
    c.r.begins[10] = c.r.begins[70] = c.r.begins[90] = true;
    const scan_result r = run(c);
    ck_assert_uint_eq(wrong(r, truth(c)), 0);
    for (int f = RIGHT + 1; f < FAULTS; ++f)
        ck_assert_msg(wrong(r, truth(c, static_cast<fault>(f))) > 0, "fault %d is not seen", f);
}
END_TEST

START_TEST(no_tokens)
{
    check(make({0, 0}, 2, 4, 8, 1));
}
END_TEST

int main()
{
    Suite *s = suite_create("ssd_scan_bwd");
    TCase *c = tcase_create("ssd_scan_bwd");
    tcase_add_test(c, lengths);
    tcase_add_test(c, shapes);
    tcase_add_test(c, steps);
    tcase_add_test(c, states);
    tcase_add_test(c, documents_stand_alone);
    tcase_add_test(c, in_part);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
