/* silu(gate·m)·up against doubles, over all magnitudes at which silu has a value. */
#include "cuda/swiglu.cuh"
#include "tests/cuda/small_fixture.h"

static double silu_exactly(double v)
{
    return v / (1 + exp(-v));
}

/* v = gate·m is off by u|v|; silu moves by at most |v σ'| + σ <= 1.1, and relatively by at most (1 + |v|) per relative
 * change of v. Then exp (2 ulp on the device), a sum, a product, a quotient, and the product with up: 8u relative. What
 * is below the normal numbers may be off by their spacing, times |v·up|. */
static double allowed(double v, double up)
{
    const double s = silu_exactly(v);
    return ((1 + fabs(v)) * U + 8 * U) * fabs(s * up) + 0x1p-149 * (4 + fabs(v)) * (1 + fabs(up));
}

static void run(const way &w, int M, int F, int64_t ld, const std::vector<float> &gate, const std::vector<float> &up,
                float m_gate)
{
    cu_ctx k = context(w.path);
    cu_swiglu a = {};
    a.type = w.type;
    a.M = M;
    a.F = F;
    a.gate = to_device(w.type, gate);
    a.up = to_device(w.type, up);
    a.ld = ld;
    a.m_gate = m_gate;
    a.act = device_new(w.type, static_cast<size_t>(M) * F);
    good(cu_swiglu_fwd(&k, &a));
    const std::vector<float> y = from_device(w.type, a.act, static_cast<size_t>(M) * F);
    int lost = 0;
    for (int m = 0; m < M; ++m)
        for (int f = 0; f < F; ++f) {
            const size_t at = static_cast<size_t>(m * ld + f);
            const double v = static_cast<double>(gate[at]) * m_gate, want = silu_exactly(v) * up[at];
            const float got = y[static_cast<size_t>(m) * F + f];
            ck_assert_msg(close_to(w.type, got, want, allowed(v, up[at])),
                          "M %d F %d [%d, %d]: silu(%g)·%g is %g, not %g", M, F, m, f, v, up[at], got, want);
            lost += !close_to(w.type, got, silu_exactly(v / m_gate) * up[at], allowed(v, up[at]));
        }
    ck_assert(m_gate == 1 || 2 * lost >= M * F); /* a gate without its multiplier would be seen */
    free_device();
}

START_TEST(shapes)
{
    static const int shape[][3] = {{1, 8, 8},       {1, 1, 1},       {3, 7, 7},   {5, 96, 192},
                                   {2, 1031, 2062}, {4, 2560, 5120}, {37, 24, 48}};
    for (int i = 0; i < N_WAYS; ++i)
        for (const int *s : shape) {
            const size_t n = static_cast<size_t>(s[0]) * s[2];
            run(ways[i], s[0], s[1], s[2], as_stored(ways[i].type, draw("gate", n, 3)),
                as_stored(ways[i].type, draw("up", n)), 0.4f);
        }
}
END_TEST

/* gate and up of one product, [gate | up] in a row of 2 F: the second view starts at F, aligned or not. */
START_TEST(one_matrix)
{
    for (int i = 0; i < N_WAYS; ++i)
        for (int F = 24; F < 27; ++F) {
            const int M = 3;
            const std::vector<float> both = as_stored(ways[i].type, draw("both", static_cast<size_t>(2 * M * F), 2));
            cu_ctx k = context(ways[i].path);
            cu_swiglu a = {};
            a.type = ways[i].type;
            a.M = M;
            a.F = F;
            a.gate = to_device(a.type, both);
            a.up = static_cast<const char *>(a.gate) + static_cast<size_t>(F) * cu_size(a.type);
            a.ld = 2 * F;
            a.m_gate = 1.5f;
            a.act = device_new(a.type, static_cast<size_t>(M * F));
            good(cu_swiglu_fwd(&k, &a));
            const std::vector<float> y = from_device(a.type, a.act, static_cast<size_t>(M * F));
            for (int j = 0; j < M * F; ++j) {
                const size_t at = static_cast<size_t>(j / F * 2 * F + j % F);
                const double v = static_cast<double>(both[at]) * 1.5, up = both[at + F];
                ck_assert(close_to(a.type, y[j], silu_exactly(v) * up, allowed(v, up)));
            }
            free_device();
        }
}
END_TEST

START_TEST(all_magnitudes)
{
    std::vector<float> gate, up;
    for (int e = -140; e <= 12; ++e)
        for (int s = -1; s <= 1; s += 2) gate.push_back(static_cast<float>(ldexp(s * 1.25, e)));
    for (float v = -130; v < 130; v += 0.5f) gate.push_back(v);
    gate.push_back(0.f);
    gate.push_back(-0.f);
    for (size_t i = 0; i < gate.size(); ++i) up.push_back(i % 2 ? 0.75f : -3.f);
    const int F = static_cast<int>(gate.size());
    for (int i = 0; i < N_WAYS; ++i)
        run(ways[i], 1, F, F, as_stored(ways[i].type, gate), as_stored(ways[i].type, up), 1.f);
}
END_TEST

/* NaN and infinities as v / (1 + exp(-v)) has them; -1024 is -0. */
START_TEST(special_values)
{
    const float inf = INFINITY;
    const std::vector<float> gate = {NAN, 1, inf, -inf, -1024, 64, 0, inf}, up = {1, NAN, 2, 1, 1, 1, inf, 0};
    for (int i = 0; i < N_WAYS; ++i) {
        cu_ctx k = context(ways[i].path);
        cu_swiglu a = {};
        a.type = ways[i].type;
        a.M = 1;
        a.F = 8;
        a.ld = 8;
        a.gate = to_device(a.type, gate);
        a.up = to_device(a.type, up);
        a.m_gate = 1;
        a.act = device_new(a.type, 8);
        good(cu_swiglu_fwd(&k, &a));
        const std::vector<float> y = from_device(a.type, a.act, 8);
        ck_assert(std::isnan(y[0]) && std::isnan(y[1]) && y[2] == inf && std::isnan(y[3]));
        ck_assert(y[4] == 0 && std::signbit(y[4]) && y[5] == 64 && std::isnan(y[6]) && std::isnan(y[7]));
        a.M = 0;
        good(cu_swiglu_fwd(&k, &a));
        free_device();
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, one_matrix, all_magnitudes, special_values};
    return run_tests("swiglu", tests, 4);
}
