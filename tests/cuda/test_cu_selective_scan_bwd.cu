/* Backward of the selective scan against the recurrence reversed token by token. Bounds: ssd_bwd_fixture.h. */
#include "tests/cuda/ssd_bwd_fixture.h"

#include "cuda/selective_scan.cuh"

static scan_call make_selective(const std::vector<int> &lengths, int I, int N, double dt = 0.05)
{
    return make(lengths, I, 1, N, 1, dt, true);
}

/* dx, dB and dC side by side, as x, B and C are in a call; what lies behind them is left alone. */
static scan_result run(const scan_call &c, unsigned mask = ALL)
{
    cu_ctx k = context();
    cu_selective_scan_bwd_args a = {};
    const size_t M = static_cast<size_t>(c.r.tokens()), width = c.ldx() - 7, n = M * (width + 2);
    a.t = c.r.on_device(), a.I = c.H, a.N = c.N;
    a.x = to_device(c.xbc), a.B = a.x + c.H, a.C = a.B + c.N, a.ldx = a.ldbc = c.ldx();
    a.dt = to_device(c.dt), a.A = to_device(c.A), a.D = to_device(c.D);
    a.state = c.with_state ? to_device(c.state) : nullptr, a.slot = to_device(c.r.slot);
    a.dy = to_device(c.dy), a.dstate_out = c.with_after ? to_device(c.after) : nullptr;
    float *dA = to_device(c.dA_log), *dD = to_device(c.dD);
    float *d = to_device(std::vector<float>(n, 7.f));
    if (mask & DXBC) a.dx = d, a.dB = d + c.H, a.dC = a.dB + c.N;
    a.lddx = a.lddbc = width + 2;
    a.ddt = mask & DDT ? device_new<float>(M * c.H) : nullptr;
    a.dA_log = mask & DA ? dA : nullptr, a.dD = mask & DD ? dD : nullptr;
    a.dstate = mask & DSTATE ? device_new<float>(c.states()) : nullptr;
    a.scratch = scratch_of(cu_selective_scan_bwd_scratch(&a));
    good(cu_selective_scan_bwd(&k, &a));
    scan_result r;
    const std::vector<float> all = from_device(d, n);
    for (size_t i = 0; i < n; ++i) {
        if (a.dx && i % (width + 2) < width) r.dxbc.push_back(all[i]);
        else ck_assert(all[i] == 7.f);
    }
    if (a.ddt) r.ddt = from_device(a.ddt, M * c.H);
    if (a.dstate) r.dstate = from_device(a.dstate, c.states());
    r.dA_log = from_device(dA, c.rates()), r.dD = from_device(dD, c.H);
    free_device();
    return r;
}

static void check(const scan_call &c)
{
    const scan_result r = run(c);
    const scan_truth t = truth(c);
    ck_assert_msg(wrong(r, t) == 0, "%d tokens, I %d N %d: %zu dx dB dC, %zu ddt, %zu dA, %zu dD, %zu dstate off",
                  c.r.tokens(), c.H, c.N, beyond(r.dxbc, t.dxbc), beyond(r.ddt, t.ddt), beyond(r.dA_log, t.dA_log),
                  beyond(r.dD, t.dD), beyond(r.dstate, t.dstate));
}

/* Around the 8 or 4 tokens between two kept states. */
START_TEST(lengths)
{
    for (int T : {1, 3, 4, 5, 7, 8, 9, 17, 64}) check(make_selective({T}, 6, 16));
    for (int T : {1, 3, 4, 5, 9}) check(make_selective({T}, 6, 70));
    check(make_selective({20, 0, 1, 8, 3, 33}, 9, 9)); /* numbers of kept states that are nobody's */
}
END_TEST

/* Widths around each cut, two pieces of a wide state; channels that fill no block, one, and more than one. */
START_TEST(shapes)
{
    for (int N : {1, 7, 16, 17, 64, 65, 130, 256, 257, 300}) check(make_selective({11}, 5, N));
    for (int I : {1, 31, 32, 33, 70}) check(make_selective({9, 4}, I, 16));
    for (int I : {8, 9, 17}) check(make_selective({9}, I, 40));
}
END_TEST

START_TEST(steps)
{
    for (double dt : {1e-4, 0.5, 20.}) check(make_selective({43}, 4, 8, dt));
}
END_TEST

/* States are wanted or not, known or zero. */
START_TEST(states)
{
    scan_call c = make_selective({20, 0, 5}, 5, 8);
    c.with_state = false;
    check(c);
    c.with_after = false;
    check(c);
    c.r.begins[0] = c.r.begins[20] = true; /* training: every row begins a document */
    check(c);
}
END_TEST

/* Documents of every length around the edges; then NaN in every second one and in the states of rows that begin one, of
 * which nothing may be seen but in dA and dD. */
START_TEST(documents_stand_alone)
{
    scan_call c = make_selective({50, 3, 27}, 5, 9);
    for (int t : {0, 1, 7, 8, 9, 15, 24, 40, 52, 53, 61, 69}) c.r.begins[t] = true;
    check(c);
    int document = 0;
    for (size_t t = 0; t < c.r.begins.size(); ++t) {
        document += c.r.begins[t];
        for (int64_t i = 0; document % 2 && i < c.ldx(); ++i) c.xbc[t * c.ldx() + i] = NAN;
    }
    for (int b : {0, 2}) {
        const size_t n = static_cast<size_t>(c.H) * c.N, at = c.r.slot[b] * n;
        std::fill(c.state.begin() + at, c.state.begin() + at + n, NAN);
    }
    check(c);
}
END_TEST

/* The same numbers, whichever outputs are wanted. */
START_TEST(in_part)
{
    scan_call c = make_selective({30, 11}, 6, 5);
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
    scan_call c = make_selective({40, 2, 30}, 4, 8);
    c.r.begins[10] = c.r.begins[38] = c.r.begins[50] = true;
    const scan_result r = run(c);
    ck_assert_uint_eq(wrong(r, truth(c)), 0);
    for (int f = RIGHT + 1; f < FAULTS; ++f) {
        if (f == GROUPS_TILED) continue; /* there is one group */
        ck_assert_msg(wrong(r, truth(c, static_cast<fault>(f))) > 0, "fault %d is not seen", f);
    }
}
END_TEST

START_TEST(no_tokens)
{
    check(make_selective({0, 0}, 4, 8));
}
END_TEST

int main()
{
    Suite *s = suite_create("selective_scan_bwd");
    TCase *c = tcase_create("selective_scan_bwd");
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
