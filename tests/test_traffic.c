/* Traffic: its text, and honest engines under every kind of move. The planted faults: test_traffic_faults.c. */
#include "tests/traffic_fixture.h"

#include "oracle/random.h"

#include <math.h>
#include <stdlib.h>

static char *printed(const gld_traffic *t)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    ck_assert_ptr_nonnull(out);
    gld_traffic_print(t, out);
    fclose(out);
    return text;
}

/* -- text ---------------------------------------------------------------------------------------- */

START_TEST(test_parse)
{
    const gld_traffic t =
        traffic_of("a=2;a+9,4<0,2;b=a;a*3;a@1,1,0;a<b;a!1;a+5,0|3,4;a-0:2;c=b;c~;c?3:1/0;c:;c.;a?2:2");
    const gld_move *m = t.move;
    ck_assert_int_eq(t.n, 15);
    ck_assert(m[0].kind == GLD_MOVE_NEW && m[0].cache == 0 && m[0].rows == 2);
    ck_assert(m[1].kind == GLD_MOVE_CALL && m[1].n[0] == 9 && m[1].n[1] == 4 && m[1].left[0] == 0 && m[1].left[1] == 2);
    ck_assert(m[2].kind == GLD_MOVE_COPY && m[2].cache == 0 && m[2].other == 1);
    ck_assert(m[3].kind == GLD_MOVE_STEPS && m[3].count == 3);
    ck_assert(m[4].kind == GLD_MOVE_REORDER && m[4].rows == 3 && m[4].n[0] == 1 && m[4].n[1] == 1 && m[4].n[2] == 0);
    ck_assert(m[5].kind == GLD_MOVE_RESTORE && m[5].cache == 0 && m[5].other == 1);
    ck_assert(m[6].kind == GLD_MOVE_RESTART && m[6].row == 1);
    ck_assert(m[7].n_cuts[0] == 2 && m[7].cut[0][0] == 3 && m[7].cut[0][1] == 4 && m[7].n_cuts[1] == 0);
    ck_assert(m[8].kind == GLD_MOVE_ROLLBACK && m[8].row == 0 && m[8].count == 2);
    ck_assert(m[10].kind == GLD_MOVE_SWAP && m[10].cache == 2);
    ck_assert(m[11].kind == GLD_MOVE_SPECULATE && m[11].count == 3 && m[11].n[0] == 1 && m[11].n[1] == 0);
    ck_assert(m[12].kind == GLD_MOVE_NOTHING && m[13].kind == GLD_MOVE_RESET);
    ck_assert_int_eq(gld_traffic_cells(&t), 2 * 9 + 2 * 3 + 2 * 5 + 2 * 3 + 2 * 1 + 2 * 2);
}
END_TEST

START_TEST(test_print)
{
    static const struct {
        const char *text, *same;
    } lines[] = {
        {"a=3;a+4,4,4;a?2:1/1/1", "a=3;a+4;a?2:1"},
        {"h=2;h+4,0<0,0>1,0|/", "h=2;h+4,0>1"},
        {"a=2;a+4,3|0,2/1;b=a;b<a;b~;b:;b.;a@1;a*7;a!0;a+2;a-0:1", NULL},
        {"a=2;a+4|/1,2,3", NULL},
        {"a=1;a+1024", NULL},
    };
    for (int i = 0; i < N_OF(lines); i++) {
        const gld_traffic t = traffic_of(lines[i].text);
        char *text = printed(&t);
        ck_assert_str_eq(text, lines[i].same ? lines[i].same : lines[i].text);
        free(text);
    }
}
END_TEST

START_TEST(test_refusals)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "move 1"},
        {"a", "one of"},
        {"a=0", "move 1: rows of a cache"},
        {"a=5", "rows of a cache"},
        {"i=1", "a cache, a letter"},
        {"a=1;", "move 2: not a move"},
        {"a=1;b+1", "move 2: cache b is not there"},
        {"a=1;a+0", "a call of no tokens"},
        {"a=1;a+1,2", "more rows than the cache has"},
        {"a=1;a+1<0,0", "more rows than the cache has"},
        {"a=1;a+3|3", "rising tokens"},
        {"a=1;a+3|1,1", "rising tokens"},
        {"a=1;a+3|,", "not a move"},
        {"a=1;a+6|0,1,2,3,4", "no more documents"},
        {"a=1;a+3>1<1", "';' or the end"},
        {"a=1;a+1025", "up to 1024"},
        {"a=1;a+99999999999999999999", "up to 1024"},
        {"a=1;a+1000;a*25", "move 3: too many tokens in a row"},
        {"a=1;a+1020;a?5:0", "too many tokens in a row"},
        {"a=1;a*0", "steps"},
        {"a=1;a=a", "a cache and its copy are two"},
        {"a=1;a<b", "cache b is not there"},
        {"a=1;b=c", "cache c is not there"},
        {"a=1;a@1", "a row of the cache"},
        {"a=2;a@0,1,0,1,0", "no more rows"},
        {"a=1;a!1", "a row of the cache"},
        {"a=1;a+4;a-0:4", "tokens to go back by"},
        {"a=1;a+4;a-0:0", "tokens to go back by"},
        {"a=1;a+1;a-0:1", "fewer than two"},
        {"a=1;a+4;a!0;a-0:1", "fewer than two"},
        {"a=1;a?0:0", "drafts"},
        {"a=1;a?2:3", "accepted drafts"},
        {"a=1;a?2", "':'"},
        {"a=1;a#", "one of"},
        {"a=1 ;a+1", "';' or the end"},
    };
    gld_traffic t;
    for (int i = 0; i < N_OF(bad); i++) FAILS(gld_traffic_parse(bad[i].text, &t), FH1_E_INPUT, bad[i].says);
    char many[4 * GLD_TRAFFIC_MOVES + 8] = "a=1";
    for (int i = 1; i <= GLD_TRAFFIC_MOVES; i++) strcat(many, ";a.");
    FAILS(gld_traffic_parse(many, &t), FH1_E_INPUT, "up to 64 moves");
    many[strlen(many) - 3] = 0;
    OK(gld_traffic_parse(many, &t));
    t.move[1].kind = GLD_MOVE_COUNT;
    FAILS(gld_traffic_check(&t), FH1_E_INPUT, "unknown move");
    t.n = 65;
    FAILS(gld_traffic_check(&t), FH1_E_INPUT, "moves");
}
END_TEST

/* Any bytes become traffic, twice the same; its text parses to it. */
START_TEST(test_repair)
{
    const fh1_stream s = fh1_stream_open(3, "any struct");
    uint64_t at = 0;
    bool kinds[GLD_MOVE_COUNT] = {false};
    for (int round = 0; round < 400; round++) {
        gld_traffic t, again;
        unsigned char *bytes = (unsigned char *)&t;
        for (size_t i = 0; i < sizeof t; i += 8) {
            uint64_t v = fh1_random_u64(s, at++);
            if (round % 4 < 3) v >>= 8 * (v % 8); /* small and large numbers, of either sign */
            if (round % 4 == 2 && v & 1) v = -v;
            memcpy(bytes + i, &v, sizeof t - i < 8 ? sizeof t - i : 8);
        }
        if (round % 2) t.n = 1 + round % GLD_TRAFFIC_MOVES;
        gld_traffic_repair(&t);
        OK(gld_traffic_check(&t));
        ck_assert_int_le(gld_traffic_cells(&t), GLD_TRAFFIC_REPAIRED_CELLS);
        again = t;
        gld_traffic_repair(&again);
        char *text = printed(&t), *same = printed(&again);
        ck_assert_str_eq(text, same);
        free(same);
        for (int i = 0; i < t.n; i++) kinds[t.move[i].kind] = true;
        OK(gld_traffic_parse(text, &again));
        same = printed(&again);
        ck_assert_str_eq(text, same);
        free(text);
        free(same);
    }
    for (int k = 0; k < GLD_MOVE_COUNT; k++) ck_assert_msg(kinds[k], "no round kept a move of kind %d", k);
}
END_TEST

/* What can be done already stays as it is. */
START_TEST(test_repair_keeps)
{
    gld_traffic t = traffic_of("a=2;a+9,4<0,2;b=a;a*3;a@1,1,0;a<b;a!1;a+5"), kept = t;
    gld_traffic_repair(&kept);
    char *was = printed(&t), *is = printed(&kept);
    ck_assert_str_eq(was, is);
    free(was);
    free(is);
}
END_TEST

/* -- honest engines ------------------------------------------------------------------------------ */

static const char *const lines[] = {
    "a=1;a+9",
    "a=2;a+9,4<0,2;b=a;a*3;a@1,1,0;a<b;a!1;a+5",
    "a=3;a+6,2,0;a*2;a+4,0,7>2|//1,5",
    "a=1;a+5;b=a;a+3;b*4;a<b;a+2;b~;b*2",
    "a=2;a+7;a?4:2/0;a*2;a?3:3;a?2:0;a+1",
    "a=4;a+3,5,2,4;a@3,1;a*2;a@1,0,0,1;a+3;a!2;a*3;a!0;a+1",
    "a=2;a+5|2/0,3;a+4|0/1,2;a*2;a-0:3;a-1:8;a:;a+2",
    "a=2;a+5;a.;a+1;a.;a+2;a.;a*3;b=a;a.;b+2",
    "a=1;a:;a~;a+0<3;a+1;a~;a+0>2;a+6;a~;a*1",
};

static void all_hold(const char *engine)
{
    fh1_model m;
    traffic_model(TRAFFIC_MODEL, 5, &m);
    fh1_engine *e = ref_engine_new(engine, NULL, 0);
    for (int i = 0; i < N_OF(lines); i++) {
        const gld_traffic t = traffic_of(lines[i]);
        const gld_traffic_result r = traffic_judged(&t, e, &m, (uint64_t)i);
        ck_assert_msg(r.verdict == FH1_PASS, "%s on %s: %s: %s", engine, lines[i], fh1_verdict_name(r.verdict),
                      r.sentence);
        printf("%-9s %-50s margin %.3g\n", engine, lines[i], r.margin);
        ck_assert(r.tokens > 0 && r.calls > 0 && r.margin >= 0);
    }
    e->free(e);
    fh1_model_free(&m);
}

START_TEST(test_honest_f64)
{
    all_hold("ref-f64");
}
END_TEST

START_TEST(test_honest_f32)
{
    all_hold("ref-f32");
}
END_TEST

START_TEST(test_honest_bf16)
{
    all_hold("ref-bf16");
}
END_TEST

/* Beyond their limit these angles depend on the longest sequence of the batch. */
START_TEST(test_angles_that_depend)
{
    static const char *const ropes[] = {
        "rope=dynamic,factor=2,max_position=6",
        "rope=longrope,factor=2,original_max_position=6,long_factor=1/2.5,short_factor=1/1",
    };
    static const struct {
        const char *line;
        fh1_verdict verdict;
    } cases[] = {
        {"a=1;a+6", FH1_PASS},     {"a=1;a+7", FH1_SKIP},         {"a=1;a+6;a.;a+3", FH1_PASS},
        {"a=1;a+5;a*2", FH1_SKIP}, {"a=2;a+5,3<0,4", FH1_PASS}, /* positions count no padding */
        {"a=1;a+8|4", FH1_PASS},   {"a=2;a+3;a+8,1|0", FH1_SKIP},
    };
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    for (int i = 0; i < N_OF(ropes); i++) {
        char make[400];
        snprintf(make, sizeof make, "%s,%s", TRAFFIC_MODEL, ropes[i]);
        fh1_model m;
        traffic_model(make, 5, &m);
        for (int k = 0; k < N_OF(cases); k++) {
            const gld_traffic t = traffic_of(cases[k].line);
            const gld_traffic_result r = traffic_judged(&t, e, &m, 1);
            ck_assert_msg(r.verdict == cases[k].verdict, "%s, %s: %s %s", ropes[i], cases[k].line,
                          fh1_verdict_name(r.verdict), r.sentence);
        }
        fh1_model_free(&m);
    }
    e->free(e);
}
END_TEST

/* An emulated pipeline that is off by more than the numbers are, or has overflowed. */
static double spoil;
static fh1_engine *emulated;

static fh1_status spoiled_forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n,
                                  void *logits, const fh1_tap_sink *sink)
{
    (void)e;
    FH1_TRY(emulated->forward(emulated, m, b, cache, n, logits, sink));
    for (int64_t i = 0; logits && i < b->B * n * m->config.V; i++) ((float *)logits)[i] *= (float)spoil;
    return NULL;
}

START_TEST(test_lost_emulation)
{
    static const struct {
        double spoil;
        fh1_verdict verdict;
    } cases[] = {{1, FH1_PASS}, {1.5, FH1_SKIP}, {(double)INFINITY, FH1_SKIP}, {(double)NAN, FH1_SKIP}};
    fh1_model m;
    traffic_model(TRAFFIC_MODEL, 5, &m);
    const gld_traffic t = traffic_of("a=1;a+9;b=a;a*2;b+3");
    fh1_engine *e = ref_engine_new("ref-bf16", NULL, 0), *truth = ref_engine_new("ref-f64", NULL, 0);
    emulated = ref_engine_new("ref-bf16", e->profile, 0);
    for (int i = 0; i < N_OF(cases); i++) {
        fh1_engine lost = *emulated;
        lost.forward = spoiled_forward;
        spoil = cases[i].spoil;
        const gld_law_args a = {.engine = e, .truth = truth, .emulated = &lost, .model = &m, .seed = 3};
        gld_traffic_result r;
        OK(gld_traffic_judge(&t, &a, &r));
        ck_assert_msg(r.verdict == cases[i].verdict, "%g: %s", spoil, r.sentence);
        if (r.verdict == FH1_SKIP) ck_assert(isnan(r.margin) && strstr(r.sentence, "emulated pipeline has lost"));
    }
    const gld_law_args none = {.engine = e, .truth = truth, .model = &m, .seed = 3};
    gld_traffic_result r;
    FAILS(gld_traffic_judge(&t, &none, &r), FH1_E_INPUT, "needs an emulated pipeline");
    e->free(e);
    truth->free(truth);
    emulated->free(emulated);
    fh1_model_free(&m);
}
END_TEST

START_TEST(test_nothing_said)
{
    fh1_model m;
    traffic_model(TRAFFIC_MODEL, 5, &m);
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    const gld_traffic t = traffic_of("a=2;a.;b=a;a@1;a~");
    ck_assert_int_eq(traffic_judged(&t, e, &m, 1).verdict, FH1_MISTRUSTED);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("traffic");
    TCase *tc = tcase_create("traffic");
    fh1_set_threads(1);
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, test_parse);
    tcase_add_test(tc, test_print);
    tcase_add_test(tc, test_refusals);
    tcase_add_test(tc, test_repair);
    tcase_add_test(tc, test_repair_keeps);
    tcase_add_test(tc, test_honest_f64);
    tcase_add_test(tc, test_honest_f32);
    tcase_add_test(tc, test_honest_bf16);
    tcase_add_test(tc, test_angles_that_depend);
    tcase_add_test(tc, test_lost_emulation);
    tcase_add_test(tc, test_nothing_said);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
