/* The laws of golden/laws.h: honest engines keep them all, each has faults that break it, and on a model where nothing
 * can be seen each says so. */
#include "reference/faulty.h"
#include "tests/broken_engine.h"
#include "tests/law_fixture.h"

static const char *const engines[] = {"ref-f64", "ref-f64 in chunks", "ref-f32", "ref-f32 in chunks", "ref-bf16"};
enum { N_ENGINES = sizeof engines / sizeof *engines };

static void all_pass(const char *name, const fh1_model *m, const char *engine)
{
    law_engines l = law_engines_new(engine);
    for (int i = 0; gld_law_at(i); ++i) {
        const gld_law_result r = law_run_one(gld_law_at(i), &l, m, 1);
        const bool concerns = gld_law_concerns(gld_law_at(i), m->config.family);
        law_print(name, &l, gld_law_at(i), &r);
        ck_assert_msg(r.verdict == (concerns ? FH1_PASS : FH1_SKIP), "%s on %s, %s: %s", engine, name,
                      gld_law_at(i)->name, r.sentence);
    }
    law_engines_free(&l);
}

START_TEST(honest_engines_on_tiny_models)
{
    char name[16];
    fh1_model m;
    tiny_build_kind(&m, _i % TINY_KINDS);
    snprintf(name, sizeof name, "tiny %d", _i % TINY_KINDS);
    all_pass(name, &m, engines[_i / TINY_KINDS]);
    fh1_model_free(&m);
}
END_TEST

/* Each kind of model under each contract, the bf16 checkpoints under the contract that they are for. */
static const struct {
    const char *model, *engine;
} golden[] = {{"mini-0.5b", "ref-f32"},       {"mini-0.5b", "ref-bf16"},  {"mini-34b", "ref-f64"},
              {"mini-34b", "ref-f32"},        {"mini-34b", "ref-bf16"},   {"odd", "ref-f32 in chunks"},
              {"mini-0.5b-bf16", "ref-bf16"}, {"odd-bf16", "ref-bf16"},   {"mamba-untied", "ref-f32"},
              {"mamba-tied", "ref-f64"},      {"mamba-tied", "ref-bf16"}, {"mamba-untied-bf16", "ref-bf16"}};
enum { N_GOLDEN = sizeof golden / sizeof *golden };

START_TEST(honest_engines_on_golden_models)
{
    char path[64];
    fh1_model m = {0};
    snprintf(path, sizeof path, "golden/models/%s", golden[_i].model);
    TINY_OK(cvt_hf_folder_open(path, &m));
    all_pass(golden[_i].model, &m, golden[_i].engine);
    fh1_model_free(&m);
}
END_TEST

/* Every law, and an engine that breaks it. */
static const struct {
    const char *law;
    broken_kind kind;
} breaks[] = {
    {"prefix", BROKEN_LENGTH_COUNTS},
    {"split", BROKEN_VARIANT_HISTORY},
    {"decode_prefill", BROKEN_STEP_POSITION},
    {"single_token", BROKEN_SINGLE_STATE},
    {"causality", BROKEN_LOOKS_AHEAD},
    {"causality", BROKEN_SEES_ITSELF_ONLY},
    {"run_to_run", BROKEN_DRIFTS},
    {"packing", BROKEN_VARIANT_PACKED},
    {"cut_documents", BROKEN_DOCS_ON_A_CACHE},
    {"padding_left", BROKEN_MASK_OF_ROW_0},
    {"padding_right", BROKEN_VARIANT_RIGHT},
    {"state_of_padding", BROKEN_STATE_OF_EMPTY},
    {"batch_mate", BROKEN_NEIGHBOUR},
    {"batch_permutation", BROKEN_MASK_OF_ROW_0},
    {"snapshot", BROKEN_CLONE_NO_STATE},
    {"snapshot", BROKEN_RESTORE_NO_WINDOW},
    {"fork", BROKEN_CLONE_BACK},
    {"reorder", BROKEN_REORDER_NO_KEYS},
    {"reset", BROKEN_RESET_LEAVES_DOC},
    {"truncate", BROKEN_TRUNCATE_ACCEPTS},
    {"truncate", BROKEN_TRUNCATE_NOTHING},
    {"chunk_length", BROKEN_CHUNK_CARRY},
    {"linearity", BROKEN_SCAN_SQUARE},
    {"head_permutation", BROKEN_FIRST_HEAD},
    {"rope_shift", BROKEN_ROPE_QUERIES},
    {"norm_scale", BROKEN_NORM_EPS},
    {"softmax_shift", BROKEN_SOFTMAX_NO_MAX},
};
enum { N_BREAKS = sizeof breaks / sizeof *breaks };

START_TEST(broken_engines_break_their_law)
{
    fh1_model m;
    tiny_build_kind(&m, 0);
    law_engines l = law_engines_for(broken_engine_new(breaks[_i].kind));
    const gld_law *law = gld_law_find(breaks[_i].law);
    ck_assert_ptr_nonnull(law);
    const gld_law_result r = law_run_one(law, &l, &m, 1);
    law_print("tiny 0", &l, law, &r);
    ck_assert_msg(r.verdict == FH1_FAIL && !fh1_within(r.margin, 1) && *r.sentence, "%s: engine %d was not noticed",
                  law->name, (int)breaks[_i].kind);
    law_engines_free(&l);
    fh1_model_free(&m);
}
END_TEST

/* The same of Falcon-Mamba: what its scan and its channels are, and a law of its own. */
static const struct {
    const char *law, *fault;
} mamba_breaks[] = {{"inner_norm_scale", "inner_norms_dropped"},
                    {"inner_norm_scale", "mixer_eps_of_layer_norm"},
                    {"split", "selective_scan_restarts"},
                    {"decode_prefill", "d_in_bf16_in_steps"},
                    {"head_permutation", "selective_a_of_channel_0"}};
enum { N_MAMBA_BREAKS = sizeof mamba_breaks / sizeof *mamba_breaks };

START_TEST(broken_engines_break_laws_of_falcon_mamba)
{
    fh1_model m = {0};
    TINY_OK(cvt_hf_folder_open("golden/models/mamba-untied", &m));
    const fh1_fault f = fh1_fault_find(mamba_breaks[_i].fault);
    ck_assert(f != FH1_FAULT_NONE);
    law_engines l = law_engines_for(ref_faulty_engine_new("ref-f32", NULL, 0, f));
    const gld_law_result r = law_run_one(gld_law_find(mamba_breaks[_i].law), &l, &m, 1);
    law_print("mamba-untied", &l, gld_law_find(mamba_breaks[_i].law), &r);
    ck_assert_msg(r.verdict == FH1_FAIL && !fh1_within(r.margin, 1) && *r.sentence, "%s was not noticed",
                  mamba_breaks[_i].fault);
    law_engines_free(&l);
    fh1_model_free(&m);
}
END_TEST

START_TEST(every_law_has_an_engine_that_breaks_it)
{
    for (int i = 0; gld_law_at(i); ++i) {
        int n = 0;
        for (int k = 0; k < N_BREAKS; ++k) n += strcmp(breaks[k].law, gld_law_at(i)->name) == 0;
        for (int k = 0; k < N_MAMBA_BREAKS; ++k) n += strcmp(mamba_breaks[k].law, gld_law_at(i)->name) == 0;
        ck_assert_msg(n > 0, "%s", gld_law_at(i)->name);
        ck_assert_ptr_eq(gld_law_find(gld_law_at(i)->name), gld_law_at(i));
    }
    ck_assert_ptr_null(gld_law_find("no_such_law"));
    ck_assert_ptr_null(gld_law_at(-1));
}
END_TEST

/* All weights zero: nothing can be seen, and each law says so. */
START_TEST(nothing_to_see_is_mistrusted)
{
    static const char *const names[] = {"ref-f64", "ref-f32", "ref-bf16"};
    const fh1_config c = tiny_config(_i);
    fh1_model m;
    tiny_build(&m, &c, tiny_dtype(_i), 7);
    tiny_scale_rows(&m, "", 0, -1, 0);
    for (int k = 0; k < 3; ++k) {
        law_engines l = law_engines_new(names[k]);
        for (int i = 0; gld_law_at(i); ++i) {
            const gld_law_result r = law_run_one(gld_law_at(i), &l, &m, 1);
            if (!gld_law_concerns(gld_law_at(i), FH1_FALCON_H1)) continue;
            ck_assert_msg(r.verdict == FH1_MISTRUSTED && *r.sentence, "%s on zeros: %s, planted %g",
                          gld_law_at(i)->name, fh1_verdict_name(r.verdict), r.planted);
        }
        law_engines_free(&l);
    }
    fh1_model_free(&m);
}
END_TEST

START_TEST(what_a_law_cannot_use_is_refused_or_skipped)
{
    fh1_config c = tiny_config(0);
    fh1_model m;
    c.rope = (fh1_rope){.type = FH1_ROPE_DYNAMIC, .theta = 50, .factor = 3, .max_position = 12};
    tiny_build(&m, &c, FH1_F32, 7);
    law_engines l = law_engines_new("ref-f32");
    gld_law_result r = law_run_one(gld_law_find("rope_shift"), &l, &m, 1);
    ck_assert(r.verdict == FH1_SKIP && strstr(r.sentence, "dynamic"));

    const fh1_ops *ops = l.engine->ops;
    const fh1_cache_ops *cache_ops = l.engine->cache_ops;
    static const char *const of_ops[] = {"chunk_length", "linearity", "head_permutation", "norm_scale",
                                         "softmax_shift"};
    static const char *const of_cache[] = {"snapshot", "fork", "reorder", "reset", "truncate"};
    l.engine->ops = NULL;
    l.engine->cache_ops = NULL;
    for (int i = 0; i < 5; ++i) {
        ck_assert_int_eq(law_run_one(gld_law_find(of_ops[i]), &l, &m, 1).verdict, FH1_SKIP);
        ck_assert_int_eq(law_run_one(gld_law_find(of_cache[i]), &l, &m, 1).verdict, FH1_SKIP);
    }
    l.engine->ops = ops;
    l.engine->cache_ops = cache_ops;

    gld_law_args a = {.engine = l.engine, .truth = l.truth, .model = &m, .tokens = 20};
    fh1_status s = gld_law_find("split")->run(&a, &r); /* an engine that rounds, and nothing to measure it by */
    ck_assert(s && s->code == FH1_E_INPUT);
    a.emulated = l.emulated;
    a.tokens = 15;
    s = gld_law_find("split")->run(&a, &r);
    ck_assert(s && s->code == FH1_E_INPUT);
    law_engines_free(&l);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("laws");
    tcase_add_loop_test(tc, honest_engines_on_tiny_models, 0, N_ENGINES * TINY_KINDS);
    tcase_add_loop_test(tc, honest_engines_on_golden_models, 0, N_GOLDEN);
    tcase_add_loop_test(tc, broken_engines_break_their_law, 0, N_BREAKS);
    tcase_add_loop_test(tc, broken_engines_break_laws_of_falcon_mamba, 0, N_MAMBA_BREAKS);
    tcase_add_test(tc, every_law_has_an_engine_that_breaks_it);
    tcase_add_loop_test(tc, nothing_to_see_is_mistrusted, 0, TINY_KINDS);
    tcase_add_test(tc, what_a_law_cannot_use_is_refused_or_skipped);
    return tiny_main(suite_create("laws"), tc);
}
