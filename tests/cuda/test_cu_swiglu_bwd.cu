/* The gate of the MLP backwards, and the two branches of a residual sum. */
#include "cuda/backward.cuh"
#include "tests/cuda/backward_fixture.h"

struct inputs {
    floats gate, up, dact;
};

/* In place, or into rows of their own that are as long. */
static std::vector<floats> run(int M, int F, int ld, float m_gate, const inputs &v, bool in_place)
{
    cu_ctx k = context();
    cu_swiglu_bwd_args a = {};
    float *gate = to_device(v.gate), *up = to_device(v.up);
    a.M = M, a.F = F;
    a.gate = gate, a.up = up, a.ld = a.ldd = ld;
    a.m_gate = m_gate;
    a.dact = to_device(v.dact);
    a.dgate = in_place ? gate : device_new<float>(v.gate.size());
    a.dup = in_place ? up : device_new<float>(v.up.size());
    good(cu_swiglu_bwd(&k, &a));
    std::vector<floats> out = {from_device(a.dgate, v.gate.size()), from_device(a.dup, v.up.size())};
    free_device();
    return out;
}

/* The sigmoid is good to 4u relative beyond the error of its argument, which is u·|g|; so are 1 - sigmoid and the
 * products around them. */
static void check(int M, int F, int pad, float m_gate, bool in_place)
{
    const int ld = F + pad;
    const int64_t n = static_cast<int64_t>(M) * ld;
    const inputs v = {some("gate", n, 3), some("up", n), some("dact", static_cast<int64_t>(M) * F)};
    std::vector<floats> out;
    twice([&] { return run(M, F, ld, m_gate, v, in_place); }, &out);
    verdict dg = {}, du = {};
    for (int m = 0; m < M; ++m)
        for (int i = 0; i < F; ++i) {
            const int64_t at = static_cast<int64_t>(m) * ld + i;
            const double g = static_cast<double>(v.gate[at]) * m_gate, d = v.dact[static_cast<int64_t>(m) * F + i];
            const double s = 1 / (1 + exp(-g)), rest = 1 / (1 + exp(g)), off = 10 * U + U * fabs(g);
            const double want = d * v.up[at] * s * (1 + g * rest) * m_gate;
            const double wide = fabs(d * v.up[at] * s * m_gate) * (1 + fabs(g * rest));
            judge(&dg, "dgate", at, out[0][at], want, off * wide, want / m_gate);
            judge(&du, "dup", at, out[1][at], d * g * s, off * fabs(d * g * s), d * s);
        }
    can_fail(dg, "a multiplier that the gradient does not see");
    can_fail(du, "a sigmoid for a silu");
}

START_TEST(shapes)
{
    static const int shape[][3] = {{1, 1, 0}, {3, 7, 2}, {20, 300, 0}, {2, 513, 3}, {40, 32, 0}};
    for (const int *s : shape) {
        check(s[0], s[1], s[2], 0.6f, false);
        check(s[0], s[1], s[2], 1.7f, true);
    }
}
END_TEST

/* Far out the gate is the identity or nothing; nothing overflows, and a NaN is one. */
START_TEST(special_values)
{
    const inputs v = {{200, -200, -3e38f, NAN, 1}, {2, 2, 2, 2, NAN}, {1, 1, 1, 1, 1}};
    const std::vector<floats> out = run(1, 5, 5, 1, v, false);
    ck_assert(out[0][0] == 2 && out[1][0] == 200);
    ck_assert(fabsf(out[0][1]) < 1e-30f && fabsf(out[1][1]) < 1e-30f);
    ck_assert(out[0][2] == 0 && out[1][2] == 0);
    ck_assert(std::isnan(out[0][3]) && std::isnan(out[1][3]));
    ck_assert(std::isnan(out[0][4]) && std::isfinite(out[1][4]));
    ck_assert(run(0, 5, 5, 1, {}, false)[0].empty());
}
END_TEST

/* One product, rounded once. */
START_TEST(residual)
{
    const floats dx = some("dx", 777);
    cu_ctx k = context();
    cu_residual_bwd_args a = {};
    a.n = 777;
    a.dx = to_device(dx);
    a.m_a = 0.7f, a.m_b = -1.3f;
    a.da = device_new<float>(777), a.db = device_new<float>(777);
    good(cu_residual_bwd(&k, &a));
    const floats da = from_device(a.da, 777), db = from_device(a.db, 777);
    for (int i = 0; i < 777; ++i) ck_assert(da[i] == dx[i] * 0.7f && db[i] == dx[i] * -1.3f && da[i] != db[i]);
    a.n = 0;
    good(cu_residual_bwd(&k, &a));
    free_device();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, special_values, residual};
    return run_tests("swiglu_bwd", tests, 3);
}
