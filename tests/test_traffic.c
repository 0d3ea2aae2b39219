/* Traffic: its text, and honest engines under every kind of move. The planted faults: test_traffic_faults.c. */
#include "tests/traffic_fixture.h"

#include "oracle/random.h"

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
    fh1_model m = traffic_model(TRAFFIC_MODEL, 5);
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

START_TEST(test_nothing_said)
{
    fh1_model m = traffic_model(TRAFFIC_MODEL, 5);
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
    tcase_add_test(tc, test_nothing_said);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
