/* What a merge refuses, remembers and promises besides its numbers: provenance, weights, several adapters, ties,
 * overflow, the same bytes whatever the pieces and threads. The golden merges (test_merge_golden.c) hold the chains of
 * PEFT. */
#include "oracle/thread.h"
#include "tests/adapter_fixture.h"

#include <math.h>

#define Q0 "model.layers.0.self_attn.q_proj"
#define LORA "\"r\":2,\"lora_alpha\":4,\"target_modules\":"

typedef struct {
    char scratch[256];
    cvt_adapter a[4];
    int n;
    char warnings[2048];
} world;

static void remember(void *user, const char *sentence)
{
    world *w = user;
    size_t n = strlen(w->warnings);
    snprintf(w->warnings + n, sizeof w->warnings - n, "%s\n", sentence);
}

static void setup(world *w)
{
    memset(w, 0, sizeof *w);
    scratch_new(w->scratch, sizeof w->scratch);
}

static void add(world *w, const char *base, const made_adapter *a)
{
    char name[8], dir[300];
    cvt_ckpt *c = open_base(base);
    snprintf(name, sizeof name, "a%d", w->n);
    path_in(dir, sizeof dir, w->scratch, name);
    made_write(a, dir);
    expect_ok(cvt_adapter_open(dir, NULL, c, &w->a[w->n]), name);
    w->n++;
    cvt_ckpt_close(c);
}

/* Merges adapters `order` ("01": the first, then the second) into a base, which is taken over. */
static fh1_status merge(world *w, cvt_ckpt *base, const char *order, cvt_rounding r, double weight, cvt_ckpt **out)
{
    cvt_merge_part parts[4];
    int n = 0;
    const cvt_merge_options o = {.rounding = r, .warn = remember, .user = w};
    for (; *order; order++) parts[n++] = (cvt_merge_part){&w->a[*order - '0'], weight};
    return cvt_ckpt_merge(base, parts, n, &o, out);
}

static void teardown(world *w)
{
    for (int i = 0; i < w->n; i++) cvt_adapter_free(&w->a[i]);
    scratch_remove(w->scratch);
}

static made_adapter plain_one(const char *module, int64_t out, int64_t in)
{
    made_adapter a = {0};
    char members[200];
    made_lora(&a, module, out, in, 2);
    snprintf(members, sizeof members, LORA "[\"%s\"]", module);
    made_config(&a, members);
    return a;
}

static void expect_same(cvt_ckpt *x, cvt_ckpt *y, const char *name, bool same)
{
    int64_t n, m;
    double *a = numbers_of(x, name, &n), *b = numbers_of(y, name, &m);
    ck_assert_msg((n == m && memcmp(a, b, (size_t)n * sizeof *a) == 0) == same, "%s", name);
    free(a);
    free(b);
}

START_TEST(an_adapter_is_merged_once)
{
    world w;
    cvt_ckpt *one, *two, *none;
    setup(&w);
    made_adapter a = plain_one(Q0, 24, 27), b = plain_one("model.layers.1.self_attn.k_proj", 12, 27);
    add(&w, "plain-bf16", &a);
    add(&w, "plain-bf16", &b);
    expect_ok(merge(&w, open_base("plain-bf16"), "0", CVT_ROUND_EXACT, 1, &one), "first");
    const char *meta = cvt_ckpt_meta(one, "fh1.merge");
    ck_assert(meta && strstr(meta, w.a[0].hash) && strstr(meta, "\"rounding\":\"exact\"") &&
              strstr(meta, "\"base\":\""));
    ck_assert_str_eq(cvt_ckpt_meta(one, "format"), "pt");
    expect_ok(merge(&w, one, "1", CVT_ROUND_PEFT, 1, &two), "another");
    meta = cvt_ckpt_meta(two, "fh1.merge");
    ck_assert(strstr(meta, w.a[0].hash) && strstr(meta, w.a[1].hash) && strstr(meta, "\"rounding\":\"peft\""));
    expect_error(merge(&w, two, "0", CVT_ROUND_EXACT, 1, &none), FH1_E_INPUT, "in the model already", "again");
    expect_error(merge(&w, open_base("plain-bf16"), "00", CVT_ROUND_EXACT, 1, &none), FH1_E_INPUT, "named twice",
                 "twice");
    teardown(&w);
}
END_TEST

START_TEST(weights_are_for_plain_lora)
{
    world w;
    cvt_ckpt *c;
    setup(&w);
    made_adapter a = plain_one(Q0, 24, 27), d = a, r = a;
    made_add(&d, Q0 ".lora_magnitude_vector", 24, 0);
    made_config(&d, LORA "[\"q_proj\"],\"exclude_modules\":[\"1.self_attn.q_proj\"],\"use_dora\":true");
    made_add(&r, "model.final_layernorm.weight", 27, 0);
    made_config(&r, LORA "[\"" Q0 "\"],\"modules_to_save\":[\"final_layernorm\"]");
    add(&w, "plain-bf16", &a);
    add(&w, "plain-bf16", &d);
    add(&w, "plain-bf16", &r);
    expect_ok(merge(&w, open_base("plain-bf16"), "0", CVT_ROUND_EXACT, 0.5, &c), "half");
    cvt_ckpt_close(c);
    expect_error(merge(&w, open_base("plain-bf16"), "0", CVT_ROUND_PEFT, 0.5, &c), FH1_E_INPUT, "weight", "peft");
    expect_error(merge(&w, open_base("plain-bf16"), "1", CVT_ROUND_EXACT, 0.5, &c), FH1_E_INPUT, "plain LoRA", "dora");
    expect_error(merge(&w, open_base("plain-bf16"), "2", CVT_ROUND_EXACT, 0.5, &c), FH1_E_INPUT, "plain LoRA",
                 "replaced");
    teardown(&w);
}
END_TEST

START_TEST(several_adapters_on_one_module)
{
    world w;
    cvt_ckpt *c, *d;
    setup(&w);
    made_adapter a = plain_one(Q0, 24, 27), dora = a, other = a, saved = {0};
    other.t[0].scale = 0.5;
    made_add(&dora, Q0 ".lora_magnitude_vector", 24, 0);
    made_config(&dora, LORA "[\"" Q0 "\"],\"use_dora\":true");
    made_add(&saved, Q0 ".weight", 24, 27);
    made_config(&saved, "\"target_modules\":[],\"modules_to_save\":[\"0.self_attn.q_proj\"]");
    add(&w, "plain-bf16", &a);
    add(&w, "plain-bf16", &dora);
    add(&w, "plain-bf16", &other);
    add(&w, "plain-bf16", &saved);
    expect_ok(merge(&w, open_base("plain-bf16"), "02", CVT_ROUND_EXACT, 1, &c), "two");
    expect_ok(merge(&w, open_base("plain-bf16"), "20", CVT_ROUND_EXACT, 1, &d), "the other order");
    ck_assert_str_eq(w.warnings, "");
    cvt_ckpt_close(c);
    cvt_ckpt_close(d);
    expect_ok(merge(&w, open_base("plain-bf16"), "10", CVT_ROUND_EXACT, 1, &c), "DoRA first");
    cvt_ckpt_close(c);
    expect_error(merge(&w, open_base("plain-bf16"), "01", CVT_ROUND_EXACT, 1, &c), FH1_E_INPUT, "two runs",
                 "DoRA behind");
    expect_error(merge(&w, open_base("plain-bf16"), "01", CVT_ROUND_PEFT, 1, &c), FH1_E_INPUT, "two runs",
                 "DoRA behind");
    expect_ok(merge(&w, open_base("plain-bf16"), "30", CVT_ROUND_PEFT, 1, &c), "replaced, then changed");
    cvt_ckpt_close(c);
    expect_error(merge(&w, open_base("plain-bf16"), "03", CVT_ROUND_EXACT, 1, &c), FH1_E_INPUT, "earlier one changed",
                 "changed, then replaced");
    teardown(&w);
}
END_TEST

/* MiCA is plain LoRA, but its merge rounds ΔW first; nothing else does so without safe_merge. */
START_TEST(mica_rounds_twice)
{
    world w;
    cvt_ckpt *c, *d;
    setup(&w);
    made_adapter plain = plain_one(Q0, 24, 27), mica = plain;
    made_config(&mica, LORA "[\"" Q0 "\"],\"init_lora_weights\":\"mica\"");
    add(&w, "plain-bf16", &plain);
    add(&w, "plain-bf16", &mica);
    expect_ok(merge(&w, open_base("plain-bf16"), "1", CVT_ROUND_PEFT, 1, &c), "MiCA");
    expect_ok(merge(&w, open_base("plain-bf16"), "0", CVT_ROUND_PEFT_SAFE, 1, &d), "plain, safe");
    expect_same(c, d, Q0 ".weight", true);
    cvt_ckpt_close(d);
    expect_ok(merge(&w, open_base("plain-bf16"), "0", CVT_ROUND_PEFT, 1, &d), "plain");
    expect_same(c, d, Q0 ".weight", false);
    cvt_ckpt_close(c);
    cvt_ckpt_close(d);
    teardown(&w);
}
END_TEST

/* What leaves both ends of a tied base alike must not untie it; what low_cpu_mem_usage does to one is refused. */
START_TEST(ties_that_stay)
{
    world w;
    cvt_ckpt *c;
    setup(&w);
    made_adapter zero = plain_one("lm_head", 53, 27), saved = plain_one("lm_head", 53, 27), shared = {0};
    made_config(&zero, "\"r\":2,\"lora_alpha\":0,\"target_modules\":[\"lm_head\"]");
    made_config(&saved, LORA "[\"lm_head\"],\"modules_to_save\":[\"final_layernorm\"]");
    made_add(&saved, "model.final_layernorm.weight", 27, 0)->dtype = FH1_BF16;
    made_add(&shared, "model.embed_tokens.weight", 53, 27)->dtype = FH1_BF16;
    made_config(&shared, "\"target_modules\":[]");
    add(&w, "tied-bf16", &zero);
    add(&w, "tied-bf16", &saved);
    add(&w, "tied-bf16", &shared);
    expect_ok(merge(&w, open_base("tied-bf16"), "0", CVT_ROUND_EXACT, 1, &c), "nothing is added");
    ck_assert_int_lt(cvt_ckpt_find(c, "lm_head.weight"), 0);
    cvt_ckpt_close(c);
    expect_ok(merge(&w, open_base("tied-bf16"), "1", CVT_ROUND_PEFT, 1, &c), "a norm was saved");
    ck_assert_int_lt(cvt_ckpt_find(c, "lm_head.weight"), 0);
    cvt_ckpt_close(c);
    expect_ok(merge(&w, open_base("tied-bf16"), "2", CVT_ROUND_PEFT, 1, &c), "the shared table");
    cvt_ckpt_close(c);
    expect_error(merge(&w, open_base("tied-bf16"), "2", CVT_ROUND_PEFT_LOW_MEMORY, 1, &c), FH1_E_INPUT, "unties",
                 "low memory");
    teardown(&w);
}
END_TEST

START_TEST(tied_ends)
{
    world w;
    cvt_ckpt *c;
    setup(&w);
    made_adapter e = {0}, h = plain_one("lm_head", 53, 27), both = {0};
    made_add(&e, "model.embed_tokens.lora_embedding_A", 2, 53);
    made_add(&e, "model.embed_tokens.lora_embedding_B", 27, 2);
    made_config(&e, LORA "[\"embed_tokens\"]");
    made_add(&both, "model.embed_tokens.weight", 53, 27);
    made_config(&both, "\"target_modules\":[]"); /* loaded into the one parameter */
    add(&w, "tied-bf16", &e);
    add(&w, "tied-bf16", &h);
    add(&w, "tied-bf16", &both);
    for (int i = 0; i < 2; i++) {
        expect_ok(merge(&w, open_base("tied-bf16"), i ? "1" : "0", CVT_ROUND_EXACT, 1, &c), "one end");
        ck_assert_int_ge(cvt_ckpt_find(c, "lm_head.weight"), 0);
        expect_same(c, c->below, "model.embed_tokens.weight", i == 1);
        int64_t n;
        double *a = numbers_of(c, "lm_head.weight", &n), *b = numbers_of(c->below, "model.embed_tokens.weight", &n);
        ck_assert((memcmp(a, b, (size_t)n * sizeof *a) == 0) == (i == 0));
        free(a);
        free(b);
        ck_assert(strstr(w.warnings, "tie_word_embeddings becomes false"));
        cvt_ckpt_close(c);
        w.warnings[0] = '\0';
        expect_ok(merge(&w, open_base("tied-bf16"), i ? "1" : "0", CVT_ROUND_PEFT, 1, &c), "as PEFT");
        ck_assert_int_lt(cvt_ckpt_find(c, "lm_head.weight"), 0);
        expect_same(c, c->below, "model.embed_tokens.weight", false);
        ck_assert(strstr(w.warnings, "not the attached model"));
        cvt_ckpt_close(c);
        w.warnings[0] = '\0';
    }
    expect_ok(merge(&w, open_base("tied-bf16"), "2", CVT_ROUND_EXACT, 1, &c), "the shared parameter");
    ck_assert_int_lt(cvt_ckpt_find(c, "lm_head.weight"), 0);
    ck_assert_str_eq(w.warnings, "");
    cvt_ckpt_close(c);
    teardown(&w);
}
END_TEST

/* A tied base that stores the head too: both tensors get the same, or each its own. */
static cvt_ckpt *with_stored_head(void)
{
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_view(open_base("tied-bf16"), &c), "view");
    int64_t t = cvt_ckpt_find(c, "model.embed_tokens.weight");
    const cvt_ckpt_tensor *e = &c->tensors[t];
    expect_ok(
        cvt_ckpt_add_tensor(c, "lm_head.weight", e->dtype, 2, (int64_t[]){53, 27}, c->files[e->file].name, e->source),
        "head");
    return c;
}

START_TEST(a_stored_head_follows)
{
    world w;
    setup(&w);
    made_adapter h = plain_one("lm_head", 53, 27), both = {0};
    made_add(&both, "model.embed_tokens.weight", 53, 27);
    made_config(&both, "\"target_modules\":[]");
    add(&w, "tied-bf16", &h);
    add(&w, "tied-bf16", &both);
    static const struct {
        const char *order;
        cvt_rounding r;
        bool embed_same, head_same, tied;
    } cases[] = {{"0", CVT_ROUND_EXACT, true, false, false},
                 {"0", CVT_ROUND_PEFT, false, false, true},
                 {"1", CVT_ROUND_EXACT, false, false, true},
                 {"1", CVT_ROUND_PEFT, false, false, true}};
    for (int i = 0; i < 4; i++) {
        cvt_ckpt *c;
        fh1_config config;
        expect_ok(merge(&w, with_stored_head(), cases[i].order, cases[i].r, 1, &c), "merge");
        expect_same(c, c->below, "model.embed_tokens.weight", cases[i].embed_same);
        expect_same(c, c->below, "lm_head.weight", cases[i].head_same);
        expect_ok(cvt_ckpt_config(c, &config), "config");
        ck_assert(config.tied == cases[i].tied);
        cvt_ckpt_close(c);
    }
    teardown(&w);
}
END_TEST

START_TEST(overflow_is_refused)
{
    world w;
    cvt_ckpt *c;
    char *raw = malloc(24 * 27 * 4);
    setup(&w);
    made_adapter a = plain_one(Q0, 24, 27);
    made_find(&a, "lora_B")->special = 5e6; /* row 0 */
    add(&w, "plain-bf16", &a);
    for (int i = 0; i < 2; i++) {
        expect_ok(merge(&w, open_base(i ? "plain-f16" : "plain-bf16"), "0", CVT_ROUND_EXACT, 1, &c), "merge");
        fh1_status s = cvt_ckpt_read_rows(c, cvt_ckpt_find(c, Q0 ".weight"), 0, 24, raw);
        if (i) expect_error(s, FH1_E_INPUT, Q0 ".weight, row 0", "f16");
        else expect_ok(s, "bf16");
        expect_ok(cvt_ckpt_read_rows(c, cvt_ckpt_find(c, Q0 ".weight"), 1, 23, raw), "the other rows");
        cvt_ckpt_close(c);
    }
    free(raw);
    teardown(&w);
}
END_TEST

START_TEST(pieces_and_threads_change_nothing)
{
    world w;
    cvt_ckpt *c;
    setup(&w);
    made_adapter a = {0};
    made_add(&a, "model.embed_tokens.lora_embedding_A", 2, 53);
    made_add(&a, "model.embed_tokens.lora_embedding_B", 27, 2);
    made_add(&a, "model.embed_tokens.lora_magnitude_vector", 27, 0);
    made_config(&a, LORA "[\"embed_tokens\"],\"use_dora\":true");
    add(&w, "plain-bf16", &a);
    for (int r = 0; r < CVT_ROUND_UNSLOTH16; r++) {
        char whole[53 * 27 * 2], pieces[53 * 27 * 2];
        expect_ok(merge(&w, open_base("plain-bf16"), "0", (cvt_rounding)r, 1, &c), "merge");
        int64_t t = cvt_ckpt_find(c, "model.embed_tokens.weight");
        fh1_set_threads(1);
        expect_ok(cvt_ckpt_read_rows(c, t, 0, 53, whole), "whole");
        fh1_set_threads(5);
        for (int64_t i = 0; i < 53; i += 7)
            expect_ok(cvt_ckpt_read_rows(c, t, i, 53 - i < 7 ? 53 - i : 7, pieces + i * 54), "piece");
        fh1_set_threads(0);
        ck_assert_int_eq(memcmp(whole, pieces, sizeof whole), 0);
        cvt_ckpt_close(c);
    }
    teardown(&w);
}
END_TEST

/* The chain of unsloth's source: one fused step adds s·B·A to W in f32. The planted fault is PEFT's order. */
START_TEST(unsloth_adds_in_one_step)
{
    world w;
    cvt_ckpt *c, *peft;
    int64_t n;
    setup(&w);
    made_adapter a = plain_one(Q0, 24, 27), e = {0};
    made_add(&e, "model.embed_tokens.lora_embedding_A", 2, 53);
    made_add(&e, "model.embed_tokens.lora_embedding_B", 27, 2);
    made_config(&e, LORA "[\"embed_tokens\"]");
    add(&w, "plain-f32", &a);
    add(&w, "plain-f32", &e);
    expect_ok(merge(&w, open_base("plain-f32"), "0", CVT_ROUND_UNSLOTH16, 1, &c), "unsloth16");
    double *W = numbers_of(c->below, Q0 ".weight", &n), *merged = numbers_of(c, Q0 ".weight", &n);
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int64_t k = 0; k < 2; k++)
            sum = fmaf((float)fh1_get(&w.a[0].loras[0].B, i / 27 * 2 + k),
                       (float)fh1_get(&w.a[0].loras[0].A, k * 27 + i % 27), sum);
        ck_assert((float)merged[i] == fmaf(2.0f, sum, (float)W[i]));
    }
    expect_ok(merge(&w, open_base("plain-f32"), "0", CVT_ROUND_PEFT, 1, &peft), "peft");
    made_adapter odd = plain_one(Q0, 24, 27);
    snprintf(odd.config, sizeof odd.config,
             "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":0.7,\"target_modules\":[\"" Q0 "\"]}");
    add(&w, "plain-f32", &odd);
    cvt_ckpt_close(c);
    cvt_ckpt_close(peft);
    expect_ok(merge(&w, open_base("plain-f32"), "2", CVT_ROUND_UNSLOTH16, 1, &c), "unsloth16");
    expect_ok(merge(&w, open_base("plain-f32"), "2", CVT_ROUND_PEFT, 1, &peft), "peft");
    expect_same(c, peft, Q0 ".weight", false);
    cvt_ckpt_close(c);
    cvt_ckpt_close(peft);
    expect_error(merge(&w, open_base("plain-f32"), "1", CVT_ROUND_UNSLOTH16, 1, &c), FH1_E_INPUT, "unsloth",
                 "embedding");
    free(W);
    free(merged);
    teardown(&w);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {an_adapter_is_merged_once,
                                  weights_are_for_plain_lora,
                                  several_adapters_on_one_module,
                                  mica_rounds_twice,
                                  ties_that_stay,
                                  tied_ends,
                                  a_stored_head_follows,
                                  overflow_is_refused,
                                  pieces_and_threads_change_nothing,
                                  unsloth_adds_in_one_step};
    return run_tests("merge_rules", tests, 8);
}
