/* Attention of one token per row against plain loops in double, and against itself: how a row is cut into parts (by the
 * number of multiprocessors, by the room that most_keys leaves) and which rows stand beside it. */
#include "tests/cuda/attention_fixture.h"

/* On a device with `sms` multiprocessors, so that the number of parts is chosen by the test. */
static cu_ctx context_of(cu_path path, int sms)
{
    cu_ctx k = context(path);
    k.sms = sms;
    return k;
}

static void both_paths(const char *name, const att_case &c, std::vector<int> sms = {4, 40})
{
    const att_batch t = att_make(name, c);
    const att_truth e = att_expect(t, false);
    att_good(name, "general", e, att_run(context_of(CU_GENERAL, 4), t, true, 8));
    for (int n : sms) att_good(name, n == sms[0] ? "auto" : "parts", e, att_run(context_of(CU_AUTO, n), t, true, 8));
}

START_TEST(shapes)
{
    both_paths("golden 6/2, f32", {CU_F32, 6, 2, 8, {0, 5, 63}, {1, 1, 1}, {}});
    both_paths("golden 8/2", {CU_BF16, 8, 2, 8, {7, 64}, {1, 1}, {}});
    both_paths("odd width", {CU_F32, 3, 1, 7, {70}, {1}, {}});
    both_paths("f32, 64", {CU_F32, 2, 1, 64, {70}, {1}, {}});
    both_paths("first token", {CU_BF16, 4, 2, 64, {0}, {1}, {}});
    both_paths("rows without a token", {CU_BF16, 4, 2, 64, {3, 10, 0, 130}, {0, 1, 0, 1}, {}});
    both_paths("no token", {CU_BF16, 4, 2, 64, {3}, {0}, {}});
}
END_TEST

START_TEST(groups_of_heads)
{
    for (int G : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12})
        for (int A : {64, 128}) {
            char name[32];
            snprintf(name, sizeof name, "%d per key, %d", G, A);
            both_paths(name, {CU_BF16, 2 * G, 2, A, {G == 4 ? 200 : 20 * G}, {1}, {}});
        }
}
END_TEST

START_TEST(many_keys)
{
    both_paths("1200 keys", {CU_BF16, 4, 1, 64, {1200}, {1}, {}}, {1, 4, 40});
    both_paths("ragged rows", {CU_BF16, 6, 2, 128, {700, 0, 63, 64, 129}, {1, 1, 1, 1, 1}, {}}, {2, 40});
    att_case c = {CU_BF16, 3, 1, 64, {2300, 5}, {1, 1}, {}}; /* 36 pages: more than one group of parts */
    c.pages_more = 9;
    both_paths("several groups", c, {4, 60});
}
END_TEST

START_TEST(documents)
{
    both_paths("documents", {CU_BF16, 4, 1, 64, {300, 300, 300}, {1, 1, 1}, {{130}, {100, 256}, {300}}});
    both_paths("documents, f32", {CU_F32, 4, 2, 12, {70}, {1}, {{66}}});
}
END_TEST

START_TEST(large_scores)
{
    att_case c = {CU_BF16, 4, 1, 64, {200}, {1}, {}};
    c.q_scale = 8;
    both_paths("large scores", c);
    c.q_scale = 100, c.k_scale = 100;
    both_paths("huge scores", c);
}
END_TEST

/* More room for keys than there are, and other rows beside: the same bits. */
START_TEST(same_bits)
{
    att_case c = {CU_BF16, 4, 2, 64, {500}, {1}, {}};
    const att_batch t = att_make("bits", c);
    const std::vector<float> out = att_run(context_of(CU_AUTO, 16), t, true);
    for (int more : {70, 700, 100000}) {
        cu_attention a = {};
        a.type = CU_BF16;
        a.t = att_tokens(t);
        a.t.most_keys = 501 + more;
        a.Hq = 4, a.Hkv = 2, a.A = 64;
        a.q = to_device(CU_BF16, t.q);
        a.ldq = 4 * 64;
        a.kv = att_kv(t, att_pool(t, t.k), att_pool(t, t.v));
        a.out = device_new(CU_BF16, 4 * 64);
        cu_ctx k = context_of(CU_AUTO, 16);
        const size_t n = cu_attention_step_scratch(&k, &a, 1, a.t.most_keys);
        a.scratch = device_new<unsigned char>(n);
        good(cudaMemset(a.scratch, 0, n));
        good(cu_attention_step_fwd(&k, &a));
        ck_assert(from_device(CU_BF16, a.out, 4 * 64) == out);
        free_device();
    }
}
END_TEST

/* One visible key gives its value, 2^n equal scores the exact mean, over any number of parts. Scores of 1e4 that are
 * exact: the largest ones take all. */
START_TEST(exact)
{
    for (int A : {64, 128, 8})
        for (int sms : {1, 64}) {
            const cu_ctx k = context_of(CU_AUTO, sms);
            att_batch t = att_make("own key", {CU_BF16, 4, 2, A, {190, 64}, {1, 1}, {{190}, {64}}});
            std::vector<float> out = att_run(k, t, true);
            for (int m = 0; m < 2; ++m)
                for (int i = 0; i < 4 * A; ++i)
                    ck_assert(out[static_cast<size_t>(m * 4 * A + i)] ==
                              t.v[static_cast<size_t>(m)]
                                 [static_cast<size_t>((t.slot[static_cast<size_t>(m)] * 2 + i / A / 2) * A + i % A)]);
            t = att_make("equal scores", {CU_BF16, 4, 2, A, {255}, {1}, {}});
            for (int large = 0; large < 2; ++large) {
                double want[2][128] = {{0}};
                for (size_t i = 0; i < t.v[0].size(); ++i)
                    t.v[0][i] = static_cast<float>(static_cast<int>(i * 7 % 17) - 8);
                for (float &x : t.q) x = 64;
                for (int s = 0; s < 256; ++s) {
                    const bool top = !large || s % 16 == 3; /* scores 64·k·A^½: 1e4 and -1e4 */
                    for (int i = 0; i < 2 * A; ++i) {
                        t.k[0][static_cast<size_t>(s * 2 * A + i)] = top ? 16 : -16;
                        if (top) want[i / A][i % A] += static_cast<double>(t.v[0][static_cast<size_t>(s * 2 * A + i)]);
                    }
                }
                out = att_run(k, t, true);
                for (int i = 0; i < 4 * A; ++i) {
                    const double mean = want[i / A / 2][i % A] / (large ? 16 : 256);
                    ck_assert(out[static_cast<size_t>(i)] ==
                              __bfloat162float(__float2bfloat16_rn(static_cast<float>(mean))));
                }
            }
        }
}
END_TEST

/* NaN of another document keeps every bit; NaN and infinity that are seen come out as in truth. */
START_TEST(not_finite)
{
    const att_case c = {CU_BF16, 4, 1, 64, {300}, {1}, {{130}}};
    const att_batch t = att_make("nan", c);
    for (int sms : {1, 40}) {
        const cu_ctx k = context_of(CU_AUTO, sms);
        const std::vector<float> before = att_run(k, t, true);
        att_batch bad = t;
        for (int i = 0; i < 130 * 64; ++i) bad.k[0][static_cast<size_t>(i)] = bad.v[0][static_cast<size_t>(i)] = NAN;
        ck_assert(att_run(k, bad, true) == before);
        for (float x : {NAN, INFINITY, -INFINITY}) {
            bad = t;
            bad.v[0][200 * 64 + 9] = x;
            att_good("value", "auto", att_expect(bad, false), att_run(k, bad, true));
        }
        bad = t;
        for (float &x : bad.q) x = fabsf(x) + 0.5f;
        for (int i = 130 * 64; i < 256 * 64; ++i) bad.k[0][static_cast<size_t>(i)] = -INFINITY; /* the first parts */
        att_good("scores of -inf", "auto", att_expect(bad, false), att_run(k, bad, true));
        bad.k[0][299 * 64 + 3] = NAN;
        att_good("key of NaN", "auto", att_expect(bad, false), att_run(k, bad, true));
    }
}
END_TEST

START_TEST(wrong_variants_are_seen)
{
    const att_batch t = att_make("variants", {CU_BF16, 4, 2, 64, {80}, {1}, {}});
    const std::vector<float> out = att_run(context(), t, true);
    ck_assert(att_margin(att_expect(t, false), out) <= 1);
    att_batch w = t;
    for (int &x : w.slot) --x;
    ck_assert(att_margin(att_expect(w, false), out) > 1);
    w = t;
    for (int &x : w.first) x = 1;
    ck_assert(att_margin(att_expect(w, false), out) > 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("attention_step");
    TCase *t = tcase_create("attention_step");
    tcase_add_test(t, shapes);
    tcase_add_test(t, groups_of_heads);
    tcase_add_test(t, many_keys);
    tcase_add_test(t, documents);
    tcase_add_test(t, large_scores);
    tcase_add_test(t, same_bits);
    tcase_add_test(t, exact);
    tcase_add_test(t, not_finite);
    tcase_add_test(t, wrong_variants_are_seen);
    suite_add_tcase(s, t);
    return run_suite(s);
}
