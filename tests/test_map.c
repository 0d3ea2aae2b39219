/* Map files: the grammar, what names become, and foreign layouts that arrive as ours. */
#include "golden/map.h"

#include "golden/trace.h"
#include "tests/small_config.h"
#include "tests/trace_fixture.h"

static fh1_model model;

static void begin(void)
{
    fixture_begin();
    model.config = small_config();
}

static gld_map *map_of(const char *text)
{
    gld_map *m;
    OK(gld_map_parse(text, strlen(text), "a.map", &m));
    return m;
}

static const struct {
    const char *text, *says;
} bad_lines[] = {
    {"x", "line 1: no rule"},
    {"# good\n\nx = logits\n", "line 3: no rule"},
    {"x ->logits", "no rule"},
    {"x -> logit", "'logit' is neither a tap nor an input"},
    {"x -> ", "no rule"},
    {" -> logits", "no rule"},
    {"x{i} -> logits", "{i} stands on the left only"},
    {"x -> model.layers.{i}.mid", "{i} stands on the right only"},
    {"x -> step{j}/logits", "{j} stands on the right only"},
    {"x{j} -> step2/logits", "contradicts step2/"},
    {"x{i}0 -> model.layers.{i}.mid", "touches a digit"},
    {"x1{i} -> model.layers.{i}.mid", "touches a digit"},
    {"x{i}{j} -> model.layers.{i}.mid", "touches a digit or another placeholder"},
    {"x -> logits permute 0,1", "unknown operation 'permute'"},
    {"x -> logits transpose", "'transpose' is not followed by a list"},
    {"x -> logits transpose 0,2", "every axis once"},
    {"x -> logits transpose 0,1,1", "every axis once"},
    {"x -> logits transpose 0,1,", "every axis once"},
    {"x -> logits transpose 8,0", "every axis once"},
    {"x -> logits reshape B,-1,-1", "at most one -1"},
    {"x -> logits reshape B,0", "sizes such as"},
    {"x -> logits reshape B,T,W", "sizes such as"},
    {"x -> logits reshape 1,1,1,1,1,1,1,1,1", "sizes such as"},
    {"x -> logits transpose 0 transpose 0 transpose 0 transpose 0 transpose 0", "more than 4 operations"},
    {"ignore", "no rule"},
};

START_TEST(test_bad_lines)
{
    gld_map *m;
    FAILS(gld_map_parse(bad_lines[_i].text, strlen(bad_lines[_i].text), "a.map", &m), FH1_E_INPUT, bad_lines[_i].says);
    ck_assert_ptr_null(m);
}
END_TEST

START_TEST(test_names)
{
    gld_map *m = map_of("# engines count from one file\r\n"
                        "h.{i}.out -> model.layers.{i}   # exact but for the number\n"
                        "h.0.out2->x -> model.embed_tokens\n"
                        "dec{j}.lm -> logits\n"
                        "late.lm -> step3/logits\n"
                        "s{j}_k{i} -> step{j}/cache.{i}.key transpose 0,2,1,3\n"
                        "tok -> input_ids\n"
                        "h.{i}.{i}.twice -> model.layers.{i}.mid\n"
                        "ignore rope.*\n");
    static const struct {
        const char *name;
        gld_name_kind kind;
        int64_t step, layer;
        int id, rule;
    } cases[] = {
        {"h.1.out", GLD_NAME_TAP, 0, 1, FH1_TAP_LAYER, 0},
        {"h.2.out", GLD_NAME_UNKNOWN, 0, 0, 0, 0}, /* a layer that the model has not */
        {"h.01.out", GLD_NAME_UNKNOWN, -1, 0, 0, -1},
        {"h.1.outs", GLD_NAME_UNKNOWN, -1, 0, 0, -1},
        {"h.1.ou", GLD_NAME_UNKNOWN, -1, 0, 0, -1},
        {"h..out", GLD_NAME_UNKNOWN, -1, 0, 0, -1},
        {"h.0.out2->x", GLD_NAME_TAP, 0, 0, FH1_TAP_EMBED, 1},
        {"dec7.lm", GLD_NAME_TAP, 7, 0, FH1_TAP_LOGITS, 2},
        {"late.lm", GLD_NAME_TAP, 3, 0, FH1_TAP_LOGITS, 3},
        {"s2_k1", GLD_NAME_TAP, 2, 1, FH1_TAP_CACHE_KEY, 4},
        {"tok", GLD_NAME_INPUT, 0, 0, 0, 5},
        {"h.1.1.twice", GLD_NAME_TAP, 0, 1, FH1_TAP_MID, 6},
        {"h.0.1.twice", GLD_NAME_UNKNOWN, -1, 0, 0, -1},
        {"rope.cos", GLD_NAME_IGNORED, -1, 0, 0, -1},
        {"step4/logits", GLD_NAME_TAP, 4, 0, FH1_TAP_LOGITS, -1},
        {"step4/input_ids", GLD_NAME_INPUT, 4, 0, 0, -1},
        {"step4/rope.cos", GLD_NAME_UNKNOWN, 4, 0, 0, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gld_name n = gld_map_name(m, &model.config, cases[i].name);
        ck_assert_msg(n.kind == cases[i].kind && n.step == cases[i].step && n.rule == cases[i].rule,
                      "%s: kind %d step %lld rule %d", cases[i].name, (int)n.kind, (long long)n.step, n.rule);
        if (n.kind != GLD_NAME_TAP) continue;
        ck_assert_msg((int)n.id == cases[i].id && n.layer == cases[i].layer, "%s", cases[i].name);
    }
    ck_assert_int_eq(gld_map_n_rules(m), 7);
    ck_assert_int_eq(gld_map_line(m, 4), 6);
    ck_assert_int_eq(gld_map_name(NULL, &model.config, "tok").kind, GLD_NAME_UNKNOWN);
    gld_map_free(m);
}
END_TEST

START_TEST(test_operations)
{
    gld_map *m = map_of("a -> logits reshape B,T,2,-1 transpose 0,2,1,3\n" /* split, then move */
                        "b -> logits transpose 0,2,1,3 reshape B,T,-1\n"   /* heads first, merged */
                        "c -> logits transpose 1,0\n"
                        "d -> logits reshape S,7\n");
    double x[2 * 3 * 4];
    void *copy;
    for (int k = 0; k < 24; k++) x[k] = k;

    fh1_tensor t = fh1_view3(x, FH1_F64, 2, 3, 4);
    OK(gld_map_apply(m, 0, 2, 3, 3, &t, &copy));
    ck_assert_ptr_null(copy);
    ck_assert_int_eq(t.rank, 4);
    for (int64_t b = 0; b < 2; b++)
        for (int64_t h = 0; h < 2; h++)
            for (int64_t s = 0; s < 3; s++)
                for (int64_t a = 0; a < 2; a++)
                    ck_assert(fh1_within(
                        fh1_error_of(fh1_get(&t, ((b * 2 + h) * 3 + s) * 2 + a), x[(b * 3 + s) * 4 + h * 2 + a]), 0));

    /* [B, heads, T, A] to [B, T, heads·A]: a merge across moved axes needs a copy */
    t = fh1_view4(x, FH1_F64, 2, 2, 3, 2);
    OK(gld_map_apply(m, 1, 2, 3, 3, &t, &copy));
    ck_assert_ptr_nonnull(copy);
    ck_assert_ptr_eq(t.data, copy);
    int64_t n_moved = 0;
    for (int64_t b = 0; b < 2; b++)
        for (int64_t s = 0; s < 3; s++)
            for (int64_t h = 0; h < 2; h++)
                for (int64_t a = 0; a < 2; a++) {
                    int64_t to = (b * 3 + s) * 4 + h * 2 + a, from = ((b * 2 + h) * 3 + s) * 2 + a;
                    ck_assert(fh1_within(fh1_error_of(fh1_get(&t, to), x[from]), 0));
                    n_moved += to != from;
                }
    ck_assert_int_gt(n_moved, 0); /* leaving the transpose out would show */
    free(copy);

    t = fh1_view3(x, FH1_F64, 2, 3, 4);
    FAILS(gld_map_apply(m, 2, 2, 3, 3, &t, &copy), FH1_E_INPUT, "a.map, line 3: transpose names another number");
    t = fh1_view3(x, FH1_F64, 2, 3, 4);
    FAILS(gld_map_apply(m, 3, 2, 3, 3, &t, &copy), FH1_E_INPUT, "expected S,7 (B = 2, T = 3, S = 3), found [2, 3, 4]");
    t = fh1_view3(x, FH1_F64, 2, 3, 4);
    FAILS(gld_map_apply(m, 0, 2, 0, 3, &t, &copy), FH1_E_INPUT, "line 1");
    gld_map_free(m);
}
END_TEST

/* A foreign file without fh1 metadata: B = 2, T = 3, its own names, head-major layouts, a flat row axis. */
static const fixture_tensor foreign[] = {
    {"tokens", FH1_I64, 2, {3, 2}, 0},   {"blk1.attn", FH1_F32, 4, {2, 6, 3, 8}, 0},
    {"lm_head", FH1_F32, 2, {6, 23}, 0}, {"k_cache_0", FH1_F32, 4, {2, 3, 2, 8}, 0},
    {"debug.rope", FH1_I32, 1, {4}, 0},
};
#define FOREIGN_MAP                                                                        \
    "tokens -> input_ids transpose 1,0\n"                                                  \
    "blk{i}.attn -> model.layers.{i}.self_attn.context transpose 0,2,1,3 reshape B,T,-1\n" \
    "lm_head -> logits reshape B,T,-1\n"                                                   \
    "k_cache_{i} -> cache.{i}.key transpose 0,2,1,3\n"                                     \
    "ignore debug.*\n"

static fh1_status open_foreign(const char *map_text, gld_trace *t)
{
    char path[256];
    gld_map *m;
    fixture_tensors("f.safetensors", foreign, 5, NULL, NULL, NULL);
    fixture_text("f.map", map_text);
    OK(gld_map_read(fixture_path("f.map", path), &m));
    fh1_status s = gld_trace_open(fixture_path("f.safetensors", path), &model, m, t);
    gld_map_free(m); /* the trace does not need it any more */
    return s;
}

START_TEST(test_foreign_trace)
{
    gld_trace t, back;
    char path[256];
    OK(open_foreign("tokens -> input_ids\nignore *\n", &t)); /* [3, 2] is as good a batch as [2, 3] */
    gld_trace_free(&t);
    OK(open_foreign(FOREIGN_MAP, &t));
    ck_assert_int_eq(t.n_steps, 1);
    ck_assert_int_eq(t.steps[0].n_taps, 3);
    ck_assert_int_eq(t.steps[0].n_logits, 3);
    for (int64_t k = 0; k < 6; k++) ck_assert_int_eq(t.steps[0].batch.ids[k], k % 3 * 2 + k / 3);

    /* written and read again it is a native trace in the layout of the table */
    OK(gld_trace_write(&t, fixture_path("native.safetensors", path), false, NULL));
    OK(gld_trace_open(path, &model, NULL, &back));
    for (int pass = 0; pass < 2; pass++) {
        const gld_trace *x = pass ? &back : &t;
        const gld_tap *context = gld_trace_find(x, 0, FH1_TAP_CONTEXT, 1),
                      *key = gld_trace_find(x, 0, FH1_TAP_CACHE_KEY, 0);
        ck_assert_ptr_nonnull(context);
        ck_assert_ptr_nonnull(key);
        for (int64_t b = 0; b < 2; b++)
            for (int64_t s = 0; s < 3; s++)
                for (int64_t h = 0; h < 6; h++)
                    for (int64_t a = 0; a < 8; a++) {
                        double want = (double)(((b * 6 + h) * 3 + s) * 8 + a);
                        ck_assert(
                            fh1_within(fh1_error_of(fh1_get(&context->t, (b * 3 + s) * 48 + h * 8 + a), want), 0));
                        if (h >= 2) continue;
                        want = (double)(((b * 3 + s) * 2 + h) * 8 + a);
                        ck_assert(fh1_within(fh1_error_of(fh1_get(&key->t, ((b * 2 + h) * 3 + s) * 8 + a), want), 0));
                    }
    }
    gld_trace_free(&t);
    gld_trace_free(&back);
}
END_TEST

static const struct {
    const char *map, *says;
} bad_maps[] = {
    {"tokens -> input_ids transpose 1,0\n", "'blk1.attn' is neither an input nor a tap"},
    {FOREIGN_MAP "blk{i}.mlp -> model.layers.{i}.mid\n", "line 6 of the map fits no tensor"},
    {FOREIGN_MAP "k_cache_0 -> cache.0.value\n", "line 6 of the map fits no tensor"}, /* the rule before takes it */
    {"tokens -> labels\nignore *\n", "step0/input_ids is missing"},
    {"tokens -> input_ids reshape 6\nignore *\n", "expected [B, T]"},
    {"tokens -> input_ids transpose 1,0\nlm_head -> step1/logits\nignore *\n", "step1/input_ids is missing"},
    {"tokens -> input_ids transpose 1,0\nlm_head -> logits\nignore *\n", "expected [2, 3, 23], found [6, 23]"},
    {"tokens -> input_ids transpose 1,0\nk_cache_{i} -> cache.{i}.key\nignore *\n", "transpose 0,2,1,3"},
    {"tokens -> input_ids transpose 1,0\nblk{i}.attn -> cache.{i}.key\nk_cache_0 -> cache.1.key transpose 0,2,1,3\n"
     "ignore *\n",
     "found [2, 6, 3, 8]"},
    {"tokens -> input_ids transpose 1,0\nlm_head -> logits reshape B,T,-1\nk_cache_0 -> logits\nignore *\n",
     "k_cache_0"},
    {"tokens -> input_ids transpose 1,0\ndebug.rope -> logits\nignore *\n",
     "expected F64, F32, BF16 or F16, found I32"},
};

START_TEST(test_foreign_errors)
{
    gld_trace t;
    FAILS(open_foreign(bad_maps[_i].map, &t), FH1_E_INPUT, bad_maps[_i].says);
}
END_TEST

START_TEST(test_two_for_one_tap)
{
    const fixture_tensor raw[] = {{"step0/input_ids", FH1_I64, 2, {1, 2}, 0},
                                  {"step0/logits", FH1_F32, 3, {1, 2, 23}, 0},
                                  {"lm", FH1_F32, 3, {1, 2, 23}, 0},
                                  {"tok", FH1_I64, 2, {1, 2}, 0}};
    char path[256];
    gld_trace t;
    gld_map *m = map_of("lm -> logits\nignore tok\n");
    fixture_tensors("two.safetensors", raw, 4, "1", NULL, NULL);
    FAILS(gld_trace_open(fixture_path("two.safetensors", path), &model, m, &t), FH1_E_INPUT,
          "two tensors both stand for step0/logits");
    gld_map_free(m);
    m = map_of("tok -> input_ids\nignore lm\n");
    FAILS(gld_trace_open(path, &model, m, &t), FH1_E_INPUT, "two tensors both stand for step0/input_ids");
    gld_map_free(m);
    m = map_of("ignore lm\nignore tok\n");
    OK(gld_trace_open(path, &model, m, &t));
    gld_trace_free(&t);
    gld_map_free(m);
}
END_TEST

START_TEST(test_files)
{
    char path[256];
    gld_map *m;
    FAILS(gld_map_read(fixture_path("none.map", path), &m), FH1_E_INPUT, "none.map");
    ck_assert_ptr_null(m);
    FAILS(gld_map_parse("x\0y", 3, "a.map", &m), FH1_E_INPUT, "zero byte");
    fixture_text("empty.map", "");
    OK(gld_map_read(fixture_path("empty.map", path), &m));
    ck_assert_int_eq(gld_map_n_rules(m), 0);
    gld_map_free(m);
    gld_map_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("map");
    TCase *tc = tcase_create("map");
    tcase_add_checked_fixture(tc, begin, fixture_end);
    tcase_add_loop_test(tc, test_bad_lines, 0, N_OF(bad_lines));
    tcase_add_test(tc, test_names);
    tcase_add_test(tc, test_operations);
    tcase_add_test(tc, test_foreign_trace);
    tcase_add_loop_test(tc, test_foreign_errors, 0, N_OF(bad_maps));
    tcase_add_test(tc, test_two_for_one_tap);
    tcase_add_test(tc, test_files);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
