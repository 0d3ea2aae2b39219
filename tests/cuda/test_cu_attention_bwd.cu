/* Attention backwards: batches of documents, keys from before the call, groups of heads, heads of any width. */
#include "cuda/backward.cuh"
#include "tests/cuda/backward_fixture.h"

struct shape {
    int past, Hq, Hkv, A;
    std::vector<int> rows;  /* tokens of each row */
    std::vector<int> first; /* per token, in its row; empty: 0 */
};

struct inputs {
    floats q, k, v, dout;
    std::vector<int> row, begin, first;
    int M, S;
};

static inputs drawn(const shape &s)
{
    inputs v;
    v.begin = {0};
    for (size_t b = 0; b < s.rows.size(); ++b) {
        v.row.insert(v.row.end(), static_cast<size_t>(s.rows[b]), static_cast<int>(b));
        v.begin.push_back(static_cast<int>(v.row.size()));
    }
    v.M = static_cast<int>(v.row.size());
    v.S = s.past + v.M;
    v.first = s.first.empty() ? std::vector<int>(v.row.size(), 0) : s.first;
    v.q = some("q", static_cast<int64_t>(v.M) * s.Hq * s.A);
    v.k = some("k", static_cast<int64_t>(v.S) * s.Hkv * s.A);
    v.v = some("v", static_cast<int64_t>(v.S) * s.Hkv * s.A);
    v.dout = some("dout", static_cast<int64_t>(v.M) * s.Hq * s.A);
    return v;
}

/* k and v lie token by token, [S, Hkv, A], or head by head. */
static int64_t key_at(const shape &s, const inputs &v, bool by_head, int64_t h, int64_t key)
{
    return by_head ? (h * v.S + key) * s.A : (key * s.Hkv + h) * s.A;
}

static std::vector<floats> run(const shape &s, const inputs &v, bool by_head)
{
    cu_ctx k = context();
    cu_attention_bwd_args a = {};
    a.t.M = v.M, a.t.B = static_cast<int>(s.rows.size());
    a.t.row = to_device(v.row), a.t.row_begin = to_device(v.begin), a.t.first = to_device(v.first);
    a.past = s.past, a.Hq = s.Hq, a.Hkv = s.Hkv, a.A = s.A;
    a.q = to_device(v.q), a.k = to_device(v.k), a.v = to_device(v.v), a.dout = to_device(v.dout);
    a.ldq = a.lddq = s.Hq * s.A;
    a.kv_head = a.dkv_head = by_head ? static_cast<int64_t>(v.S) * s.A : s.A;
    a.ldkv = a.lddkv = by_head ? s.A : s.Hkv * s.A;
    a.dq = to_device(floats(v.q.size(), NAN));
    a.dk = to_device(floats(v.k.size(), NAN)), a.dv = to_device(floats(v.v.size(), NAN));
    a.scratch = device_new<float>(cu_attention_bwd_scratch(&a) / sizeof(float));
    good(cu_attention_bwd(&k, &a));
    std::vector<floats> out = {from_device(a.dq, v.q.size()), from_device(a.dk, v.k.size()),
                               from_device(a.dv, v.v.size())};
    free_device();
    return out;
}

/* Gradients and what they may be off by. A score is a sum of A products: off by (A+2)·u·Σ|q·k|·A^-½ =: e, its
 * probability relative by 2e + (n+5)·u (its own score, and the sum of all n); Δ = dout·v - c is off by
 * (A+2)·u·Σ|dout·v| and, in c, by the errors of p. Each product with ds or p adds (terms + 3)·u. */
struct truth {
    std::vector<double> dq, dk, dv, off_q, off_k, off_v, cut_q, cut_k;
};

static double dot(const float *a, const float *b, int n, double *size)
{
    double s = 0;
    *size = 0;
    for (int i = 0; i < n; ++i) {
        s += static_cast<double>(a[i]) * b[i];
        *size += fabs(static_cast<double>(a[i]) * b[i]);
    }
    return s;
}

static void token(const shape &s, const inputs &v, bool by_head, int m, int h, truth *t)
{
    const int b = v.row[m], lo = v.begin[b] + v.first[m], n = s.past + m - lo + 1, A = s.A, kv = h / (s.Hq / s.Hkv);
    const float *q = v.q.data() + (static_cast<int64_t>(m) * s.Hq + h) * A;
    const float *dout = v.dout.data() + (static_cast<int64_t>(m) * s.Hq + h) * A;
    const double scale = 1 / sqrt(static_cast<double>(A));
    std::vector<double> p(n), dp(n), off_p(n), off_dp(n);
    double most = -INFINITY, sum = 0, c = 0, off_c = 0, worst = 0;
    for (int j = 0; j < n; ++j) {
        const int64_t at = key_at(s, v, by_head, kv, lo + j);
        double size;
        p[j] = dot(q, v.k.data() + at, A, &size) * scale;
        off_p[j] = (A + 2) * U * size * scale + U * fabs(p[j]);
        worst = fmax(worst, off_p[j]);
        most = fmax(most, p[j]);
        dp[j] = dot(dout, v.v.data() + at, A, &size);
        off_dp[j] = (A + 1) * U * size;
    }
    for (int j = 0; j < n; ++j) sum += p[j] = exp(p[j] - most);
    for (int j = 0; j < n; ++j) {
        p[j] /= sum;
        off_p[j] = p[j] * (off_p[j] + 2 * worst + (n + 8) * U); /* exp of a difference: the score, and the maximum's */
        c += p[j] * dp[j];
        off_c += off_p[j] * fabs(dp[j]) + p[j] * off_dp[j] + (n + 4) * U * fabs(p[j] * dp[j]);
    }
    double *dq = t->dq.data() + (static_cast<int64_t>(m) * s.Hq + h) * A,
           *off_q = t->off_q.data() + (dq - t->dq.data());
    double *cut_q = t->cut_q.data() + (dq - t->dq.data());
    for (int j = 0; j < n; ++j) {
        const int64_t at = key_at(s, v, by_head, kv, lo + j);
        const double ds = p[j] * (dp[j] - c) * scale, cut = p[j] * dp[j] * scale;
        const double off = scale * (off_p[j] * fabs(dp[j] - c) + p[j] * (off_dp[j] + off_c + U * fabs(dp[j] - c))) +
                           (v.S * (s.Hq / s.Hkv) + 4) * U * fabs(ds);
        for (int i = 0; i < A; ++i) {
            dq[i] += ds * v.k[at + i], off_q[i] += off * fabs(v.k[at + i]);
            cut_q[i] += cut * v.k[at + i];
            t->dk[at + i] += ds * q[i], t->off_k[at + i] += off * fabs(q[i]);
            t->cut_k[at + i] += cut * q[i];
            t->dv[at + i] += p[j] * dout[i];
            t->off_v[at + i] += (off_p[j] + (v.S * (s.Hq / s.Hkv) + 4) * U * p[j]) * fabs(dout[i]);
        }
    }
}

static truth make(const shape &s, const inputs &v, bool by_head)
{
    truth t;
    t.dq.resize(v.q.size()), t.off_q.resize(v.q.size()), t.cut_q.resize(v.q.size());
    for (std::vector<double> *x : {&t.dk, &t.dv, &t.off_k, &t.off_v, &t.cut_k}) x->resize(v.k.size());
    for (int m = 0; m < v.M; ++m)
        for (int h = 0; h < s.Hq; ++h) token(s, v, by_head, m, h, &t);
    return t;
}

static void check(const shape &s, bool by_head)
{
    const inputs v = drawn(s);
    const truth t = make(s, v, by_head);
    std::vector<floats> out;
    twice([&] { return run(s, v, by_head); }, &out);
    verdict q = {}, k = {};
    for (size_t i = 0; i < out[0].size(); ++i)
        judge(&q, "dq", static_cast<int64_t>(i), out[0][i], t.dq[i], t.off_q[i], t.cut_q[i]);
    for (size_t i = 0; i < out[1].size(); ++i) {
        judge(&k, "dk", static_cast<int64_t>(i), out[1][i], t.dk[i], t.off_k[i], t.cut_k[i]);
        ck_assert_msg(close_to(CU_F32, out[2][i], t.dv[i], t.off_v[i]), "dv[%zu] is %g, not %g +- %g", i, out[2][i],
                      t.dv[i], t.off_v[i]);
    }
    if (v.M > 1) can_fail(q, "a softmax without its Σ p·dp"), can_fail(k, "a softmax without its Σ p·dp");
}

START_TEST(shapes)
{
    check({0, 1, 1, 1, {1}, {}}, false);
    check({0, 2, 1, 8, {5}, {}}, true);
    check({0, 4, 2, 6, {3, 0, 7, 1}, {}}, false);
    check({0, 3, 1, 33, {40, 35}, {}}, false);
    check({0, 2, 2, 130, {33}, {}}, true); /* two pieces of columns */
    check({0, 4, 1, 16, {70}, {}}, false);
    check({37, 4, 2, 16, {5}, {}}, true); /* keys from before */
    check({3, 2, 1, 4, {67}, {}}, true);
}
END_TEST

/* Documents end inside of tiles; a row's later documents see nothing before them. */
START_TEST(documents)
{
    shape s = {0, 2, 1, 8, {45, 30}, {}};
    for (int m = 0; m < 45; ++m) s.first.push_back(m < 10 ? 0 : m < 40 ? 10 : 40);
    for (int m = 0; m < 30; ++m) s.first.push_back(m < 29 ? 0 : 29);
    check(s, false);
    shape late = {20, 2, 1, 8, {8}, {}};
    for (int m = 0; m < 8; ++m) late.first.push_back(m < 3 ? 15 : 23);
    check(late, true);
}
END_TEST

/* A NaN in one document's key, value or gradient does not leave it. */
START_TEST(a_nan_stays_in_its_document)
{
    shape s = {0, 2, 1, 8, {20, 4}, {}};
    for (int m = 0; m < 24; ++m) s.first.push_back(m >= 10 && m < 20 ? 10 : 0);
    inputs v = drawn(s);
    v.k[12 * 8 + 3] = NAN;
    v.v[13 * 8] = INFINITY;
    v.dout[(14 * 2 + 1) * 8] = NAN;
    v.q[11 * 16] = NAN;
    const std::vector<floats> out = run(s, v, false);
    for (int m = 0; m < 24; ++m) {
        const bool hit = m >= 10 && m < 20;
        for (int i = 0; i < 16 && !hit; ++i) ck_assert(std::isfinite(out[0][m * 16 + i]));
        for (int i = 0; i < 8 && !hit; ++i)
            ck_assert(std::isfinite(out[1][m * 8 + i]) && std::isfinite(out[2][m * 8 + i]));
    }
    ck_assert(std::isnan(out[0][12 * 16]) && std::isnan(out[1][12 * 8]));
}
END_TEST

/* A past and no new tokens: gradients of keys and values are zeros. */
START_TEST(no_tokens)
{
    for (const shape &s : {shape{5, 2, 1, 4, {0}, {}}, shape{0, 2, 1, 4, {0}, {}}})
        for (const floats &d : run(s, drawn(s), true))
            for (float x : d) ck_assert(x == 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, documents, a_nan_stays_in_its_document, no_tokens};
    return run_tests("attention_bwd", tests, 4);
}
