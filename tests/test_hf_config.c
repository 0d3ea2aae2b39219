/* config.json in the forms of transformers 4.5x and 5.x. The planted fault is a loader that defaults: each key
 * that changes the result is taken out in turn, and its absence must be named. */
#include "convert/hf_config.h"
#include "tests/config_text.h"

#include <math.h>

/* Keys of the common part, one per line, so that a test can replace or remove one by its name. */
static const char common[] = "\"model_type\": \"falcon_h1\",\n"
                             "\"hidden_size\": 32,\n"
                             "\"num_hidden_layers\": 3,\n"
                             "\"intermediate_size\": 48,\n"
                             "\"num_attention_heads\": 6,\n"
                             "\"num_key_value_heads\": 2,\n"
                             "\"head_dim\": 8,\n"
                             "\"vocab_size\": 97,\n"
                             "\"hidden_act\": \"silu\",\n"
                             "\"rms_norm_eps\": 1e-05,\n"
                             "\"attention_bias\": true,\n"
                             "\"mlp_bias\": false,\n"
                             "\"projectors_bias\": true,\n"
                             "\"tie_word_embeddings\": true,\n"
                             "\"mamba_d_ssm\": 42,\n"
                             "\"mamba_n_heads\": 6,\n"
                             "\"mamba_d_head\": 7,\n"
                             "\"mamba_n_groups\": 3,\n"
                             "\"mamba_d_state\": 9,\n"
                             "\"mamba_d_conv\": 4,\n"
                             "\"mamba_chunk_size\": 16,\n"
                             "\"mamba_conv_bias\": true,\n"
                             "\"mamba_proj_bias\": false,\n"
                             "\"mamba_rms_norm\": true,\n"
                             "\"mamba_norm_before_gate\": false,\n"
                             "\"embedding_multiplier\": 2.3,\n"
                             "\"lm_head_multiplier\": 1.13,\n"
                             "\"key_multiplier\": 0.47,\n"
                             "\"attention_in_multiplier\": 1.37,\n"
                             "\"attention_out_multiplier\": 0.71,\n"
                             "\"ssm_in_multiplier\": 0.83,\n"
                             "\"ssm_out_multiplier\": 0.39,\n"
                             "\"ssm_multipliers\": [0.57, 0.31, 0.43, 0.67, 1.21],\n"
                             "\"mlp_multipliers\": [0.89, 0.53],\n";
static const char form4[] = "\"rope_scaling\": null,\n\"rope_theta\": 100000000000.0,\n";
static const char form5[] = "\"rope_parameters\": {\"rope_theta\": 100000000000.0, \"rope_type\": \"default\"},\n";

static fh1_status parse(const char *without, const char *extra, fh1_config *c)
{
    return parse_config(common, without, extra, c);
}

START_TEST(every_value_arrives)
{
    const char *const forms[] = {form4, form5};
    for (int i = 0; i < 2; i++) {
        fh1_config c;
        expect_ok(parse(NULL, forms[i], &c), forms[i]);
        const int64_t got[] = {c.D, c.n_layers, c.F, c.Hq, c.Hkv, c.A, c.V, c.d_ssm, c.H, c.P, c.G, c.N, c.K, c.Q};
        const int64_t want[] = {32, 3, 48, 6, 2, 8, 97, 42, 6, 7, 3, 9, 4, 16};
        ck_assert_mem_eq(got, want, sizeof got);
        ck_assert(c.attention_bias && !c.mlp_bias && c.projectors_bias && c.tied && c.mamba_conv_bias &&
                  !c.mamba_proj_bias && c.mamba_rms_norm && !c.norm_before_gate);
        const double m[] = {c.eps,        c.m_emb,    c.m_lm,      c.m_key,    c.m_attn_in,
                            c.m_attn_out, c.m_ssm_in, c.m_ssm_out, c.m_gate,   c.m_down,
                            c.m_ssm[0],   c.m_ssm[1], c.m_ssm[2],  c.m_ssm[3], c.m_ssm[4]};
        const double n[] = {1e-5, 2.3, 1.13, 0.47, 1.37, 0.71, 0.83, 0.39, 0.89, 0.53, 0.57, 0.31, 0.43, 0.67, 1.21};
        ck_assert_mem_eq(m, n, sizeof m);
        ck_assert(c.dt_lo == 0 && isinf(c.dt_hi) && c.n_eos == 0 && c.bos == -1 && c.pad == -1);
        ck_assert(c.rope.type == FH1_ROPE_DEFAULT && c.rope.theta == 1e11);
    }
}
END_TEST

START_TEST(no_key_is_defaulted)
{
    expect_every_key(common, form5, 34);
    fh1_config c;
    expect_error(parse(NULL, "", &c), FH1_E_INPUT, "the key rope_theta is missing", "no theta");
    expect_error(parse(NULL, "\"rope_parameters\": {\"rope_type\": \"default\"},", &c), FH1_E_INPUT,
                 "the key rope_theta is missing", "no theta in rope_parameters");
    expect_error(parse(NULL, "\"rope_parameters\": {\"rope_theta\": 1e4},", &c), FH1_E_INPUT,
                 "rope_parameters.rope_type is missing", "no type");
}
END_TEST

static const refused_config refused[] = {
    {"model_type", "\"model_type\": \"mamba2\",",
     "not supported (expected \"falcon_h1\" or \"falcon_mamba\", found \"mamba2\")"},
    {"model_type", "\"model_type\": \"falcon_mamba\",", "the key state_size is missing"},
    {"model_type", "\"model_type\": 5,", "not a string"},
    {"hidden_act", "\"hidden_act\": \"gelu\",", "found \"gelu\""},
    {"hidden_size", "\"hidden_size\": 32.0,", "not a whole number"},
    {"hidden_size", "\"hidden_size\": \"32\",", "not a whole number"},
    {"hidden_size", "\"hidden_size\": 0,", "out of range"},
    {"hidden_size", "\"hidden_size\": -32,", "out of range"},
    {"hidden_size", "\"hidden_size\": 1e1,", "not a whole number"},
    {"hidden_size", "\"hidden_size\": 9007199254740991,", "out of range"},
    {"num_hidden_layers", "\"num_hidden_layers\": 2000000000,", "out of range"},
    {"head_dim", "\"head_dim\": 7,", "head_dim"},
    {"num_key_value_heads", "\"num_key_value_heads\": 4,", "num_key_value_heads"},
    {"mamba_n_groups", "\"mamba_n_groups\": 4,", "mamba_n_groups"},
    {"mamba_d_ssm", "\"mamba_d_ssm\": 48,", "mamba_d_ssm"},
    {"mamba_d_ssm", "\"mamba_expand\": 1e300,", "mamba_expand"},
    {"mamba_d_head", "\"mamba_d_head\": \"all\",", "unknown word"},
    {"attention_bias", "\"attention_bias\": 1,", "not a truth value"},
    {"attention_bias", "\"attention_bias\": \"true\",", "not a truth value"},
    {"rms_norm_eps", "\"rms_norm_eps\": \"1e-5\",", "not a number"},
    {"rms_norm_eps", "\"rms_norm_eps\": -1.0,", "rms_norm_eps"},
    {"ssm_multipliers", "\"ssm_multipliers\": [1, 1, 1, 1],", "wrong length (expected a list of 5 numbers"},
    {"ssm_multipliers", "\"ssm_multipliers\": [1, 1, 1, 1, null],", "something else than numbers"},
    {"mlp_multipliers", "\"mlp_multipliers\": 1.0,", "not a list"},
    {NULL, "\"mamba_use_mlp\": false,", "without MLP"},
    {NULL, "\"attn_layer_indices\": [0, 2],", "without attention"},
    {NULL, "\"attn_layer_indices\": [0, 1, 2, 3],", "without attention"},
    {NULL, "\"attn_layer_indices\": 3,", "without attention"},
    {NULL, "\"eos_token_id\": \"11\",", "eos_token_id"},
    {NULL, "\"eos_token_id\": [1, -1],", "eos_token_id"},
    {NULL, "\"eos_token_id\": [1,2,3,4,5,6,7,8,9],", "at most 8"},
    {NULL, "\"bos_token_id\": 1.5,", "bos_token_id"},
    {NULL, "\"time_step_limit\": [0.0, Infinity],", "write {\"__float__\": \"Infinity\"} or null"},
    {NULL, "\"time_step_limit\": [0.0],", "not a range"},
    {NULL, "\"time_step_limit\": [0.0, null],", "not a range"},
    {NULL, "\"time_step_limit\": [0.0, {\"__float__\": \"NaN\"}],", "not a range"},
    {NULL, "\"time_step_limit\": [0.5, 0.1],", "time_step_limit"},
    {NULL, "\"hidden_size\": 32,", "appears twice"},
    {NULL, "\"fh1_block\": \"SMA\",", "key fh1_block: unknown order of a layer's parts"},
    {NULL, "\"fh1_block\": \"sa_m\",", "(expected \"SA_M\", \"S_A_M\" or \"SAM\", found \"sa_m\")"},
    {NULL, "\"fh1_block\": 1,", "not a string"},
};

START_TEST(wrong_values_are_refused)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) expect_refused(common, form5, &refused[i]);
}
END_TEST

START_TEST(optional_keys_have_their_meaning)
{
    fh1_config c;
    expect_ok(parse("mamba_d_ssm", "\"mamba_expand\": 1.3126,\n\"rope_theta\": 1e4,", &c), "mamba_expand alone");
    ck_assert_int_eq(c.d_ssm, 42); /* int(42.0032) */
    expect_ok(parse("mamba_d_head", "\"mamba_d_head\": \"auto\",\n\"rope_theta\": 10000,", &c), "auto");
    ck_assert_int_eq(c.P, 7);
    expect_ok(parse(NULL, "\"time_step_limit\": [0.0, {\"__float__\": \"Infinity\"}],\n\"rope_theta\": 1e4,", &c),
              "inf");
    ck_assert(c.dt_lo == 0 && isinf(c.dt_hi) && c.dt_hi > 0);
    expect_ok(parse(NULL, "\"time_step_limit\": null,\n\"rope_theta\": 1e4,", &c), "null");
    ck_assert(isinf(c.dt_hi));
    expect_ok(parse(NULL, "\"time_step_limit\": [0.01, 0.1],\n\"rope_theta\": 1e4,", &c), "limits");
    ck_assert(c.dt_lo == 0.01 && c.dt_hi == 0.1);
    expect_ok(parse(NULL,
                    "\"eos_token_id\": [228, 11],\n\"bos_token_id\": 1,\n\"pad_token_id\": 0,\n\"rope_theta\": 1e4,",
                    &c),
              "tokens");
    ck_assert(c.n_eos == 2 && c.eos[0] == 228 && c.eos[1] == 11 && c.bos == 1 && c.pad == 0);
    expect_ok(parse(NULL, "\"eos_token_id\": 11,\n\"rope_theta\": 1e4,", &c), "one end token");
    ck_assert(c.n_eos == 1 && c.eos[0] == 11);
    expect_ok(parse(NULL, "\"attn_layer_indices\": [0, 1, 2],\n\"mamba_use_mlp\": true,\n\"rope_theta\": 1e4,", &c),
              "all layers");
    static const char *const blocks[] = {"SA_M", "SAM", "S_A_M"};
    for (int i = 0; i < 3; i++) {
        char block[80];
        ck_assert_int_eq(c.block, FH1_BLOCK_SA_M); /* absent, and after the first round named */
        snprintf(block, sizeof block, "\"fh1_block\": \"%s\",\n\"rope_theta\": 1e4,", blocks[i]);
        expect_ok(parse(NULL, block, &c), block);
        ck_assert_str_eq(fh1_block_name(c.block), blocks[i]);
        ck_assert(c.family == FH1_FALCON_H1);
        expect_ok(parse(NULL, "\"fh1_block\": null,\n\"rope_theta\": 1e4,", &c), "null");
    }
    /* The place of a norm that does not exist says nothing. */
    char extra[] = "\"mamba_rms_norm\": false,\n\"rope_theta\": 1e4,";
    expect_ok(parse("mamba_rms_norm", extra, &c), "no norm");
    ck_assert(!c.mamba_rms_norm);
}
END_TEST

#define TYPE(rest) "{\"rope_theta\": 1e4, \"rope_type\": " rest "}"

static const struct {
    const char *keys, *word; /* word NULL: accepted */
    fh1_rope_type type;
} ropes[] = {
    {"\"rope_theta\": 1e4, \"rope_parameters\": " TYPE("\"default\"") ",", NULL, FH1_ROPE_DEFAULT},
    {"\"rope_theta\": 1e4, \"rope_scaling\": {},", NULL, FH1_ROPE_DEFAULT},
    {"\"rope_theta\": 1e4, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2},", NULL, FH1_ROPE_LINEAR},
    {"\"rope_theta\": 1e4, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"rope_parameters\": " TYPE(
         "\"linear\", \"factor\": 2.0") ",",
     NULL, FH1_ROPE_LINEAR},
    {"\"max_position_embeddings\": 4096, \"rope_parameters\": " TYPE("\"dynamic\", \"factor\": 2.0") ",", NULL,
     FH1_ROPE_DYNAMIC},
    {"\"max_position_embeddings\": 4096, \"rope_parameters\": " TYPE("\"yarn\", \"factor\": null, "
                                                                     "\"original_max_position_embeddings\": 1024") ",",
     NULL, FH1_ROPE_YARN},
    {"\"max_position_embeddings\": 4096, \"rope_parameters\": " TYPE(
         "\"llama3\", \"factor\": 8, \"low_freq_factor\": 1, "
         "\"high_freq_factor\": 4") ",",
     NULL, FH1_ROPE_LLAMA3},
    {"\"max_position_embeddings\": 4096, \"original_max_position_embeddings\": 512, \"rope_parameters\": " TYPE(
         "\"longrope\", \"long_factor\": [1,2,3,4], \"short_factor\": [1,1,1,1.5]") ",",
     NULL, FH1_ROPE_LONGROPE},
    {"\"rope_theta\": 1e4, \"rope_parameters\": {\"rope_theta\": 1e5, \"rope_type\": \"default\"},",
     "rope_theta = 10000 contradicts rope_parameters.rope_theta = 100000", FH1_ROPE_DEFAULT},
    {"\"rope_theta\": 1e4, \"rope_scaling\": {\"rope_type\": \"linear\", \"type\": \"dynamic\", \"factor\": 2},",
     "rope_type = \"linear\" contradicts type = \"dynamic\"", FH1_ROPE_DEFAULT},
    {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"rope_parameters\": " TYPE(
         "\"linear\", \"factor\": 4") ",",
     "rope_scaling.factor = 2 contradicts rope_parameters.factor = 4", FH1_ROPE_DEFAULT},
    {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}, \"rope_parameters\": " TYPE(
         "\"linear\", \"factor\": 4.000000000000001") ",", /* an ulp of 4 */
     "contradicts rope_parameters.factor", FH1_ROPE_DEFAULT},
    {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"rope_parameters\": " TYPE("\"default\"") ",",
     "contradicts rope_parameters", FH1_ROPE_DEFAULT},
    {"\"rope_theta\": 1e4, \"rope_scaling\": {\"type\": \"su\"},", "default, linear, dynamic, yarn, llama3 or longrope",
     FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": " TYPE("\"linear\"") ",", "rope_parameters.factor is missing", FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": " TYPE("\"linear\", \"factor\": 0") ",", "factor", FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": " TYPE("\"dynamic\", \"factor\": 2") ",", "max_position_embeddings is missing",
     FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": " TYPE("\"yarn\", \"original_max_position_embeddings\": 1024") ",", "factor is missing",
     FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": " TYPE(
         "\"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 64, \"truncate\": null") ",",
     "truncate is null", FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": " TYPE("\"yarn\", \"factor\": 2") ",", "max_position_embeddings is missing",
     FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": " TYPE(
         "\"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"original_max_position_embeddings\": 64") ",",
     "high_freq_factor is missing", FH1_ROPE_DEFAULT},
    {"\"max_position_embeddings\": 64, \"rope_parameters\": " TYPE(
         "\"longrope\", \"long_factor\": [1,2,3], \"short_factor\": [1,1,1,1]") ",",
     "rope_parameters.long_factor: the list has the wrong length", FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": " TYPE("\"default\", \"partial_rotary_factor\": 0.5") ",", "a part of the head",
     FH1_ROPE_DEFAULT},
    {"\"partial_rotary_factor\": 0.5, \"rope_theta\": 1e4,", "a part of the head", FH1_ROPE_DEFAULT},
    {"\"rope_theta\": \"1e4\",", "not a number", FH1_ROPE_DEFAULT},
    {"\"rope_theta\": -1e4,", "rope_theta", FH1_ROPE_DEFAULT},
    {"\"rope_parameters\": [1],", "not an object", FH1_ROPE_DEFAULT},
};

START_TEST(rope_forms_agree_or_are_refused)
{
    for (size_t i = 0; i < sizeof ropes / sizeof *ropes; i++) {
        fh1_config c;
        fh1_status s = parse(NULL, ropes[i].keys, &c);
        if (ropes[i].word) {
            expect_error(s, FH1_E_INPUT, ropes[i].word, ropes[i].keys);
            continue;
        }
        expect_ok(s, ropes[i].keys);
        ck_assert_int_eq(c.rope.type, ropes[i].type);
        ck_assert(c.rope.theta == 1e4);
        if (c.rope.type == FH1_ROPE_YARN)
            ck_assert(c.rope.factor == 0 && c.rope.max_position == 4096 && c.rope.original_max_position == 1024 &&
                      c.rope.beta_fast == 32 && c.rope.beta_slow == 1 && c.rope.truncate);
        if (c.rope.type == FH1_ROPE_LLAMA3) ck_assert_int_eq(c.rope.original_max_position, 4096);
        if (c.rope.type == FH1_ROPE_LONGROPE)
            ck_assert(c.rope.original_max_position == 512 && c.rope.long_factor[3] == 4 &&
                      c.rope.short_factor[3] == 1.5);
    }
}
END_TEST

START_TEST(the_type_of_weights_is_read)
{
    static const struct {
        const char *text, *word;
        fh1_dtype dtype;
    } cases[] = {
        {"{\"torch_dtype\": \"bfloat16\"}", NULL, FH1_BF16},
        {"{\"dtype\": \"float16\"}", NULL, FH1_F16},
        {"{\"dtype\": \"float64\", \"torch_dtype\": \"float64\"}", NULL, FH1_F64},
        {"{}", NULL, FH1_F32},
        {"{\"dtype\": \"float16\", \"torch_dtype\": \"float32\"}", "contradicts", FH1_F32},
        {"{\"dtype\": \"int8\"}", "unknown type", FH1_F32},
        {"{\"dtype\": 16}", "not a string", FH1_F32},
    };
    char dir[256], path[512];
    scratch_new(dir, sizeof dir);
    path_in(path, sizeof path, dir, "config.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fh1_dtype got;
        write_text(dir, "config.json", cases[i].text);
        fh1_status s = cvt_hf_config_dtype(path, &got);
        if (cases[i].word) expect_error(s, FH1_E_INPUT, cases[i].word, cases[i].text);
        else expect_ok(s, cases[i].text);
        if (!cases[i].word) ck_assert_int_eq(got, cases[i].dtype);
    }
    fh1_config c;
    write_text(dir, "config.json", "[1, 2]");
    expect_error(cvt_hf_config_read(path, &c), FH1_E_INPUT, "not a JSON object", "a list");
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_value_arrives,
                                  no_key_is_defaulted,
                                  wrong_values_are_refused,
                                  optional_keys_have_their_meaning,
                                  rope_forms_agree_or_are_refused,
                                  the_type_of_weights_is_read};
    return run_tests("hf_config", tests, sizeof tests / sizeof *tests);
}
