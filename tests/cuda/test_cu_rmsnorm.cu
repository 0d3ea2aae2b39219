/* The norm, and the norm behind the residual sum, whose stored value is what is normalised. */
#include "cuda/rmsnorm.cuh"
#include "tests/cuda/small_fixture.h"

enum { NORM = 1, ONE = 2, TWO = 4 }; /* what a run has */

struct arrays {
    std::vector<float> x, a, b, w;
    float m_a, m_b, eps;
};

static arrays drawn(const way &w, int M, int D, double scale)
{
    const size_t n = static_cast<size_t>(M) * D;
    arrays v;
    v.x = as_stored(w.stream(), draw("x", n, scale));
    v.a = as_stored(w.type, draw("a", n, scale));
    v.b = as_stored(w.type, draw("b", n, scale));
    v.w = draw("w", static_cast<size_t>(D), 0.2, 1);
    v.m_a = 0.7f;
    v.m_b = -1.3f;
    v.eps = 1e-5f;
    return v;
}

struct results {
    std::vector<float> x, n;
};

static results run(const way &w, int M, int D, const arrays &v, int what)
{
    cu_ctx k = context(w.path);
    cu_rmsnorm r = {};
    r.type = w.type;
    r.M = M;
    r.D = D;
    r.wide = w.wide;
    r.x = to_device(w.stream(), v.x);
    r.a = what & (ONE | TWO) ? to_device(w.type, v.a) : nullptr;
    r.b = what & TWO ? to_device(w.type, v.b) : nullptr;
    r.m_a = v.m_a;
    r.m_b = v.m_b;
    r.w = to_device(v.w);
    r.eps = v.eps;
    r.n = what & NORM ? device_new(w.type, v.x.size()) : nullptr;
    good(cu_rmsnorm_fwd(&k, &r));
    results out;
    out.x = from_device(w.stream(), r.x, v.x.size());
    if (r.n) out.n = from_device(w.type, r.n, v.x.size());
    free_device();
    return out;
}

/* n from the stored x of the device, in double. A sum of D squares, all positive, is off by D·u relative in any order,
 * so its root's reciprocal by D/2·u; quotient, eps, root and reciprocal add 3u, the two products 2u. Returns how many
 * elements would also pass with one x of the row left out: none should where D is small. */
static void check_norm(const way &w, int M, int D, const arrays &v, const results &r)
{
    for (int m = 0; m < M; ++m) {
        const size_t at = static_cast<size_t>(m) * D;
        double sum = 0;
        for (int i = 0; i < D; ++i) sum += static_cast<double>(r.x[at + i]) * r.x[at + i];
        const double scale = 1 / sqrt(sum / D + v.eps), less = 1 / sqrt(sum / D / 1.1 + v.eps);
        int wrong = 0;
        for (int i = 0; i < D; ++i) {
            const double want = v.w[i] * (r.x[at + i] * scale), before = (0.5 * D + 6) * U * fabs(want);
            ck_assert_msg(close_to(w.type, r.n[at + i], want, before), "M %d D %d: n[%d, %d] is %g, not %g", M, D, m, i,
                          r.n[at + i], want);
            wrong += close_to(w.type, r.n[at + i], want / scale * less, before);
        }
        ck_assert_msg(wrong < D || sum / D < v.eps, "a mean square that is 10 %% smaller does not show");
    }
}

/* As test_cu_residual.cu has it. */
static void check_sum(const way &w, const arrays &v, const results &r, bool two)
{
    for (size_t i = 0; i < v.x.size(); ++i) {
        const double p = static_cast<double>(v.a[i]) * v.m_a, q = two ? static_cast<double>(v.b[i]) * v.m_b : 0;
        const double want = v.x[i] + p + q, before = 5 * U * (fabs(v.x[i]) + fabs(p) + fabs(q));
        ck_assert_msg(close_to(w.stream(), r.x[i], want, before), "x[%zu] is %g, not %g", i, r.x[i], want);
    }
}

/* Rows of one vector, of more than a block of them, of more than registers hold, and odd ones. */
START_TEST(shapes)
{
    static const int shape[][2] = {{1, 1},    {1, 8},    {3, 7},    {37, 24},   {2, 260},   {5, 1024}, {20, 1032},
                                   {2, 2560}, {1, 8192}, {1, 8200}, {20, 4096}, {1, 16392}, {2, 1031}, {1, 5121}};
    for (int i = 0; i < N_STREAM_WAYS; ++i)
        for (const int *s : shape)
            for (int what = 0; what < 6; ++what) {
                static const int kinds[6] = {NORM, NORM | ONE, NORM | TWO, ONE, TWO, 0};
                if (s[0] * s[1] > 4000 && what != 2) continue;
                const arrays v = drawn(stream_ways[i], s[0], s[1], 2);
                const results r = run(stream_ways[i], s[0], s[1], v, kinds[what]);
                if (kinds[what] & NORM) check_norm(stream_ways[i], s[0], s[1], v, r);
                if (kinds[what] & (ONE | TWO)) check_sum(stream_ways[i], v, r, (kinds[what] & TWO) != 0);
                else ck_assert(r.x == v.x);
            }
}
END_TEST

/* Every other sum is 1 + 2^-8, which is stored as 1: the row is 1 throughout and n is w, 1 + 2^-8, stored as 1.
 * Normalising the unrounded sums would give w·(1 + 2^-9) in these places, stored as 1 + 2^-7. */
START_TEST(the_stored_sum_is_normalised)
{
    enum { D = 64 };
    for (int path = 0; path < 2; ++path) {
        const way w = {CU_BF16, static_cast<cu_path>(path)};
        arrays v = drawn(w, 1, D, 1);
        v.x.assign(D, 1.f);
        for (int i = 0; i < D; ++i) v.a[i] = i % 2 ? 0x1p-8f : 0.f;
        v.w.assign(D, 1 + 0x1p-8f);
        v.m_a = 1;
        v.eps = 0;
        const results r = run(w, 1, D, v, NORM | ONE);
        for (int i = 0; i < D; ++i) ck_assert_msg(r.x[i] == 1 && r.n[i] == 1, "%.9g %.9g", r.x[i], r.n[i]);
    }
}
END_TEST

/* eps counts where the row is small: x 2^-20, mean square 2^-40, eps 3·2^-40: the root is 2^-19. */
START_TEST(eps_counts)
{
    for (int i = 0; i < N_WAYS; ++i) {
        arrays v = drawn(ways[i], 2, 24, 1);
        v.x.assign(48, 0x1p-20f);
        v.w.assign(24, 1.f);
        v.eps = 3 * 0x1p-40f;
        const results r = run(ways[i], 2, 24, v, NORM);
        for (float n : r.n) ck_assert(n == 0.5f);
    }
}
END_TEST

/* A NaN or an infinity makes its row and only that. */
START_TEST(special_values)
{
    for (int i = 0; i < N_WAYS; ++i)
        for (int D = 16; D < 18; ++D) {
            arrays v = drawn(ways[i], 3, D, 1);
            v.x[1] = NAN;
            v.a[D + 3] = INFINITY;
            const results r = run(ways[i], 3, D, v, NORM | ONE);
            for (int j = 0; j < D; ++j) {
                ck_assert(std::isnan(r.n[j]));
                ck_assert(j == 3 ? std::isnan(r.n[D + j]) : r.n[D + j] == 0);
                ck_assert(std::isfinite(r.n[2 * D + j]));
            }
            ck_assert(run(ways[i], 0, D, {{}, {}, {}, v.w, 1, 1, 1}, NORM).n.empty());
        }
}
END_TEST

/* Columns `at` .. at + D of rows that are `ld` long, without a weight, in place or beside: what they give as rows of
 * their own with a weight of 1, to the bit; the columns around them stay. */
static void check_columns(const way &w, int M, int D, int at, int ld, bool in_place)
{
    const arrays all = drawn(w, M, ld, 1);
    arrays own = {{}, {}, {}, std::vector<float>(D, 1.f), 1, 1, 1e-6f};
    for (int m = 0; m < M; ++m) own.x.insert(own.x.end(), &all.x[m * ld + at], &all.x[m * ld + at] + D);
    const bool aligned = at % 8 == 0 && ld % 8 == 0 && D % 8 == 0; /* else the kernel that takes any row */
    const results want = run({w.type, aligned ? w.path : CU_GENERAL}, M, D, own, NORM);
    cu_ctx k = context(w.path);
    cu_rmsnorm r = {};
    const size_t off = static_cast<size_t>(at) * cu_size(w.type);
    void *x = to_device(w.type, all.x), *n = to_device(w.type, all.x);
    r.type = w.type, r.M = M, r.D = D, r.eps = own.eps;
    r.x = static_cast<char *>(x) + off, r.ldx = r.ldn = ld;
    r.n = in_place ? r.x : static_cast<char *>(n) + off;
    good(cu_rmsnorm_fwd(&k, &r));
    const std::vector<float> got = from_device(w.type, in_place ? x : n, all.x.size());
    free_device();
    for (int m = 0; m < M; ++m)
        for (int i = 0; i < ld; ++i) {
            const bool inside = i >= at && i < at + D;
            const float here = got[m * ld + i];
            ck_assert(here == (inside ? want.n[m * D + i - at] : all.x[m * ld + i]));
        }
}

START_TEST(columns_without_a_weight)
{
    for (int i = 0; i < N_WAYS; ++i)
        for (bool in_place : {false, true}) {
            check_columns(ways[i], 5, 16, 32, 64, in_place);
            check_columns(ways[i], 3, 16, 3, 37, in_place);
            check_columns(ways[i], 40, 256, 0, 288, in_place);
            check_columns(ways[i], 2, 7, 8, 24, in_place);
        }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, the_stored_sum_is_normalised, eps_counts, special_values,
                                  columns_without_a_weight};
    return run_tests("rmsnorm", tests, 5);
}
