/* The tensor-core products, skinny and tiled (cuda/gemm_mma.cuh): every number of rows of x, ragged N and K, tiles that
 * are cut between blocks with scratch and whole without, and the same bits on every run. */
#include "cuda/blas.h"
#include "cuda/gemm_mma.cuh"
#include "tests/cuda/linear_truth.h"

static const int ROWS[] = {1, 7, 8, 9, 16, 17, 31, 33, 64};

START_TEST(skinny_takes_every_number_of_rows)
{
    cu_ctx k = context();
    for (int with_scratch = 0; with_scratch < 2; ++with_scratch) {
        if (with_scratch) good(cu_blas_new("", &k.blas));
        for (int M : ROWS) {
            product_check(&k, cu_gemm_skinny_fwd, {CU_BF16, CU_BF16, M, 64, 72, M % 2 == 0, 0.3f, 8, 1});
            product_check(&k, cu_gemm_skinny_fwd, {CU_BF16, CU_F32, M, 33, 200, M % 2 == 1, 1, 0, 0});
        }
        product_check(&k, cu_gemm_skinny_fwd, {CU_BF16, CU_BF16, 5, 1, 8, true, 1, 0, 0});
        product_check(&k, cu_gemm_skinny_fwd, {CU_BF16, CU_BF16, 3, 200, 1032, true, -2, 16, 3});
    }
    cu_blas_free(k.blas);
}
END_TEST

/* 1 to 7 multiprocessors: cuts at every place, tiles with many parts, blocks inside one tile, whole tiles between. */
START_TEST(cuts_fall_everywhere)
{
    cu_ctx k = context();
    good(cu_blas_new("", &k.blas));
    for (int sms = 1; sms <= 7; ++sms) {
        k.sms = sms;
        product_check(&k, cu_gemm_skinny_fwd, {CU_BF16, CU_BF16, 6, 150, 584, true, 1, 0, 0});
        product_check(&k, cu_gemm_skinny_fwd, {CU_BF16, CU_F32, 20, 64, 1160, false, 0.5f, 0, 0});
    }
    cu_blas_free(k.blas);
}
END_TEST

START_TEST(tiled_takes_every_shape)
{
    cu_ctx k = context();
    for (int with_scratch = 0; with_scratch < 2; ++with_scratch) {
        if (with_scratch) good(cu_blas_new("", &k.blas));
        k.sms = 64; /* small tiles */
        product_check(&k, cu_gemm_tiled_fwd, {CU_BF16, CU_BF16, 70, 130, 136, true, 0.3f, 8, 1});
        k.sms = 1; /* tiles of 128 x 128, cut where there is scratch */
        product_check(&k, cu_gemm_tiled_fwd, {CU_BF16, CU_BF16, 130, 140, 264, false, 1, 0, 0});
        product_check(&k, cu_gemm_tiled_fwd, {CU_BF16, CU_F32, 9, 257, 72, true, 2, 8, 3});
    }
    cu_blas_free(k.blas);
}
END_TEST

/* Parts of a tile are added in the order of K, not of arrival; and the counters are 0 again after each launch. */
START_TEST(runs_repeat_bit_for_bit)
{
    cu_ctx k = context();
    good(cu_blas_new("", &k.blas));
    k.sms = 5;
    const product p = {CU_BF16, CU_F32, 12, 100, 1544, true, 0.9f, 0, 0};
    const product_data d = product_draw(p);
    good(cu_gemm_skinny_fwd(&k, &d.a));
    const std::vector<float> first = from_device(CU_F32, d.a.y, 1200);
    for (int run = 0; run < 3; ++run) {
        good(cu_gemm_skinny_fwd(&k, &d.a));
        const std::vector<float> y = from_device(CU_F32, d.a.y, 1200);
        ck_assert(memcmp(y.data(), first.data(), 4800) == 0);
    }
    const cu_scratch s = cu_blas_scratch(k.blas);
    for (unsigned v : from_device(s.arrived, static_cast<size_t>(s.n_arrived))) ck_assert_uint_eq(v, 0);
    ck_assert(product_margin(p, d) <= 1);
    free_device();
    cu_blas_free(k.blas);
}
END_TEST

START_TEST(what_it_cannot_take_is_refused)
{
    cu_ctx k = context();
    product_data d = product_draw({CU_BF16, CU_BF16, 4, 8, 36, false, 1, 0, 0}); /* K no multiple of 8 */
    ck_assert(cu_gemm_skinny_fwd(&k, &d.a) && cu_gemm_tiled_fwd(&k, &d.a));
    d = product_draw({CU_F32, CU_F32, 4, 8, 64, false, 1, 0, 0});
    ck_assert(cu_gemm_skinny_fwd(&k, &d.a) && cu_gemm_tiled_fwd(&k, &d.a));
    d = product_draw({CU_BF16, CU_BF16, 65, 8, 64, false, 1, 0, 0});
    ck_assert(cu_gemm_skinny_fwd(&k, &d.a) && !cu_gemm_tiled_fwd(&k, &d.a));
    k.arch = 70;
    ck_assert(!cu_linear_mma(&k, &d.a));
    free_device();
}
END_TEST

/* A part that is lost, as if a block had not waited for the last to arrive, or a row of x from the next tile. */
START_TEST(planted_errors_are_seen)
{
    cu_ctx k = context();
    const product p = {CU_BF16, CU_BF16, 10, 70, 640, false, 1, 0, 0};
    for (int error = 0; error < 3; ++error) {
        product_data d = product_draw(p);
        cu_linear wrong = d.a;
        std::vector<float> x = d.x;
        if (error == 1)
            for (int i = 0; i < 64; ++i) x[static_cast<size_t>(3 * 640 + 512 + i)] = 0; /* one slice of one row */
        if (error == 2)
            for (int i = 0; i < 640; ++i) std::swap(x[static_cast<size_t>(i)], x[static_cast<size_t>(8 * 640 + i)]);
        wrong.x = to_device(CU_BF16, x);
        good(cu_gemm_skinny_fwd(&k, &wrong));
        if (error == 0) ck_assert(product_margin(p, d) <= 1);
        else ck_assert(product_margin(p, d) > 1);
        free_device();
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cu_gemm_skinny");
    TCase *c = tcase_create("gemm_skinny");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, skinny_takes_every_number_of_rows);
    tcase_add_test(c, cuts_fall_everywhere);
    tcase_add_test(c, tiled_takes_every_shape);
    tcase_add_test(c, runs_repeat_bit_for_bit);
    tcase_add_test(c, what_it_cannot_take_is_refused);
    tcase_add_test(c, planted_errors_are_seen);
    suite_add_tcase(s, c);
    return run_suite(s);
}
