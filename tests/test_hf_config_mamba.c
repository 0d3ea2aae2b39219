/* config.json of falcon_mamba: what transformers 4.57.6 and 5.23.0 write, and the released 7B's. */
#include "tests/config_text.h"

#include <math.h>

/* Every size another number; layer_norm_epsilon is not the default of mixer_rms_eps. */
static const char common[] = "\"model_type\": \"falcon_mamba\",\n"
                             "\"hidden_size\": 33,\n"
                             "\"num_hidden_layers\": 3,\n"
                             "\"intermediate_size\": 56,\n"
                             "\"vocab_size\": 97,\n"
                             "\"hidden_act\": \"silu\",\n"
                             "\"layer_norm_epsilon\": 1e-05,\n"
                             "\"residual_in_fp32\": true,\n"
                             "\"state_size\": 9,\n"
                             "\"conv_kernel\": 4,\n"
                             "\"time_step_rank\": 5,\n"
                             "\"use_bias\": false,\n"
                             "\"use_conv_bias\": true,\n";

static fh1_status parse(const char *without, const char *extra, fh1_config *c)
{
    return parse_config(common, without, extra, c);
}

START_TEST(every_value_arrives)
{
    fh1_config c;
    expect_ok(parse(NULL, "\"mixer_rms_eps\": 3e-6,\n\"tie_word_embeddings\": false,\n\"bos_token_id\": 8,\n", &c), "");
    ck_assert(c.family == FH1_FALCON_MAMBA && c.block == FH1_BLOCK_SA_M);
    const int64_t got[] = {c.D, c.n_layers, c.d_ssm, c.V, c.N, c.K, c.R, c.H, c.P, c.G, c.Q, c.F, c.Hq, c.Hkv, c.A};
    const int64_t want[] = {33, 3, 56, 97, 9, 4, 5, 56, 1, 1, 1, 0, 0, 0, 0};
    ck_assert_mem_eq(got, want, sizeof got);
    ck_assert(c.residual_in_fp32 && c.mamba_conv_bias && !c.mamba_proj_bias && !c.projectors_bias && !c.tied);
    ck_assert(!c.attention_bias && !c.mlp_bias && !c.mamba_rms_norm && !c.norm_before_gate);
    ck_assert(c.eps == 1e-5 && c.mixer_eps == 3e-6 && c.dt_lo == 0 && isinf(c.dt_hi));
    ck_assert(c.bos == 8 && c.pad == -1 && c.n_eos == 0);
    const double m[] = {c.m_emb,  c.m_lm,   c.m_key,    c.m_attn_in, c.m_attn_out, c.m_ssm_in, c.m_ssm_out,
                        c.m_gate, c.m_down, c.m_ssm[0], c.m_ssm[1],  c.m_ssm[2],   c.m_ssm[3], c.m_ssm[4]};
    for (size_t i = 0; i < sizeof m / sizeof *m; i++) ck_assert(m[i] == 1);
    expect_ok(parse("use_bias", "\"use_bias\": true,\n", &c), "biases");
    ck_assert(c.mamba_proj_bias && c.projectors_bias && c.mamba_conv_bias); /* of in_proj and out_proj */
    expect_ok(parse("use_conv_bias", "\"use_conv_bias\": false,\n", &c), "no bias of the conv");
    ck_assert(!c.mamba_proj_bias && !c.projectors_bias && !c.mamba_conv_bias);
    expect_ok(parse("residual_in_fp32", "\"residual_in_fp32\": false,\n", &c), "a narrow residual");
    ck_assert(!c.residual_in_fp32);
}
END_TEST

START_TEST(no_key_is_defaulted)
{
    expect_every_key(common, "", 13);
}
END_TEST

static const refused_config refused[] = {
    {"hidden_act", "\"hidden_act\": \"gelu\",", "found \"gelu\""},
    {"hidden_size", "\"hidden_size\": 0,", "out of range"},
    {"num_hidden_layers", "\"num_hidden_layers\": 2000000000,", "out of range"},
    {"intermediate_size", "\"expand\": 1e300,", "key expand: the value is out of range"},
    {"intermediate_size", "\"expand\": 0.01,", "key expand: the value is out of range"},
    {"intermediate_size", "\"expand\": \"2\",", "key expand: the value is not a number"},
    {"intermediate_size", "\"intermediate_size\": null,", "the key intermediate_size is null"},
    {"conv_kernel", "\"conv_kernel\": 65,", "conv_kernel: the convolution is too wide"},
    {"time_step_rank", "\"time_step_rank\": \"all\",", "unknown word (expected a whole number or \"auto\""},
    {"time_step_rank", "\"time_step_rank\": 0,", "out of range"},
    {"layer_norm_epsilon", "\"layer_norm_epsilon\": -1,", "layer_norm_epsilon"},
    {"use_bias", "\"use_bias\": 0,", "not a truth value"},
    {NULL, "\"mixer_rms_eps\": \"1e-6\",", "key mixer_rms_eps: the value is not a number"},
    {NULL, "\"mixer_rms_eps\": 0,", "mixer_rms_eps: a number is out of range"},
    {NULL, "\"tie_word_embeddings\": 1,", "key tie_word_embeddings: the value is not a truth value"},
    {NULL, "\"fh1_block\": \"SA_M\",", "a falcon_mamba layer has one part"},
    {NULL, "\"eos_token_id\": \"11\",", "eos_token_id"},
};

START_TEST(wrong_values_are_refused)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) expect_refused(common, "", &refused[i]);
    char wide[1000];
    const char *at = strstr(common, "56,\n");
    snprintf(wide, sizeof wide, "%.*s%s%s", (int)(at - common), common, "2147483648", at + 2);
    const refused_config product = {"time_step_rank", "\"time_step_rank\": 2147483648,",
                                    "intermediate_size * (time_step_rank + 2 * state_size)"};
    expect_refused(wide, "", &product);
}
END_TEST

START_TEST(optional_keys_have_their_meaning)
{
    fh1_config c;
    expect_ok(parse(NULL, "", &c), "neither mixer_rms_eps nor tie_word_embeddings");
    ck_assert(c.mixer_eps == 1e-6 && c.tied);
    expect_ok(parse(NULL, "\"tie_word_embeddings\": true,\n\"mixer_rms_eps\": 1e-05,\n", &c), "tied");
    ck_assert(c.mixer_eps == 1e-5 && c.tied);
    expect_ok(parse(NULL, "\"expand\": 16,\n", &c), "both widths");
    ck_assert_int_eq(c.d_ssm, 56);
    expect_ok(parse("intermediate_size", "\"expand\": 2,\n", &c), "expand alone");
    ck_assert(c.d_ssm == 66 && c.H == 66);
    expect_ok(parse("intermediate_size", "\"expand\": 1.5,\n", &c), "a broken expand");
    ck_assert_int_eq(c.d_ssm, 49); /* int(49.5) */
    expect_ok(parse("time_step_rank", "\"time_step_rank\": \"auto\",\n", &c), "auto");
    ck_assert_int_eq(c.R, 3); /* ceil(33 / 16) */
    static const struct {
        const char *size;
        int64_t rank;
    } widths[] = {{"1", 1}, {"16", 1}, {"17", 2}, {"32", 2}, {"4096", 256}};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        char text[1000], line[100];
        snprintf(line, sizeof line, "\"hidden_size\": %s,\n\"time_step_rank\": \"auto\",\n", widths[i].size);
        const char *at = strstr(common, "\"hidden_size\""), *end = strchr(at, '\n') + 1;
        snprintf(text, sizeof text, "%.*s%s", (int)(at - common), common, end);
        expect_ok(parse_config(text, "time_step_rank", line, &c), line);
        ck_assert_int_eq(c.R, widths[i].rank);
    }
}
END_TEST

/* Keys as the two releases write them, and as the released models have them; what neither reads changes nothing. */
START_TEST(files_of_the_library_are_read)
{
    static const char both[] =
        "{\"architectures\": [\"FalconMambaForCausalLM\"], \"bos_token_id\": 0, \"conv_kernel\": 4, \"eos_token_id\": "
        "11,"
        "\"expand\": 16, \"hidden_act\": \"silu\", \"hidden_size\": 4096, \"intermediate_size\": 8192,"
        "\"layer_norm_epsilon\": 1e-05, \"model_type\": \"falcon_mamba\", \"num_hidden_layers\": 64,"
        "\"rescale_prenorm_residual\": false, \"residual_in_fp32\": true, \"state_size\": 16, \"time_step_rank\": 256,"
        "\"use_bias\": false, \"use_conv_bias\": true, \"vocab_size\": 65024, ";
    static const struct {
        const char *rest;
        double mixer_eps;
        bool tied;
    } files[] = {
        {"\"torch_dtype\": \"bfloat16\", \"tie_word_embeddings\": false}", 1e-6, false}, /* the 7B */
        {"\"initializer_range\": 0.1, \"mixer_rms_eps\": 1e-05, \"pad_token_id\": 0, \"time_step_floor\": 0.0001,"
         "\"time_step_init_scheme\": \"random\", \"time_step_max\": 0.1, \"time_step_min\": 0.001, \"time_step_scale\":"
         "1.0, \"use_cache\": true, \"use_falcon_mambapy\": false, \"transformers_version\": \"4.57.6\"}",
         1e-5, true},
        {"\"initializer_range\": 0.1, \"mixer_rms_eps\": 1e-06, \"pad_token_id\": 0, \"tie_word_embeddings\": true,"
         "\"use_associative_scan\": true, \"use_mambapy\": true, \"dtype\": \"float32\", \"transformers_version\":"
         "\"5.23.0\"}",
         1e-6, true},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char text[2048];
        fh1_config c;
        cJSON *json;
        snprintf(text, sizeof text, "%s%s", both, files[i].rest);
        expect_ok(cvt_json_parse(text, strlen(text), 16, "config.json", &json), text);
        expect_ok(cvt_hf_config_parse(json, "config.json", &c), text);
        cJSON_Delete(json);
        ck_assert(c.d_ssm == 8192 && c.R == 256 && c.V == 65024 && c.tied == files[i].tied);
        ck_assert(c.mixer_eps == files[i].mixer_eps && c.eps == 1e-5 && c.eos[0] == 11 && c.n_eos == 1);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_value_arrives, no_key_is_defaulted, wrong_values_are_refused,
                                  optional_keys_have_their_meaning, files_of_the_library_are_read};
    return run_tests("hf_config_mamba", tests, sizeof tests / sizeof *tests);
}
