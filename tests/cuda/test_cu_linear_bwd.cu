/* Gradients of products: dx, dw and db of any shape and row length, weights of both types, and of LoRA's two. */
#include "cuda/backward.cuh"
#include "cuda/lora.cuh"
#include "tests/cuda/backward_fixture.h"

struct shape {
    int M, N, K, pad; /* pad: elements between rows */
};
static const shape shapes[] = {{1, 1, 1, 0},      {5, 7, 3, 0},       {33, 65, 70, 3},  {64, 64, 64, 0},
                               {130, 70, 140, 1}, {200, 270, 260, 0}, {3, 300, 129, 5}, {129, 2, 131, 0}};

static floats spread(const floats &v, int64_t rows, int64_t width, int64_t ld)
{
    floats out(static_cast<size_t>(rows * ld), NAN); /* what lies between rows must not be read */
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < width; ++j) out[i * ld + j] = v[i * width + j];
    return out;
}

struct inputs {
    floats x, w, dy, dx, dw, db; /* dense; the last three: what is there before */
};

static inputs drawn(const shape &s, cu_type w_type)
{
    inputs v;
    v.x = some("x", static_cast<int64_t>(s.M) * s.K);
    v.w = as_stored(w_type, some("w", static_cast<int64_t>(s.N) * s.K));
    v.dy = some("dy", static_cast<int64_t>(s.M) * s.N);
    v.dx = some("dx", static_cast<int64_t>(s.M) * s.K);
    v.dw = some("dw", static_cast<int64_t>(s.N) * s.K);
    v.db = some("db", s.N);
    return v;
}

static const float ALPHA = 0.7f;

static std::vector<floats> run(const shape &s, const inputs &v, cu_type w_type, bool add)
{
    cu_ctx k = context();
    cu_linear_bwd_args a = {};
    a.M = s.M, a.N = s.N, a.K = s.K;
    a.x = to_device(spread(v.x, s.M, s.K, s.K + s.pad));
    a.dy = to_device(spread(v.dy, s.M, s.N, s.N + s.pad));
    a.ldx = a.lddx = s.K + s.pad, a.ldy = s.N + s.pad;
    a.w_type = w_type;
    a.w = to_device(w_type, v.w);
    a.alpha = ALPHA;
    a.add = add;
    a.dx = to_device(spread(v.dx, s.M, s.K, s.K + s.pad));
    a.dw = to_device(v.dw);
    a.db = to_device(v.db);
    good(cu_linear_bwd(&k, &a));
    const floats wide = from_device(a.dx, static_cast<size_t>(s.M) * static_cast<size_t>(s.K + s.pad));
    floats dx;
    for (int64_t m = 0; m < s.M; ++m) {
        const float *row = wide.data() + m * (s.K + s.pad);
        dx.insert(dx.end(), row, row + s.K);
        for (int64_t i = s.K; i < s.K + s.pad; ++i) ck_assert(std::isnan(row[i]));
    }
    std::vector<floats> out = {dx, from_device(a.dw, v.dw.size()), from_device(a.db, v.db.size())};
    free_device();
    return out;
}

/* A sum of n products: each product and addition rounds once, alpha and the last addition too. The wrong answer lacks
 * the first term. */
static void check_dx(const shape &s, const inputs &v, bool add, const floats &dx)
{
    verdict d = {};
    for (int64_t m = 0; m < s.M; ++m)
        for (int64_t j = 0; j < s.K; ++j) {
            sum_of_terms t = {};
            for (int64_t n = 0; n < s.N; ++n) t.add(1.0 * ALPHA * v.dy[m * s.N + n] * v.w[n * s.K + j]);
            const double before = add ? v.dx[m * s.K + j] : 0, less = 1.0 * ALPHA * v.dy[m * s.N] * v.w[j];
            judge(&d, "dx", m * s.K + j, dx[m * s.K + j], t.value + before, t.off(2) + U * fabs(before),
                  t.value + before - less);
        }
    can_fail(d, "the first output left out");
}

static void check_dw(const shape &s, const inputs &v, const floats &dw, const floats &db)
{
    verdict w = {}, b = {};
    for (int64_t n = 0; n < s.N; ++n) {
        for (int64_t j = 0; j < s.K; ++j) {
            sum_of_terms t = {};
            for (int64_t m = 0; m < s.M; ++m) t.add(1.0 * ALPHA * v.dy[m * s.N + n] * v.x[m * s.K + j]);
            const double before = v.dw[n * s.K + j];
            judge(&w, "dw", n * s.K + j, dw[n * s.K + j], t.value + before, t.off(2) + U * fabs(before), t.value);
        }
        sum_of_terms t = {};
        for (int64_t m = 0; m < s.M; ++m) t.add(v.dy[m * s.N + n]);
        judge(&b, "db", n, db[n], t.value + v.db[n], t.off(2) + U * fabs(v.db[n]), t.value * ALPHA + v.db[n]);
    }
    can_fail(w, "a gradient that is assigned and not added");
    can_fail(b, "a bias with the multiplier");
}

START_TEST(products)
{
    for (const shape &s : shapes)
        for (int i = 0; i < 4; ++i) {
            const cu_type w_type = i % 2 ? CU_BF16 : CU_F32;
            const bool add = i / 2;
            const inputs v = drawn(s, w_type);
            std::vector<floats> out;
            twice([&] { return run(s, v, w_type, add); }, &out);
            check_dx(s, v, add, out[0]);
            if (!add) check_dw(s, v, out[1], out[2]);
        }
}
END_TEST

/* No tokens: nothing is touched. No outputs: dx is zero. */
START_TEST(empty)
{
    const shape none = {0, 5, 4, 0};
    inputs v = drawn(none, CU_F32);
    const std::vector<floats> out = run(none, v, CU_F32, false);
    ck_assert(out[1] == v.dw && out[2] == v.db);
    cu_ctx k = context();
    cu_linear_bwd_args a = {};
    a.M = 2, a.K = 3;
    a.dx = to_device(floats(6, NAN));
    a.lddx = 3;
    good(cu_linear_bwd(&k, &a));
    for (float d : from_device(a.dx, 6)) ck_assert(d == 0);
    free_device();
}
END_TEST

/* A NaN in a row of dy reaches that row of dx and that column of dw; an infinity in the last column of x stays there,
 * though the slices of shared memory are filled up with zeros. */
START_TEST(special_values)
{
    const shape s = {5, 6, 7, 0};
    inputs v = drawn(s, CU_F32);
    v.dy[2 * 6 + 4] = NAN;
    v.x[1 * 7 + 6] = INFINITY;
    const std::vector<floats> out = run(s, v, CU_F32, false);
    for (int m = 0; m < 5; ++m)
        for (int j = 0; j < 7; ++j) ck_assert_int_eq(std::isnan(out[0][m * 7 + j]), m == 2);
    for (int n = 0; n < 6; ++n)
        for (int j = 0; j < 7; ++j) {
            ck_assert_int_eq(std::isnan(out[1][n * 7 + j]), n == 4);
            if (n != 4) ck_assert_int_eq(std::isinf(out[1][n * 7 + j]), j == 6);
        }
}
END_TEST

enum { LM = 37, LN = 50, LK = 41, LR = 6 };
static const float SCALE = 1.5f;

struct lora_inputs {
    floats x, A, B, dy, dx, dA, dB, db;
};

static std::vector<floats> run_lora(const lora_inputs &v)
{
    cu_ctx k = context();
    cu_lora_bwd_args a = {};
    a.M = LM, a.N = LN, a.K = LK, a.r = LR;
    a.x = to_device(v.x), a.ldx = LK;
    a.A = to_device(v.A), a.B = to_device(v.B);
    a.scale = SCALE, a.alpha = ALPHA;
    a.dy = to_device(v.dy), a.ldy = LN;
    a.dx = to_device(v.dx), a.lddx = LK;
    a.dA = to_device(v.dA), a.dB = to_device(v.dB), a.db = to_device(v.db);
    a.scratch = device_new<float>(cu_lora_bwd_scratch(&a) / sizeof(float));
    good(cu_lora_bwd(&k, &a));
    std::vector<floats> out = {from_device(a.dx, v.dx.size()), from_device(a.dA, v.dA.size()),
                               from_device(a.dB, v.dB.size()), from_device(a.db, v.db.size())};
    free_device();
    return out;
}

/* Two products behind one another: the inner sum's error, n·u of its absolute sum, passes through the outer one as a
 * part of each term's size. */
START_TEST(lora)
{
    const lora_inputs v = {some("x", LM * LK),  some("A", LR * LK),  some("B", LN * LR),  some("dy", LM * LN),
                           some("dx", LM * LK), some("dA", LR * LK), some("dB", LN * LR), some("db", LN)};
    std::vector<floats> out;
    twice([&] { return run_lora(v); }, &out);
    std::vector<sum_of_terms> t(LM * LR), u(LM * LR); /* alpha·A·x and scale·dy·B */
    for (int m = 0; m < LM; ++m)
        for (int r = 0; r < LR; ++r) {
            for (int j = 0; j < LK; ++j) t[m * LR + r].add(1.0 * ALPHA * v.x[m * LK + j] * v.A[r * LK + j]);
            for (int n = 0; n < LN; ++n) u[m * LR + r].add(1.0 * SCALE * v.dy[m * LN + n] * v.B[n * LR + r]);
        }
    verdict d = {}, dA = {}, dB = {};
    for (int m = 0; m < LM; ++m)
        for (int j = 0; j < LK; ++j) {
            double value = v.dx[m * LK + j], size = fabs(value);
            for (int r = 0; r < LR; ++r) {
                value += ALPHA * u[m * LR + r].value * v.A[r * LK + j];
                size += fabs(ALPHA * u[m * LR + r].size * v.A[r * LK + j]);
            }
            judge(&d, "dx", m * LK + j, out[0][m * LK + j], value, (LN + LR + 4) * U * size, v.dx[m * LK + j]);
        }
    for (int r = 0; r < LR; ++r)
        for (int j = 0; j < LK; ++j) {
            double value = v.dA[r * LK + j], size = fabs(value), twice_scaled = value;
            for (int m = 0; m < LM; ++m) {
                const double term = ALPHA * u[m * LR + r].value * v.x[m * LK + j];
                value += term;
                twice_scaled += SCALE * term;
                size += fabs(ALPHA * u[m * LR + r].size * v.x[m * LK + j]);
            }
            judge(&dA, "dA", r * LK + j, out[1][r * LK + j], value, (LN + LM + 4) * U * size, twice_scaled);
        }
    for (int n = 0; n < LN; ++n)
        for (int r = 0; r < LR; ++r) {
            double value = v.dB[n * LR + r], size = fabs(value), unscaled = value;
            for (int m = 0; m < LM; ++m) {
                const double term = t[m * LR + r].value * v.dy[m * LN + n];
                value += SCALE * term;
                unscaled += term;
                size += fabs(SCALE * t[m * LR + r].size * v.dy[m * LN + n]);
            }
            judge(&dB, "dB", n * LR + r, out[2][n * LR + r], value, (LK + LM + 4) * U * size, unscaled);
        }
    for (int n = 0; n < LN; ++n) {
        sum_of_terms s = {};
        for (int m = 0; m < LM; ++m) s.add(1.0 * SCALE * v.dy[m * LN + n]);
        ck_assert(close_to(CU_F32, out[3][n], s.value + v.db[n], s.off(2) + U * fabs(v.db[n])));
    }
    can_fail(d, "a low-rank path that passes nothing back");
    can_fail(dA, "a scale that is applied twice");
    can_fail(dB, "a scale that is left out");
}
END_TEST

/* y + scale·(B·(A·alpha·x) + b): two sums behind one another, the bias, and what was there. */
START_TEST(lora_forward)
{
    const floats x = some("x", LM * LK), A = some("A", LR * LK), B = some("B", LN * LR), b = some("b", LN),
                 y = some("y", LM * LN);
    for (int bias = 0; bias < 2; ++bias) {
        cu_ctx k = context();
        cu_lora a = {};
        a.M = LM, a.N = LN, a.K = LK;
        a.x = to_device(x), a.ldx = LK;
        a.adapter.r = LR;
        a.adapter.A = to_device(A), a.adapter.B = to_device(B), a.adapter.bias = bias ? to_device(b) : nullptr;
        a.adapter.scale = SCALE, a.alpha = ALPHA;
        a.t = device_new<float>(LM * LR);
        a.y = to_device(y), a.ldy = LN;
        good(cu_lora_fwd(&k, &a));
        const floats got = from_device(a.y, y.size());
        a.M = 0;
        good(cu_lora_fwd(&k, &a));
        free_device();
        verdict v = {};
        for (int m = 0; m < LM; ++m)
            for (int n = 0; n < LN; ++n) {
                double value = y[m * LN + n] + (bias ? 1.0 * SCALE * b[n] : 0),
                       size = fabs(y[m * LN + n]) + fabs(value);
                const double without = value;
                for (int r = 0; r < LR; ++r) {
                    sum_of_terms t = {};
                    for (int j = 0; j < LK; ++j) t.add(1.0 * ALPHA * x[m * LK + j] * A[r * LK + j]);
                    value += SCALE * t.value * B[n * LR + r];
                    size += fabs(SCALE * t.size * B[n * LR + r]);
                }
                judge(&v, "y", m * LN + n, got[m * LN + n], value, (LK + LR + 6) * U * size, without);
            }
        can_fail(v, "an adapter that adds nothing");
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {products, empty, special_values, lora, lora_forward};
    return run_tests("linear_bwd", tests, 5);
}
