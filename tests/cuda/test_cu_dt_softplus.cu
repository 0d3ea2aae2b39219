/* Step sizes. */
#include "cuda/dt_softplus.cuh"
#include "tests/cuda/harness.h"

struct dt_call {
    cu_type type;
    int M, H;
    int64_t ld;
    float m_dt, lo, hi;
    std::vector<float> raw, bias;
};

static std::vector<float> run(const dt_call &c)
{
    cu_ctx k = context();
    cu_dt_softplus a = {};
    a.type = c.type, a.M = c.M, a.H = c.H, a.ld = c.ld, a.m_dt = c.m_dt, a.lo = c.lo, a.hi = c.hi;
    a.raw = to_device(c.type, c.raw), a.bias = to_device(c.bias);
    a.dt = device_new<float>(static_cast<size_t>(c.M) * c.H);
    good(cu_dt_softplus_fwd(&k, &a));
    const std::vector<float> r = from_device(a.dt, static_cast<size_t>(c.M) * c.H);
    free_device();
    return r;
}

enum fault { RIGHT, LOG_OF_SUM, NO_CLAMP, NO_MULTIPLIER };

/* v = raw·m + bias is good to 2u·(|raw·m| + |bias|); softplus has a slope below 1, and relative to itself one of at
 * most 1 per unit of v; exp, log1p and their roundings are good to 6u of the value. Clamping does not widen it. */
static size_t wrong(const dt_call &c, const std::vector<float> &got, fault f)
{
    const double u = ldexp(1, -24);
    size_t bad = 0;
    for (int m = 0; m < c.M; ++m)
        for (int h = 0; h < c.H; ++h) {
            const double p = c.raw[m * c.ld + h] * static_cast<double>(f == NO_MULTIPLIER ? 1.f : c.m_dt),
                         v = p + c.bias[h];
            double want = v > 40 ? v : log1p(exp(v));
            if (f == LOG_OF_SUM) want = logf(1.f + expf(static_cast<float>(v)));
            const double err = fmin(want, 1) * 2 * u * (fabs(p) + fabs(c.bias[h])) + 6 * u * want + 1e-44;
            if (f != NO_CLAMP && want < c.lo) want = c.lo;
            if (f != NO_CLAMP && want > c.hi) want = c.hi;
            const float g = got[static_cast<size_t>(m) * c.H + h];
            bad += std::isnan(v) ? !std::isnan(g) : !(fabs(g - want) <= err || g == want);
        }
    return bad;
}

static dt_call make(cu_type type, int M, int H, double spread)
{
    dt_call c = {type, M, H, H + 5, 0.35f, 0.f, INFINITY, {}, draw("bias", H)};
    c.raw = as_stored(type, draw("raw", static_cast<size_t>(M) * c.ld, spread));
    return c;
}

START_TEST(agrees)
{
    for (cu_type type : {CU_F32, CU_BF16})
        for (int H : {1, 3, 24, 200})
            for (double spread : {1., 20., 100.}) {
                const dt_call c = make(type, H == 24 ? 17 : 3, H, spread);
                const std::vector<float> r = run(c);
                ck_assert_uint_eq(wrong(c, r, RIGHT), 0);
                ck_assert(wrong(c, r, NO_MULTIPLIER) > 0);
            }
}
END_TEST

START_TEST(limits)
{
    dt_call c = make(CU_BF16, 20, 24, 6);
    c.lo = 0.01f, c.hi = 0.8f;
    const std::vector<float> r = run(c);
    ck_assert_uint_eq(wrong(c, r, RIGHT), 0);
    ck_assert(wrong(c, r, NO_CLAMP) > 0);
}
END_TEST

/* softplus(v) far below zero is e^v, which log(1 + e^v) loses; far above it is v. */
START_TEST(small_steps_are_kept)
{
    dt_call c = {CU_F32, 1, 9, 9, 1.f, 0.f, INFINITY, {-10, -17, -30, -60, -85, 19.99f, 20.01f, 60, 1e30f}, {}};
    c.bias.assign(9, 0.f);
    const std::vector<float> r = run(c);
    ck_assert_uint_eq(wrong(c, r, RIGHT), 0);
    ck_assert(wrong(c, r, LOG_OF_SUM) > 0);
}
END_TEST

START_TEST(not_finite)
{
    dt_call c = {CU_F32, 1, 3, 3, 1.f, 0.001f, 0.1f, {NAN, INFINITY, -INFINITY}, {0.f, 0.f, 0.f}};
    std::vector<float> r = run(c);
    ck_assert(std::isnan(r[0]) && r[1] == 0.1f && r[2] == 0.001f);
    c.lo = 0.f, c.hi = INFINITY;
    r = run(c);
    ck_assert(std::isnan(r[0]) && r[1] == INFINITY && r[2] == 0.f);
}
END_TEST

START_TEST(no_tokens)
{
    ck_assert(run(make(CU_F32, 0, 4, 1)).empty());
}
END_TEST

int main()
{
    Suite *s = suite_create("dt_softplus");
    TCase *c = tcase_create("dt_softplus");
    tcase_add_test(c, agrees);
    tcase_add_test(c, limits);
    tcase_add_test(c, small_steps_are_kept);
    tcase_add_test(c, not_finite);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
