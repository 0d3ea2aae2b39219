/* Backward of the gate and its norm against plain loops in double. */
#include "tests/cuda/bwd_fixture.h"

struct gate_call {
    int M, d, G;
    bool norm, before;
    int64_t ldz, lddz;
    float m_z, eps;
    std::vector<float> y, z, w, dout, dw;
};

struct gate_result {
    std::vector<float> dy, dz, dw;
};

static gate_call make(int M, int d, int G, bool norm, bool before)
{
    gate_call c = {M, d, G, norm, before, d + 3, d + 5, 0.6f, 1e-3f, {}, {}, {}, {}, {}};
    const size_t n = static_cast<size_t>(M) * d;
    c.y = draw("y", n), c.z = draw("z", static_cast<size_t>(M) * c.ldz, 2);
    c.w = draw("w", d, 0.3, 1), c.dout = draw("dout", n), c.dw = draw("dw", d);
    return c;
}

enum want_mask { DY = 1, DZ = 2, DW = 4, ALL = 7, IN_PLACE = 8 };

static gate_result run(const gate_call &c, unsigned mask = ALL)
{
    cu_ctx k = context();
    cu_gated_norm_bwd_args a = {};
    a.M = c.M, a.d = c.d, a.G = c.G, a.ldz = c.ldz, a.m_z = c.m_z, a.eps = c.eps, a.norm_before_gate = c.before;
    float *y = to_device(c.y), *z = to_device(c.z), *dw = to_device(c.dw);
    a.y = y, a.z = z, a.w = c.norm ? to_device(c.w) : nullptr, a.dout = to_device(c.dout);
    const bool in_place = mask & IN_PLACE;
    a.lddz = in_place ? c.ldz : c.lddz;
    const size_t n = static_cast<size_t>(c.M) * c.d, nz = static_cast<size_t>(c.M) * a.lddz;
    a.dy = !(mask & DY) ? nullptr : in_place ? y : device_new<float>(n);
    a.dz = !(mask & DZ) ? nullptr : in_place ? z : to_device(std::vector<float>(nz, 7.f));
    a.dw = mask & DW ? dw : nullptr;
    a.scratch = scratch_of(cu_gated_norm_bwd_scratch(&a));
    good(cu_gated_norm_bwd(&k, &a));
    gate_result r;
    if (a.dy) r.dy = from_device(a.dy, n);
    if (a.dz) {
        const std::vector<float> all = from_device(a.dz, nz);
        for (int m = 0; m < c.M; ++m)
            for (int64_t j = 0; j < a.lddz; ++j) {
                if (j < c.d) r.dz.push_back(all[m * a.lddz + j]);
                else ck_assert(in_place || all[m * a.lddz + j] == 7.f);
            }
    }
    r.dw = from_device(dw, c.dw.size());
    free_device();
    return r;
}

enum fault { RIGHT, NORM_CONSTANT, WHOLE_WIDTH, SIGMA_FOR_SLOPE, OTHER_ORDER, NO_MULTIPLIER, DW_LAST_ROW };

struct gate_truth {
    expected dy, dz, dw;
};

/* One group of one token. With errors of s and its slope as silu_truth has them, first order in u:
 *   Σ v² is off by (n + 4)·u of itself + 2 Σ |v|·err v, Σ q·v by (n + 4)·u·Σ |q·v| + Σ (|q|·err v + |v|·err q),
 * and dv = r·(q - v·mean) by the errors of its factors and a few roundings of |q| + |v·mean|. */
static void truth_of_group(const gate_call &c, fault f, int m, int g, gate_truth &t)
{
    const int n = c.d / (f == WHOLE_WIDTH ? 1 : c.G);
    const bool before = c.before != (f == OTHER_ORDER);
    struct channel {
        double y, g, w, s, es, p, ep, v, ev, q, eq, o, eo;
    };
    std::vector<channel> x(static_cast<size_t>(n));
    double power = 0, power_err = 0, dot = 0, dot_err = 0, dot_abs = 0;
    for (int i = 0; i < n; ++i) {
        const int j = g * n + i;
        const silu_truth u(static_cast<double>(c.z[m * c.ldz + j]) * (f == NO_MULTIPLIER ? 1.f : c.m_z));
        channel &e = x[i];
        e.y = c.y[static_cast<size_t>(m) * c.d + j], e.g = c.dout[static_cast<size_t>(m) * c.d + j], e.w = c.w[j];
        e.s = u.s, e.es = u.s_err, e.p = u.slope, e.ep = u.slope_err;
        if (f == SIGMA_FOR_SLOPE) e.p = u.s == 0 ? 0.5 : u.s / (static_cast<double>(c.z[m * c.ldz + j]) * c.m_z);
        e.v = before ? e.y : e.y * e.s, e.ev = before ? 0 : fabs(e.y) * e.es + ulp * fabs(e.v);
        e.o = before ? e.g * e.s : e.g, e.eo = before ? fabs(e.g) * e.es + ulp * fabs(e.o) : 0;
        e.q = e.w * e.o, e.eq = fabs(e.w) * e.eo + ulp * fabs(e.q);
        power += e.v * e.v / n, power_err += 2 * fabs(e.v) * e.ev / n;
        dot += e.q * e.v / n, dot_abs += fabs(e.q * e.v) / n, dot_err += (fabs(e.q) * e.ev + fabs(e.v) * e.eq) / n;
    }
    power_err += (n + 4) * ulp * power, dot_err += (n + 4) * ulp * dot_abs;
    power += c.eps;
    const double r = 1 / sqrt(power), r_rel = power_err / power / 2 + 3 * ulp;
    double mean = dot / power, mean_err = dot_err / power + fabs(mean) * (power_err / power + 3 * ulp);
    if (f == NORM_CONSTANT) mean = 0;
    for (int i = 0; i < n; ++i) {
        const int j = g * n + i;
        const size_t at = static_cast<size_t>(m) * c.d + j;
        const channel &e = x[i];
        const double size = fabs(e.q) + fabs(e.v * mean), dv = r * (e.q - e.v * mean);
        const double dv_err =
            r * (e.eq + fabs(e.v) * mean_err + fabs(mean) * e.ev + (4 * ulp + r_rel) * size) + 2 * ulp * fabs(dv);
        const double ds = before ? e.g * e.w * e.y * r : dv * e.y;
        const double ds_err = (before ? fabs(ds) * r_rel : fabs(e.y) * dv_err) + 4 * ulp * fabs(ds);
        t.dy.want[at] = before ? dv : dv * e.s;
        t.dy.err[at] = before ? dv_err : dv_err * fabs(e.s) + fabs(dv) * e.es + ulp * fabs(dv * e.s);
        const double m_z = f == NO_MULTIPLIER ? 1 : c.m_z;
        t.dz.want[at] = ds * e.p * m_z;
        t.dz.err[at] = m_z * (ds_err * fabs(e.p) + fabs(ds) * e.ep) + 3 * ulp * fabs(ds * e.p * m_z);
        const double share = e.o * e.v * r;
        if (f == DW_LAST_ROW && m + 1 < c.M) continue;
        t.dw.want[j] += share;
        t.dw.err[j] += fabs(share) * (r_rel + (c.M + 4) * ulp) + r * (e.eo * fabs(e.v) + fabs(e.o) * e.ev);
    }
}

static gate_truth truth(const gate_call &c, fault f = RIGHT)
{
    const size_t n = static_cast<size_t>(c.M) * c.d;
    gate_truth t = {expected(n), expected(n), expected(c.d)};
    for (int j = 0; j < c.d; ++j) t.dw.want[j] = c.dw[j];
    for (int m = 0; m < c.M && c.norm; ++m)
        for (int g = 0; g < (f == WHOLE_WIDTH ? 1 : c.G); ++g) truth_of_group(c, f, m, g, t);
    for (size_t i = 0; i < n && !c.norm; ++i) {
        const double m_z = f == NO_MULTIPLIER ? 1 : c.m_z;
        const silu_truth u(c.z[i / c.d * c.ldz + i % c.d] * m_z);
        const double g = c.dout[i], y = c.y[i];
        const double slope = f == SIGMA_FOR_SLOPE ? 1 / (1 + exp(-c.z[i / c.d * c.ldz + i % c.d] * m_z)) : u.slope;
        t.dy.want[i] = g * u.s, t.dy.err[i] = fabs(g) * u.s_err + ulp * fabs(g * u.s);
        t.dz.want[i] = g * y * slope * m_z;
        t.dz.err[i] = fabs(g * y * m_z) * (u.slope_err + 3 * ulp * fabs(u.slope));
    }
    for (int j = 0; j < c.d; ++j) t.dw.err[j] += ulp * fabs(t.dw.want[j]);
    return t;
}

static size_t wrong(const gate_result &r, const gate_truth &t)
{
    return (r.dy.empty() ? 0 : beyond(r.dy, t.dy)) + (r.dz.empty() ? 0 : beyond(r.dz, t.dz)) + beyond(r.dw, t.dw);
}

static void check(const gate_call &c)
{
    const gate_result r = run(c);
    const gate_truth t = truth(c);
    const size_t dy = beyond(r.dy, t.dy), dz = beyond(r.dz, t.dz), dw = beyond(r.dw, t.dw);
    ck_assert_msg(dy + dz + dw == 0, "M %d d %d G %d norm %d before %d: %zu dy, %zu dz, %zu dw are off", c.M, c.d, c.G,
                  c.norm, c.before, dy, dz, dw);
}

START_TEST(agrees)
{
    for (int form = 0; form < 3; ++form) {
        const bool norm = form > 0, before = form == 2;
        check(make(1, 24, 1, norm, before));
        check(make(3, 24, 2, norm, before));
        check(make(37, 60, 4, norm, before));
        check(make(2, 1030, 2, norm, before)); /* several channels a thread */
        check(make(9, 1100, 1, norm, before)); /* more than 4 */
        check(make(5, 3100, 1, norm, before)); /* some in the scratch */
        check(make(600, 7, 1, norm, before));  /* several tokens a part, more than LEAST */
    }
}
END_TEST

/* Outputs in the place of y and z; and only some of them. */
START_TEST(in_place_and_in_part)
{
    for (int form = 0; form < 3; ++form)
        for (int d : {40, 3100}) {
            const gate_call c = make(5, d, 1, form > 0, form == 2);
            const gate_result all = run(c), place = run(c, ALL | IN_PLACE);
            ck_assert(all.dy == place.dy && all.dz == place.dz && all.dw == place.dw);
            for (unsigned mask : {DY, DZ, DW}) {
                const gate_result r = run(c, mask);
                ck_assert(r.dy == (mask == DY ? all.dy : std::vector<float>()));
                ck_assert(r.dz == (mask == DZ ? all.dz : std::vector<float>()));
                ck_assert(r.dw == (mask == DW ? all.dw : c.dw));
            }
        }
}
END_TEST

/* A number that is none stays in its group, and in that group's dw. */
START_TEST(not_finite)
{
    for (int form = 0; form < 3; ++form) {
        gate_call c = make(4, 24, 2, form > 0, form == 2);
        c.y[24 + 3] = NAN, c.dout[48 + 14] = NAN;
        check(c);
    }
}
END_TEST

START_TEST(faults_are_seen)
{
    for (int form = 0; form < 3; ++form) {
        const gate_call c = make(6, 48, 2, form > 0, form == 2);
        const gate_result r = run(c);
        for (fault f : {SIGMA_FOR_SLOPE, NO_MULTIPLIER}) ck_assert_msg(wrong(r, truth(c, f)) > 0, "fault %d", f);
        for (fault f : {NORM_CONSTANT, WHOLE_WIDTH, OTHER_ORDER, DW_LAST_ROW})
            ck_assert_msg(form == 0 || wrong(r, truth(c, f)) > 0, "fault %d is not seen", f);
    }
}
END_TEST

START_TEST(no_tokens)
{
    check(make(0, 24, 2, true, false));
    check(make(0, 24, 2, false, false));
}
END_TEST

int main()
{
    Suite *s = suite_create("gated_norm_bwd");
    TCase *c = tcase_create("gated_norm_bwd");
    tcase_add_test(c, agrees);
    tcase_add_test(c, in_place_and_in_part);
    tcase_add_test(c, not_finite);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
