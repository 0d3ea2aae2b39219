/* The fused decode products (cuda/decode_linear.cuh). Every stage is held against double loops over what the stage
 * before it stored (taps on), so each bound is that of one rounding and one sum; then the same call with taps off must
 * give the same bits. */
#include "cuda/decode_linear.cuh"
#include "tests/cuda/linear_truth.h"

typedef std::vector<float> floats;
static const double U = 1.0 / (1 << 24); /* half an ulp of 1 in f32 */

struct shape {
    cu_type type;
    int M, D;
    bool bias;
};
/* odd widths, vectors with a ragged end, more rows than one launch takes, a width that one launch of 8 rows cannot hold
 */
static const shape SHAPES[] = {
    {CU_F32, 1, 36, false}, {CU_F32, 3, 37, true},  {CU_BF16, 1, 264, false}, {CU_BF16, 2, 1032, true},
    {CU_BF16, 5, 72, true}, {CU_BF16, 8, 45, true}, {CU_BF16, 11, 40, false}, {CU_F32, 3, 13000, false},
};
static const cu_path PATHS[] = {CU_AUTO, CU_GENERAL};

/* Largest |got - truth| / allowed seen since the last check of a case. */
static double worst;

static void judge(double got, double truth, double allowed, cu_type t)
{
    const double share = fabs(got - truth) / (allowed + half_ulp(t, fabs(truth) + allowed) + 1e-300);
    if (!(share <= worst)) worst = share;
}

static void judged(const char *what, const shape &s, cu_path path)
{
    ck_assert_msg(worst <= 1, "%s %s M %d D %d path %d: %g times what is allowed", what,
                  s.type == CU_F32 ? "f32" : "bf16", s.M, s.D, path, worst);
    worst = 0;
}

static size_t at(int64_t row, int64_t width, int64_t i)
{
    return static_cast<size_t>(row * width + i);
}

/* Squares are summed in f32: D additions of relative error U halve in the root; five roundings after. */
static void judge_norm(const shape &s, const floats &n, const floats &x, const floats &w, double eps)
{
    for (int m = 0; m < s.M; ++m) {
        double sum = 0;
        for (int i = 0; i < s.D; ++i) sum += static_cast<double>(x[at(m, s.D, i)]) * x[at(m, s.D, i)];
        for (int i = 0; i < s.D; ++i) {
            const double v = static_cast<double>(w[static_cast<size_t>(i)]) * x[at(m, s.D, i)] / sqrt(sum / s.D + eps);
            judge(n[at(m, s.D, i)], v, (0.5 * s.D + 6) * U * fabs(v), s.type);
        }
    }
}

/* out[m, n] = R(alpha·(in·Wᵀ) + b) with the bound of linear_truth.h. */
static void judge_linear(cu_type t, int M, int N, int K, const floats &out, int64_t ld, const floats &in,
                         const floats &w, const floats &b, int n0, int n1, double alpha)
{
    for (int m = 0; m < M; ++m) {
        for (int n = n0; n < n1; ++n) {
            double sum = 0, size = 0;
            for (int k = 0; k < K; ++k) {
                const double p = static_cast<double>(in[at(m, K, k)]) * w[at(n, K, k)];
                sum += p;
                size += fabs(p);
            }
            const double bias = b.empty() ? 0 : static_cast<double>(b[static_cast<size_t>(n)]);
            judge(out[at(m, ld, n)], alpha * sum + bias, 2 * U * ((K + 2) * fabs(alpha) * size + fabs(bias)), t);
        }
    }
    (void)N;
}

static floats weight(cu_type t, const char *name, int N, int K)
{
    return as_stored(t, draw(name, static_cast<size_t>(N) * K, 1 / sqrt(K)));
}

static void same_bits(const floats &a, const floats &b)
{
    ck_assert(a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0));
}

/* What the tests of all four share: x, the norm's weight. */
struct input {
    floats x, norm;
    void *d_x;
    float *d_norm;
};
static input input_of(const shape &s)
{
    input in;
    in.x = as_stored(s.type, draw("x", at(s.M, s.D, 0), 3));
    in.norm = draw("norm", static_cast<size_t>(s.D), 0.2, 1);
    in.d_x = to_device(s.type, in.x);
    in.d_norm = to_device(in.norm);
    return in;
}

START_TEST(norm_in_qkv)
{
    for (const shape &s : SHAPES) {
        for (cu_path path : PATHS) {
            cu_ctx k = context(path);
            const int n_in = s.D > 9000 ? 3 : 71, n_qkv = s.D > 9000 ? 2 : 34, N = n_in + n_qkv;
            const input in = input_of(s);
            const floats w = weight(s.type, "w", N, s.D), b = s.bias ? draw("b", static_cast<size_t>(N)) : floats();
            void *y = device_new(s.type, at(s.M, N + 3, 0)), *n = device_new(s.type, at(s.M, s.D, 0));
            cu_norm_in_qkv a = {s.type,
                                s.M,
                                s.D,
                                n_in,
                                n_qkv,
                                in.d_x,
                                in.d_norm,
                                1e-5f,
                                to_device(s.type, w),
                                s.bias ? to_device(b) : NULL,
                                0.35f,
                                1.7f,
                                y,
                                N + 3,
                                n};
            good(cu_norm_in_qkv_fwd(&k, &a));
            const floats got_n = from_device(s.type, n, at(s.M, s.D, 0)),
                         got = from_device(s.type, y, at(s.M, N + 3, 0));
            judge_norm(s, got_n, in.x, in.norm, 1e-5);
            judged("n", s, path);
            judge_linear(s.type, s.M, N, s.D, got, N + 3, got_n, w, b, 0, n_in, 0.35f);
            judge_linear(s.type, s.M, N, s.D, got, N + 3, got_n, w, b, n_in, N, 1.7f);
            judged("in_qkv", s, path);
            /* the wrong multiplier is seen */
            judge_linear(s.type, s.M, N, s.D, got, N + 3, got_n, w, b, n_in, N, 0.35f);
            ck_assert(worst > 1);
            worst = 0;
            a.n = NULL;
            good(cu_norm_in_qkv_fwd(&k, &a));
            same_bits(got, from_device(s.type, y, at(s.M, N + 3, 0)));
            free_device();
        }
    }
}
END_TEST

START_TEST(norm_gate_up)
{
    const float m_gate = 0.62f;
    for (const shape &s : SHAPES) {
        for (cu_path path : PATHS) {
            cu_ctx k = context(path);
            const int F = s.D > 9000 ? 3 : 53;
            const input in = input_of(s);
            const floats w = weight(s.type, "w", 2 * F, s.D),
                         b = s.bias ? draw("b", static_cast<size_t>(2) * F) : floats();
            void *act = device_new(s.type, at(s.M, F, 0)), *n = device_new(s.type, at(s.M, s.D, 0)),
                 *gu = device_new(s.type, at(s.M, 2 * F, 0));
            cu_norm_gate_up a = {
                s.type, s.M, s.D, F, in.d_x, in.d_norm, 1e-6f, to_device(s.type, w), s.bias ? to_device(b) : NULL,
                m_gate, act, n,   gu};
            good(cu_norm_gate_up_fwd(&k, &a));
            const floats got_n = from_device(s.type, n, at(s.M, s.D, 0)),
                         got_gu = from_device(s.type, gu, at(s.M, 2 * F, 0)),
                         got = from_device(s.type, act, at(s.M, F, 0));
            judge_norm(s, got_n, in.x, in.norm, 1e-6);
            judged("n", s, path);
            judge_linear(s.type, s.M, 2 * F, s.D, got_gu, 2 * F, got_n, w, b, 0, 2 * F, 1);
            judged("gate_up", s, path);
            for (int m = 0; m < s.M; ++m) {
                for (int f = 0; f < F; ++f) {
                    /* the argument of exp carries the rounding of g·m_gate, so the error grows with it; exp, the sum,
                     * the quotient and two products make at most 8 units */
                    const double g = static_cast<double>(m_gate) * got_gu[at(m, 2 * F, f)];
                    const double v = g / (1 + exp(-g)) * got_gu[at(m, 2 * F, F + f)];
                    judge(got[at(m, F, f)], v, (8 + fabs(g)) * 2 * U * fabs(v), s.type);
                }
            }
            judged("act", s, path);
            a.n = a.gate_up = NULL;
            good(cu_norm_gate_up_fwd(&k, &a));
            same_bits(got, from_device(s.type, act, at(s.M, F, 0)));
            free_device();
        }
    }
}
END_TEST

/* One call of each kind in-place on x, with and without taps. */
START_TEST(out_o_and_down)
{
    const float m_mixer = 0.41f, m_attn = -1.3f;
    for (const shape &s : SHAPES) {
        if (s.D > 9000) continue;
        for (int i = 0; i < 4; ++i) {
            const bool two = i % 2 == 0;
            cu_ctx k = context(PATHS[i / 2]);
            const int K1 = s.D % 8 ? 77 : 2 * s.D + 16, K2 = s.D % 8 ? 15 : 1048;
            const size_t size = at(s.M, s.D, 0);
            const floats x = as_stored(s.type, draw("x", size)), in1 = as_stored(s.type, draw("in1", at(s.M, K1, 0))),
                         in2 = as_stored(s.type, draw("in2", at(s.M, K2, 0))), w1 = weight(s.type, "w1", s.D, K1),
                         w2 = weight(s.type, "w2", s.D, K2), none,
                         b1 = s.bias ? draw("b1", static_cast<size_t>(s.D)) : none;
            void *d_x = to_device(s.type, x), *out1 = device_new(s.type, size), *out2 = device_new(s.type, size);
            cu_out_o o = {s.type,
                          s.M,
                          s.D,
                          K1,
                          K2,
                          to_device(s.type, in1),
                          to_device(s.type, in2),
                          to_device(s.type, w1),
                          to_device(s.type, w2),
                          s.bias ? to_device(b1) : NULL,
                          NULL,
                          m_mixer,
                          m_attn,
                          d_x,
                          out1,
                          out2};
            cu_down_residual down = {s.type, s.M, s.D, K1, o.gated, o.out, o.out_b, m_mixer, d_x, out1};
            good(two ? cu_out_o_fwd(&k, &o) : cu_down_residual_fwd(&k, &down));
            const floats got = from_device(s.type, d_x, size), mixer = from_device(s.type, out1, size);
            const floats attn = two ? from_device(s.type, out2, size) : floats(size, 0.f);
            judge_linear(s.type, s.M, s.D, K1, mixer, s.D, in1, w1, b1, 0, s.D, 1);
            judged("mixer or down", s, k.path);
            if (two) judge_linear(s.type, s.M, s.D, K2, attn, s.D, in2, w2, none, 0, s.D, 1);
            judged("attn", s, k.path);
            for (size_t j = 0; j < size; ++j) {
                const double p = static_cast<double>(mixer[j]) * m_mixer, q = static_cast<double>(attn[j]) * m_attn;
                judge(got[j], x[j] + p + q, 3 * U * (fabs(p) + fabs(q) + fabs(static_cast<double>(x[j]))), s.type);
            }
            judged("x", s, k.path);
            o.x = down.x = to_device(s.type, x);
            o.mixer = o.attn = down.down = NULL;
            good(two ? cu_out_o_fwd(&k, &o) : cu_down_residual_fwd(&k, &down));
            same_bits(got, from_device(s.type, o.x, size));
            free_device();
        }
    }
}
END_TEST

/* The greedy head against its own logits and those against double. */
START_TEST(head_greedy)
{
    for (const shape &s : SHAPES) {
        for (cu_path path : PATHS) {
            cu_ctx k = context(path);
            const int V = s.D > 9000 ? 5 : 701;
            const size_t size = at(s.M, V, 0);
            const input in = input_of(s);
            const floats w = weight(s.type, "w", V, s.D);
            int *token = device_new<int>(static_cast<size_t>(s.M));
            float *logits = device_new<float>(size);
            void *n = device_new(s.type, at(s.M, s.D, 0));
            cu_head_greedy a = {s.type,
                                s.M,
                                s.D,
                                V,
                                in.d_x,
                                s.bias ? in.d_norm : NULL,
                                1e-5f,
                                to_device(s.type, w),
                                -0.7f,
                                token,
                                logits,
                                n,
                                device_new<char>(cu_head_greedy_scratch(&k))};
            good(cu_head_greedy_fwd(&k, &a));
            const floats got = from_device(logits, size);
            if (s.bias) judge_norm(s, from_device(s.type, n, at(s.M, s.D, 0)), in.x, in.norm, 1e-5);
            judge_linear(CU_F32, s.M, V, s.D, got, V, s.bias ? from_device(s.type, n, at(s.M, s.D, 0)) : in.x, w,
                         floats(), 0, V, -0.7f);
            judged("logits", s, path);
            const std::vector<int> id = from_device(token, static_cast<size_t>(s.M));
            a.logits = NULL;
            good(cu_head_greedy_fwd(&k, &a));
            ck_assert(id == from_device(token, static_cast<size_t>(s.M)));
            for (int m = 0; m < s.M; ++m) {
                int best = 0;
                for (int v = 1; v < V; ++v)
                    if (got[at(m, V, v)] > got[at(m, V, best)]) best = v;
                ck_assert_int_eq(id[static_cast<size_t>(m)], best);
            }
            free_device();
        }
    }
}
END_TEST

/* Ties go to the lowest id wherever the equals lie, a NaN logit gives -1, all -inf gives 0. */
START_TEST(head_greedy_corners)
{
    cu_ctx k = context();
    const int V = 900, D = 8, M = 3;
    const int low[] = {0, 31, 32, 417, 899};
    for (int first : low) {
        for (int corner = 0; corner < 3; ++corner) {
            floats x(static_cast<size_t>(M * D), 0.f), w(static_cast<size_t>(V * D), -1.f);
            for (int m = 0; m < M; ++m) x[at(m, D, m)] = 1;
            for (int v = first; v < V; v += 41) w[at(v, D, 1)] = 2; /* row 1 of x sees these */
            if (corner == 1) w[at(first, D, 2)] = NAN;
            if (corner == 2)
                for (float &v : w) v = -INFINITY;
            if (corner == 2)
                for (float &v : x) v = 1;
            int *token = device_new<int>(M);
            cu_head_greedy a = {CU_BF16,
                                M,
                                D,
                                V,
                                to_device(CU_BF16, x),
                                NULL,
                                0,
                                to_device(CU_BF16, w),
                                1,
                                token,
                                NULL,
                                NULL,
                                device_new<char>(cu_head_greedy_scratch(&k))};
            good(cu_head_greedy_fwd(&k, &a));
            const std::vector<int> id = from_device(token, M);
            ck_assert_int_eq(id[1], corner == 2 ? 0 : corner == 1 ? -1 : first); /* 0·NaN is NaN, for every row */
            ck_assert_int_eq(id[0], corner == 1 ? -1 : 0);
            free_device();
        }
    }
}
END_TEST

START_TEST(nothing_to_do)
{
    cu_ctx k = context();
    cu_norm_in_qkv q = {};
    cu_norm_gate_up g = {};
    cu_out_o o = {};
    cu_down_residual d = {};
    cu_head_greedy h = {};
    q.D = g.D = o.D = d.D = h.D = q.n_in = g.F = h.V = 8;
    good(cu_norm_in_qkv_fwd(&k, &q));
    good(cu_norm_gate_up_fwd(&k, &g));
    good(cu_out_o_fwd(&k, &o));
    good(cu_down_residual_fwd(&k, &d));
    good(cu_head_greedy_fwd(&k, &h));
    q.M = 1;
    q.D = 1 << 20;
    ck_assert(cu_norm_in_qkv_fwd(&k, &q)); /* a row that shared memory cannot hold is refused, not cut */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cu_decode_linear");
    TCase *c = tcase_create("decode_linear");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, norm_in_qkv);
    tcase_add_test(c, norm_gate_up);
    tcase_add_test(c, out_o_and_down);
    tcase_add_test(c, head_greedy);
    tcase_add_test(c, head_greedy_corners);
    tcase_add_test(c, nothing_to_do);
    suite_add_tcase(s, c);
    return run_suite(s);
}
