/* Backward of the causal convolution against plain loops in double: taps, documents, windows, rows. */
#include "tests/cuda/bwd_fixture.h"

struct conv_call {
    packed_rows r;
    int d_ssm, GN, K;
    bool with_bias, with_window, with_after; /* windows before the call, derivatives by those after it */
    std::vector<float> x, w, b, window, dy, after, dw, db;
    float m[3];
    int channels() const
    {
        return d_ssm + 2 * GN;
    }
    int64_t ldx() const
    {
        return channels() + 3;
    }
    size_t taps() const /* of the windows of all rows */
    {
        return static_cast<size_t>(r.rows()) * channels() * (K - 1);
    }
};

struct conv_result {
    std::vector<float> dx, dw, db, dwindow;
};

static conv_call make(const std::vector<int> &lengths, int d_ssm, int GN, int K)
{
    conv_call c = {packed_rows(lengths), d_ssm, GN, K, true, true, true, {}, {}, {}, {}, {}, {}, {}, {},
                   {0.8f, 1.7f, 0.3f}};
    const size_t M = static_cast<size_t>(c.r.tokens()), n = static_cast<size_t>(c.channels());
    c.x = draw("x", M * c.ldx()), c.dy = draw("dy", M * n);
    c.w = draw("w", n * K), c.b = draw("b", n), c.dw = draw("dw", n * K), c.db = draw("db", n);
    c.window = draw("window", (c.r.rows() + 1) * n * (K - 1)), c.after = draw("after", c.taps());
    return c;
}

static conv_result run(const conv_call &c, cu_path path = CU_AUTO)
{
    cu_ctx k = context(path);
    cu_conv1d_bwd_args a = {};
    a.t = c.r.on_device(), a.d_ssm = c.d_ssm, a.GN = c.GN, a.K = c.K;
    a.x = to_device(c.x), a.ldx = c.ldx(), a.m_x = c.m[0], a.m_B = c.m[1], a.m_C = c.m[2];
    a.w = to_device(c.w), a.b = c.with_bias ? to_device(c.b) : nullptr;
    a.window = c.with_window ? to_device(c.window) : nullptr, a.slot = to_device(c.r.slot);
    a.dy = to_device(c.dy), a.dwindow_out = c.with_after ? to_device(c.after) : nullptr;
    const size_t M = static_cast<size_t>(c.r.tokens()), n = M * c.ldx();
    a.dx = to_device(std::vector<float>(n, 7.f)), a.lddx = c.ldx();
    a.dw = to_device(c.dw), a.db = to_device(c.db);
    a.dwindow = device_new<float>(c.taps());
    a.scratch = scratch_of(cu_conv1d_bwd_scratch(&a));
    good(cu_conv1d_bwd(&k, &a));
    conv_result r = {
        {}, from_device(a.dw, c.dw.size()), from_device(a.db, c.db.size()), from_device(a.dwindow, c.taps())};
    const std::vector<float> all = from_device(a.dx, n);
    for (size_t i = 0; i < n; ++i) {
        if (static_cast<int>(i % c.ldx()) < c.channels()) r.dx.push_back(all[i]);
        else ck_assert(all[i] == 7.f);
    }
    free_device();
    return r;
}

enum fault { RIGHT, LEAKS, TAPS_REVERSED, NO_SLOPE, SIGMA, SEGMENTS_MIXED, WINDOW_FORGOTTEN, KEPT_FORGOTTEN, NEXT_ROW };

struct conv_truth {
    expected dx, dw, db, dwindow;
};

/* Column s of the row as a token of the document that begins at `start` sees it; false where it does not. */
static bool seen(const conv_call &c, fault f, int b, int64_t s, int start, int j, double *p)
{
    const int begin = c.r.row_begin[b];
    if (f != LEAKS && start >= 0 && s < start) return false;
    if (s < begin) {
        if (s < begin - (c.K - 1)) return false;
        const size_t at = (static_cast<size_t>(c.r.slot[b]) * c.channels() + j) * (c.K - 1);
        *p = c.with_window && f != WINDOW_FORGOTTEN ? c.window[at + (c.K - 1) + (s - begin)] : 0;
        return true;
    }
    int segment = j < c.d_ssm ? 0 : j < c.d_ssm + c.GN ? 1 : 2;
    if (f == SEGMENTS_MIXED && segment) segment = 3 - segment;
    *p = static_cast<double>(c.x[s * c.ldx() + j]) * c.m[segment];
    return true;
}

/* One channel of one row. The pre-activation z is off by (K + 2)·u·Σ|terms|, silu' by 10u of its terms and half of that
 * (|silu''| <= 0.5), g by both; dp sums K products of it, dw one per token: a rounding each, and each of |p| one more.
 */
static void truth_of_channel(const conv_call &c, fault f, const std::vector<int> &start, int b, int j, conv_truth &o)
{
    const int K = c.K, begin = c.r.row_begin[b], end = c.r.row_begin[b + 1], n = c.channels();
    const int segment = j < c.d_ssm ? 0 : j < c.d_ssm + c.GN ? 1 : 2;
    std::vector<double> dp(static_cast<size_t>(end - begin + K - 1)), err(dp.size()), size(dp.size());
    for (int t = begin; t < end; ++t) {
        double z = c.with_bias ? c.b[j] : 0, z_size = fabs(z), p;
        for (int k = 0; k < K; ++k)
            if (seen(c, f, b, static_cast<int64_t>(t) - (K - 1) + k, start[t], j, &p))
                z += c.w[static_cast<size_t>(j) * K + k] * p, z_size += fabs(c.w[static_cast<size_t>(j) * K + k] * p);
        const silu_truth s(z);
        const double slope = f == NO_SLOPE ? 1 : f == SIGMA ? 1 / (1 + exp(-z)) : s.slope;
        const double dy = c.dy[static_cast<size_t>(t) * n + j], g = dy * slope;
        const double g_err = fabs(dy) * (s.slope_err + 0.5 * (K + 2) * ulp * z_size) + ulp * fabs(g);
        for (int k = 0; k < K; ++k) {
            if (!seen(c, f, b, static_cast<int64_t>(t) - (K - 1) + k, start[t], j, &p)) continue;
            const int to = f == TAPS_REVERSED ? K - 1 - k : k;
            const double w = c.w[static_cast<size_t>(j) * K + to];
            const size_t at = static_cast<size_t>(t - begin + k), tap = static_cast<size_t>(j) * K + to;
            dp[at] += w * g, err[at] += fabs(w) * g_err, size[at] += fabs(w * g);
            o.dw.want[tap] += g * p;
            o.dw.err[tap] += fabs(p) * g_err + (c.r.tokens() + 3) * ulp * fabs(g * p);
        }
        o.db.want[j] += g, o.db.err[j] += g_err + (c.r.tokens() + 2) * ulp * fabs(g);
    }
    for (int i = 0; i < K - 1 && c.with_after && f != KEPT_FORGOTTEN; ++i) {
        double p;
        const int s = end - (K - 1) + i;
        if (end > begin && !seen(c, RIGHT, b, s, start[end - 1], j, &p)) continue;
        const double k = c.after[(static_cast<size_t>(b) * n + j) * (K - 1) + i];
        dp[s - begin + K - 1] += k, size[s - begin + K - 1] += fabs(k);
    }
    if (f == NEXT_ROW && end < c.r.tokens() && K > 1) dp.back() += c.dy[static_cast<size_t>(end) * n + j];
    for (size_t i = 0; i < dp.size(); ++i) {
        const double e = err[i] + (K + 2) * ulp * size[i];
        const int64_t s = begin - (K - 1) + static_cast<int64_t>(i);
        expected &to = s < begin ? o.dwindow : o.dx;
        const size_t at = s < begin ? (static_cast<size_t>(b) * n + j) * (K - 1) + i : s * n + j;
        const double m = s < begin ? 1 : c.m[segment];
        to.want[at] = dp[i] * m, to.err[at] = (e + 2 * ulp * fabs(dp[i])) * m;
    }
}

static conv_truth truth(const conv_call &c, fault f = RIGHT)
{
    const std::vector<int> start = c.r.starts();
    const size_t n = static_cast<size_t>(c.channels());
    conv_truth o = {expected(c.r.tokens() * n), expected(n * c.K), expected(n), expected(c.taps())};
    for (size_t i = 0; i < c.dw.size(); ++i) o.dw.want[i] = c.dw[i];
    for (size_t i = 0; i < n; ++i) o.db.want[i] = c.db[i];
    for (int b = 0; b < c.r.rows(); ++b)
        for (int j = 0; j < c.channels(); ++j) truth_of_channel(c, f, start, b, j, o);
    for (size_t i = 0; i < c.dw.size(); ++i) o.dw.err[i] += ulp * fabs(o.dw.want[i]);
    for (size_t i = 0; i < n; ++i) o.db.err[i] += ulp * fabs(o.db.want[i]);
    return o;
}

static size_t wrong(const conv_result &r, const conv_truth &t)
{
    return beyond(r.dx, t.dx) + beyond(r.dw, t.dw) + beyond(r.db, t.db) + beyond(r.dwindow, t.dwindow);
}

static void check(const conv_call &c)
{
    for (cu_path path : {CU_AUTO, CU_GENERAL}) {
        const conv_result r = run(c, path);
        const conv_truth t = truth(c);
        ck_assert_msg(wrong(r, t) == 0,
                      "path %d, %d tokens, %d channels, K %d: %zu dx, %zu dw, %zu db, %zu dwindow off", path,
                      c.r.tokens(), c.channels(), c.K, beyond(r.dx, t.dx), beyond(r.dw, t.dw), beyond(r.db, t.db),
                      beyond(r.dwindow, t.dwindow));
    }
}

START_TEST(agrees)
{
    check(make({70, 0, 1, 32, 33}, 96, 16, 4));
    check(make({5}, 140, 8, 4));
    check(make({3, 40}, 13, 5, 4));
    for (int K : {1, 2, 3, 5, 7}) check(make({9, 2, 0, 40}, 20, 4, K));
    check(make({90, 3}, 4, 2, 40));     /* taps across more than a part */
    check(make({4000, 5000}, 2, 1, 4)); /* parts longer than the least */
}
END_TEST

START_TEST(parts_and_rows)
{
    for (int first = 29; first < 36; ++first) check(make({first, 1, 1, 34}, 5, 2, 4));
    for (int length : {1, 2, 3, 31, 32, 33, 63, 69}) check(make({length}, 5, 2, 4));
}
END_TEST

START_TEST(without_windows_and_bias)
{
    for (int K : {1, 4, 5}) {
        conv_call c = make({20, 37}, 12, 4, K);
        c.with_bias = c.with_window = false;
        check(c);
        c.with_after = false;
        c.r.begins[0] = c.r.begins[20] = true;
        check(c);
    }
}
END_TEST

/* Documents of every length around the edges of parts, NaN in every second one and in the windows of rows that begin
 * one: dw alone is NaN everywhere, and is not looked at. */
START_TEST(documents_stand_alone)
{
    for (int K : {2, 3, 4, 6}) {
        conv_call c = make({80, 3, 2}, 24, 4, K);
        for (int t : {0, 7, 31, 32, 33, 63, 65, 78, 82, 83}) c.r.begins[t] = true;
        check(c);
        int document = 0;
        for (size_t t = 0; t < c.r.begins.size(); ++t) {
            document += c.r.begins[t];
            for (int64_t i = 0; document % 2 && i < c.ldx(); ++i) c.x[t * c.ldx() + i] = NAN;
        }
        for (int b : {0, 2}) {
            const size_t n = static_cast<size_t>(c.channels()) * (K - 1), at = c.r.slot[b] * n;
            std::fill(c.window.begin() + at, c.window.begin() + at + n, NAN);
        }
        check(c);
    }
}
END_TEST

START_TEST(faults_are_seen)
{
    conv_call c = make({40, 2, 3}, 16, 8, 4);
    c.r.begins[10] = c.r.begins[33] = true;
    const conv_result r = run(c);
    for (fault f : {LEAKS, TAPS_REVERSED, NO_SLOPE, SIGMA, SEGMENTS_MIXED, WINDOW_FORGOTTEN, KEPT_FORGOTTEN, NEXT_ROW})
        ck_assert_msg(wrong(r, truth(c, f)) > 0, "fault %d is not seen", f);
}
END_TEST

START_TEST(no_tokens)
{
    check(make({0, 0}, 8, 4, 4));
}
END_TEST

int main()
{
    Suite *s = suite_create("conv1d_bwd");
    TCase *c = tcase_create("conv1d_bwd");
    tcase_add_test(c, agrees);
    tcase_add_test(c, parts_and_rows);
    tcase_add_test(c, without_windows_and_bias);
    tcase_add_test(c, documents_stand_alone);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
