/* The selective scan, tiles in registers and the general kernel, against the recurrence in f64. Bounds: ssd_fixture.h.
 */
#include "tests/cuda/ssd_fixture.h"

static void check_ways(const ssd_call &c, const char *what)
{
    const ssd_truth want = truth_of(c);
    check_scan(c, run_selective(c, false), want, what);
    check_scan(c, run_selective(c, false, CU_GENERAL), want, "general");
}

/* Widths of the state around each cut (16, 64, 256) and beyond; channels that do not fill a block, or more than one. */
START_TEST(agrees_in_any_shape)
{
    for (cu_type type : {CU_F32, CU_BF16}) {
        for (int N : {1, 7, 8, 15, 16, 17, 63, 64, 65, 100, 256, 257}) {
            check_ways(make_selective(type, {9, 0, 4}, 5, N), "any width");
        }
        for (int I : {1, 31, 33, 64, 70}) check_ways(make_selective(type, {3, 11}, I, 16), "any channels");
    }
}
END_TEST

/* Tiles of 32, 16 and 8 tokens, with rows that begin and end anywhere in them. */
START_TEST(agrees_over_tiles)
{
    for (int N : {16, 40, 70}) {
        for (int T : {1, 7, 8, 9, 31, 32, 33, 64, 65}) check_ways(make_selective(CU_BF16, {T}, 6, N), "one row");
        check_ways(make_selective(CU_F32, {70, 0, 1, 33, 8}, 9, N, 0.01), "rows");
    }
}
END_TEST

/* Rates from one that forgets everything to one that forgets nothing, side by side in one channel. */
START_TEST(long_and_short_memories)
{
    ssd_call c = make_selective(CU_F32, {100, 30}, 6, 16);
    for (size_t i = 0; i < c.A.size(); ++i) c.A[i] = -powf(10.f, static_cast<float>(i % 9) - 6.f);
    for (size_t i = 0; i < c.dt.size(); ++i) c.dt[i] = i % 11 == 5 ? 40.f : 0.02f;
    check_ways(c, "memories");
}
END_TEST

/* Decays of exactly 1 and 0, and small integers: nothing is rounded, so all bits are known. */
START_TEST(lattice_is_exact)
{
    ssd_call c = make_selective(CU_BF16, {50, 5}, 5, 16);
    for (float &v : c.xbc) v = nearbyintf(v);
    for (float &v : c.state) v = nearbyintf(3 * v);
    for (float &v : c.D) v = nearbyintf(v);
    for (size_t i = 0; i < c.A.size(); ++i) c.A[i] = i % 3 ? 0.f : -1024.f;
    for (size_t i = 0; i < c.dt.size(); ++i) c.dt[i] = i % 5 == 0 ? 2.f : 1.f;
    c.begins[40] = true;
    const ssd_truth want = truth_of(c);
    for (cu_path path : {CU_AUTO, CU_GENERAL}) {
        const ssd_result r = run_selective(c, false, path);
        for (size_t i = 0; i < r.y.size(); ++i)
            ck_assert(r.y[i] == __bfloat162float(__float2bfloat16_rn(static_cast<float>(want.y[i]))));
        for (size_t i = 0; i < r.state.size(); ++i) ck_assert(r.state[i] == want.state[i]);
    }
}
END_TEST

/* ---- documents ---- */

START_TEST(documents_stand_alone)
{
    for (int N : {16, 20, 80}) {
        ssd_call c = make_selective(CU_BF16, {75, 33, 20}, 5, N);
        for (int t : {3, 31, 32, 33, 64, 75, 76, 108 + 19}) c.begins[t] = true;
        spoil_state(c, 1); /* its first token begins a document: the state is not read */
        check_ways(c, "documents");
    }
}
END_TEST

/* NaN in one document, on all its tokens: the neighbours and the state after are untouched. Then one NaN in the midst
 * of a document: nothing before it knows. */
START_TEST(nothing_leaks)
{
    ssd_call c = make_selective(CU_BF16, {70, 40}, 5, 16);
    for (int t : {10, 20, 32, 45, 70, 75}) c.begins[t] = true;
    ssd_call one = c;
    for (int t = 10; t < 20; ++t) spoil_token(c, t, NAN);
    for (int t = 32; t < 45; ++t) spoil_token(c, t, INFINITY);
    spoil_state(c, 1);
    spoil_state(c, 0);
    check_ways(c, "leaks");
    spoil_token(one, 60, NAN);
    check_ways(one, "leaks");
}
END_TEST

/* One number that is not finite, in x, B or C alone; columns of the state that are not there must not meet it. */
START_TEST(one_bad_number)
{
    for (float bad : {NAN, INFINITY})
        for (int column : {2, 5 + 7, 5 + 13 + 3}) {
            ssd_call c = make_selective(CU_BF16, {40}, 5, 13);
            c.xbc[30 * c.ldx() + column] = bad;
            check_ways(c, "one bad number");
        }
}
END_TEST

/* One sequence in two calls, cut anywhere, gives the bits of one call: the state between them is stored in f32 as it is
 * within a call. */
START_TEST(splits_of_a_sequence)
{
    for (int N : {16, 40}) {
        ssd_call c = make_selective(CU_BF16, {70}, 5, N);
        c.begins[20] = c.begins[41] = true;
        const ssd_result whole = run_selective(c, false);
        for (int at = 1; at < 70; at += 3) {
            const ssd_result a = run_selective(part(c, 0, at, c.state), false);
            ssd_result b = run_selective(part(c, at, 70, a.state), false);
            b.y.insert(b.y.begin(), a.y.begin(), a.y.end());
            ck_assert(b.y == whole.y);
            ck_assert(b.state == whole.state);
        }
    }
}
END_TEST

/* The gate in the same kernel takes y as it is stored; y itself may be left out. */
START_TEST(gate_in_the_same_kernel)
{
    for (cu_type type : {CU_F32, CU_BF16})
        for (cu_path path : {CU_AUTO, CU_GENERAL})
            for (bool keep : {true, false}) {
                const ssd_call c = make_selective(type, {37, 3}, 6, 16);
                const int ldz = c.H + 3;
                const size_t n = static_cast<size_t>(c.tokens()) * c.H;
                const std::vector<float> z = as_stored(type, draw("z", static_cast<size_t>(c.tokens()) * ldz, 4));
                const ssd_result plain = run_selective(c, false, path);
                cu_ctx k = context(path);
                cu_selective a = device_selective(c);
                if (!keep) a.y = nullptr;
                a.z = to_device(type, z), a.ldz = ldz, a.gated = device_new(type, n);
                good(cu_selective_scan_fwd(&k, &a));
                const std::vector<float> got = from_device(type, a.gated, n);
                if (keep) ck_assert(from_device(type, a.y, n) == plain.y);
                ck_assert(from_device(a.state, c.state.size()) == plain.state);
                free_device();
                for (size_t i = 0; i < n; ++i) {
                    const double v = z[i / c.H * ldz + i % c.H], want = plain.y[i] * v / (1 + exp(-v));
                    /* exponential, sum, quotient and product to a few u */
                    const double err = fabs(want) * (8 * ldexp(1, -24) + (type == CU_BF16 ? ldexp(1, -8) : 0));
                    ck_assert_msg(fabs(got[i] - want) <= err, "gated[%zu] = %g, not %g", i, got[i], want);
                }
            }
}
END_TEST

/* The states on the way, every few tokens, are those that shorter calls leave; nothing else is written. */
START_TEST(marks_are_states)
{
    for (int N : {13, 33, 70, 300}) {
        ssd_call c = make_selective(CU_F32, {21, 0, 9}, 5, N);
        c.begins[8] = c.begins[11] = true;
        const int every = cu_selective_every(N), marks = c.tokens() / every + c.rows();
        const size_t n = static_cast<size_t>(c.H) * N;
        cu_ctx k = context();
        const cu_selective a = device_selective(c);
        float *d = to_device(std::vector<float>(marks * n, 7.f));
        for (int n0 = 0; n0 < N; n0 += CU_SELECTIVE_COLUMNS) good(cu_selective_marks(&k, &a, n0, d));
        const std::vector<float> got = from_device(d, marks * n);
        ck_assert(from_device(a.state, c.state.size()) == c.state);
        free_device();
        for (int b = 0; b < c.rows(); ++b)
            for (int t = c.row_begin[b]; t < c.row_begin[b + 1]; t += every) {
                ssd_call before = c; /* the rows cut off in front of token t: what state do they leave? */
                before.row_begin = {0, t - c.row_begin[b]};
                before.slot = {c.slot[b]};
                before.begins.assign(c.begins.begin() + c.row_begin[b], c.begins.begin() + t);
                before.xbc.assign(c.xbc.begin() + c.row_begin[b] * c.ldx(), c.xbc.begin() + t * c.ldx());
                before.dt.assign(c.dt.begin() + c.row_begin[b] * c.H, c.dt.begin() + t * c.H);
                const ssd_truth want = truth_of(before);
                const size_t mark = c.row_begin[b] / every + b + (t - c.row_begin[b]) / every, at = c.slot[b] * n;
                for (size_t i = 0; i < n; ++i)
                    ck_assert(fabs(got[mark * n + i] - want.state[at + i]) <= want.state_err[at + i]);
            }
    }
}
END_TEST

/* ---- the test itself ---- */

START_TEST(faults_are_seen)
{
    ssd_call c = make_selective(CU_BF16, {70}, 5, 13);
    c.begins[33] = true;
    for (cu_path path : {CU_AUTO, CU_GENERAL}) {
        const ssd_result r = run_selective(c, false, path);
        for (ssd_fault f : {SSD_LEAKS, SSD_LATE_DECAY, SSD_NO_SKIP, SSD_A_TRANSPOSED, SSD_B_IS_C}) {
            const ssd_truth wrong = truth_of(c, f);
            ck_assert_msg(beyond(r.y, wrong.y, wrong.y_err) > 0, "fault %d is not seen", f);
        }
        ssd_result off = r;
        for (size_t i = off.state.size() / 2; i < off.state.size(); ++i) off.state[i] *= 1.0001f; /* the row's slot */
        const ssd_truth want = truth_of(c);
        ck_assert(beyond(off.state, want.state, want.state_err) > off.state.size() / 3);
    }
}
END_TEST

START_TEST(no_tokens)
{
    check_ways(make_selective(CU_BF16, {0, 0}, 5, 16), "no tokens");
}
END_TEST

int main()
{
    Suite *s = suite_create("selective_scan");
    TCase *c = tcase_create("selective_scan");
    tcase_add_test(c, agrees_in_any_shape);
    tcase_add_test(c, agrees_over_tiles);
    tcase_add_test(c, long_and_short_memories);
    tcase_add_test(c, lattice_is_exact);
    tcase_add_test(c, documents_stand_alone);
    tcase_add_test(c, nothing_leaks);
    tcase_add_test(c, one_bad_number);
    tcase_add_test(c, splits_of_a_sequence);
    tcase_add_test(c, gate_in_the_same_kernel);
    tcase_add_test(c, marks_are_states);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
