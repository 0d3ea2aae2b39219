/* Repro lines: text and meaning are the same thing in both directions, nonsense is refused with the option named, an
 * honest line passes and one with a planted fault fails, and `fh1 check` can tell its own runs as a line. */
#include "golden/repro.h"

#include "golden/record.h"
#include "golden/words.h"
#include "oracle/random.h"
#include "tests/repro_fixture.h"
#include "tests/small_config.h"

#include <stdlib.h>

static gld_repro a, b;

static const char *const lines[] = {
    "--model=golden/models/odd --engine=ref-f32 --schedule=p5",
    "--model=a\\ b\\\\c'd --engine=ref-f32 --schedule=p5x2",
    BIG_LINE,
    BIG_LINE BIG_FAULT,
    "--make=D=8 --engine=ref-bf16 --schedule=p5x3l:0,2r:1,0,4y;c3r:0,0,3;d2;c2l:1y;c1l:1 --contract=fp32+mup_rounded",
    "--make=D=8 --engine=ref-f32 --schedule=p5x3k:1,4//2;c3k:0 --positions=none --variant=mixer_leaks_docs",
    "--make=D=8 --engine=ref-f32 --schedule=p1;d4 --positions=100003 --tap=*.ssd,logits --step=3",
    "--op=ssd_scan --T=129 --H=2 --seed=7 --regime=adversarial",
    "  --op=conv1d --K=3 --engine=ref-bf16 --contract=hf-eager-bf16",
    "--model=a\\ --op=b --engine=ref-f32 --schedule=p5", /* a folder, not an op */
    "--T=3\t--op=linear",
};

START_TEST(test_round_trip)
{
    OK(gld_repro_parse(lines[_i], &a));
    char *first = gld_repro_print(&a);
    OK(gld_repro_parse(first, &b));
    char *second = gld_repro_print(&b);
    ck_assert_str_eq(first, second);
    ck_assert(memcmp(&a.calls, &b.calls, sizeof a.calls) == 0);
    ck_assert_str_eq(a.model, b.model);
    gld_repro_copy(&b, &a);
    free(second);
    b.calls.call[0].T++; /* planted: another length must be another line */
    b.op.T++;
    second = gld_repro_print(&b);
    ck_assert_str_ne(first, second);
    free(first);
    free(second);
}
END_TEST

START_TEST(test_command_for_a_shell)
{
    OK(gld_repro_parse(lines[1], &a));
    char *command = gld_repro_command(&a);
    ck_assert_str_eq(command, "fh1 repro '--model=a\\ b\\\\c'\\''d --engine=ref-f32 --seed=1 --schedule=p5x2'");
    free(command);
}
END_TEST

#define M "--make=D=8 --engine=ref-f32 --schedule="
static const struct {
    const char *line, *says;
} garbage[] = {
    {"", "--op=NAME"},
    {"   \t\n ", "--op=NAME"},
    {"--", "unknown option"},
    {"model", "--NAME=VALUE"},
    {"--model", "no value"},
    {"--modle=x --engine=ref-f32", "--modle"},
    {"--engine=ref-f32 --schedule=p3", "--make=SIZES"},
    {"--make=D=8 --model=x --engine=ref-f32 --schedule=p3", "contradict"},
    {"--make=D=8 --engine=ref-f32", "--schedule"},
    {"--make=D=8 --schedule=p3", "--engine"},
    {"--make=D=8 --make=D=9 --engine=ref-f32 --schedule=p3", "twice"},
    {"--make=D=0 --engine=ref-f32 --schedule=p3", "--make: D"},
    {M "p3 --seed=x", "--seed"},
    {M "p3 --seed=-1", "--seed"},
    {M "p3 --seed=99999999999999999999", "--seed"},
    {M "p3 --fault=no_such", "no_such"},
    {M "p3 --contract=fp33", "fp33"},
    {M "p3 --variant=no_such", "no_such"},
    {M "p3 --step=1", "--step"},
    {M "p3 --positions=-4", "--positions"},
    {M "p3 --positions=999999999999999999", "position"},
    {M "p3 --tap=*.nothing", "nothing"},
    {M "d3", "pTxB"},
    {M "p", "a number"},
    {M "p3;", "cT or dN"},
    {M "p3;p3", "cT or dN"},
    {M "p0", "no columns"},
    {M "p3x0", "1 to 32 rows"},
    {M "p3x33", "1 to 32 rows"},
    {M "p3x2l:1,2,3", "more rows"},
    {M "p3l:4", "more padding"},
    {M "p3l:2r:2", "more padding"},
    {M "p3l:1l:1", "each option once"},
    {M "p3z", "l:, r:, k:, y"},
    {M "p3l1", "':'"},
    {M "p3l:", "a number"},
    {M "p3;d2l:1", "';' after dN"},
    {M "p3;d0", "steps"},
    {M "p3;d5000", "steps"},
    {M "p3;d4000;d4000", "too many steps"},
    {M "p3k:3", "rising columns"},
    {M "p3k:2,1", "rising columns"},
    {M "p3y;c1y", "two real columns"},
    {M "p20k:0,1,2,3,4,5,6,7,8,9,10,11,12", "12"},
    {M "p99999999999999999999", "2^20"},
    {M "p1048576x32", "2^24"},
    {M "p1048576", "2^28"},
    {"--op=ssd_sacn", "ssd_scan"},
    {"--op=ssd_scan --T=0", "--T"},
    {"--op=ssd_scan --fault=no_such", "no_such"},
    {"--op=ssd_scan --contract=fp33", "fp33"},
    {"--op=ssd_scan --schedule=p3", "--schedule"},
};

START_TEST(test_garbage)
{
    char line[2048];
    fh1_status e = gld_repro_parse(garbage[_i].line, &a);
    ck_assert_msg(e != NULL, "'%s' is accepted", garbage[_i].line);
    ck_assert_int_eq(e->code, FH1_E_INPUT);
    fh1_status_line(e, line, sizeof line);
    ck_assert_msg(strstr(line, garbage[_i].says) != NULL, "'%s': %s", garbage[_i].line, line);
}
END_TEST

START_TEST(test_long_and_mutated_lines)
{
    static const char bytes[] = " ;:,/=-9x\\\xff";
    static char text[GLD_WORD_SIZE + 1];
    memset(text, 'x', GLD_WORD_SIZE);
    FAILS(gld_repro_parse(text, &a), FH1_E_INPUT, "longer");
    text[GLD_WORD_SIZE - 1] = 0;
    FAILS(gld_repro_parse(text, &a), FH1_E_INPUT, "--NAME=VALUE");
    fh1_stream s = fh1_stream_open(1, "mutations");
    for (uint64_t i = 0; i < 4000; i++) {
        snprintf(text, sizeof text, "%s", lines[i % (sizeof lines / sizeof *lines)]);
        for (uint64_t k = 0; k < 1 + i % 3; k++)
            text[fh1_random_below(s, 8 * i + k, (int64_t)strlen(text))] =
                bytes[fh1_random_below(s, 8 * i + 4 + k, sizeof bytes - 1)];
        if (i % 5 == 0) text[fh1_random_below(s, 8 * i + 7, (int64_t)strlen(text))] = 0;
        if (gld_repro_parse(text, &a)) continue;
        char *again = gld_repro_print(&a); /* what is accepted can be said again */
        OK(gld_repro_parse(again, &b));
        free(again);
    }
}
END_TEST

/* -- schedules ----------------------------------------------------------------------------------- */

START_TEST(test_inputs_of_a_schedule)
{
    gld_trace t;
    gld_calls s;
    fh1_config c = small_config();
    OK(gld_calls_parse("p4x2l:0,3;c3r:0,1k:/1y;d2", &s));
    OK(gld_calls_trace(&s, c.V, 3, &t));
    OK(gld_trace_check_inputs(&t, &c));
    ck_assert_int_eq(t.n_steps, 4);
    const fh1_batch *p = &t.steps[0].batch, *k = &t.steps[1].batch, *d = &t.steps[3].batch;
    static const int64_t mask[2][9] = {{1, 1, 1, 1, 1, 1, 1, 1, 1}, {0, 0, 0, 1, 1, 1, 0, 1, 1}};
    ck_assert_int_eq(d->mask_len, 9);
    ck_assert(memcmp(d->mask, mask, sizeof mask) == 0);
    ck_assert(p->positions[3] == 3 && p->positions[4] == 0 && p->positions[7] == 0);
    ck_assert(!p->seq_idx && k->seq_idx && k->seq_idx[2] == 0 && k->seq_idx[3] == 0 && k->seq_idx[4] == 1);
    ck_assert(k->positions[2] == 6 && k->positions[3] == 1 && k->positions[4] == 0);
    ck_assert(d->positions[0] == 8 && d->positions[1] == 2);    /* row 1: its document began at 1 of the second call */
    ck_assert(!p->labels && k->labels && k->labels[5] == -100); /* padding has no label */
    gld_trace_free(&t);
}
END_TEST

START_TEST(test_schedule_of_seeded_inputs)
{
    fh1_config c = small_config();
    for (int which = 0; which < 2; which++) {
        gld_trace t;
        bool found;
        OK(gld_schedule_seeded(&c, (uint64_t)_i, which, &t));
        OK(gld_calls_of_trace(&t, c.V, (uint64_t)_i, &a.calls, &found));
        ck_assert_msg(found, "schedule %d of seed %d has no line", which, _i);
        OK(gld_calls_of_trace(&t, c.V, (uint64_t)_i + 1, &a.calls, &found)); /* planted: another seed, */
        ck_assert(!found);
        ((int64_t *)(uintptr_t)t.steps[1].batch.positions)[0]++; /* another position */
        OK(gld_calls_of_trace(&t, c.V, (uint64_t)_i, &a.calls, &found));
        ck_assert(!found);
        gld_trace_free(&t);
    }
}
END_TEST

/* -- running ------------------------------------------------------------------------------------- */

static gld_repro_outcome outcome_of(const char *line)
{
    gld_repro_outcome o;
    OK(gld_repro_parse(line, &a));
    OK(gld_repro_try(&a, &fixture_env, &o));
    return o;
}

START_TEST(test_honest_and_faulty)
{
    gld_repro_outcome o = outcome_of(BIG_LINE);
    ck_assert_int_eq(o.verdict, FH1_PASS);
    ck_assert_str_eq(o.tap, "");
    o = outcome_of(BIG_LINE BIG_FAULT);
    ck_assert_int_eq(o.verdict, FH1_FAIL);
    ck_assert_str_eq(o.tap, "model.layers.0.self_attn.k_rope");
    ck_assert_int_eq(o.id, FH1_TAP_K_ROPE);
    ck_assert_int_eq(o.step, 0);
    o = outcome_of(BIG_LINE BIG_FAULT " --tap=*.2.self_attn.* --step=0");
    ck_assert_str_eq(o.tap, "model.layers.2.self_attn.k_rope");
    o = outcome_of(BIG_LINE BIG_FAULT " --tap=*.mamba.*"); /* keys do not pass through the mixer of the same tokens */
    ck_assert_int_eq(o.verdict, FH1_PASS);
}
END_TEST

START_TEST(test_every_kind_of_call)
{
    for (int i = 4; i < 7; i++) ck_assert_int_eq(outcome_of(lines[i]).verdict, FH1_PASS);
    ck_assert_int_eq(outcome_of("--op=ssd_scan --T=9 --seed=7").verdict, FH1_PASS);
}
END_TEST

START_TEST(test_errors_when_run)
{
    gld_repro_outcome o;
    OK(gld_repro_parse("--model=/no/such/folder --engine=ref-f32 --schedule=p3", &a));
    FAILS(gld_repro_try(&a, &fixture_env, &o), FH1_E_INPUT, "/no/such/folder");
    OK(gld_repro_parse("--make=D=8 --engine=ref-f99 --schedule=p3", &a));
    FAILS(gld_repro_try(&a, &fixture_env, &o), FH1_E_INPUT, "ref-f99");
    OK(gld_repro_parse("--model=golden/models/odd --engine=ref-f32 --schedule=p3 --tap=*.99.*", &a));
    FAILS(gld_repro_try(&a, &fixture_env, &o), FH1_E_INPUT, "*.99.*");
}
END_TEST

START_TEST(test_line_of_a_check)
{
    gld_trace t;
    char *command;
    fh1_model m = {.config = small_config(), .path = "some where"};
    OK(gld_schedule_seeded(&m.config, 5, 0, &t));
    OK(gld_repro_line(&m, "ref-bf16", fh1_profile_find("fp32"), FH1_VAR_NO_DT_LIMIT, 5, &t, &command));
    ck_assert_ptr_nonnull(command);
    ck_assert_ptr_nonnull(
        strstr(command, "fh1 repro '--model=some\\ where --engine=ref-bf16 --seed=5 --schedule=p37x3l:0,"));
    ck_assert_ptr_nonnull(strstr(command, ";d2;c5;d1 --contract=fp32 --variant=no_dt_limit'"));
    free(command);
    OK(gld_repro_line(&m, "ref-bf16", NULL, 0, 6, &t, &command)); /* planted: not the inputs of that seed */
    ck_assert_ptr_null(command);
    *m.path = 0; /* nobody else could open it */
    OK(gld_repro_line(&m, "ref-bf16", NULL, 0, 5, &t, &command));
    ck_assert_ptr_null(command);
    gld_trace_free(&t);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("repro");
    tcase_add_loop_test(tc, test_round_trip, 0, N_OF(lines));
    tcase_add_test(tc, test_command_for_a_shell);
    tcase_add_loop_test(tc, test_garbage, 0, N_OF(garbage));
    tcase_add_test(tc, test_long_and_mutated_lines);
    tcase_add_test(tc, test_inputs_of_a_schedule);
    tcase_add_loop_test(tc, test_schedule_of_seeded_inputs, 0, 6);
    tcase_add_test(tc, test_honest_and_faulty);
    tcase_add_test(tc, test_every_kind_of_call);
    tcase_add_test(tc, test_errors_when_run);
    tcase_add_test(tc, test_line_of_a_check);
    return fixture_main(suite_create("repro"), tc);
}
