/* Lattice data of golden/op_case.h: no honest order of operations may change a bit, whatever the shape, and the
 * smallest dishonesty must. */
#include "golden/op_case.h"
#include "tests/op_engines.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static gld_op_result run(const gld_op_case *c, fh1_engine *judged)
{
    gld_op_result r;
    char line[GLD_OP_LINE], why[1024];
    fh1_status s = gld_op_case_run(c, truth, judged, &r);
    ck_assert_msg(!s, "%s: %s", gld_op_case_print(c, line, sizeof line), s ? fh1_status_line(s, why, sizeof why) : "");
    return r;
}

static gld_op_case parse(const char *line)
{
    gld_op_case c;
    char why[1024];
    fh1_status s = gld_op_case_parse(line, &c);
    ck_assert_msg(!s, "%s: %s", line, s ? fh1_status_line(s, why, sizeof why) : "");
    return c;
}

/* Shapes drawn at random: every op, every contract, three summation orders (f64 in lanes, f32 in lanes, chunks). */
START_TEST(honest_engines_agree_to_the_bit)
{
    int pass = 0, other = 0;
    fh1_engine *const engines[] = {f32, bf16, fused, truth};
    for (int64_t i = 0; i < 4 * 20 * GLD_OP_COUNT; ++i) {
        gld_op_case c = gld_op_case_fuzzed((gld_op)(i / 80), 300 + i % 20);
        c.regime = GLD_REGIME_LATTICE;
        const gld_op_result r = run(&c, engines[i % 80 / 20]);
        char line[GLD_OP_LINE];
        ck_assert_msg(r.verdict != FH1_FAIL, "%s, %s: %s at %s: %.17g, truth %.17g", engines[i % 80 / 20]->name,
                      gld_op_case_print(&c, line, sizeof line), r.reason, r.where, r.judged, r.truth);
        if (r.verdict == FH1_PASS) ++pass;
        else ++other;
    }
    printf("  lattice: %d random cases equal to the bit, %d that could have shown too little\n", pass, other);
    ck_assert(pass > 20 * other);
}
END_TEST

/* Chunks of every length, one token's included, against the sequence. */
START_TEST(no_chunk_changes_a_bit)
{
    for (int64_t Q = 1; Q <= 80; Q = Q < 20 ? Q + 1 : Q + 20) {
        gld_op_case c = parse("--op=ssd_chunk --T=77 --H=6 --P=3 --N=20 --G=2 --docs=2 --weights=f32");
        c.Q = Q;
        const gld_op_result r = run(&c, f32);
        ck_assert_msg(r.verdict == FH1_PASS, "Q %lld: %s at %s", (long long)Q, r.reason, r.where);
    }
}
END_TEST

/* -- dishonest by the least ---------------------------------------------------------------------- */

static enum { ONE_ULP, OTHER_ZERO } how;
static int64_t spoiled; /* element */

static void spoil(void *y, int64_t n)
{
    float *v = y;
    ck_assert(spoiled < n);
    v[spoiled] = how == ONE_ULP ? nextafterf(v[spoiled], INFINITY) : -v[spoiled];
}

static fh1_status spoiled_linear(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *b,
                                 void *y)
{
    FH1_TRY(f32->ops->linear(e, M, x, w, b, y));
    spoil(y, M * w->shape[0]);
    return NULL;
}

static fh1_status spoiled_gate(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                               const fh1_tensor *w, double eps, bool first, void *out)
{
    FH1_TRY(f32->ops->gated_norm(e, M, d, G, y, z, w, eps, first, out));
    float *v = out;
    for (spoiled = 0; v[spoiled] != 0; ++spoiled) ck_assert(spoiled + 1 < M * d);
    spoil(out, M * d);
    return NULL;
}

START_TEST(one_bit_is_enough)
{
    fh1_ops ops = *f32->ops;
    ops.linear = spoiled_linear;
    ops.gated_norm = spoiled_gate;
    fh1_engine e = *f32;
    e.ops = &ops;
    const gld_op_case linear = parse("--op=linear --T=9 --D=70 --F=33");
    how = ONE_ULP;
    for (spoiled = 0; spoiled < 9 * 33; spoiled += 37) {
        const gld_op_result r = run(&linear, &e);
        ck_assert_int_eq(r.verdict, FH1_FAIL);
        ck_assert_str_eq(r.reason, "not the same bits");
        char where[32];
        snprintf(where, sizeof where, "y[%d, %d]", (int)spoiled / 33, (int)spoiled % 33);
        ck_assert_str_eq(r.where, where);
    }
    how = OTHER_ZERO;
    const gld_op_case gate = parse("--op=gated_norm --T=33 --D=16 --norm=0");
    const gld_op_result r = run(&gate, &e);
    ck_assert_int_eq(r.verdict, FH1_FAIL);
    ck_assert_str_eq(r.reason, "a zero has the other sign");
}
END_TEST

/* Right values, and one more beside them. */
static fh1_status writes_outside(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m, const void *up,
                                 void *act)
{
    FH1_TRY(f32->ops->swiglu(e, M, F, gate, m, up, act));
    ((float *)act)[M * F] = 0;
    return NULL;
}

START_TEST(writing_outside_is_found)
{
    fh1_ops ops = *f32->ops;
    ops.swiglu = writes_outside;
    fh1_engine e = *f32;
    e.ops = &ops;
    const gld_op_case c = parse("--op=swiglu --T=4 --F=16");
    const gld_op_result r = run(&c, &e);
    ck_assert_int_eq(r.verdict, FH1_FAIL);
    ck_assert_str_eq(r.reason, "the op wrote outside its outputs");
    ck_assert_int_eq(run(&c, f32).verdict, FH1_PASS);
}
END_TEST

/* Nothing is written: outputs start as NaN. */
static fh1_status does_nothing(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps,
                               void *y)
{
    (void)e, (void)M, (void)D, (void)x, (void)w, (void)eps, (void)y;
    return NULL;
}

START_TEST(what_is_not_offered_and_what_is_not_done)
{
    fh1_ops ops = *f32->ops;
    ops.rmsnorm = does_nothing;
    ops.embed = NULL;
    fh1_engine e = *f32;
    e.ops = &ops;
    const gld_op_case norm = parse("--op=rmsnorm"), embed = parse("--op=embed");
    ck_assert_int_eq(run(&norm, &e).verdict, FH1_FAIL);
    ck_assert_int_eq(run(&norm, f32).verdict, FH1_PASS);
    ck_assert_int_eq(run(&embed, &e).verdict, FH1_SKIP);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("op_lattice");
    TCase *t = tcase_create("op_lattice");
    tcase_add_checked_fixture(t, open_engines, close_engines);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, honest_engines_agree_to_the_bit);
    tcase_add_test(t, no_chunk_changes_a_bit);
    tcase_add_test(t, one_bit_is_enough);
    tcase_add_test(t, writing_outside_is_found);
    tcase_add_test(t, what_is_not_offered_and_what_is_not_done);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
