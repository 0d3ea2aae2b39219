/* The norm backwards: dx assigned or added, dw added, rows of any width and number. */
#include "cuda/backward.cuh"
#include "tests/cuda/backward_fixture.h"

struct inputs {
    floats x, w, dy, dx, dw;
};

static inputs drawn(int M, int D)
{
    const int64_t n = static_cast<int64_t>(M) * D;
    return {some("x", n, 2), some("w", D, 0.2, 1), some("dy", n), some("dx", n), some("dw", D)};
}

static std::vector<floats> run(int M, int D, const inputs &v, float eps, bool add)
{
    cu_ctx k = context();
    cu_rmsnorm_bwd_args a = {};
    a.M = M, a.D = D;
    a.x = to_device(v.x), a.w = to_device(v.w), a.dy = to_device(v.dy);
    a.eps = eps, a.add = add;
    a.dx = to_device(v.dx), a.dw = to_device(v.dw);
    a.scratch = device_new<float>(cu_rmsnorm_bwd_scratch(&a) / sizeof(float));
    good(cu_rmsnorm_bwd(&k, &a));
    std::vector<floats> out = {from_device(a.dx, v.dx.size()), from_device(a.dw, v.dw.size())};
    free_device();
    return out;
}

/* r is off by (D/2 + 4)·u relative (a sum of D squares under a root, a quotient), the mean of products by (D + 3)·u of
 * their absolute sum; r² and r again and four more products follow. The wrong answer has no second term. */
static void check(int M, int D, float eps, bool add)
{
    const inputs v = drawn(M, D);
    std::vector<floats> out;
    twice([&] { return run(M, D, v, eps, add); }, &out);
    verdict x = {}, w = {};
    std::vector<sum_of_terms> dw(D);
    std::vector<double> unscaled(v.dw.begin(), v.dw.end());
    const double off_r = (0.5 * D + 5) * U;
    for (int m = 0; m < M; ++m) {
        const size_t at = static_cast<size_t>(m) * D;
        double squares = 0;
        sum_of_terms s = {};
        for (int i = 0; i < D; ++i) {
            squares += static_cast<double>(v.x[at + i]) * v.x[at + i];
            s.add(static_cast<double>(v.x[at + i]) * v.w[i] * v.dy[at + i]);
        }
        const double r = 1 / sqrt(squares / D + eps), mean = r * r * s.value / D, size = r * r * s.size / D;
        for (int i = 0; i < D; ++i) {
            const double g = static_cast<double>(v.w[i]) * v.dy[at + i], before = add ? v.dx[at + i] : 0;
            const double want = r * (g - v.x[at + i] * mean), wide = r * (fabs(g) + fabs(v.x[at + i]) * size);
            const double off = (3 * off_r + (D + 8) * U) * wide + U * fabs(before);
            judge(&x, "dx", static_cast<int64_t>(at) + i, out[0][at + i], want + before, off, r * g + before);
            dw[i].add(v.dy[at + i] * (v.x[at + i] * r));
            unscaled[i] += static_cast<double>(v.dy[at + i]) * v.x[at + i];
        }
    }
    for (int i = 0; i < D; ++i)
        judge(&w, "dw", i, out[1][i], dw[i].value + v.dw[i], dw[i].off(3) + off_r * dw[i].size + U * fabs(v.dw[i]),
              unscaled[i]);
    if (D > 1 && D < 2000) can_fail(x, "a norm that passes its gradient straight through");
    can_fail(w, "a weight's gradient by the input that is not normalised");
}

START_TEST(shapes)
{
    static const int shape[][2] = {{1, 1}, {1, 8}, {3, 7}, {37, 24}, {2, 260}, {5, 1031}, {9, 33}, {1, 3000}};
    for (const int *s : shape) {
        check(s[0], s[1], 1e-5f, false);
        check(s[0], s[1], 0.5f, true);
    }
}
END_TEST

/* A NaN makes its row of dx and its column of dw; no tokens leave dw alone. */
START_TEST(special_values)
{
    inputs v = drawn(3, 40);
    v.dy[40 + 7] = NAN;
    const std::vector<floats> out = run(3, 40, v, 1e-5f, false);
    for (int m = 0; m < 3; ++m)
        for (int i = 0; i < 40; ++i) ck_assert_int_eq(std::isnan(out[0][m * 40 + i]), m == 1);
    for (int i = 0; i < 40; ++i) ck_assert_int_eq(std::isnan(out[1][i]), i == 7);
    const inputs none = drawn(0, 40);
    ck_assert(run(0, 40, none, 1e-5f, false)[1] == none.dw);
}
END_TEST

/* Rows that are longer than the norm, without a weight: what they give on their own with a weight of 1, to the bit. */
START_TEST(columns_without_a_weight)
{
    enum { M = 5, D = 12, LDX = 20, LDDY = 15, LDDX = 17 };
    inputs v = drawn(M, D);
    v.w.assign(D, 1.f);
    const std::vector<floats> want = run(M, D, v, 1e-6f, false);
    floats x(M * LDX, 3.f), dy(M * LDDY, 3.f);
    for (int m = 0; m < M; ++m)
        for (int i = 0; i < D; ++i) x[m * LDX + i] = v.x[m * D + i], dy[m * LDDY + i] = v.dy[m * D + i];
    cu_ctx k = context();
    cu_rmsnorm_bwd_args a = {};
    a.M = M, a.D = D, a.eps = 1e-6f;
    a.x = to_device(x), a.dy = to_device(dy), a.dx = to_device(floats(M * LDDX, 3.f)), a.dw = to_device(v.dw);
    a.ldx = LDX, a.lddy = LDDY, a.lddx = LDDX;
    a.scratch = device_new<float>(cu_rmsnorm_bwd_scratch(&a) / sizeof(float));
    good(cu_rmsnorm_bwd(&k, &a));
    const floats dx = from_device(a.dx, M * LDDX), dw = from_device(a.dw, D);
    free_device();
    ck_assert(dw == want[1]);
    for (int m = 0; m < M; ++m)
        for (int i = 0; i < LDDX; ++i) ck_assert(dx[m * LDDX + i] == (i < D ? want[0][m * D + i] : 3.f));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, special_values, columns_without_a_weight};
    return run_tests("rmsnorm_bwd", tests, 3);
}
