/* The causal convolution: taps, documents, windows, splits. */
#include "cuda/conv1d.cuh"
#include "tests/cuda/harness.h"

struct conv_call {
    cu_type type;
    int d_ssm, GN, K;
    bool with_bias;
    std::vector<int> row_begin, slot;
    std::vector<bool> begins; /* token t begins a document */
    std::vector<float> x, w, b, window;
    float m[3];
    int channels() const
    {
        return d_ssm + 2 * GN;
    }
    int64_t ldx() const
    {
        return channels() + 8 - channels() % 4;
    }
    int rows() const
    {
        return static_cast<int>(row_begin.size()) - 1;
    }
};

struct conv_result {
    std::vector<float> y, window;
};

static conv_call make(cu_type type, std::vector<int> lengths, int d_ssm, int GN, int K)
{
    conv_call c = {type, d_ssm, GN, K, true, {0}, {}, {}, {}, {}, {}, {}, {0.8f, 1.7f, 0.3f}};
    for (int n : lengths) c.row_begin.push_back(c.row_begin.back() + n);
    for (int b = 0; b < c.rows(); ++b) c.slot.push_back(c.rows() - b);
    c.begins.assign(static_cast<size_t>(c.row_begin.back()), false);
    c.x = as_stored(type, draw("x", static_cast<size_t>(c.row_begin.back()) * c.ldx()));
    c.w = draw("w", static_cast<size_t>(c.channels()) * K);
    c.b = draw("b", c.channels());
    c.window = draw("window", static_cast<size_t>(c.rows() + 1) * c.channels() * (K - 1));
    return c;
}

static std::vector<int> starts(const conv_call &c)
{
    std::vector<int> s(c.begins.size(), -1);
    for (int b = 0; b < c.rows(); ++b)
        for (int t = c.row_begin[b]; t < c.row_begin[b + 1]; ++t)
            s[t] = c.begins[t] ? t : t > c.row_begin[b] ? s[t - 1] : -1;
    return s;
}

static conv_result run(const conv_call &c, cu_path path = CU_AUTO)
{
    cu_ctx k = context(path);
    cu_conv1d a = {};
    a.type = c.type, a.d_ssm = c.d_ssm, a.GN = c.GN, a.K = c.K;
    a.t.M = c.row_begin.back(), a.t.B = c.rows();
    for (int b = 0; b < c.rows(); ++b) a.t.longest = std::max(a.t.longest, c.row_begin[b + 1] - c.row_begin[b]);
    a.t.row_begin = to_device(c.row_begin), a.t.start = to_device(starts(c));
    a.x = to_device(c.type, c.x), a.ldx = c.ldx();
    a.m_x = c.m[0], a.m_B = c.m[1], a.m_C = c.m[2];
    a.w = to_device(c.w), a.b = c.with_bias ? to_device(c.b) : NULL;
    a.window = c.K > 1 ? to_device(c.window) : NULL;
    a.slot = to_device(c.slot);
    const size_t n = static_cast<size_t>(a.t.M) * c.channels();
    a.y = device_new(c.type, n);
    good(cu_conv1d_fwd(&k, &a));
    const conv_result r = {from_device(c.type, a.y, n), from_device(a.window, c.window.size())};
    free_device();
    return r;
}

enum fault { RIGHT, LEAKS, WINDOW_LOST, SEGMENTS_MIXED, NO_SILU, WINDOW_LEFT };

/* Column s of channel j as a token of the document that begins at `start` sees it: what the window will hold, in f32.
 */
static bool seen(const conv_call &c, fault f, int b, int64_t s, int start, int j, double *p)
{
    const int begin = c.row_begin[b];
    if (f != LEAKS && start >= 0 && s < start) return false;
    if (s < begin) {
        if (s < begin - (c.K - 1) || f == WINDOW_LOST) return false;
        *p = c.window[(static_cast<int64_t>(c.slot[b]) * c.channels() + j) * (c.K - 1) + (c.K - 1) + (s - begin)];
        return true;
    }
    int segment = j < c.d_ssm ? 0 : j < c.d_ssm + c.GN ? 1 : 2;
    if (f == SEGMENTS_MIXED && segment) segment = 3 - segment;
    *p = c.x[s * c.ldx() + j] * c.m[segment];
    return true;
}

/* Outputs beyond their bound. x·m is rounded, K products are, and K sums: (K + 2)·u·(Σ|terms| + |b|), times silu's
 * steepest slope of 1.1; silu itself 6u of y, or with its argument's relative error; half an ulp. */
static size_t wrong_outputs(const conv_call &c, const conv_result &r, fault f)
{
    const double u = ldexp(1, -24);
    const std::vector<int> start = starts(c);
    size_t bad = 0;
    for (int b = 0; b < c.rows(); ++b)
        for (int t = c.row_begin[b]; t < c.row_begin[b + 1]; ++t)
            for (int j = 0; j < c.channels(); ++j) {
                double sum = c.with_bias ? c.b[j] : 0, size = fabs(sum), p;
                for (int k = 0; k < c.K; ++k)
                    if (seen(c, f, b, static_cast<int64_t>(t) - (c.K - 1) + k, start[t], j, &p)) {
                        sum += c.w[static_cast<size_t>(j) * c.K + k] * p;
                        size += fabs(c.w[static_cast<size_t>(j) * c.K + k] * p);
                    }
                const double want = f == NO_SILU ? sum : sum / (1 + exp(-sum));
                const double err =
                    1.1 * (c.K + 2) * u * size + fabs(want) * (6 * u + (c.type == CU_BF16 ? ldexp(1, -8) : 0));
                const float got = r.y[static_cast<size_t>(t) * c.channels() + j];
                bad += std::isnan(want) ? !std::isnan(got) : !(fabs(got - want) <= err);
            }
    return bad;
}

/* The window is known to the bit: products of two f32, rounded once. */
static size_t wrong_window(const conv_call &c, const conv_result &r, fault f)
{
    std::vector<float> want = c.window;
    const std::vector<int> start = starts(c);
    for (int b = 0; b < c.rows(); ++b) {
        const int end = c.row_begin[b + 1];
        if (end == c.row_begin[b]) continue;
        for (int j = 0; j < c.channels(); ++j)
            for (int i = 0; i < c.K - 1; ++i) {
                double p = 0;
                const int64_t s = end - (c.K - 1) + i + (f == WINDOW_LEFT && i == 0);
                if (!seen(c, f, b, s, start[end - 1], j, &p)) p = 0;
                want[(static_cast<size_t>(c.slot[b]) * c.channels() + j) * (c.K - 1) + i] = static_cast<float>(p);
            }
    }
    size_t bad = 0;
    for (size_t i = 0; i < want.size(); ++i)
        bad += std::isnan(want[i]) ? !std::isnan(r.window[i]) : want[i] != r.window[i];
    return bad;
}

static void check(const conv_call &c)
{
    for (cu_path path : {CU_AUTO, CU_GENERAL}) {
        const conv_result r = run(c, path);
        const size_t y = wrong_outputs(c, r, RIGHT), w = wrong_window(c, r, RIGHT);
        ck_assert_msg(y == 0 && w == 0, "path %d, type %d, %d channels, K %d: %zu outputs, %zu of the windows are off",
                      path, c.type, c.channels(), c.K, y, w);
    }
}

START_TEST(agrees)
{
    for (cu_type type : {CU_F32, CU_BF16}) {
        check(make(type, {70, 0, 1, 32, 33}, 96, 16, 4));
        check(make(type, {5}, 520, 8, 4));
        check(make(type, {3, 40}, 13, 5, 4)); /* no vectors */
        for (int K : {1, 2, 3, 7}) check(make(type, {9, 2, 0}, 20, 4, K));
        check(make(type, {90, 3}, 8, 4, 40)); /* a window wider than a tile */
    }
}
END_TEST

START_TEST(one_token_a_row)
{
    for (cu_type type : {CU_F32, CU_BF16})
        for (int K : {1, 2, 4, 5}) {
            conv_call c = make(type, {1, 1, 0, 1}, 40, 8, K);
            c.begins[1] = true;
            check(c);
        }
}
END_TEST

START_TEST(no_bias)
{
    conv_call c = make(CU_BF16, {20}, 32, 8, 4);
    c.with_bias = false;
    check(c);
}
END_TEST

/* Documents of every length around the tile's edges, NaN in every second one and in the windows of rows that begin one.
 */
START_TEST(documents_stand_alone)
{
    for (int K : {2, 4, 6}) {
        conv_call c = make(CU_BF16, {80, 3, 2}, 24, 4, K);
        for (int t : {0, 7, 31, 32, 33, 63, 65, 78, 82, 83}) c.begins[t] = true;
        int document = 0;
        for (size_t t = 0; t < c.begins.size(); ++t) {
            document += c.begins[t];
            for (int64_t i = 0; document % 2 && i < c.ldx(); ++i) c.x[t * c.ldx() + i] = NAN;
        }
        for (int b : {0, 2}) {
            const size_t n = static_cast<size_t>(c.channels()) * (K - 1), at = c.slot[b] * n;
            std::fill(c.window.begin() + at, c.window.begin() + at + n, NAN);
        }
        check(c);
    }
}
END_TEST

/* One sequence cut anywhere: not a bit differs, for every column is multiplied once and kept as it is. */
START_TEST(splits_of_a_sequence)
{
    const int T = 39;
    for (int K : {1, 2, 4, 5}) {
        conv_call c = make(CU_BF16, {T}, 16, 4, K);
        c.begins[20] = true;
        const conv_result whole = run(c);
        for (int cut = 1; cut < T; ++cut) {
            conv_call a = c, b = c;
            a.row_begin = {0, cut}, b.row_begin = {0, T - cut};
            a.begins.resize(cut), a.x.resize(cut * c.ldx());
            b.begins.erase(b.begins.begin(), b.begins.begin() + cut);
            b.x.erase(b.x.begin(), b.x.begin() + cut * c.ldx());
            const conv_result first = run(a);
            b.window = first.window;
            conv_result second = run(b);
            second.y.insert(second.y.begin(), first.y.begin(), first.y.end());
            ck_assert_msg(second.y == whole.y && second.window == whole.window, "K %d cut at %d", K, cut);
        }
    }
}
END_TEST

START_TEST(faults_are_seen)
{
    conv_call c = make(CU_BF16, {40, 2}, 16, 8, 4);
    c.begins[10] = true;
    const conv_result r = run(c);
    for (fault f : {LEAKS, WINDOW_LOST, SEGMENTS_MIXED, NO_SILU})
        ck_assert_msg(wrong_outputs(c, r, f) > 0, "fault %d is not seen", f);
    for (fault f : {WINDOW_LOST, SEGMENTS_MIXED, WINDOW_LEFT}) ck_assert_msg(wrong_window(c, r, f) > 0, "fault %d", f);
}
END_TEST

START_TEST(no_tokens)
{
    check(make(CU_F32, {0, 0}, 8, 4, 4));
}
END_TEST

int main()
{
    Suite *s = suite_create("conv1d");
    TCase *c = tcase_create("conv1d");
    tcase_add_test(c, agrees);
    tcase_add_test(c, one_token_a_row);
    tcase_add_test(c, no_bias);
    tcase_add_test(c, documents_stand_alone);
    tcase_add_test(c, splits_of_a_sequence);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
