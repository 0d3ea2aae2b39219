/* Backward of the step sizes against plain loops in double. */
#include "tests/cuda/bwd_fixture.h"

struct dt_call {
    int M, H;
    int64_t ld, lddraw;
    float m_dt, lo, hi;
    std::vector<float> raw, bias, ddt, dbias;
};

struct dt_result {
    std::vector<float> draw, dbias;
};

static dt_call make(int M, int H, double spread)
{
    dt_call c = {M, H, H + 5, H + 2, 0.35f, 0.f, INFINITY, {}, draw("bias", H), {}, draw("dbias", H)};
    c.raw = draw("raw", static_cast<size_t>(M) * c.ld, spread);
    c.ddt = draw("ddt", static_cast<size_t>(M) * H);
    return c;
}

static dt_result run(const dt_call &c, bool raw = true, bool bias = true)
{
    cu_ctx k = context();
    cu_dt_softplus_bwd_args a = {};
    a.M = c.M, a.H = c.H, a.ld = c.ld, a.lddraw = c.lddraw, a.m_dt = c.m_dt, a.lo = c.lo, a.hi = c.hi;
    a.raw = to_device(c.raw), a.bias = to_device(c.bias), a.ddt = to_device(c.ddt);
    float *dbias = to_device(c.dbias);
    const size_t n = static_cast<size_t>(c.M) * c.lddraw;
    a.draw = raw ? to_device(std::vector<float>(n, 7.f)) : nullptr, a.dbias = bias ? dbias : nullptr;
    a.scratch = scratch_of(cu_dt_softplus_bwd_scratch(&a));
    good(cu_dt_softplus_bwd(&k, &a));
    dt_result r = {{}, from_device(dbias, c.H)};
    const std::vector<float> all = raw ? from_device(a.draw, n) : std::vector<float>();
    for (int m = 0; m < c.M && raw; ++m)
        for (int64_t h = 0; h < c.lddraw; ++h) {
            if (h < c.H) r.draw.push_back(all[m * c.lddraw + h]);
            else ck_assert(all[m * c.lddraw + h] == 7.f);
        }
    free_device();
    return r;
}

enum fault { RIGHT, CLAMPED_VALUE, EDGE_CUT, NO_CLAMP, SIGMA_OF_DT, NO_MULTIPLIER, BIAS_OF_RAW };

struct dt_truth {
    expected draw, dbias;
};

/* v is good to 2u·(|raw·m| + |bias|), and σ has a relative slope below 1 by v; σ itself to 5u, two products. A softplus
 * so near a limit that the forward itself may round it to either side is the caller's to avoid. */
static dt_truth truth(const dt_call &c, fault f = RIGHT)
{
    dt_truth t = {expected(static_cast<size_t>(c.M) * c.H), expected(c.H)};
    for (int h = 0; h < c.H; ++h) t.dbias.want[h] = c.dbias[h];
    for (int m = 0; m < c.M; ++m)
        for (int h = 0; h < c.H; ++h) {
            const size_t i = static_cast<size_t>(m) * c.H + h;
            const double p = static_cast<double>(c.raw[m * c.ld + h]) * c.m_dt, v = p + c.bias[h];
            const double y = v > 20 ? v : log1p(exp(v)), sigma = v > 20 ? 1 : 1 / (1 + exp(-v));
            const double clamped = y < c.lo ? c.lo : y > c.hi ? c.hi : y;
            bool cut = y < c.lo || y > c.hi;
            if (f == EDGE_CUT) cut = cut || y == c.lo || y == c.hi;
            if (f == NO_CLAMP) cut = false;
            if (f == CLAMPED_VALUE) cut = clamped < c.lo || clamped > c.hi;
            double g = cut ? 0 : c.ddt[i] * sigma;
            if (f == SIGMA_OF_DT && !cut) g = c.ddt[i] / (1 + exp(-y));
            const double err = fabs(g) * ulp * (7 + 2 * (fabs(p) + fabs(c.bias[h])));
            const double m_dt = f == NO_MULTIPLIER ? 1 : c.m_dt;
            t.draw.want[i] = g * m_dt, t.draw.err[i] = (err + ulp * fabs(g)) * m_dt;
            if (f == BIAS_OF_RAW) g *= c.m_dt;
            t.dbias.want[h] += g, t.dbias.err[h] += err + (c.M + 2) * ulp * fabs(g);
        }
    for (int h = 0; h < c.H; ++h) t.dbias.err[h] += ulp * fabs(t.dbias.want[h]);
    return t;
}

static size_t wrong(const dt_result &r, const dt_truth &t)
{
    return beyond(r.draw, t.draw) + beyond(r.dbias, t.dbias);
}

START_TEST(agrees)
{
    for (int H : {1, 3, 24, 70})
        for (int M : {1, 3, 17, 130})
            for (double spread : {1., 20., 100.}) {
                const dt_call c = make(M, H, spread);
                const dt_result r = run(c);
                ck_assert_msg(wrong(r, truth(c)) == 0, "H %d M %d: %zu are off", H, M, wrong(r, truth(c)));
                if (spread > 1 || M == 1) continue; /* far below zero there is nothing to see */
                ck_assert(wrong(r, truth(c, NO_MULTIPLIER)) > 0);
                ck_assert(wrong(r, truth(c, BIAS_OF_RAW)) > 0);
            }
    const dt_call c = make(5000, 2, 1); /* 20 tokens a part */
    ck_assert_uint_eq(wrong(run(c), truth(c)), 0);
}
END_TEST

START_TEST(limits)
{
    dt_call c = make(40, 24, 6);
    c.lo = 0.01f, c.hi = 0.8f;
    const dt_result r = run(c);
    ck_assert_uint_eq(wrong(r, truth(c)), 0);
    for (fault f : {NO_CLAMP, CLAMPED_VALUE, SIGMA_OF_DT}) ck_assert(wrong(r, truth(c, f)) > 0);
}
END_TEST

/* At a limit exactly the gradient passes, one step above it does not; above 20 the slope is 1, at 20 it is not. */
START_TEST(edges)
{
    const float up = nextafterf(25.f, 30.f), above = nextafterf(20.f, 30.f);
    dt_call c = {1, 5, 5, 5, 1.f, 20.f, 25.f, {25.f, up, 20.f, above, 19.f}, {}, {}, std::vector<float>(5, 0.f)};
    c.bias.assign(5, 0.f), c.ddt = {3.f, 3.f, 3.f, 3.f, 3.f};
    const dt_result r = run(c);
    ck_assert_uint_eq(wrong(r, truth(c)), 0);
    ck_assert(wrong(r, truth(c, EDGE_CUT)) > 0);
    ck_assert(r.draw[0] == 3.f && r.draw[1] == 0.f && r.draw[3] == 3.f && r.draw[4] == 0.f);
    ck_assert(r.dbias == r.draw);
}
END_TEST

/* A cut off step takes no NaN on; a NaN of raw passes both comparisons. */
START_TEST(not_finite)
{
    dt_call c = {1, 4, 4, 4, 1.f, 0.001f, 0.1f, {NAN, INFINITY, -INFINITY, -3.f}, {}, {}, {0.f, 0.f, 0.f, 0.f}};
    c.bias.assign(4, 0.f), c.ddt = {1.f, NAN, NAN, NAN};
    const dt_result r = run(c);
    ck_assert(std::isnan(r.draw[0]) && r.draw[1] == 0.f && r.draw[2] == 0.f && std::isnan(r.draw[3]));
}
END_TEST

START_TEST(in_part_and_empty)
{
    const dt_call c = make(20, 6, 1);
    const dt_result all = run(c), bias = run(c, false), raw = run(c, true, false);
    ck_assert(bias.dbias == all.dbias && raw.draw == all.draw && raw.dbias == c.dbias);
    const dt_call none = make(0, 4, 1);
    ck_assert(run(none).dbias == none.dbias);
}
END_TEST

int main()
{
    Suite *s = suite_create("dt_softplus_bwd");
    TCase *c = tcase_create("dt_softplus_bwd");
    tcase_add_test(c, agrees);
    tcase_add_test(c, limits);
    tcase_add_test(c, edges);
    tcase_add_test(c, not_finite);
    tcase_add_test(c, in_part_and_empty);
    suite_add_tcase(s, c);
    return run_suite(s);
}
