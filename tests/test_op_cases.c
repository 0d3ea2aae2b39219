/* Cases of single ops (golden/op_case.h): their lines, the standard list against honest engines, the guard against
 * cases that show nothing, and which planted faults which regime kills. */
#include "golden/op_case.h"
#include "oracle/random.h"
#include "tests/op_engines.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *text(fh1_status s)
{
    static char why[1024];
    return s ? fh1_status_line(s, why, sizeof why) : "";
}

static gld_op_case parse(const char *line)
{
    gld_op_case c;
    fh1_status s = gld_op_case_parse(line, &c);
    ck_assert_msg(!s, "%s: %s", line, text(s));
    return c;
}

static gld_op_result run(const gld_op_case *c, fh1_engine *by, fh1_engine *judged)
{
    gld_op_result r;
    char line[GLD_OP_LINE];
    fh1_status s = gld_op_case_run(c, by, judged, &r);
    ck_assert_msg(!s, "%s: %s", gld_op_case_print(c, line, sizeof line), text(s));
    return r;
}

/* -- lines --------------------------------------------------------------------------------------- */

static void round_trip(const gld_op_case *c)
{
    char line[GLD_OP_LINE], again[GLD_OP_LINE];
    const gld_op_case back = parse(gld_op_case_print(c, line, sizeof line));
    ck_assert_msg(memcmp(&back, c, sizeof back) == 0, "%s reads as %s", line,
                  gld_op_case_print(&back, again, sizeof again));
}

START_TEST(lines_come_back)
{
    gld_op_case c;
    for (int i = 0; gld_op_case_standard(i, &c); ++i) round_trip(&c);
    for (int i = 0; i < 10 * GLD_OP_COUNT; ++i) {
        c = gld_op_case_fuzzed((gld_op)(i / 10), 1000 + i);
        ck_assert_ptr_null(gld_op_case_check(&c));
        round_trip(&c);
    }
    const char *line = "--op=ssd_scan --regime=adversarial --weights=f32 --seed=7 --T=129 --H=4 --G=2 --engine=ref-f32 "
                       "--contract=fp32 --fault=d_dropped";
    char printed[GLD_OP_LINE];
    c = parse(line);
    ck_assert_str_eq(gld_op_case_print(&c, printed, sizeof printed), line);
    c = parse("  --T=7\t--op=rmsnorm\n");
    ck_assert_str_eq(gld_op_case_print(&c, printed, sizeof printed), "--op=rmsnorm --regime=lattice --T=7");
}
END_TEST

START_TEST(bad_lines_name_the_option)
{
    static const char *const bad[][2] = {
        {"", "--op=NAME"},
        {"--T=4", "--op=NAME"},
        {"ssd_scan", "'ssd_scan'"},
        {"--op=scan", "ssd_scan"},
        {"--op=rmsnorm --D", "'--D'"},
        {"--op=rmsnorm --D=", "--D"},
        {"--op=rmsnorm --D=4x", "'4x'"},
        {"--op=rmsnorm --D=1e3", "'1e3'"},
        {"--op=rmsnorm --D=99999999999999999999", "--D"},
        {"--op=rmsnorm --D=0", "--D"},
        {"--op=rmsnorm --D=-3", "found -3"},
        {"--op=rmsnorm --D=3000000", "1 to 1048576"},
        {"--op=rmsnorm --D=4 --D=4", "twice"},
        {"--op=rmsnorm --op=rmsnorm", "twice"},
        {"--op=rmsnorm --H=4", "rmsnorm does not read --H"},
        {"--op=rmsnorm --colour=4", "--colour"},
        {"--op=rmsnorm --regime=nice", "adversarial"},
        {"--op=rmsnorm --weights=f64", "bf16"},
        {"--op=rmsnorm --T=1048576 --D=1048576", "2^24"},
        {"--op=ssd_scan --H=6 --G=4", "--G"},
        {"--op=ssd_step --T=4", "--T"},
        {"--op=conv1d --T=3 --docs=4", "--docs"},
        {"--op=gated_norm --D=9 --G=2", "--G"},
        {"--op=attention --Hq=4 --Hkv=3", "--Hkv"},
        {"--op=rope --A=7", "--A"},
        {"--op=rmsnorm --regime=recorded", "--trace"},
        {"--op=rmsnorm --regime=recorded --trace=a", "--model"},
        {"--op=rmsnorm --trace=", "--trace"},
        {"--=3", "'--=3'"},
        {"--op=rmsnorm --averyveryveryverylongoptionnameindeed=4", "unknown option"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        gld_op_case c;
        fh1_status s = gld_op_case_parse(bad[i][0], &c);
        ck_assert_msg(s != NULL && s->code == FH1_E_INPUT, "'%s' is accepted", bad[i][0]);
        ck_assert_msg(strstr(text(s), bad[i][1]) != NULL, "'%s': %s", bad[i][0], text(s));
    }
}
END_TEST

/* Any bytes: an error or a case that prints and reads back. */
START_TEST(garbage_never_crashes)
{
    static const char alphabet[] = "--op=ssd_scan conv1d T=HPN123-= \n\t";
    const fh1_stream s = fh1_stream_open(3, "garbage");
    for (uint64_t i = 0; i < 3000; ++i) {
        char line[80] = "--op=ssd_scan ";
        const size_t at = i % 2 ? 14 : 0, n = at + (size_t)fh1_random_below(s, i, 60);
        for (size_t k = at; k < n; ++k)
            line[k] = alphabet[fh1_random_below(s, i * 100 + k, (int64_t)sizeof alphabet - 1)];
        line[n] = '\0';
        gld_op_case c;
        if (!gld_op_case_parse(line, &c)) round_trip(&c);
    }
}
END_TEST

START_TEST(fields_are_plain_integers)
{
    gld_op_case c = gld_op_case_new(GLD_OP_SSD_SCAN);
    unsigned covered = 0;
    int n = 0;
    for (; gld_op_field_at(n); ++n) {
        const gld_op_field *f = gld_op_field_at(n);
        ck_assert_msg(f->min <= f->usual && f->usual <= f->max, "%s", f->name);
        ck_assert_int_eq(gld_op_field_get(f, &c), f->usual);
        gld_op_field_set(f, &c, f->min);
        ck_assert_int_eq(gld_op_field_get(f, &c), f->min);
        covered |= f->ops;
    }
    ck_assert_uint_eq(covered, (1u << GLD_OP_COUNT) - 1);
    ck_assert_int_eq(c.H, 1);
    ck_assert_int_eq(c.state, 0);
    ck_assert_ptr_null(gld_op_field_at(-1));
}
END_TEST

/* -- honest engines ------------------------------------------------------------------------------ */

static void all_standard(fh1_engine *judged, double *worst, double *rms, int *n)
{
    gld_op_case c;
    bool seen[GLD_OP_COUNT][GLD_REGIME_COUNT] = {{false}};
    for (int i = 0; gld_op_case_standard(i, &c); ++i) {
        const gld_op_result r = run(&c, truth, judged);
        char line[GLD_OP_LINE];
        ck_assert_msg(r.verdict == FH1_PASS, "%s, %s: %s, margin %.3g at %s, %s", judged->name,
                      gld_op_case_print(&c, line, sizeof line), fh1_verdict_name(r.verdict), r.margin, r.where,
                      r.reason);
        if (!(r.margin <= worst[c.op])) worst[c.op] = r.margin;
        if (!(r.rms_ratio <= rms[c.op])) rms[c.op] = r.rms_ratio;
        if (c.regime == GLD_REGIME_LATTICE) ck_assert(r.margin == 0);
        seen[c.op][c.regime] = true;
        ++*n;
    }
    for (int i = 0; i < GLD_OP_COUNT * GLD_REGIME_COUNT; ++i)
        ck_assert(seen[i / GLD_REGIME_COUNT][i % GLD_REGIME_COUNT]);
}

START_TEST(the_standard_cases_pass)
{
    double worst[3][GLD_OP_COUNT] = {{0}}, rms[3][GLD_OP_COUNT] = {{0}};
    int n = 0;
    all_standard(f32, worst[0], rms[0], &n);
    ck_assert_int_ge(n, 100);
    all_standard(bf16, worst[1], rms[1], &n);
    all_standard(fused, worst[2], rms[2], &n);
    printf("  %d runs; largest error / allowed, and RMS / gauge\n  %-16s %7s %7s %7s %7s %7s %7s\n", n, "", "f32",
           "rms", "bf16", "rms", "cuda", "rms");
    for (int i = 0; i < GLD_OP_COUNT; ++i)
        printf("  %-16s %7.3f %7.3f %7.3f %7.3f %7.3f %7.3f\n", gld_op_name((gld_op)i), worst[0][i], rms[0][i],
               worst[1][i], rms[1][i], worst[2][i], rms[2][i]);
}
END_TEST

/* Scores of 10^6 that bf16 rounds by thousands: any weight is honest there, and so is any output between the values. */
static const int64_t attention_seeds[] = {1574, 2672, 2790, 2849, 4529, 4598, 5010, 5617, 5752, 6670, 7532, 9519};
enum { N_ATTENTION_SEEDS = sizeof attention_seeds / sizeof *attention_seeds, N_FUZZED = 40 };

START_TEST(fuzzed_cases_pass)
{
    fh1_engine *f16 = ref_engine_new("ref-bf16", fh1_profile_find("hf-eager-fp16"), 0);
    fh1_engine *const judged[] = {f32, bf16, f16, fused};
    ck_assert_ptr_nonnull(f16);
    for (int k = 0; k < 4; ++k) {
        double most = 0;
        for (int i = 0; i < GLD_OP_COUNT * N_FUZZED + N_ATTENTION_SEEDS; ++i) {
            const bool late = i >= GLD_OP_COUNT * N_FUZZED;
            const gld_op_case c =
                late ? gld_op_case_fuzzed(GLD_OP_ATTENTION, attention_seeds[i - GLD_OP_COUNT * N_FUZZED])
                     : gld_op_case_fuzzed((gld_op)(i / N_FUZZED), i % N_FUZZED);
            gld_op_result r;
            char line[GLD_OP_LINE];
            fh1_status s = gld_op_case_compare(&c, truth, judged[k], &r);
            ck_assert_msg(!s && r.verdict == FH1_PASS, "%s: %s %s, margin %.3g: %s", judged[k]->profile->name,
                          gld_op_case_print(&c, line, sizeof line), r.where, r.margin, s ? text(s) : r.reason);
            most = fmax(most, r.margin);
        }
        ck_assert_msg(most > 0.5, "%s: gauges half as large would reject nothing", judged[k]->profile->name);
    }
    f16->free(f16);
}
END_TEST

START_TEST(recordings_that_are_not_there)
{
    static const char *const bad[][2] = {
        {"--trace=nothing --model=golden/models/odd", "nothing"},
        {"--trace=golden/traces/odd/decode8.safetensors --model=nothing", "nothing"},
        {"--trace=golden/traces/odd/decode8.safetensors --model=golden/models/odd --layer=3", "--layer"},
        {"--trace=golden/traces/odd/decode8.safetensors --model=golden/models/odd --step=900", "--step"},
        {"--trace=golden/traces/odd/generate32.safetensors --model=golden/models/odd", "does not hold"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        char line[512];
        snprintf(line, sizeof line, "--op=ssd_scan --regime=recorded %s", bad[i][0]);
        const gld_op_case c = parse(line);
        gld_op_result r;
        fh1_status s = gld_op_case_run(&c, truth, f32, &r);
        ck_assert_msg(s && s->code == FH1_E_INPUT && strstr(text(s), bad[i][1]), "%s: %s", line, text(s));
    }
}
END_TEST

/* -- the guard ----------------------------------------------------------------------------------- */

START_TEST(cases_that_show_nothing)
{
    static const char *const vacuous[][2] = {
        {"--op=attention_step --past=0", "loss of q"},
        {"--op=conv1d_step --state=0", "a tap of w"},
        {"--op=ssd_step --state=0 --regime=trained", "loss of A_log"},
        {"--op=ssd_scan --T=1 --state=0 --regime=trained", "loss of A_log"},
        {"--op=dt_softplus --T=1 --H=1 --limits=1", "loss of bias"},
    };
    for (size_t i = 0; i < sizeof vacuous / sizeof *vacuous; ++i) {
        const gld_op_case c = parse(vacuous[i][0]);
        const gld_op_result r = run(&c, truth, f32);
        ck_assert_msg(r.verdict == FH1_MISTRUSTED && strstr(r.reason, vacuous[i][1]), "%s: %s %s", vacuous[i][0],
                      fh1_verdict_name(r.verdict), r.reason);
    }
}
END_TEST

/* D is lost in head 3, in both engines alike: what a case with D[3] = 0 looks like. */
static float without_third[64];

static fh1_tensor lose_third(const fh1_tensor *D)
{
    fh1_to_f32(without_third, D->data, D->dtype, D->shape[0]);
    without_third[3] = 0;
    return fh1_view1(without_third, FH1_F32, D->shape[0]);
}

static fh1_status scan_without_third(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G,
                                     const void *x, const void *B, const void *C, const void *dt, const fh1_tensor *A,
                                     const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    const fh1_tensor lost = lose_third(D);
    fh1_engine *ref = e->dtype == FH1_F64 ? truth : f32;
    return ref->ops->ssd_scan(e, T, H, P, N, G, x, B, C, dt, A, &lost, doc, state_doc, state, y);
}

START_TEST(a_parameter_that_one_head_lacks)
{
    fh1_ops exact = *truth->ops, single = *f32->ops;
    exact.ssd_scan = single.ssd_scan = scan_without_third;
    fh1_engine t = *truth, j = *f32;
    t.ops = &exact;
    j.ops = &single;
    static const char *const regime[] = {"lattice", "trained", "adversarial"};
    for (int i = 0; i < 3; ++i) {
        char line[128];
        snprintf(line, sizeof line, "--op=ssd_scan --regime=%s --T=20 --H=6", regime[i]);
        const gld_op_case c = parse(line);
        const gld_op_result r = run(&c, &t, &j);
        ck_assert_int_eq(r.verdict, FH1_MISTRUSTED);
        ck_assert_str_eq(r.reason, "the loss of D would not show in head 3");
        ck_assert_int_eq(run(&c, truth, f32).verdict, FH1_PASS);
        ck_assert_int_eq(run(&c, truth, &j).verdict, FH1_FAIL);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {lines_come_back,
                                  bad_lines_name_the_option,
                                  garbage_never_crashes,
                                  fields_are_plain_integers,
                                  the_standard_cases_pass,
                                  fuzzed_cases_pass,
                                  recordings_that_are_not_there,
                                  cases_that_show_nothing,
                                  a_parameter_that_one_head_lacks};
    Suite *s = suite_create("op_cases");
    TCase *t = tcase_create("op_cases");
    tcase_add_checked_fixture(t, open_engines, close_engines);
    tcase_set_timeout(t, 120);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
