/* The transposed rotation of queries and keys, in place. */
#include "cuda/backward.cuh"
#include "tests/cuda/backward_fixture.h"

struct shape {
    int M, Hq, Hkv, A;
};

static std::vector<floats> run(const shape &s, const floats &dq, const floats &dk, const std::vector<int64_t> &position,
                               const std::vector<double> &inv_freq, float scale, float m_key)
{
    cu_ctx k = context();
    cu_rope_bwd_args a = {};
    a.t.M = s.M, a.t.B = 1;
    a.t.row = to_device(std::vector<int>(s.M, 0));
    a.t.row_begin = to_device(std::vector<int>{0, s.M});
    a.t.past = to_device(std::vector<int>{0});
    a.t.position = to_device(position);
    a.Hq = s.Hq, a.Hkv = s.Hkv, a.A = s.A;
    a.inv_freq = to_device(inv_freq);
    a.scale = scale, a.m_key = m_key;
    a.dq = to_device(dq), a.dk = to_device(dk);
    a.ldq = s.Hq * s.A, a.ldk = s.Hkv * s.A;
    good(cu_rope_bwd(&k, &a));
    std::vector<floats> out = {from_device(a.dq, dq.size()), from_device(a.dk, dk.size())};
    free_device();
    return out;
}

/* Cosine and sine are good to two roundings (of themselves and times the scale); the key's factor, two products and a
 * difference follow. The wrong answer rotates forward. */
static void check(const shape &s, const std::vector<int64_t> &position)
{
    const int half = s.A / 2;
    const float scale = 1.25f, m_key = 0.4f;
    std::vector<double> f(half);
    for (int i = 0; i < half; ++i) f[i] = pow(1e4, -static_cast<double>(i) / half);
    const floats dq = some("dq", static_cast<int64_t>(s.M) * s.Hq * s.A);
    const floats dk = some("dk", static_cast<int64_t>(s.M) * s.Hkv * s.A);
    std::vector<floats> out;
    twice([&] { return run(s, dq, dk, position, f, scale, m_key); }, &out);
    verdict v = {};
    for (int what = 0; what < 2; ++what) {
        const floats &in = what ? dk : dq;
        const int heads = what ? s.Hkv : s.Hq;
        const double mul = scale * (what ? m_key : 1.0);
        for (int m = 0; m < s.M; ++m)
            for (int h = 0; h < heads; ++h)
                for (int i = 0; i < half; ++i) {
                    const int64_t lo = (static_cast<int64_t>(m) * heads + h) * s.A + i, hi = lo + half;
                    const double c = cos(position[m] * f[i]), n = sin(position[m] * f[i]);
                    const double off = 6 * U * mul * (fabs(in[lo]) + fabs(in[hi]));
                    const double a = mul * in[lo], b = mul * in[hi];
                    judge(&v, "lower", lo, out[what][lo], a * c + b * n, off, a * c - b * n);
                    judge(&v, "upper", hi, out[what][hi], b * c - a * n, off, b * c + a * n);
                }
    }
    can_fail(v, "a rotation forward");
}

START_TEST(shapes)
{
    check({1, 1, 1, 2}, {1});
    check({5, 4, 2, 8}, {3, 1, 4, 1, 5});
    check({4, 3, 1, 6}, {100, 2000, 77, 9});
    check({3, 2, 2, 64}, {1, 2, 3});
}
END_TEST

/* Rotating there and back is the identity times scale² and m_key², up to rounding; position 0 turns nothing. */
START_TEST(no_angle)
{
    const shape s = {2, 2, 1, 8};
    const floats dq = some("dq", 32), dk = some("dk", 16);
    const std::vector<floats> out = run(s, dq, dk, {0, 0}, {1, 0.5, 0.25, 0.125}, 1, 0.5f);
    ck_assert(out[0] == dq);
    for (int i = 0; i < 16; ++i) ck_assert(out[1][i] == dk[i] * 0.5f);
    ck_assert(run({0, 2, 1, 8}, {}, {}, {}, {1, 1, 1, 1}, 1, 1)[0].empty());
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, no_angle};
    return run_tests("rope_bwd", tests, 2);
}
