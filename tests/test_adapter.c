/* Adapter folders: which fields and tensors are refused, and by which name. Planted faults: each refused adapter is one
 * edit of a good one, which is opened first. */
#include "tests/adapter_fixture.h"

#include <math.h>

#define Q0 "model.layers.0.self_attn.q_proj"
#define Q1 "model.layers.1.self_attn.q_proj"
#define GOOD "\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"]"

static made_adapter good_one(void)
{
    made_adapter a = {0};
    made_lora(&a, Q0, 24, 27, 2);
    made_lora(&a, Q1, 24, 27, 2);
    made_config(&a, GOOD);
    return a;
}

typedef struct {
    char scratch[256], dir[300];
    cvt_ckpt *base;
} world;

static void setup(world *w, const char *base)
{
    scratch_new(w->scratch, sizeof w->scratch);
    path_in(w->dir, sizeof w->dir, w->scratch, "adapter");
    w->base = open_base(base);
}

static void teardown(world *w)
{
    cvt_ckpt_close(w->base);
    scratch_remove(w->scratch);
}

/* Opens what `a` describes; freed when it opens. */
static fh1_status try_open(const world *w, const made_adapter *a)
{
    cvt_adapter x;
    made_write(a, w->dir);
    fh1_status s = cvt_adapter_open(w->dir, NULL, w->base, &x);
    if (!s) cvt_adapter_free(&x);
    return s;
}

START_TEST(fields_are_followed_or_refused_by_name)
{
    static const struct {
        const char *members, *word; /* NULL: fine */
    } cases[] = {
        {"", NULL},
        {"\"alora_invocation_tokens\":[1,2]", "alora_invocation_tokens"},
        {"\"alora_invocation_tokens\":null", NULL},
        {"\"arrow_config\":{\"a\":1}", "arrow_config"},
        {"\"kasa_config\":{\"beta\":0.1}", "kasa_config"},
        {"\"layer_replication\":[[0,2],[1,2]]", "layer_replication"},
        {"\"monteclora_config\":{\"n\":1}", "monteclora_config"},
        {"\"velora_config\":{\"n\":1}", "velora_config"},
        {"\"use_bdlora\":{\"nblocks\":2}", "use_bdlora"},
        {"\"use_qalora\":true", "use_qalora"},
        {"\"use_qalora\":false,\"qalora_group_size\":16", NULL},
        {"\"megatron_config\":{\"x\":1}", "megatron_config"},
        {"\"tomorrows_field\":7", "tomorrows_field"},
        {"\"tomorrows_field\":0", "tomorrows_field"},
        {"\"tomorrows_field\":null,\"b\":false,\"c\":[],\"d\":{},\"e\":\"\"", NULL},
        {"\"init_lora_weights\":\"gaussian\"", NULL},
        {"\"init_lora_weights\":\"pissa\"", "--initial"},
        {"\"init_lora_weights\":\"pissa_niter_4\"", "--initial"},
        {"\"init_lora_weights\":\"olora\"", "--initial"},
        {"\"init_lora_weights\":\"corda\"", "--initial"},
        {"\"init_lora_weights\":\"lora_ga\"", "--initial"},
        {"\"init_lora_weights\":\"loftq\"", "LoftQ"},
        {"\"init_lora_weights\":\"tomorrow\"", "init_lora_weights"},
        {"\"use_rslora\":1", "use_rslora"},
        {"\"bias\":\"some\"", "bias"},
        {"\"rank_pattern\":{\"q_proj\":2.5}", "rank_pattern"},
        {"\"rank_pattern\":[]", "an object of numbers"},
        {"\"rank_pattern\":{\"k_proj\":4}", NULL}, /* matches nothing that is adapted: a warning */
        {"\"alpha_pattern\":{\"q_proj\":\"4\"}", "alpha_pattern"},
        {"\"alpha_pattern\":{\"q_(\":4}", "alpha_pattern"},
        {"\"exclude_modules\":\"(?R)\"", "exclude_modules"},
        {"\"exclude_modules\":\"(a+)+(b+)+\\\\1x\"", NULL},
        {"\"use_dora\":true,\"lora_bias\":true", "lora_bias"},
        {"\"use_dora\":true", "lora_magnitude_vector"},
        {"\"lora_bias\":true", "lora_B.bias"},
        {"\"bias\":\"all\"", "conv1d.bias is missing"},
        {"\"bias\":\"lora_only\"", NULL}, /* the adapted module has none */
        {"\"modules_to_save\":[\"final_layernorm\"]", "model.final_layernorm.weight is missing"},
        {"\"modules_to_save\":[\"q_proj\"]", "target_modules"},
        {"\"trainable_token_indices\":[1]", "trainable_tokens_delta is missing"},
        {"\"fan_in_fan_out\":true", NULL},
        {"\"layers_to_transform\":[0]", "does not adapt this module"},
        {"\"use_rslora\":true,\"use_rslora\":false", "twice"},
    };
    world w;
    setup(&w, "plain-bf16");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        made_adapter a = good_one();
        char members[512];
        snprintf(members, sizeof members, GOOD "%s%s", *cases[i].members ? "," : "", cases[i].members);
        made_config(&a, members);
        if (cases[i].word) expect_error(try_open(&w, &a), FH1_E_INPUT, cases[i].word, cases[i].members);
        else expect_ok(try_open(&w, &a), cases[i].members);
    }
    teardown(&w);
}
END_TEST

START_TEST(other_configs_are_refused)
{
    static const struct {
        const char *members, *word;
    } cases[] = {
        {"\"target_modules\":[\"q_proj\"],\"r\":0", "rank"},
        {"\"target_modules\":[\"q_proj\"],\"r\":-2", "rank"},
        {"\"target_modules\":[\"q_proj\"],\"r\":2.5", "r"},
        {"\"target_modules\":[\"q_proj\"],\"r\":3", "expected [3, 27]"},
        {"\"target_modules\":[\"q_proj\"]", "expected [8, 27]"}, /* the default rank */
        {"\"r\":2,\"target_modules\":\"q_proj\"", "matches no module"},
        {"\"r\":2,\"target_modules\":[\"proj\"]", "matches no module"},
        {"\"r\":2,\"target_modules\":[\"k_proj\"]", "does not adapt this module"},
        {"\"r\":2,\"target_modules\":[\"q_proj\",\"v_proj\"]",
         "lora_A.weight of module model.layers.0.self_attn.v_proj"},
        {"\"r\":2,\"target_modules\":[\"q_proj\",\"conv1d\"]", "convolution"},
        {"\"r\":2,\"target_modules\":[\"q_proj\",\"input_layernorm\"]", "no matrix"},
        {"\"r\":2,\"target_modules\":[\"q_proj\"],\"target_parameters\":[\"q_proj.weight\"]", "the same weight"},
        {"\"r\":2,\"target_parameters\":[\"A_log\"]", "no matrix"},
        {"\"r\":2,\"target_modules\":\".*q_proj\",\"layers_to_transform\":[0]", "as a list"},
        {"\"r\":2,\"target_modules\":\"(q_proj\"", "target_modules"},
        {"\"r\":2,\"target_modules\":[1]", "target_modules"},
    };
    world w;
    setup(&w, "plain-bf16");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        made_adapter a = good_one();
        made_config(&a, cases[i].members);
        expect_error(try_open(&w, &a), FH1_E_INPUT, cases[i].word, cases[i].members);
    }
    made_adapter a = good_one();
    snprintf(a.config, sizeof a.config, "{\"peft_type\":\"LOHA\"," GOOD "}");
    expect_error(try_open(&w, &a), FH1_E_INPUT, "LOHA", "another method");
    snprintf(a.config, sizeof a.config, "{" GOOD "}");
    expect_error(try_open(&w, &a), FH1_E_INPUT, "peft_type", "no method");
    snprintf(a.config, sizeof a.config, "[]");
    expect_error(try_open(&w, &a), FH1_E_INPUT, "object", "a list");
    snprintf(a.config, sizeof a.config, "{\"peft_type\":\"LORA\"," GOOD);
    expect_error(try_open(&w, &a), FH1_E_INPUT, "adapter_config.json", "cut");
    teardown(&w);
}
END_TEST

enum {
    MISSING_A,
    MISSING_B,
    PREFIX,
    STRANGER,
    TWICE,
    WIDTH,
    HEIGHT,
    RANK,
    NAN_B,
    INF_A,
    INTEGER,
    LOOSE_BIAS,
    LOOSE_MAGNITUDE,
    EMBEDDING,
    UNKNOWN_PART,
    OTHER_NAME,
    RESIZED,
    N_EDITS
};

static const char *edit(made_adapter *a, int kind)
{
    switch (kind) {
    case MISSING_A: made_remove(a, "layers.1.self_attn.q_proj.lora_A"); return "lora_A.weight of module " Q1;
    case MISSING_B: made_remove(a, "layers.0.self_attn.q_proj.lora_B"); return "lora_B.weight of module " Q0;
    case PREFIX:
        memmove(a->t[0].name, a->t[0].name + 17, strlen(a->t[0].name) - 16);
        return "begins with base_model.model.";
    case STRANGER: made_lora(a, "model.layers.7.self_attn.q_proj", 24, 27, 2); return "layers.7";
    case TWICE: made_add(a, Q0 ".lora_A.default.weight", 2, 27); return "two spellings";
    case WIDTH: made_find(a, "lora_A")->shape[1] = 28; return "found [2, 28]";
    case HEIGHT: made_find(a, "lora_B")->shape[0] = 23; return "expected [24, 2]";
    case RANK: made_find(a, "lora_B")->rank = 1; return "found [24]";
    case NAN_B: made_find(a, "lora_B")->special = (double)NAN; return "NaN at element 0";
    case INF_A: made_find(a, "lora_A")->special = (double)INFINITY; return "infinity";
    case INTEGER: made_find(a, "lora_A")->dtype = FH1_I32; return "float type";
    case LOOSE_BIAS: made_add(a, Q0 ".lora_B.bias", 24, 0); return "lora_bias is false";
    case LOOSE_MAGNITUDE: made_add(a, Q0 ".lora_magnitude_vector", 24, 0); return "use_dora is false";
    case EMBEDDING: made_add(a, Q0 ".lora_embedding_A", 2, 27); return "lora_embedding_A";
    case UNKNOWN_PART: made_add(a, Q0 ".lora_diag", 2, 0); return "lora_diag";
    case OTHER_NAME: made_add(a, Q0 ".lora_A.other.weight", 2, 27); return "matches nothing";
    case RESIZED: made_add(a, "model.embed_tokens.weight", 60, 27); return "vocabulary resized";
    default: return NULL;
    }
}

START_TEST(tensors_are_taken_or_refused_by_name)
{
    world w;
    setup(&w, "plain-bf16");
    made_adapter a = good_one();
    expect_ok(try_open(&w, &a), "the good one");
    for (int kind = 0; kind < N_EDITS; kind++) {
        a = good_one();
        const char *word = edit(&a, kind);
        expect_error(try_open(&w, &a), FH1_E_INPUT, word, word);
    }
    a = good_one(); /* old spellings and a plain tensor of the base are taken */
    snprintf(a.t[0].name, sizeof a.t[0].name, PEFT_PREFIX Q0 ".lora_A.default.weight");
    made_add(&a, "model.layers.0.mamba.A_log", 3, 0);
    made_write(&a, w.dir);
    cvt_adapter x;
    expect_ok(cvt_adapter_open(w.dir, NULL, w.base, &x), "old spelling");
    ck_assert_int_eq(x.n_loras, 2);
    ck_assert_int_eq(x.n_replacements, 1);
    ck_assert_int_eq(x.n_warnings, 1);
    ck_assert(strstr(x.warnings[0], "A_log"));
    ck_assert(!x.replacements[0].copy);
    ck_assert(x.loras[0].scale == 2 && x.loras[0].r == 2 && strlen(x.hash) == 32);
    cvt_adapter_free(&x);
    teardown(&w);
}
END_TEST

/* Keys that PEFT's save_embedding_layers and bias options add: the base's table under the rows, the saved copy once
 * more, and what it replaced. */
START_TEST(wrapped_keys)
{
    world w;
    cvt_adapter x;
    setup(&w, "plain-bf16");
    made_adapter a = good_one();
    made_config(&a, GOOD ",\"modules_to_save\":[\"final_layernorm\"],\"trainable_token_indices\":{\"lm_head\":[4,1]}");
    made_add(&a, "lm_head.token_adapter.trainable_tokens_delta", 2, 27);
    made_add(&a, "lm_head.token_adapter.base_layer.weight", 53, 27);
    made_tensor *saved = made_add(&a, "model.final_layernorm.weight", 27, 0);
    made_tensor *again = made_add(&a, "model.final_layernorm.modules_to_save.weight", 27, 0);
    made_add(&a, "model.final_layernorm.original_module.weight", 27, 0);
    saved->scale = again->scale = 0;
    saved->special = again->special = 3;
    made_write(&a, w.dir);
    expect_ok(cvt_adapter_open(w.dir, NULL, w.base, &x), "all of them");
    ck_assert_int_eq(x.n_replacements, 2);
    ck_assert_str_eq(x.replacements[0].name, "lm_head.weight");
    ck_assert(!x.replacements[0].copy && x.replacements[1].copy && x.n_tokens == 1);
    ck_assert(fh1_get(&x.replacements[1].t, 0) == 3);
    cvt_adapter_free(&x);
    again->special = 2;
    expect_error(try_open(&w, &a), FH1_E_INPUT, "different values", "the copies differ");
    again->special = 3;
    made_remove(&a, "final_layernorm.weight");
    expect_error(try_open(&w, &a), FH1_E_INPUT, "modules_to_save.weight", "the copy alone");
    a = good_one();
    made_add(&a, "model.final_layernorm.original_module.weight", 27, 0);
    expect_error(try_open(&w, &a), FH1_E_INPUT, "original_module", "not saved");
    a = good_one();
    made_add(&a, "lm_head.token_adapter.other", 2, 27);
    expect_error(try_open(&w, &a), FH1_E_INPUT, "token_adapter.other", "another part");
    teardown(&w);
}
END_TEST

START_TEST(folders_that_are_no_adapters)
{
    world w;
    cvt_adapter x;
    char inner[400];
    setup(&w, "plain-bf16");
    mkdir(w.dir, 0777);
    expect_error(cvt_adapter_open(w.dir, NULL, w.base, &x), FH1_E_INPUT, "no adapter_config.json", "empty folder");
    path_in(inner, sizeof inner, w.dir, "style");
    made_adapter a = good_one();
    made_write(&a, inner);
    expect_error(cvt_adapter_open(w.dir, NULL, w.base, &x), FH1_E_INPUT, "sub-folder style", "named adapter");
    write_text(w.dir, "adapter_config.json", a.config);
    expect_error(cvt_adapter_open(w.dir, NULL, w.base, &x), FH1_E_INPUT, "adapter_model.safetensors", "no weights");
    write_text(w.dir, "adapter_model.bin", "x");
    expect_error(cvt_adapter_open(w.dir, NULL, w.base, &x), FH1_E_INPUT, "weights_only=True", "pickle");
    expect_ok(cvt_adapter_open(inner, NULL, w.base, &x), "the named one");
    expect_ok(cvt_adapter_unchanged(&x), "unchanged");
    a.t[0].scale = 1;
    made_write(&a, inner);
    expect_error(cvt_adapter_unchanged(&x), FH1_E_INPUT, "changed while", "rewritten");
    cvt_adapter_free(&x);
    expect_error(cvt_adapter_open(inner, inner, w.base, &x), FH1_E_INPUT, "leave --initial out", "plain with initial");
    teardown(&w);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {fields_are_followed_or_refused_by_name, other_configs_are_refused,
                                  tensors_are_taken_or_refused_by_name, wrapped_keys, folders_that_are_no_adapters};
    return run_tests("adapter", tests, 4);
}
