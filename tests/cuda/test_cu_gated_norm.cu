/* Gate and norm of the mixer: three forms, groups, any width. */
#include "cuda/gated_norm.cuh"
#include "tests/cuda/harness.h"

enum form { GATE, NORM_AFTER, NORM_BEFORE };

struct gate_call {
    cu_type type;
    form f;
    int M, d, G;
    int64_t ldz;
    float m_z, eps;
    std::vector<float> y, z, w;
};

static gate_call make(cu_type type, form f, int M, int d, int G, int pad = 8)
{
    gate_call c = {type, f, M, d, G, d + pad, 0.6f, 1e-5f, {}, {}, draw("w", d)};
    c.y = as_stored(type, draw("y", static_cast<size_t>(M) * d, 3));
    c.z = as_stored(type, draw("z", static_cast<size_t>(M) * c.ldz, 3));
    return c;
}

static std::vector<float> run(const gate_call &c, bool in_place = false, cu_path path = CU_AUTO)
{
    cu_ctx k = context(path);
    cu_gated_norm a = {};
    void *y = to_device(c.type, c.y);
    a.type = c.type, a.M = c.M, a.d = c.d, a.G = c.G, a.ldz = c.ldz, a.m_z = c.m_z, a.eps = c.eps;
    a.y = y, a.z = to_device(c.type, c.z);
    a.w = c.f == GATE ? NULL : to_device(c.w);
    a.norm_before_gate = c.f == NORM_BEFORE;
    a.out = in_place ? y : device_new(c.type, static_cast<size_t>(c.M) * c.d);
    good(cu_gated_norm_fwd(&k, &a));
    const std::vector<float> r = from_device(c.type, a.out, static_cast<size_t>(c.M) * c.d);
    free_device();
    return r;
}

enum fault { RIGHT, WHOLE_WIDTH, SIGMOID, OTHER_ORDER, NO_EPS };

/* silu to (6 + |z·m|)u of itself (its argument is rounded); a product 1u; a mean of n squares n·u, which the root
 * halves; root, quotient and two products 5u; half an ulp at the end. A group with a NaN is all NaN. */
static size_t wrong(const gate_call &c, const std::vector<float> &got, fault f)
{
    const double u = ldexp(1, -24);
    const int G = f == WHOLE_WIDTH ? 1 : c.G, n = c.d / G;
    const bool before = (c.f == NORM_BEFORE) != (f == OTHER_ORDER);
    size_t bad = 0;
    for (int64_t m = 0; m < c.M; ++m)
        for (int g = 0; g < G; ++g) {
            double sum = 0, steepest = 0;
            std::vector<double> v(n), s(n);
            for (int i = 0; i < n; ++i) {
                const double z = c.z[m * c.ldz + g * n + i] * static_cast<double>(c.m_z);
                s[i] = (f == SIGMOID ? 1 : z) / (1 + exp(-z));
                v[i] = c.y[m * c.d + g * n + i] * (before && c.f != GATE ? 1 : s[i]);
                sum += v[i] * v[i];
                steepest = fmax(steepest, fabs(z));
            }
            const double root = c.f == GATE ? 1 : 1 / sqrt(sum / n + (f == NO_EPS ? 0 : c.eps));
            for (int i = 0; i < n; ++i) {
                const double w = c.f == GATE ? 1 : c.w[g * n + i],
                             want = w * v[i] * root * (before && c.f != GATE ? s[i] : 1);
                const double err =
                    fabs(want) * ((14 + n / 2. + 2 * steepest) * u + (c.type == CU_BF16 ? ldexp(1, -8) : 0));
                const float x = got[m * c.d + g * n + i];
                bad += std::isnan(want) ? !std::isnan(x) : !(fabs(x - want) <= err + 1e-44);
            }
        }
    return bad;
}

START_TEST(agrees)
{
    const int shapes[][3] = {{3, 24, 1}, {2, 1536, 1}, {3, 96, 4}, {5, 7, 1}, {2, 300, 3}, {1, 4992, 2}, {1, 9000, 1}};
    for (cu_type type : {CU_F32, CU_BF16})
        for (form f : {GATE, NORM_AFTER, NORM_BEFORE})
            for (const int *s : shapes) {
                const gate_call c = make(type, f, s[0], s[1], s[2], s[1] % 2 ? 3 : 8);
                const std::vector<float> r = run(c);
                ck_assert_msg(wrong(c, r, RIGHT) == 0, "type %d form %d [%d, %d] in %d groups", type, f, s[0], s[1],
                              s[2]);
                ck_assert(run(c, true) == r); /* out may be y */
                ck_assert(wrong(c, run(c, false, CU_GENERAL), RIGHT) == 0);
            }
}
END_TEST

START_TEST(faults_are_seen)
{
    for (form f : {GATE, NORM_AFTER, NORM_BEFORE}) {
        const gate_call c = make(CU_BF16, f, 4, 64, 4);
        const std::vector<float> r = run(c);
        ck_assert(wrong(c, r, SIGMOID) > 0);
        if (f == GATE) continue;
        ck_assert(wrong(c, r, WHOLE_WIDTH) > 0);
        ck_assert(wrong(c, r, OTHER_ORDER) > 0);
    }
    gate_call c = make(CU_F32, NORM_AFTER, 2, 32, 1);
    c.eps = 0.1f;
    ck_assert(wrong(c, run(c), NO_EPS) > 0);
}
END_TEST

/* A NaN stays in its group (in its element without a norm); a gate far below zero is small, not 0 and not NaN. */
START_TEST(extremes)
{
    for (form f : {GATE, NORM_AFTER, NORM_BEFORE}) {
        gate_call c = make(CU_F32, f, 3, 48, 3);
        c.y[48 + 20] = NAN;
        c.z[2 * c.ldz + 3] = -150.f, c.z[2 * c.ldz + 4] = 150.f, c.z[2 * c.ldz + 5] = -1e30f;
        ck_assert_uint_eq(wrong(c, run(c), RIGHT), 0);
    }
}
END_TEST

/* silu(0) = 0; the rest of the gate is not a lattice. A norm of ±1s with eps 0 is exact. */
START_TEST(lattice_is_exact)
{
    gate_call c = make(CU_BF16, NORM_BEFORE, 2, 64, 2);
    for (float &v : c.y) v = v < 0 ? -2.f : 2.f;
    for (float &v : c.z) v = 0.f;
    for (float v : run(c)) ck_assert(v == 0.f);
    for (float &v : c.z) v = 1024.f; /* silu is the identity there */
    for (float &v : c.w) v = 3.f;
    c.eps = 0.f, c.m_z = 0.25f;
    const std::vector<float> r = run(c);
    for (size_t i = 0; i < r.size(); ++i) ck_assert(r[i] == (c.y[i] < 0 ? -768.f : 768.f));
}
END_TEST

START_TEST(no_tokens)
{
    for (form f : {GATE, NORM_AFTER}) ck_assert(run(make(CU_BF16, f, 0, 16, 1)).empty());
}
END_TEST

int main()
{
    Suite *s = suite_create("gated_norm");
    TCase *c = tcase_create("gated_norm");
    tcase_add_test(c, agrees);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, extremes);
    tcase_add_test(c, lattice_is_exact);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
