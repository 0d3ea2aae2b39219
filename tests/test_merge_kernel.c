/* The inner loops of a merge beside loops that anybody can check: same bits, with and without vectors. Planted faults:
 * the sum in the other order, the rounding by way of f32. */
#include "convert/merge_kernel.h"
#include "oracle/random.h"
#include "oracle/round.h"
#include "tests/convert_test.h"

#include <math.h>

START_TEST(one_rounding)
{
    static const double special[] = {
        0.0,      -0.0,     1 + 0x1p-8, 1 + 0x1p-8 + 0x1p-50, 1 + 3 * 0x1p-8,   0x1p-126,   0x1.ffp-127,
        0x1p-133, 0x1p-134, 0x1.8p-134, 0x1.00001p-134,       0x1.fep127,       0x1.ffp127, 0x1.feffffp127,
        1e300,    -1e300,   1e-300,     (double)INFINITY,     -(double)INFINITY};
    fh1_stream s = fh1_stream_open(3, "narrow");
    double v[64];
    uint16_t h[64];
    for (uint64_t pass = 0; pass < 2000; pass++) {
        for (uint64_t i = 0; i < 64; i++) {
            uint64_t bits = fh1_random_u64(s, pass * 64 + i);
            bits = (bits & ~(UINT64_C(0x7ff) << 52)) | (UINT64_C(880) + (bits >> 52) % 280)
                                                           << 52; /* around the range of f32 */
            if (i % 3 == 0) bits &= ~UINT64_C(0xfffffffffff);     /* ties */
            memcpy(&v[i], &bits, sizeof bits);
            if (i % 5 == 0) v[i] = special[(pass + i) % (sizeof special / sizeof special[0])];
        }
        int64_t n = 64 - (int64_t)(pass % 17);
        cvt_kernel_narrow(h, FH1_BF16, v, n);
        for (int64_t i = 0; i < n; i++) ck_assert_msg(h[i] == fh1_f64_to_bf16(v[i]), "%a: %04x", v[i], h[i]);
    }
    double tie = 1 + 0x1p-8 + 0x1p-40; /* by way of f32 it would be rounded twice, to 1 */
    cvt_kernel_narrow(h, FH1_BF16, &tie, 1);
    ck_assert(h[0] == 0x3f81 && fh1_f32_to_bf16((float)tie) == 0x3f80);
    uint16_t some[40] = {0};
    some[38] = 0xff80;
    some[2] = 0x7fc1;
    ck_assert_int_eq(cvt_kernel_not_finite(some, FH1_BF16, 40), 2);
    some[2] = some[38] = 0x7f7f;
    ck_assert_int_eq(cvt_kernel_not_finite(some, FH1_BF16, 40), 0);
}
END_TEST

START_TEST(sums_in_order)
{
    enum { ROWS = 7, RANK = 5, COLS = 37 };
    static double L[ROWS * RANK], R[RANK * COLS], C[ROWS * COLS];
    static float l[ROWS * RANK], r[RANK * COLS], d[ROWS * COLS], p[ROWS * COLS];
    fh1_stream s = fh1_stream_open(4, "kernels");
    for (int i = 0; i < ROWS * RANK; i++) L[i] = (double)(l[i] = (float)fh1_random_normal(s, (uint64_t)i));
    for (int i = 0; i < RANK * COLS; i++) R[i] = (double)(r[i] = (float)fh1_random_normal(s, (uint64_t)i + 1000));
    cvt_kernel_add_f64(ROWS, RANK, COLS, 0.7, L, R, COLS, C, COLS);
    cvt_kernel_chain_f32(ROWS, RANK, COLS, l, r, COLS, d, COLS);
    cvt_kernel_products_f32(ROWS, RANK, COLS, l, r, COLS, p, COLS);
    int backwards = 0, fused = 0;
    for (int i = 0; i < ROWS * COLS; i++) {
        double sum = 0;
        float chain = 0, back = 0, products = 0;
        for (int k = 0; k < RANK; k++) sum += L[i / COLS * RANK + k] * R[k * COLS + i % COLS];
        for (int k = 0; k < RANK; k++) chain = fmaf(l[i / COLS * RANK + k], r[k * COLS + i % COLS], chain);
        for (int k = RANK; k-- > 0;) back = fmaf(l[i / COLS * RANK + k], r[k * COLS + i % COLS], back);
        for (int k = 0; k < RANK; k++) {
            volatile float one = l[i / COLS * RANK + k] * r[k * COLS + i % COLS];
            products += one;
        }
        ck_assert(C[i] == 0 + 0.7 * sum && d[i] == chain && p[i] == products);
        backwards += d[i] != back;
        fused += p[i] != chain;
    }
    ck_assert_int_gt(backwards, ROWS * COLS / 4); /* another order would be seen */
    ck_assert_int_gt(fused, ROWS * COLS / 4);     /* and one rounding less */
}
END_TEST

/* PyTorch's order for a row of 21: eight partial sums, four squares, one fused. */
START_TEST(norms_as_pytorch_adds)
{
    float x[21], a[8] = {0}, plain = 0;
    fh1_stream s = fh1_stream_open(9, "norm");
    int differs = 0;
    for (uint64_t pass = 0; pass < 200; pass++) {
        for (uint64_t i = 0; i < 21; i++) x[i] = (float)fh1_random_normal(s, 21 * pass + i);
        for (int v = 0; v < 8; v++) a[v] = x[v] * x[v] + x[v + 8] * x[v + 8];
        float sum = a[0];
        for (int v = 1; v < 8; v++) sum += a[v];
        for (int i = 16; i < 20; i++) sum += x[i] * x[i];
        sum = fmaf(x[20], x[20], sum);
        ck_assert(cvt_kernel_norm_f32(x, 21) == sqrtf(sum));
        plain = 0;
        for (int i = 0; i < 21; i++) plain += x[i] * x[i];
        differs += sqrtf(plain) != sqrtf(sum);
    }
    ck_assert_int_gt(differs, 10);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {one_rounding, sums_in_order, norms_as_pytorch_adds};
    return run_tests("merge_kernel", tests, 3);
}
