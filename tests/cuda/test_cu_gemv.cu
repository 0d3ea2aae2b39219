/* cu_gemv_fwd: vector and single loads, every number of rows, rows of W that do not fill a warp or a block, and K that
 * is shared by several warps. */
#include "cuda/gemv.cuh"
#include "tests/cuda/linear_truth.h"

/* Every M, with N and K that end inside a warp's share; multiplied with the bias and a rounding where there is one. */
START_TEST(every_number_of_rows)
{
    cu_ctx k = context();
    for (int M = 1; M <= CU_GEMV_ROWS; ++M) {
        product_check(&k, cu_gemv_fwd, {CU_BF16, CU_BF16, M, 37, 520, M % 2 == 0, 0.8f, 8, 1});
        product_check(&k, cu_gemv_fwd, {CU_BF16, CU_F32, M, 66, 96, M % 2 == 1, -1, 0, 0});
        product_check(&k, cu_gemv_fwd, {CU_F32, CU_F32, M, 35, 260, M % 2 == 0, 3, 4, 2});
        product_check(&k, cu_gemv_fwd, {CU_BF16, CU_BF16, M, 9, 101, true, 1, 0, 0}); /* odd K: single loads */
        product_check(&k, cu_gemv_fwd, {CU_F32, CU_F32, M, 9, 33, false, 1, 1, 0});
        product_check(&k, cu_gemv_fwd, {CU_BF16, CU_BF16, M, 3, 64, false, 1, 3, 0}); /* rows of x off by 6 bytes */
    }
}
END_TEST

/* 1 to 64 multiprocessors: blocks of many rows and of one, whose last rows are shared by 2, 4 and 8 warps. */
START_TEST(every_sharing_of_the_work)
{
    const int K = 4 * 1024 + 8;
    for (int sms = 1; sms <= 64; sms *= 4) {
        cu_ctx k = context();
        k.sms = sms;
        for (int M = 1; M <= 4; M *= 2) {
            for (int N = 1; N <= 109; N += 36) {
                product_check(&k, cu_gemv_fwd, {CU_BF16, CU_BF16, M, N, K, false, 1, 0, 0});
                product_check(&k, cu_gemv_fwd, {CU_F32, CU_F32, M, N, K / 2, true, 1, 0, 0});
                product_check(&k, cu_gemv_fwd, {CU_BF16, CU_F32, M, N, K / 4 + 1, true, 1, 0, 0});
            }
        }
    }
}
END_TEST

/* The parts of K that warps take follow one another without a gap. */
START_TEST(parts_of_k_are_complete)
{
    for (int K = 0; K < 5000; K = K * 2 + 7) {
        for (int splits = 1; splits <= 8; splits *= 2) {
            ck_assert_int_eq(gemv_split<bf16>(K, splits, 0), 0);
            ck_assert_int_eq(gemv_split<bf16>(K, splits, splits), K);
            ck_assert_int_eq(gemv_split<float>(K, splits, splits), K);
            for (int s = 0; s < splits; ++s)
                ck_assert(gemv_split<bf16>(K, splits, s) <= gemv_split<bf16>(K, splits, s + 1));
        }
    }
}
END_TEST

START_TEST(too_many_rows_are_refused)
{
    cu_ctx k = context();
    cu_linear a = {CU_BF16, CU_GEMV_ROWS + 1, 8, 8, NULL, 8, NULL, NULL, 1, NULL, 8, CU_BF16};
    ck_assert(cu_gemv_fwd(&k, &a));
}
END_TEST

/* One element of W, of 512 in its row, that is off by a quarter of its size. */
START_TEST(planted_error_is_seen)
{
    cu_ctx k = context();
    const product p = {CU_BF16, CU_F32, 2, 12, 512, false, 1, 0, 0};
    product_data d = product_draw(p);
    std::vector<float> w = d.w;
    w[5 * 512 + 300] += 0.01f;
    cu_linear wrong = d.a;
    wrong.w = to_device(CU_BF16, w);
    good(cu_gemv_fwd(&k, &wrong));
    ck_assert(product_margin(p, d) > 1);
    free_device();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cu_gemv");
    TCase *c = tcase_create("gemv");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, every_number_of_rows);
    tcase_add_test(c, every_sharing_of_the_work);
    tcase_add_test(c, parts_of_k_are_complete);
    tcase_add_test(c, too_many_rows_are_refused);
    tcase_add_test(c, planted_error_is_seen);
    suite_add_tcase(s, c);
    return run_suite(s);
}
