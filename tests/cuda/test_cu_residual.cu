/* x + a·m_a + b·m_b in f32 and one rounding, in place. */
#include "cuda/residual.cuh"
#include "tests/cuda/small_fixture.h"

/* Two products and two sums in f32, whatever is fused: each result is off by at most u of what it may be, so all of it
 * by 4u·(|x| + |a m_a| + |b m_b|) to first order; 5 covers the second. */
static void run(const way &w, int64_t n, bool two, int shift)
{
    const float m_a = 0.37f, m_b = -1.9f;
    const size_t all = static_cast<size_t>(n + shift);
    const std::vector<float> x = as_stored(w.stream(), draw("x", all, 3)), a = as_stored(w.type, draw("a", all)),
                             b = as_stored(w.type, draw("b", all));
    cu_ctx k = context(w.path);
    cu_residual r = {};
    const size_t off = static_cast<size_t>(shift) * cu_size(w.type);
    char *base = static_cast<char *>(to_device(w.stream(), x));
    r.type = w.type;
    r.wide = w.wide;
    r.n = n;
    r.a = static_cast<char *>(to_device(w.type, a)) + off;
    r.b = two ? static_cast<char *>(to_device(w.type, b)) + off : nullptr;
    r.m_a = m_a;
    r.m_b = m_b;
    r.x = base + static_cast<size_t>(shift) * cu_size(w.stream());
    good(cu_residual_fwd(&k, &r));
    const std::vector<float> y = from_device(w.stream(), base, all);
    for (int i = 0; i < shift; ++i) ck_assert(y[i] == x[i]);
    int64_t seen = 0;
    for (size_t i = static_cast<size_t>(shift); i < all; ++i) {
        const double p = static_cast<double>(a[i]) * m_a, q = two ? static_cast<double>(b[i]) * m_b : 0;
        const double before = 5 * U * (fabs(x[i]) + fabs(p) + fabs(q));
        ck_assert_msg(close_to(w.stream(), y[i], x[i] + p + q, before), "n %lld, %zu: %g, not %g",
                      static_cast<long long>(n), i, y[i], x[i] + p + q);
        seen += !close_to(w.stream(), y[i], x[i] + p - q, before) || !two; /* the sign of a branch shows */
    }
    ck_assert(seen * 10 >= n * 8);
    free_device();
}

START_TEST(sums)
{
    static const int64_t sizes[] = {1, 7, 8, 33, 255, 256, 1031, 16384, 70000};
    for (int i = 0; i < N_STREAM_WAYS; ++i)
        for (const int64_t n : sizes)
            for (int two = 0; two < 2; ++two)
                for (int shift = 0; shift < 2; ++shift) run(stream_ways[i], n, two != 0, shift);
}
END_TEST

/* 1 + 2^-8 + 2^-9 in one rounding is 1 + 2^-7; with the first sum rounded to bf16 it would be 1. */
START_TEST(one_rounding)
{
    for (int path = 0; path < 2; ++path) {
        cu_ctx k = context(static_cast<cu_path>(path));
        cu_residual r = {};
        r.type = CU_BF16;
        r.n = 8;
        r.a = to_device(CU_BF16, std::vector<float>(8, 0x1p-8f));
        r.b = to_device(CU_BF16, std::vector<float>(8, 0x1p-9f));
        r.m_a = r.m_b = 1;
        r.x = to_device(CU_BF16, std::vector<float>(8, 1.f));
        good(cu_residual_fwd(&k, &r));
        for (float v : from_device(CU_BF16, r.x, 8)) ck_assert_msg(v == 1.f + 0x1p-7f, "%.9g", v);
        r.n = 0;
        good(cu_residual_fwd(&k, &r));
        free_device();
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {sums, one_rounding};
    return run_tests("residual", tests, 2);
}
