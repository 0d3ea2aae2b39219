/* The Hopper kernel of attention against the mma kernel, its oracle, and both against truth: rings of pages that wrap
 * around, tiles of one page and of many, tiles whose second half is empty, values that are not finite in the first, a
 * middle and the last page. On a device that is no Hopper there is nothing to compare. */
#include "cuda/attention_impl.h"
#include "tests/cuda/attention_fixture.h"

static std::vector<float> run_for(int arch, const att_batch &t)
{
    cu_ctx k = context();
    if (k.arch > arch) k.arch = arch;
    return att_run(k, t, false, 8);
}

/* Both round at the same places, so they differ by what sums in another order differ: less than each may be off. */
static void alike(const char *name, const att_batch &t)
{
    const att_truth e = att_expect(t, true);
    const std::vector<float> mma = run_for(80, t), wgmma = run_for(90, t);
    att_good(name, "mma", e, mma);
    att_good(name, "wgmma", e, wgmma);
    size_t same = 0;
    for (size_t i = 0; i < mma.size(); ++i) {
        const double d = fabs(static_cast<double>(mma[i]) - static_cast<double>(wgmma[i]));
        same += memcmp(&mma[i], &wgmma[i], sizeof mma[i]) == 0;
        if (std::isfinite(e.out[i])) ck_assert(d <= e.allowed[i]);
    }
    printf("%-28s %zu of %zu elements have the same bits\n", name, same, mma.size());
    ck_assert(same >= mma.size() - mma.size() / 8);
}

START_TEST(it_is_chosen)
{
    cu_attention a = {};
    a.type = CU_BF16;
    a.t.B = 1;
    a.Hq = 4, a.Hkv = 1, a.A = 64, a.ldq = 256;
    a.kv.n_pages = 10, a.kv.Hkv = 1;
    cu_ctx k = context();
    k.arch = 90;
    ck_assert(attention_wgmma_takes(&k, a));
    a.A = 128;
    ck_assert(attention_wgmma_takes(&k, a));
    a.A = 96;
    ck_assert(!attention_wgmma_takes(&k, a) && attention_mma_takes(a));
    a.A = 64;
    k.arch = 80;
    ck_assert(!attention_wgmma_takes(&k, a));
    k.arch = 100; /* wgmma is of 9.0 alone */
    ck_assert(!attention_wgmma_takes(&k, a));
    k.arch = 90;
    a.kv.n_pages = 1ll << 26; /* rows of the tensor map are 32-bit numbers */
    ck_assert(!attention_wgmma_takes(&k, a));
    a.kv.n_pages = 10, a.type = CU_F32;
    ck_assert(!attention_wgmma_takes(&k, a) && !attention_mma_takes(a));
}
END_TEST

START_TEST(rings)
{
    alike("one page", att_make("one page", {CU_BF16, 4, 1, 64, {0}, {20}, {}}));
    alike("two pages", att_make("two pages", {CU_BF16, 1, 1, 64, {0}, {128}, {}}));
    alike("three pages, 128", att_make("three pages", {CU_BF16, 3, 1, 128, {130}, {44}, {}}));
    alike("seven pages", att_make("seven pages", {CU_BF16, 4, 2, 64, {400, 190}, {33, 1}, {}}));
    alike("eleven pages, 128", att_make("eleven pages", {CU_BF16, 2, 1, 128, {640}, {3}, {}}));
    alike("several tiles", att_make("several tiles", {CU_BF16, 6, 1, 64, {50, 0}, {70, 22}, {}}));
    alike("documents", att_make("documents", {CU_BF16, 5, 1, 64, {200}, {60}, {{70, 192, 230, 256}}}));
}
END_TEST

START_TEST(not_finite)
{
    for (int A : {64, 128}) {
        att_batch t = att_make("odd values", {CU_BF16, 4, 1, A, {100}, {130}, {{10}}});
        for (int slot : {3, 12, 70, 101, 140, 191, 192, 229})
            for (int i = 0; i < 3; ++i)
                t.v[0][static_cast<size_t>(slot * A + (slot * 5 + i) % A)] = i == 0   ? NAN
                                                                             : i == 1 ? INFINITY
                                                                                      : -INFINITY;
        alike("odd values", t);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("attention_wgmma");
    TCase *t = tcase_create("attention_wgmma");
    tcase_add_test(t, it_is_chosen);
    tcase_add_test(t, rings);
    tcase_add_test(t, not_finite);
    suite_add_tcase(s, t);
    return run_suite(s);
}
