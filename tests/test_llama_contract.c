/* The contracts llamacpp-*: their two roundings, each against a second implementation from the description. Planted:
 * the gauge of an engine that does not round like that, which must reject what llama.cpp honestly does. */
#define REF_BITS 64 /* the f64 forwards; the f32 one is declared below */
#include "oracle/random.h"
#include "reference/dt_softplus_gauge.h"
#include "reference/linear.h"
#include "reference/linear_gauge.h"
#include "tests/convert_test.h"

#include <math.h>

fh1_status ref_linear_fwd_f32(int64_t rows, const float *in, const fh1_tensor *weights, const fh1_tensor *b,
                              const fh1_profile *p, float *out);

enum { M = 3, K = 96, N = 40 };

static double x[M * K], w[N * K], y[M * N];

static void draw(void)
{
    const fh1_stream sx = fh1_stream_open(5, "x"), sw = fh1_stream_open(5, "w");
    for (int i = 0; i < M * K; i++) x[i] = fh1_random_normal(sx, (uint64_t)i) * (i % 7 ? 1 : 4);
    for (int i = 0; i < N * K; i++) w[i] = fh1_random_normal(sw, (uint64_t)i) / 8;
}

/* What ggml makes of 32 activations: an f16 scale and whole numbers of one byte. */
static void blocks(const double *in, double *out)
{
    for (int b = 0; b < M * K; b += 32) {
        float most = 0;
        for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf((float)in[b + i]));
        const float scale = fh1_f16_to_f32(fh1_f32_to_f16(most / 127)), inverse = 127 / most;
        for (int i = 0; i < 32; i++) {
            const long q = lrintf((float)in[b + i] * inverse);
            ck_assert(q >= -127 && q <= 127);
            out[b + i] = (double)scale * (double)q;
        }
    }
}

static void round_inputs(fh1_round r, double *out)
{
    for (int i = 0; i < M * K; i++)
        out[i] = r == FH1_ROUND_BF16  ? (double)fh1_bf16_to_f32(fh1_f64_to_bf16(x[i]))
                 : r == FH1_ROUND_F16 ? (double)fh1_f16_to_f32(fh1_f64_to_f16(x[i]))
                                      : x[i];
    if (r == FH1_ROUND_Q8_0) blocks(x, out);
}

/* Largest margin, and RMS error over predicted RMS. */
static double margin_of(const fh1_profile *p, const double *got, const double *want, int n, const fh1_gauge *g,
                        double *rms)
{
    const double sigmas = fh1_gauge_sigmas(n);
    double most = 0, err = 0, predicted = 0;
    (void)p;
    for (int i = 0; i < n; i++) {
        const double e = fabs(got[i] - want[i]), m = e / fh1_gauge_allowed(fh1_gauge_at(g, i), sigmas);
        if (!(m <= most)) most = m;
        err += e * e;
        predicted += g->variance[i];
    }
    *rms = sqrt(err / predicted);
    return most;
}

START_TEST(inputs_of_products)
{
    static const char *const names[] = {"llamacpp-bf16", "llamacpp-f16", "llamacpp-q8_0"};
    const fh1_profile *p = fh1_profile_find(names[_i]), *f32 = fh1_profile_find("llamacpp-f32");
    const fh1_tensor wt = fh1_view2(w, FH1_F64, N, K);
    double rounded[M * K], got[M * N], rms;
    float xf[M * K], yf[M * N];
    fh1_gauge g;
    draw();
    expect_ok(ref_linear_fwd_f64(M, x, &wt, NULL, fh1_profile_find("exact"), y), "truth");
    round_inputs(p->at[FH1_RP_LINEAR_IN], rounded);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float sum = 0; /* backwards: no order is the right one */
            for (int k = K; k-- > 0;) sum += (float)rounded[m * K + k] * (float)w[n * K + k];
            got[m * N + n] = (double)sum;
        }
    expect_ok(fh1_gauge_new(M * N, &g), "a gauge");
    expect_ok(ref_linear_gauge(p, M, x, &wt, NULL, y, &g), p->name);
    ck_assert_double_le(margin_of(p, got, y, M * N, &g, &rms), 1);
    ck_assert_msg(rms > 0.6 && rms < 1.3, "%s: RMS over predicted %g", p->name, rms);
    expect_ok(ref_linear_gauge(f32, M, x, &wt, NULL, y, &g), f32->name);
    ck_assert_double_gt(margin_of(f32, got, y, M * N, &g, &rms), 20);
    fh1_gauge_free(&g);

    /* The engine that runs the contract rounds the same inputs. */
    for (int i = 0; i < M * K; i++) xf[i] = (float)x[i];
    expect_ok(ref_linear_fwd_f32(M, xf, &wt, NULL, p, yf), p->name);
    for (int i = 0; i < M * N; i++) ck_assert_double_le(fabs((double)yf[i] - got[i]), 1e-5 * (1 + fabs(got[i])));
}
END_TEST

/* Rows that blocks do not fill have wide weights in the file, and wide inputs then. */
START_TEST(blocks_need_whole_rows)
{
    const fh1_profile *q8 = fh1_profile_find("llamacpp-q8_0"), *f32 = fh1_profile_find("llamacpp-f32");
    const fh1_tensor wt = fh1_view2(w, FH1_F64, 4, 40);
    float xf[40], a[4], b[4];
    draw();
    for (int i = 0; i < 40; i++) xf[i] = (float)x[i];
    expect_ok(ref_linear_fwd_f32(1, xf, &wt, NULL, q8, a), "q8_0");
    expect_ok(ref_linear_fwd_f32(1, xf, &wt, NULL, f32, b), "f32");
    ck_assert_int_eq(memcmp(a, b, sizeof a), 0);
}
END_TEST

START_TEST(softplus_as_a_log_of_a_sum)
{
    const fh1_profile *llama = fh1_profile_find("llamacpp-f32"), *f32 = fh1_profile_find("fp32");
    enum { T = 200 };
    double raw[T], truth[T], got[T], rms, bias_value = 0;
    const fh1_tensor bias = fh1_view1(&bias_value, FH1_F64, 1);
    fh1_gauge g;
    for (int i = 0; i < T; i++) {
        raw[i] = (double)(float)(-9 + 0.031 * i);
        truth[i] = log1p(exp(raw[i]));
        got[i] = (double)logf(1 + expf((float)raw[i]));
    }
    expect_ok(fh1_gauge_new(T, &g), "a gauge");
    ref_dt_softplus_gauge(llama, T, 1, raw, 1, &bias, 0, (double)INFINITY, NULL, &g);
    ck_assert_double_le(margin_of(llama, got, truth, T, &g, &rms), 1);
    ck_assert_double_gt(rms, 0.2);
    ref_dt_softplus_gauge(f32, T, 1, raw, 1, &bias, 0, (double)INFINITY, NULL, &g);
    ck_assert_double_gt(margin_of(f32, got, truth, T, &g, &rms), 10);
    fh1_gauge_free(&g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("llama_contract");
    TCase *c = tcase_create("llama_contract");
    tcase_add_loop_test(c, inputs_of_products, 0, 3);
    tcase_add_test(c, blocks_need_whole_rows);
    tcase_add_test(c, softplus_as_a_log_of_a_sum);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
