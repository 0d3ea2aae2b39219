/* The scan, all three ways against the recurrence in f64. Bounds: ssd_fixture.h. */
#include "tests/cuda/ssd_fixture.h"

#include <algorithm>

static const cu_ssd_way WAYS[] = {CU_SSD_SEQUENTIAL, CU_SSD_CHUNKS, CU_SSD_FUSED};
static const char *const WAY[] = {"auto", "sequential", "chunks", "fused"};

static void check_all_ways(const ssd_call &c)
{
    const ssd_truth want = truth_of(c);
    for (cu_ssd_way way : WAYS) check_scan(c, run_scan(c, way), want, WAY[way]);
}

START_TEST(agrees_in_model_shapes)
{
    check_all_ways(make_call(CU_BF16, {130}, 2, 64, 128, 1));
    check_all_ways(make_call(CU_BF16, {70}, 1, 128, 256, 1));
    check_all_ways(make_call(CU_BF16, {65}, 4, 32, 64, 2));
}
END_TEST

/* Tiles that are not full: 5 tiles of the state's rows in two slices, 3, 1; 1, 3 and 11 of its columns. */
START_TEST(agrees_in_odd_tiles)
{
    check_all_ways(make_call(CU_BF16, {64, 0, 1, 63, 129, 0}, 2, 16, 16, 1));
    check_all_ways(make_call(CU_BF16, {3, 70}, 2, 80, 48, 2));
    check_all_ways(make_call(CU_BF16, {0, 33}, 3, 48, 176, 3));
}
END_TEST

START_TEST(agrees_in_any_shape)
{
    for (cu_type type : {CU_F32, CU_BF16}) {
        for (int N : {1, 7, 33, 100, 257, 300}) {
            const ssd_call c = make_call(type, {9, 0, 4}, 2, 5, N, 1);
            check_scan(c, run_scan(c, CU_SSD_AUTO), truth_of(c), "any shape");
        }
        const ssd_call c = make_call(type, {40}, 4, 16, 64, 2);
        check_scan(c, run_scan(c, CU_SSD_AUTO), truth_of(c), "auto");
        check_scan(c, run_scan(c, CU_SSD_FUSED, CU_GENERAL), truth_of(c), "general");
    }
}
END_TEST

/* More than one span a row of every width (1, 2 and 4 chunks), with rows that begin and end anywhere. */
START_TEST(agrees_over_spans)
{
    check_all_ways(make_call(CU_BF16, {200, 7, 130}, 1, 16, 16, 1, 0.01));
    check_all_ways(make_call(CU_BF16, {500, 1, 600}, 1, 16, 16, 1, 0.005));
    check_all_ways(make_call(CU_BF16, {1500, 2, 2800}, 1, 16, 16, 1, 0.002));
}
END_TEST

/* What the tensor cores make of f32 operands must be better than y shows in bf16: D·x cancels the rest at one token of
 * each head, so that y there is what is left of the sum's error, and the bound is not the rounding of y. */
START_TEST(sums_are_better_than_bf16)
{
    ssd_call c = make_call(CU_BF16, {150}, 3, 16, 64, 1);
    for (int t : {0, 40, 63, 64, 149}) {
        for (float &d : c.D) d = 0;
        const ssd_truth sum = truth_of(c);
        for (int h = 0; h < c.H; ++h)
            c.D[h] = static_cast<float>(-sum.y[(t * c.H + h) * c.P + h] / c.xbc[t * c.ldx() + h * c.P + h]);
        check_all_ways(c);
    }
}
END_TEST

/* Steps from one that forgets everything to one that forgets nothing, in one chunk: exp(c_i - c_j) where both are large
 * and their difference is not. */
START_TEST(long_and_short_memories)
{
    for (int kind = 0; kind < 4; ++kind) {
        ssd_call c = make_call(CU_BF16, {100, 30}, 2, 16, 32, 1);
        for (float &a : c.A) a = -1.f;
        for (size_t i = 0; i < c.dt.size(); ++i) {
            const double gentle = 1e-6 * (1 + i % 7), violent = 1e3;
            c.dt[i] = static_cast<float>(kind == 0   ? gentle
                                         : kind == 1 ? violent
                                         : kind == 2 ? (i / 2 % 10 == 5 ? violent : gentle)
                                                     : (i / 2 % 3 == 0 ? 30. : 0.01));
        }
        check_all_ways(c);
    }
}
END_TEST

/* Decays of exactly 1 and exactly 0 and small integers: nothing is rounded, so all bits are known. */
START_TEST(lattice_is_exact)
{
    ssd_call c = make_call(CU_BF16, {90, 5}, 2, 16, 32, 1);
    for (float &v : c.xbc) v = nearbyintf(v);
    for (float &v : c.state) v = nearbyintf(3 * v);
    for (float &v : c.D) v = nearbyintf(v);
    c.A = {0.f, -1024.f};
    for (size_t i = 0; i < c.dt.size(); ++i) c.dt[i] = i % 5 == 0 ? 2.f : 1.f;
    c.begins[40] = true;
    const ssd_truth want = truth_of(c);
    for (cu_ssd_way way : WAYS) {
        const ssd_result r = run_scan(c, way);
        for (size_t i = 0; i < r.y.size(); ++i)
            ck_assert_msg(r.y[i] == __bfloat162float(__float2bfloat16_rn(static_cast<float>(want.y[i]))), "%s y[%zu]",
                          WAY[way], i);
        for (size_t i = 0; i < r.state.size(); ++i)
            ck_assert_msg(r.state[i] == want.state[i], "%s S[%zu]", WAY[way], i);
    }
}
END_TEST

/* ---- documents ---- */

START_TEST(documents_stand_alone)
{
    ssd_call c = make_call(CU_BF16, {150, 66, 20}, 2, 32, 32, 1);
    for (int t : {3, 64, 70, 71, 100, 128, 150, 151, 216 + 19}) c.begins[t] = true;
    spoil_state(c, 1); /* its first token begins a document: the state is not read */
    check_all_ways(c);
}
END_TEST

/* NaN in one document, on all its tokens: the neighbours and the state after are untouched. Then one NaN in the midst
 * of a document: nothing before it knows. */
START_TEST(nothing_leaks)
{
    ssd_call c = make_call(CU_BF16, {140, 80}, 2, 16, 32, 1);
    for (int t : {20, 40, 64, 90, 140, 150}) c.begins[t] = true;
    ssd_call one = c;
    for (int t = 20; t < 40; ++t) spoil_token(c, t, NAN);
    for (int t = 64; t < 90; ++t) spoil_token(c, t, INFINITY);
    spoil_state(c, 1);
    spoil_state(c, 0);
    check_all_ways(c);
    spoil_token(one, 120, NAN);
    check_all_ways(one);
}
END_TEST

/* One number that is not finite, in x, B, C or dt alone. */
START_TEST(one_bad_number)
{
    for (float bad : {NAN, INFINITY})
        for (int where = 0; where < 4; ++where) {
            ssd_call c = make_call(CU_BF16, {100}, 1, 16, 16, 1);
            const int column[] = {5, 16 + 7, 32 + 3};
            if (where < 3) c.xbc[30 * c.ldx() + column[where]] = bad;
            else c.dt[30] = bad;
            if (where == 3 && std::isinf(bad)) continue; /* inf·0 or inf: either is right */
            check_all_ways(c);
        }
}
END_TEST

/* ---- splits ---- */

/* One sequence in two calls, cut anywhere, and one token at a time: the bound of the whole holds of the parts too, for
 * the state between them is stored in f32 as it is within a call. */
static void check_splits(cu_ssd_way way, int step)
{
    ssd_call c = make_call(CU_BF16, {134}, 1, 16, 16, 1);
    c.begins[50] = c.begins[66] = true;
    const ssd_truth want = truth_of(c);
    for (int cut = 1; cut < 134; cut += step) {
        const ssd_result a = run_scan(part(c, 0, cut, c.state), way);
        ssd_result b = run_scan(part(c, cut, 134, a.state), way);
        b.y.insert(b.y.begin(), a.y.begin(), a.y.end());
        check_scan(c, b, want, WAY[way]);
    }
}

START_TEST(splits_of_a_sequence)
{
    check_splits(CU_SSD_SEQUENTIAL, 1);
    check_splits(CU_SSD_FUSED, 1);
    check_splits(CU_SSD_CHUNKS, 3);
}
END_TEST

/* ---- the test itself ---- */

START_TEST(faults_are_seen)
{
    ssd_call c = make_call(CU_BF16, {70}, 4, 16, 32, 2);
    c.begins[33] = true;
    for (cu_ssd_way way : WAYS) {
        const ssd_result r = run_scan(c, way);
        for (ssd_fault f : {SSD_LEAKS, SSD_LATE_DECAY, SSD_NO_SKIP, SSD_GROUPS_TILED}) {
            const ssd_truth wrong = truth_of(c, f);
            ck_assert_msg(beyond(r.y, wrong.y, wrong.y_err) > 0, "fault %d is not seen", f);
        }
        ssd_result off = r;
        off.state[off.state.size() - 1] *= 1.0001f;
        const ssd_truth want = truth_of(c);
        ck_assert(beyond(off.state, want.state, want.state_err) > 0);
    }
}
END_TEST

/* The scratch of a longer call is enough for a shorter one. */
START_TEST(scratch_grows)
{
    const ssd_call c = make_call(CU_BF16, {1}, 1, 16, 16, 1);
    const cu_ssd a = device_call(c);
    size_t last = 0;
    for (int M = 1; M < 9000; ++M) {
        const size_t now = cu_ssd_scratch(&a, CU_SSD_AUTO, M, 3);
        ck_assert(now >= last);
        last = now;
    }
    ck_assert(cu_ssd_scratch(&a, CU_SSD_FUSED, 100, 1) == 0);
    ck_assert(cu_ssd_scratch(&a, CU_SSD_SEQUENTIAL, 100, 1) == 0);
    free_device();
}
END_TEST

/* Devices with less shared memory read one chunk at a time (N = 256), or take the sequential way. */
START_TEST(agrees_on_smaller_devices)
{
    const ssd_call c = make_call(CU_BF16, {130}, 1, 16, 256, 1);
    const ssd_truth want = truth_of(c);
    for (int arch : {80, 86, 90})
        for (cu_ssd_way way : {CU_SSD_FUSED, CU_SSD_CHUNKS}) {
            cu_ctx k = context();
            if (arch <= k.arch) k.arch = arch;
            cu_ssd a = device_call(c);
            a.scratch = device_new<unsigned char>(cu_ssd_scratch(&a, CU_SSD_CHUNKS, a.t.M, a.t.B));
            good(cu_ssd_scan_fwd(&k, &a, way));
            check_scan(c, result_of(c, a), want, WAY[way]);
            free_device();
        }
    const cu_ssd a = device_call(c);
    const int archs[] = {80, 86, 90};
    for (int i = 0; i < 3; ++i) {
        cu_ctx k = context();
        k.arch = archs[i];
        ck_assert_int_eq(cu_ssd_stages(&k, &a, true), i == 0 ? 1 : i == 1 ? 0 : 2);
    }
    free_device();
}
END_TEST

START_TEST(no_tokens)
{
    const ssd_call c = make_call(CU_BF16, {0, 0}, 1, 16, 16, 1);
    for (cu_ssd_way way : WAYS) check_scan(c, run_scan(c, way), truth_of(c), "no tokens");
}
END_TEST

int main()
{
    Suite *s = suite_create("ssd_scan");
    TCase *c = tcase_create("ssd_scan");
    tcase_add_test(c, agrees_in_model_shapes);
    tcase_add_test(c, agrees_in_odd_tiles);
    tcase_add_test(c, agrees_in_any_shape);
    tcase_add_test(c, agrees_over_spans);
    tcase_add_test(c, sums_are_better_than_bf16);
    tcase_add_test(c, long_and_short_memories);
    tcase_add_test(c, lattice_is_exact);
    tcase_add_test(c, documents_stand_alone);
    tcase_add_test(c, nothing_leaks);
    tcase_add_test(c, one_bad_number);
    tcase_add_test(c, splits_of_a_sequence);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, scratch_grows);
    tcase_add_test(c, agrees_on_smaller_devices);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
