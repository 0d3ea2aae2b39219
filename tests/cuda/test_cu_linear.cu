/* cu_linear_fwd and its general kernel: every shape, both types, and that the choice of a path changes the result by no
 * more than the order of a sum may. */
#include "cuda/blas.h"
#include "tests/cuda/linear_truth.h"

static const product SHAPES[] = {
    {CU_F32, CU_F32, 1, 1, 1, true, 1, 0, 0},          {CU_F32, CU_F32, 3, 65, 33, false, 0.37f, 1, 2},
    {CU_F32, CU_F32, 17, 130, 70, true, -2.5f, 0, 1},  {CU_F32, CU_F32, 67, 70, 129, false, 1, 3, 0},
    {CU_BF16, CU_BF16, 1, 5, 7, true, 1, 0, 3},        {CU_BF16, CU_BF16, 5, 64, 32, false, 0.5f, 0, 0},
    {CU_BF16, CU_F32, 9, 66, 40, true, 0.0442f, 8, 5}, {CU_BF16, CU_BF16, 33, 80, 64, true, 1, 0, 0},
    {CU_BF16, CU_BF16, 70, 129, 96, false, 3, 8, 1},   {CU_BF16, CU_F32, 130, 33, 63, false, 1, 1, 0},
    {CU_F32, CU_F32, 2, 40, 0, true, 1, 4, 0},         {CU_BF16, CU_BF16, 2, 40, 0, false, 1, 8, 0},
};

START_TEST(general_takes_every_shape)
{
    cu_ctx k = context(CU_GENERAL);
    for (const product &p : SHAPES) {
        product_check(&k, cu_linear_general_fwd, p);
        product_check(&k, cu_linear_fwd, p);
    }
}
END_TEST

START_TEST(chosen_paths_agree_with_truth)
{
    cu_ctx k = context();
    for (const product &p : SHAPES) product_check(&k, cu_linear_fwd, p); /* without the library */
    good(cu_blas_new("", &k.blas));
    for (const product &p : SHAPES) product_check(&k, cu_linear_fwd, p);
    for (int arch = 70; arch <= 80; arch += 10) { /* before 80 there is neither mma of bf16 nor cp.async */
        if (!CU_HOST && k.arch < arch) continue;
        k.arch = arch;
        for (const product &p : SHAPES) product_check(&k, cu_linear_fwd, p);
    }
    cu_blas_free(k.blas);
}
END_TEST

START_TEST(nothing_to_do)
{
    cu_ctx k = context();
    for (int i = 0; i < 2; ++i) {
        const product p = {CU_BF16, CU_BF16, 4, 8, 8, false, 1, 0, 0};
        product_data d = product_draw(p);
        (i ? d.a.M : d.a.N) = 0;
        good(cu_linear_fwd(&k, &d.a));
        for (float v : from_device(CU_BF16, d.a.y, 32)) ck_assert(v == as_stored(CU_BF16, {GAP})[0]);
        free_device();
    }
}
END_TEST

/* Small integers: every sum is exact, so every path must give the same bits. */
START_TEST(lattice_is_exact)
{
    cu_ctx k = context();
    const linear_path paths[] = {cu_linear_general_fwd, cu_gemv_fwd, cu_gemm_skinny_fwd, cu_gemm_tiled_fwd};
    for (linear_path path : paths) {
        const product p = {CU_BF16, CU_F32, 7, 70, 72, true, 0.5f, 0, 0};
        product_data d = product_draw(p);
        for (size_t i = 0; i < d.x.size(); ++i) d.x[i] = static_cast<float>(static_cast<int>(i * 7 % 11) - 5);
        for (size_t i = 0; i < d.w.size(); ++i) d.w[i] = static_cast<float>(static_cast<int>(i * 5 % 7) - 3);
        for (size_t i = 0; i < d.b.size(); ++i) d.b[i] = static_cast<float>(i % 3) - 1;
        d.a.x = to_device(CU_BF16, d.x);
        d.a.w = to_device(CU_BF16, d.w);
        d.a.b = to_device(d.b);
        good(path(&k, &d.a));
        const std::vector<float> y = from_device(CU_F32, d.a.y, 7 * 70);
        for (int m = 0; m < 7; ++m) {
            for (int n = 0; n < 70; ++n) {
                double bound;
                ck_assert(static_cast<double>(y[static_cast<size_t>(m * 70 + n)]) == product_truth(p, d, m, n, &bound));
            }
        }
        free_device();
    }
}
END_TEST

/* NaN in one row of x spoils that row, in one row of W that column, and nothing else; an infinity stays one. */
START_TEST(nan_and_infinity_stay_where_they_belong)
{
    cu_ctx k = context();
    const linear_path paths[] = {cu_linear_general_fwd, cu_gemv_fwd, cu_gemm_skinny_fwd, cu_gemm_tiled_fwd};
    const cu_type types[] = {CU_BF16, CU_F32};
    for (size_t i = 0; i < 4; ++i) {
        for (cu_type type : types) {
            if (i >= 2 && type == CU_F32) continue;
            const product p = {type, CU_F32, 5, 67, 40, false, 1, 0, 0};
            product_data d = product_draw(p);
            d.x[2 * 40 + 39] = NAN;
            d.w[66 * 40] = INFINITY;
            d.w[3 * 40 + 5] = NAN;
            d.a.x = to_device(type, d.x);
            d.a.w = to_device(type, d.w);
            good(paths[i](&k, &d.a));
            const std::vector<float> y = from_device(CU_F32, d.a.y, 5 * 67);
            for (int m = 0; m < 5; ++m) {
                for (int n = 0; n < 67; ++n) {
                    const float v = y[static_cast<size_t>(m * 67 + n)];
                    if (m == 2 || n == 3) ck_assert(isnan(v));
                    else if (n == 66) ck_assert(isinf(v) && (v > 0) == (d.x[static_cast<size_t>(m * 40)] > 0));
                    else ck_assert(isfinite(v));
                }
            }
            free_device();
        }
    }
}
END_TEST

/* The judge can say no: W transposed, a forgotten bias, alpha applied twice, bf16 rounded before alpha. */
START_TEST(planted_errors_are_seen)
{
    cu_ctx k = context();
    const product p = {CU_BF16, CU_BF16, 6, 48, 48, true, 0.7f, 0, 0};
    for (int error = 0; error < 5; ++error) {
        product_data d = product_draw(p);
        cu_linear wrong = d.a;
        std::vector<float> t = d.w;
        if (error == 1)
            for (size_t i = 0; i < t.size(); ++i) t[i] = d.w[i % 48 * 48 + i / 48];
        if (error == 1) wrong.w = to_device(CU_BF16, t);
        if (error == 2) wrong.b = NULL;
        if (error == 3) wrong.alpha *= wrong.alpha;
        if (error == 4) {
            for (float &v : t) v *= wrong.alpha;
            wrong.alpha = 1;
            wrong.w = to_device(CU_BF16, t);
        }
        good(cu_linear_fwd(&k, &wrong));
        const double margin = product_margin(p, d);
        if (error == 0) ck_assert(margin <= 1);
        else ck_assert_msg(margin > 1, "error %d passes with %g", error, margin);
        free_device();
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cu_linear");
    TCase *c = tcase_create("linear");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, general_takes_every_shape);
    tcase_add_test(c, chosen_paths_agree_with_truth);
    tcase_add_test(c, nothing_to_do);
    tcase_add_test(c, lattice_is_exact);
    tcase_add_test(c, nan_and_infinity_stay_where_they_belong);
    tcase_add_test(c, planted_errors_are_seen);
    suite_add_tcase(s, c);
    return run_suite(s);
}
