/* Attention of many tokens against plain loops in double: every path that a shape can take, on shuffled pages whose
 * empty slots hold NaN. Then what must hold bit for bit: exact inputs, and that a token does not see later tokens or
 * other documents, NaN included. */
#include "tests/cuda/attention_fixture.h"

/* The paths of one case: general, the tensor cores of sm_80, and those of sm_90 where there are such. */
struct path {
    const char *name;
    cu_path path;
    int arch;
};
static const path PATHS[] = {{"general", CU_GENERAL, 80}, {"mma", CU_AUTO, 80}, {"wgmma", CU_AUTO, 90}};

static cu_ctx context_of(const path &p)
{
    cu_ctx k = context(p.path);
    if (k.arch > p.arch) k.arch = p.arch;
    return k;
}

static bool in_bf16(const att_case &c, const path &p)
{
    return c.type == CU_BF16 && p.path == CU_AUTO;
}

static void all_paths(const char *name, const att_case &c)
{
    const att_batch t = att_make(name, c);
    for (const path &p : PATHS)
        att_good(name, p.name, att_expect(t, in_bf16(c, p)), att_run(context_of(p), t, false, 2 * c.A));
}

START_TEST(shapes)
{
    all_paths("one token", {CU_F32, 1, 1, 8, {0}, {1}, {}});
    all_paths("golden 6/2, f32", {CU_F32, 6, 2, 8, {0, 5, 63, 0}, {7, 1, 3, 0}, {}});
    all_paths("golden 8/2", {CU_BF16, 8, 2, 8, {0, 5}, {9, 2}, {}});
    all_paths("odd width", {CU_F32, 2, 1, 7, {3, 0}, {2, 5}, {}});
    all_paths("odd width, bf16", {CU_BF16, 2, 2, 5, {60}, {9}, {}});
    all_paths("wide head", {CU_F32, 1, 1, 1040, {0}, {3}, {}});
}
END_TEST

START_TEST(model_shapes)
{
    all_paths("4 per key, 64", {CU_BF16, 4, 1, 64, {0, 0, 40, 0}, {70, 1, 30, 0}, {}});
    all_paths("3 per key, 128", {CU_BF16, 6, 2, 128, {60, 128}, {9, 1}, {}});
    all_paths("1 per key, 64", {CU_BF16, 2, 2, 64, {0}, {66}, {}});
    all_paths("5 per key, 64", {CU_BF16, 5, 1, 64, {190, 0}, {15, 3}, {}});
    all_paths("6 per key, 128", {CU_BF16, 6, 1, 128, {64}, {12}, {}});
    all_paths("long past", {CU_BF16, 4, 1, 64, {700, 3}, {5, 2}, {}});
    all_paths("width 32", {CU_BF16, 2, 1, 32, {10}, {40}, {}});
    all_paths("width 96", {CU_BF16, 3, 1, 96, {100}, {25}, {}});
}
END_TEST

START_TEST(documents)
{
    all_paths("documents", {CU_BF16, 3, 1, 64, {0, 100}, {90, 30}, {{1, 7, 64, 80}, {64, 110, 111}}});
    all_paths("documents, f32", {CU_F32, 4, 2, 12, {70}, {30}, {{64, 75, 76}}});
    all_paths("document far behind", {CU_BF16, 4, 1, 64, {300}, {20}, {{200, 310}}});
}
END_TEST

/* Scores far apart and far from 0: only differences count, and nothing overflows. */
START_TEST(large_scores)
{
    att_case c = {CU_BF16, 4, 1, 64, {30}, {60}, {}};
    c.q_scale = 8;
    all_paths("large scores", c);
    c.q_scale = 100, c.k_scale = 100; /* about +-1e4 each: one key takes all */
    all_paths("huge scores", c);
    c.type = CU_F32;
    all_paths("huge scores, f32", c);
}
END_TEST

static void same(const char *what, const std::vector<float> &a, const std::vector<float> &b, size_t from, size_t to)
{
    for (size_t i = from; i < to; ++i)
        ck_assert_msg(memcmp(&a[i], &b[i], sizeof a[i]) == 0, "%s: element %zu is %a, was %a", what, i,
                      static_cast<double>(b[i]), static_cast<double>(a[i]));
}

/* One visible key: its value. Equal scores over 2^n keys whose values are small integers: the exact mean. */
START_TEST(exact)
{
    for (const path &p : PATHS)
        for (int A : {64, 128, 8}) {
            att_case c = {CU_BF16, 4, 2, A, {0}, {128}, {{}}};
            for (int d = 0; d < 128; ++d) c.document[0].push_back(d);
            att_batch t = att_make("own key", c);
            std::vector<float> out = att_run(context_of(p), t, false);
            for (int m = 0; m < t.M; ++m)
                for (int i = 0; i < 4 * A; ++i)
                    ck_assert(out[static_cast<size_t>(m * 4 * A + i)] ==
                              t.v[0][static_cast<size_t>((m * 2 + i / A / 2) * A + i % A)]);
            c.document.clear();
            t = att_make("equal scores", c);
            for (float &x : t.k[0]) x = 1000;
            for (size_t i = 0; i < t.v[0].size(); ++i) t.v[0][i] = static_cast<float>(static_cast<int>(i * 7 % 17) - 8);
            out = att_run(context_of(p), t, false);
            for (int n = 1; n <= 128; n *= 2)
                for (int i = 0; i < 4 * A; ++i) {
                    double mean = 0;
                    for (int s = 0; s < n; ++s) mean += t.v[0][static_cast<size_t>((s * 2 + i / A / 2) * A + i % A)];
                    const float want = __bfloat162float(__float2bfloat16_rn(static_cast<float>(mean / n)));
                    ck_assert(out[static_cast<size_t>((n - 1) * 4 * A + i)] == want);
                }
        }
}
END_TEST

/* Scores of 1e4 and -1e4 that are exact (q has one element, a power of 2): the largest ones take all, equally. */
START_TEST(exact_large_scores)
{
    for (const path &p : PATHS) {
        att_batch t = att_make("exact large", {CU_BF16, 4, 1, 64, {16}, {80}, {}});
        for (size_t i = 0; i < t.q.size(); ++i) t.q[i] = i % 64 == 5 ? 1024 : 0;
        for (int s = 0; s < 96; ++s) t.k[0][static_cast<size_t>(s * 64 + 5)] = s % 4 == 1 ? 80 : -80;
        for (size_t i = 0; i < t.v[0].size(); ++i) t.v[0][i] = static_cast<float>(static_cast<int>(i * 7 % 17) - 8);
        const std::vector<float> out = att_run(context_of(p), t, false);
        for (int m : {16, 48}) /* slots 32 and 64: 8 and 16 of the largest */
            for (int i = 0; i < 4 * 64; ++i) {
                double sum = 0;
                for (int s = 1; s < 16 + m; s += 4)
                    sum += static_cast<double>(t.v[0][static_cast<size_t>(s * 64 + i % 64)]);
                const float want = static_cast<float>(sum / ((16 + m) / 4));
                ck_assert(out[static_cast<size_t>(m * 4 * 64 + i)] == __bfloat162float(__float2bfloat16_rn(want)));
            }
    }
}
END_TEST

/* A token that turns to NaN or infinity, key and value: tokens before it and other documents keep every bit, the tokens
 * that see it become NaN where its key is NaN, and are what truth says where only its value is. */
START_TEST(unseen_tokens)
{
    const att_case c = {CU_BF16, 6, 2, 64, {40}, {60}, {{30, 90}}};
    const size_t width = 6 * 64;
    const float poison[] = {NAN, INFINITY, -INFINITY};
    for (const path &p : PATHS)
        for (int slot : {29, 35, 50, 64, 89, 99}) {
            const att_batch t = att_make("unseen", c);
            const std::vector<float> before = att_run(context_of(p), t, false);
            for (float x : poison) {
                att_batch bad = t;
                for (int h = 0; h < 2; ++h) bad.v[0][static_cast<size_t>((slot * 2 + h) * 64 + 7)] = x;
                att_truth e = att_expect(bad, in_bf16(c, p));
                std::vector<float> after = att_run(context_of(p), bad, false);
                ck_assert_msg(att_margin(e, after) <= 1, "%s: slot %d, value %g: margin %g", p.name, slot,
                              static_cast<double>(x), att_margin(e, after));
                for (int kind = 0; kind < 2; ++kind) {
                    for (size_t m = 0; m < static_cast<size_t>(t.M); ++m)
                        if (slot > t.slot[m] || slot < t.first[m])
                            same("not seen", before, after, m * width, (m + 1) * width);
                        else if (kind == 1)
                            for (size_t i = m * width; i < (m + 1) * width; ++i) ck_assert(std::isnan(after[i]));
                    for (int i = 0; i < 2 * 64; ++i) bad.k[0][static_cast<size_t>(slot * 2 * 64 + i)] = NAN;
                    if (kind == 0) after = att_run(context_of(p), bad, false);
                }
            }
        }
}
END_TEST

/* A query of NaN, and scores of -inf among others and alone (the queries are non-negative, so that k = -inf gives it).
 */
START_TEST(not_finite)
{
    const att_case c = {CU_BF16, 4, 1, 64, {10}, {70}, {{64}}};
    for (const path &p : PATHS) {
        att_batch t = att_make("not finite", c);
        for (float &x : t.q) x = fabsf(x) + 0.5f;
        for (int i = 0; i < 4 * 64; ++i) t.q[static_cast<size_t>(20 * 4 * 64 + i)] = NAN;
        for (int s : {0, 1, 2, 15, 64, 65, 70}) /* 64 is alone for the token there, which becomes NaN */
            for (int i = 0; i < 64; ++i) t.k[0][static_cast<size_t>(s * 64 + i)] = -INFINITY;
        const att_truth e = att_expect(t, true);
        ck_assert(std::isnan(e.out[20 * 4 * 64]) && std::isnan(e.out[54 * 4 * 64]) && !std::isnan(e.out[56 * 4 * 64]));
        att_good("not finite", p.name, e, att_run(context_of(p), t, false));
    }
}
END_TEST

/* The bound rejects: a key too few, a key too many, the wrong key head, no scale. */
START_TEST(wrong_variants_are_seen)
{
    const att_case c = {CU_BF16, 4, 2, 64, {20}, {40}, {}};
    const att_batch t = att_make("variants", c);
    const std::vector<float> out = att_run(context(), t, false);
    ck_assert(att_margin(att_expect(t, true), out) <= 1);
    att_batch w = t;
    for (int &x : w.slot) --x;
    ck_assert(att_margin(att_expect(w, true), out) > 1);
    w = t;
    for (int &x : w.first) x = 1;
    ck_assert(att_margin(att_expect(w, true), out) > 1);
    w = t;
    for (size_t i = 0; i < w.v[0].size(); ++i) w.v[0][i] = t.v[0][i ^ 64];
    ck_assert(att_margin(att_expect(w, true), out) > 1);
    w = t;
    for (float &x : w.q) x *= 2;
    ck_assert(att_margin(att_expect(w, true), out) > 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("attention");
    TCase *t = tcase_create("attention");
    tcase_add_test(t, shapes);
    tcase_add_test(t, model_shapes);
    tcase_add_test(t, documents);
    tcase_add_test(t, large_scores);
    tcase_add_test(t, exact);
    tcase_add_test(t, exact_large_scores);
    tcase_add_test(t, unseen_tokens);
    tcase_add_test(t, not_finite);
    tcase_add_test(t, wrong_variants_are_seen);
    suite_add_tcase(s, t);
    return run_suite(s);
}
