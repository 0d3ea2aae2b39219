/* Every op of the CUDA engine on the CPU (cuda-host) against truth, on the project's op cases, under both of its
 * contracts: the standard ones, and drawn ones. FH1_CUDA_ENGINE=cuda takes the device instead. */
#include "cuda/engine.h"
#include "golden/op_case.h"
#include "reference/engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_CONTRACTS = 2, N_FUZZED = 30, SKIPPED = 77 };
static const char *const contracts[N_CONTRACTS] = {"fp32", "cuda-bf16"};
static fh1_engine *truth, *judged[N_CONTRACTS];

static const char *engine_name(void)
{
    const char *name = getenv("FH1_CUDA_ENGINE");
    return name && *name ? name : "cuda-host";
}

static const char *text(fh1_status s)
{
    static char why[1024];
    return s ? fh1_status_line(s, why, sizeof why) : "";
}

static void open_engines(void)
{
    truth = ref_engine_new("ref-f64", NULL, 0);
    ck_assert_ptr_nonnull(truth);
    for (int i = 0; i < N_CONTRACTS; ++i) {
        fh1_status s = cu_engine_new(engine_name(), fh1_profile_find(contracts[i]), 0, &judged[i]);
        ck_assert_msg(!s, "%s", text(s));
    }
}

static void close_engines(void)
{
    truth->free(truth);
    for (int i = 0; i < N_CONTRACTS; ++i) judged[i]->free(judged[i]);
}

/* -- cases --------------------------------------------------------------------------------------- */

typedef struct {
    double worst[GLD_OP_COUNT], rms[GLD_OP_COUNT];
    int runs[GLD_OP_COUNT], mistrusted;
} margins;

/* A bf16 contract takes matrices that it can store as they are: bf16 ones. */
static void fit_weights(const fh1_engine *e, gld_op_case *c)
{
    const bool matrix = c->op == GLD_OP_EMBED || c->op == GLD_OP_LINEAR || c->op == GLD_OP_LM_HEAD;
    if (matrix && e->profile->storage == FH1_BF16) c->weights = FH1_BF16;
}

static void judge(fh1_engine *e, gld_op_case c, bool guarded, margins *m)
{
    gld_op_result r;
    char line[GLD_OP_LINE];
    fit_weights(e, &c);
    fh1_status s = guarded ? gld_op_case_run(&c, truth, e, &r) : gld_op_case_compare(&c, truth, e, &r);
    gld_op_case_print(&c, line, sizeof line);
    ck_assert_msg(!s, "%s --contract=%s: %s", line, e->profile->name, text(s));
    ck_assert_msg(r.verdict != FH1_FAIL && r.verdict != FH1_SKIP,
                  "%s --contract=%s: %s, margin %.3g at %s (%.9g, not %.9g), RMS %.3g: %s", line, e->profile->name,
                  fh1_verdict_name(r.verdict), r.margin, r.where, r.judged, r.truth, r.rms_ratio, r.reason);
    if (c.regime == GLD_REGIME_LATTICE)
        ck_assert_msg(r.verdict == FH1_PASS && r.margin == 0, "%s --contract=%s: %s", line, e->profile->name, r.reason);
    m->mistrusted += r.verdict == FH1_MISTRUSTED;
    ++m->runs[c.op];
    if (!(r.margin <= m->worst[c.op])) m->worst[c.op] = r.margin;
    if (!(r.rms_ratio <= m->rms[c.op])) m->rms[c.op] = r.rms_ratio;
}

static void print(const char *what, const margins m[N_CONTRACTS])
{
    printf("  %s: largest error / allowed, and RMS / gauge\n  %-16s %5s %9s %7s %9s %7s\n", what, "", "runs",
           contracts[0], "rms", contracts[1], "rms");
    for (int i = 0; i < GLD_OP_COUNT; ++i)
        printf("  %-16s %5d %9.3f %7.3f %9.3f %7.3f\n", gld_op_name((gld_op)i), m[0].runs[i] + m[1].runs[i],
               m[0].worst[i], m[0].rms[i], m[1].worst[i], m[1].rms[i]);
}

START_TEST(the_standard_cases_pass)
{
    margins m[N_CONTRACTS] = {{.mistrusted = 0}};
    gld_op_case c;
    for (int k = 0; k < N_CONTRACTS; ++k)
        for (int i = 0; gld_op_case_standard(i, &c); ++i) judge(judged[k], c, true, &m[k]);
    print("standard", m);
    for (int k = 0; k < N_CONTRACTS; ++k) {
        ck_assert_int_eq(m[k].mistrusted, 0);
        for (int i = 0; i < GLD_OP_COUNT; ++i) ck_assert_int_ge(m[k].runs[i], 8);
    }
}
END_TEST

START_TEST(fuzzed_cases_pass)
{
    margins m[N_CONTRACTS] = {{.mistrusted = 0}};
    for (int k = 0; k < N_CONTRACTS; ++k) {
        double most = 0;
        for (int i = 0; i < GLD_OP_COUNT * N_FUZZED; ++i)
            judge(judged[k], gld_op_case_fuzzed((gld_op)(i / N_FUZZED), 7000 + i % N_FUZZED), false, &m[k]);
        for (int i = 0; i < GLD_OP_COUNT; ++i) most = fmax(most, m[k].worst[i]);
        ck_assert_msg(most > 0.4, "%s: gauges half as large would reject nothing", contracts[k]);
    }
    print("fuzzed", m);
}
END_TEST

/* Shapes at which the tensor-core kernels of the scan, of attention and of the products run: several tiles, and a rest.
 */
START_TEST(shapes_of_the_tuned_kernels_pass)
{
    static const char *const lines[] = {"--op=ssd_scan --T=150 --H=4 --P=64 --N=128 --G=2",
                                        "--op=ssd_chunk --T=200 --H=2 --P=64 --N=64 --docs=3",
                                        "--op=ssd_step --H=4 --P=64 --N=256 --G=2",
                                        "--op=attention --T=70 --past=75 --Hq=4 --Hkv=2 --A=64",
                                        "--op=attention --T=33 --docs=2 --Hq=2 --A=128",
                                        "--op=attention_step --past=400 --Hq=8 --Hkv=2 --A=128",
                                        "--op=linear --T=40 --D=136 --F=200",
                                        "--op=linear --T=130 --D=128 --F=136",
                                        "--op=linear --T=3 --D=520 --F=72",
                                        "--op=lm_head --T=1 --D=512 --V=300",
                                        "--op=rmsnorm --T=4 --D=2560",
                                        "--op=gated_norm --T=3 --D=3072 --G=2",
                                        "--op=conv1d --T=90 --c=384 --docs=3",
                                        "--op=swiglu --T=3 --F=1536",
                                        "--op=sample --T=2 --V=9000",
                                        "--op=cross_entropy --T=5 --V=5000"};
    static const char *const regimes[] = {"lattice", "trained", "fuzzed"};
    margins m[N_CONTRACTS] = {{.mistrusted = 0}};
    for (int k = 0; k < N_CONTRACTS; ++k)
        for (size_t i = 0; i < 3 * sizeof lines / sizeof *lines; ++i) {
            char line[GLD_OP_LINE];
            gld_op_case c;
            snprintf(line, sizeof line, "%s --regime=%s", lines[i / 3], regimes[i % 3]);
            fh1_status s = gld_op_case_parse(line, &c);
            ck_assert_msg(!s, "%s: %s", line, text(s));
            judge(judged[k], c, false, &m[k]);
        }
    print("tuned", m);
}
END_TEST

/* -- what must be seen, and what is refused ------------------------------------------------------ */

/* A multiplier that is off by 2^-6: two units of bf16. */
static fh1_status wrong_residual(fh1_engine *e, int64_t n, const void *a, double m_a, const void *b, double m_b,
                                 void *x)
{
    return judged[0]->ops->residual(e, n, a, m_a * (1 + 0x1p-6), b, m_b, x);
}

START_TEST(a_wrong_op_fails)
{
    gld_op_case c = gld_op_case_new(GLD_OP_RESIDUAL);
    c.regime = GLD_REGIME_TRAINED;
    c.T = 33;
    for (int k = 0; k < N_CONTRACTS; ++k) {
        fh1_ops ops = *judged[k]->ops;
        ops.residual = wrong_residual;
        fh1_engine e = *judged[k];
        e.ops = &ops;
        gld_op_result r;
        fh1_status s = gld_op_case_compare(&c, truth, &e, &r);
        ck_assert_msg(!s && r.verdict == FH1_FAIL, "%s: %s %s", contracts[k], text(s), fh1_verdict_name(r.verdict));
    }
}
END_TEST

START_TEST(matrices_that_would_round_are_refused)
{
    float w[4] = {1, 2, 1 + 0x1p-9f, 4}, x[2] = {1, 1}, y[2];
    const int64_t id = 1, far = 2;
    const fh1_tensor matrix = fh1_view2(w, FH1_F32, 2, 2);
    fh1_tensor none = fh1_view1(NULL, FH1_F32, 0);
    const fh1_ops *ops = judged[1]->ops;
    fh1_status s = ops->linear(judged[1], 1, x, &matrix, &none, y);
    ck_assert_msg(s && s->code == FH1_E_INPUT && strstr(text(s), "element 2"), "%s", text(s));
    s = ops->embed(judged[1], 1, &id, &matrix, y);
    ck_assert(s && s->code == FH1_E_INPUT);
    ck_assert_ptr_null(ops->linear(judged[0], 1, x, &matrix, &none, y));
    ck_assert(y[0] == 3 && y[1] == 5 + 0x1p-9f);
    w[2] = 3;
    ck_assert_ptr_null(ops->lm_head(judged[1], 1, x, &matrix, 0.5, y));
    ck_assert(y[0] == 1.5f && y[1] == 3.5f);
    s = ops->embed(judged[0], 1, &far, &matrix, y);
    ck_assert(s && s->code == FH1_E_INPUT);
}
END_TEST

int main(void)
{
    if (strcmp(engine_name(), "cuda") == 0 && cu_device_missing()) {
        printf("skipped: %s\n", text(cu_device_missing()));
        return SKIPPED;
    }
    const TTest *const tests[] = {the_standard_cases_pass, fuzzed_cases_pass, shapes_of_the_tuned_kernels_pass,
                                  a_wrong_op_fails, matrices_that_would_round_are_refused};
    Suite *s = suite_create("cuda_ops");
    TCase *t = tcase_create("cuda_ops");
    tcase_add_checked_fixture(t, open_engines, close_engines);
    tcase_set_timeout(t, 600);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* a CUDA context does not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
