/* A step of AdamW over a list of tensors, beside the formula in double; and sums of squares. */
#include "cuda/backward.cuh"
#include "tests/cuda/backward_fixture.h"

struct tensor {
    floats g, w, m, v;
    double decay;
    bool copy;
};

static tensor drawn(int64_t n, double decay, bool copy)
{
    tensor t = {some("g", n), some("w", n), some("m", n, 0.1), some("v", n, 0.1), decay, copy};
    for (float &x : t.v) x = x * x;
    return t;
}

static const fh1_adamw options = {0.01, 0.9, 0.95, 1e-8, 0, 0.7, 3};

struct after {
    floats w, m, v;
    std::vector<bf16> copy;
};

static std::vector<after> run(const std::vector<tensor> &list)
{
    cu_ctx k = context();
    cu_adamw_args a = {};
    std::vector<cu_adamw_tensor> on;
    for (const tensor &t : list) {
        cu_adamw_tensor d = {};
        d.n = static_cast<int64_t>(t.g.size());
        d.first = a.pieces;
        d.g = to_device(t.g), d.w = to_device(t.w), d.m = to_device(t.m), d.v = to_device(t.v);
        d.copy = t.copy ? device_new<bf16>(t.g.size()) : nullptr;
        d.decay = t.decay;
        on.push_back(d);
        a.pieces += (d.n + CU_ADAMW_PIECE - 1) / CU_ADAMW_PIECE;
    }
    a.n = static_cast<int>(on.size());
    a.list = to_device(on);
    a.o = options;
    good(cu_adamw(&k, &a));
    std::vector<after> out;
    for (const cu_adamw_tensor &d : on) {
        const size_t n = static_cast<size_t>(d.n);
        out.push_back({from_device(d.w, n), from_device(d.m, n), from_device(d.v, n), {}});
        if (d.copy) out.back().copy = from_device(static_cast<const bf16 *>(d.copy), n);
    }
    free_device();
    return out;
}

/* m is off by 4u of its terms, v by 5u (all positive); the step by those, relative, and 8u more, where m's own
 * cancellation is part of its error. The wrong answer adds eps under the root of an uncorrected v. */
static void check(const tensor &t, const after &r)
{
    const fh1_adamw &o = options;
    verdict w = {};
    for (size_t i = 0; i < t.g.size(); ++i) {
        const double g = o.grad_scale * t.g[i], m = t.m[i] + (1 - o.beta1) * (g - t.m[i]);
        const double v = o.beta2 * t.v[i] + (1 - o.beta2) * g * g, off_m = 6 * U * (fabs(t.m[i]) + fabs(g));
        const double bias1 = 1 - pow(o.beta1, o.t), bias2 = 1 - pow(o.beta2, o.t);
        const double step = o.lr / bias1 / (sqrt(v) / sqrt(bias2) + o.eps), shrunk = t.w[i] * (1 - o.lr * t.decay);
        ck_assert(close_to(CU_F32, r.m[i], m, off_m));
        ck_assert(close_to(CU_F32, r.v[i], v, 6 * U * v));
        judge(&w, "w", static_cast<int64_t>(i), r.w[i], shrunk - step * m,
              step * (off_m + 12 * U * fabs(m)) + 3 * U * fabs(shrunk), shrunk - step * m * bias1);
        if (t.copy) ck_assert(__bfloat162float(r.copy[i]) == __bfloat162float(__float2bfloat16_rn(r.w[i])));
    }
    can_fail(w, "no correction of the first moment");
}

START_TEST(adamw)
{
    const std::vector<tensor> list = {drawn(5, 0, false), drawn(2 * CU_ADAMW_PIECE + 7, 0.1, true),
                                      drawn(1, 0.1, false), drawn(CU_ADAMW_PIECE, 0.3, true)};
    const std::vector<after> r = run(list);
    for (size_t i = 0; i < list.size(); ++i) check(list[i], r[i]);
    ck_assert(run({}).empty());
}
END_TEST

static double squares(const floats &g, double before, bool add)
{
    cu_ctx k = context();
    cu_squares_args a = {};
    a.n = static_cast<int64_t>(g.size());
    a.g = to_device(g);
    a.part = device_new<double>(CU_SQUARES_PARTS);
    a.add = add;
    a.sum = to_device(std::vector<double>{before});
    good(cu_sum_of_squares(&k, &a));
    const double s = from_device(a.sum, 1)[0];
    free_device();
    return s;
}

START_TEST(sum_of_squares)
{
    for (int64_t n : {0, 1, 255, 4096, 70001}) {
        const floats g = some("g", n);
        long double want = 0;
        for (float x : g) want += static_cast<long double>(x) * x;
        ck_assert(fabsl(squares(g, 7, false) - want) <= n * 0x1p-53L * want);
        ck_assert(fabsl(squares(g, 7, true) - want - 7) <= (n + 1) * 0x1p-53L * (want + 7));
        ck_assert(squares(g, 7, true) == squares(g, 7, true));
    }
    ck_assert(squares({3e38f, 1e-30f}, 0, false) > 8e76);
    ck_assert(std::isnan(squares({1, NAN}, 0, false)));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {adamw, sum_of_squares};
    return run_tests("adamw", tests, 2);
}
