/* Repro lines of traffic: read, written, run under other contracts, and made small. */
#include "tests/repro_fixture.h"

#include <stdlib.h>

#define MODEL "--make=layers=2,D=12,F=10,V=23,Hq=4,Hkv=2,A=4,H=4,P=3,N=5,G=2,K=4,Q=4,rms_norm=1"
#define TRAFFIC "a=3;a+9,4,7<0,2;b=a;a*3;a@1,1,0,2;a<b;a!1;a+5|3/1,2;b~;a?4:2/0;a-0:1;a.;a+1;a*2"

static gld_repro r;

START_TEST(test_read_and_write)
{
    static const char *const lines[] = {
        MODEL " --engine=ref-f64 --seed=7 --traffic=" TRAFFIC,
        MODEL
        " --engine=ref-f64 --seed=7 --traffic=a=2;a+9,4<0,2>1|3/1 --contract=fp32+mup_rounded --variant=no_dt_limit "
        "--fault=restore_keeps_conv",
        "--model=a\\ folder --engine=cuda-host --seed=1 --traffic=h=1;h+1",
    };
    for (int i = 0; i < N_OF(lines); i++) {
        OK(gld_repro_parse(lines[i], &r));
        char *line = gld_repro_print(&r);
        ck_assert(r.is_traffic && !r.is_op);
        ck_assert_str_eq(line, lines[i]);
        free(line);
    }
}
END_TEST

START_TEST(test_refusals)
{
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"--traffic=a=1;a+1 --schedule=p3", "--traffic and --schedule contradict"},
        {"--traffic=a=1;a+1 --positions=3", "--traffic and --positions contradict"},
        {"--traffic=a=1;a+1 --tap=logits", "--traffic and --tap contradict"},
        {"--traffic=a=1;a+1 --step=0", "--traffic and --step contradict"},
        {"--traffic=a=1 --traffic=a=1", "twice"},
        {"--traffic=", "--traffic: move 1"},
        {"--traffic=a=1;a+9;b+1", "--traffic: move 3: cache b is not there"},
        {"--seed=1", "--traffic=a=2;a+9;a*3"},
        {"--traffic=a=4;a*1024;a.;a*1024 --make=V=1000000,D=1", "too much for this model"},
    };
    for (int i = 0; i < N_OF(bad); i++) {
        char line[400];
        snprintf(line, sizeof line, "%s%s --engine=ref-f64", strstr(bad[i].line, "--make") ? "" : "--make=D=8 ",
                 bad[i].line);
        FAILS(gld_repro_parse(line, &r), FH1_E_INPUT, bad[i].says);
    }
}
END_TEST

static gld_repro_outcome outcome_of(const char *line)
{
    gld_repro_outcome out;
    OK(gld_repro_parse(line, &r));
    OK(gld_repro_try(&r, &fixture_env, &out));
    return out;
}

START_TEST(test_contracts)
{
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-f32 --traffic=" TRAFFIC).verdict, FH1_PASS);
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-bf16 --traffic=" TRAFFIC).verdict, FH1_PASS);
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-bf16 --contract=cuda-bf16 --traffic=" TRAFFIC).verdict, FH1_PASS);
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-f64 --contract=fp32 --traffic=" TRAFFIC).verdict, FH1_PASS);
    ck_assert_int_eq(
        outcome_of(MODEL ",m_x=0.3 --engine=ref-f32 --contract=fp32+mup_rounded --traffic=" TRAFFIC).verdict, FH1_PASS);
    /* and what must not hold */
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-f32 --contract=exact --traffic=" TRAFFIC).verdict, FH1_FAIL);
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-bf16 --contract=fp32 --traffic=" TRAFFIC).verdict, FH1_PASS);
    ck_assert_int_eq(outcome_of(MODEL ",m_x=0.3 --engine=ref-f32 --variant=mup_rounded --traffic=" TRAFFIC).verdict,
                     FH1_FAIL);
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-f64 --variant=right_pad_cache --traffic=a=2;a+3,1;a*2").verdict,
                     FH1_FAIL);
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-f64 --variant=history_dropped --traffic=a=1;a+3;a+2").verdict,
                     FH1_FAIL);
    ck_assert_int_eq(outcome_of(MODEL " --engine=ref-f64 --traffic=a=1").verdict, FH1_MISTRUSTED);
    /* the stream overflows: every logit, key and value is zero, and a lost snapshot does not show */
    ck_assert_int_eq(outcome_of(MODEL ",m_emb=1e308 --engine=ref-f64 --traffic=a=1;a+4;b=a;a*2;a<b;a+1 "
                                      "--fault=snapshot_without_keys")
                         .verdict,
                     FH1_MISTRUSTED);
}
END_TEST

START_TEST(test_outcome)
{
    const gld_repro_outcome out =
        outcome_of(MODEL " --engine=ref-f64 --traffic=a=1;a+5;b=a;a+4;a<b;a+3 --fault=restore_keeps_conv");
    ck_assert(out.verdict == FH1_FAIL && out.id == FH1_TAP_LOGITS && out.step == 5);
    const gld_repro_outcome broken =
        outcome_of(MODEL " --engine=ref-f64 --traffic=a=1;a+5;a-0:1;a+3 --fault=truncate_off_by_one");
    ck_assert(broken.verdict == FH1_FAIL && broken.id == FH1_TAP_COUNT && broken.step == 2);
    ck_assert_str_eq(broken.tap, "traffic");
}
END_TEST

/* -- small --------------------------------------------------------------------------------------- */

static const char *const cache_faults[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) name,
#include "oracle/fault_list_cache.h"
#undef FH1_FAULT
};

/* Whether a row that is not emptied shows depends on the numbers of its documents, which the seed draws. */
static void parse_failing(const char *fault)
{
    gld_repro_outcome out = {.verdict = FH1_PASS};
    for (int seed = 1; seed < 9 && out.verdict != FH1_FAIL; seed++) {
        char line[1024];
        snprintf(line, sizeof line, MODEL " --engine=ref-f64 --seed=%d --traffic=" TRAFFIC " --fault=%s", seed, fault);
        out = outcome_of(line);
    }
    ck_assert_msg(out.verdict == FH1_FAIL, "%s shows with no seed", fault);
}

/* Four moves: a cache, words, a copy or other words, and the move that does it wrong. Five where the words that a
 * restored cache goes on with are wrong. */
static int needed(const char *fault)
{
    return strcmp(fault, "restore_replays_one_token") == 0 || strcmp(fault, "snapshot_length_rounded_up") == 0 ? 5 : 4;
}

START_TEST(test_shrinks)
{
    const gld_shrink_options o = {0};
    gld_shrink_result result;
    gld_repro_outcome again;
    parse_failing(cache_faults[_i]);
    OK(gld_shrink(&r, &fixture_env, &o, &result));
    char *small = gld_repro_print(&r);
    printf("%3d runs  %s\n", result.runs, small);
    OK(gld_repro_parse(small, &r)); /* the printed line fails again, and passes without the fault */
    OK(gld_repro_try(&r, &fixture_env, &again));
    ck_assert_int_eq(again.verdict, FH1_FAIL);
    ck_assert_msg(r.traffic.n <= needed(cache_faults[_i]), "%s", small);
    r.fault[0] = 0;
    OK(gld_repro_try(&r, &fixture_env, &again));
    ck_assert_msg(again.verdict != FH1_FAIL, "%s", small);
    free(small);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("traffic_repro");
    tcase_add_test(tc, test_read_and_write);
    tcase_add_test(tc, test_refusals);
    tcase_add_test(tc, test_contracts);
    tcase_add_test(tc, test_outcome);
    tcase_add_loop_test(tc, test_shrinks, 0, N_OF(cache_faults));
    return fixture_main(suite_create("traffic_repro"), tc);
}
