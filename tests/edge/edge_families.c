/* Falcon-Mamba and the other blocks: what their config.json says. */
#include "tests/edge/edge_file_cases.h"

#include "convert/gguf.h"
#include "convert/hf_folder.h"
#include "convert/model_open.h"
#include "oracle/compare.h"

#include <math.h>
#include <string.h>

/* ---- D-113 ---- */

#define SHARED                                                                                                        \
    "{\"model_type\":\"falcon_mamba\",\"hidden_size\":33,\"num_hidden_layers\":2,\"vocab_size\":29,\"state_size\":5," \
    "\"conv_kernel\":4,\"hidden_act\":\"silu\",\"layer_norm_epsilon\":1e-05,\"residual_in_fp32\":true,\"use_bias\":"  \
    "false,"                                                                                                          \
    "\"use_conv_bias\":true,\"eos_token_id\":11,"
#define WIDTHS "\"intermediate_size\":40,\"expand\":16,\"time_step_rank\":3,"

/* The same model in the keys of those who write it. */
static const struct {
    const char *who, *keys;
    double mixer_eps;
} forms[] = {
    {"everything said", WIDTHS "\"mixer_rms_eps\":1e-06,\"tie_word_embeddings\":true}", 1e-6},
    {"the released 7B's keys", WIDTHS "\"rescale_prenorm_residual\":false,\"torch_dtype\":\"float32\"}", 1e-6},
    {"transformers 4.57.6's", WIDTHS "\"mixer_rms_eps\":1e-06,\"use_falcon_mambapy\":false,\"time_step_scale\":1.0}",
     1e-6},
    {"transformers 5.23.0's",
     WIDTHS "\"mixer_rms_eps\":1e-06,\"tie_word_embeddings\":true,\"use_mambapy\":false,\"use_associative_scan\":true}",
     1e-6},
    {"another mixer_rms_eps", WIDTHS "\"mixer_rms_eps\":3e-04}", 3e-4},
    {"time_step_rank auto", "\"intermediate_size\":40,\"time_step_rank\":\"auto\"}", 1e-6},
    {"expand alone", "\"expand\":1.2122,\"time_step_rank\":3}", 1e-6}, /* int(40.0026) */
};

static fh1_status as_form(edge_run *r, size_t i)
{
    char path[EDGE_PATH], text[1024];
    fh1_model m;
    snprintf(text, sizeof text, SHARED "%s", forms[i].keys);
    FH1_TRY(edge_text(r, "mamba/config.json", text));
    FH1_TRY(edge_accepted(r, cvt_model_open(edge_path(r, "mamba", path), &m), forms[i].who));
    const fh1_config *c = &m.config;
    fh1_status s = edge_require(r, c->d_ssm == 40 && c->R == 3 && c->N == 5 && c->tied && c->residual_in_fp32,
                                "%s: I %lld, R %lld, N %lld, %s", forms[i].who, (long long)c->d_ssm, (long long)c->R,
                                (long long)c->N, c->tied ? "tied" : "untied");
    if (!s)
        s = edge_require(
            r, fh1_within(fabs(c->mixer_eps - forms[i].mixer_eps), 0) && fh1_within(fabs(c->eps - 1e-5), 0),
            "%s: eps %g, inside the mixer %g, not %g", forms[i].who, c->eps, c->mixer_eps, forms[i].mixer_eps);
    if (!s) s = edge_check_short(r, &m);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}

fh1_status edge_mamba_configs(edge_run *r)
{
    char config[EDGE_PATH], path[EDGE_PATH], text[1024];
    snprintf(text, sizeof text, SHARED "%s", forms[0].keys);
    FH1_TRY(edge_text(r, "config.json", text));
    FH1_TRY(edge_accepted(
        r,
        cvt_hf_folder_init(edge_path(r, "config.json", config), edge_path(r, "mamba", path), r->seed, FH1_F32, false),
        "a new model"));
    for (size_t i = 0; i < sizeof forms / sizeof *forms; ++i) FH1_TRY(as_form(r, i));
    return NULL;
}

/* ---- D-114 ---- */

/* A new model of a block: its folder is that of the block, no other program's graph takes it. */
static fh1_status block_model(edge_run *r, const fh1_config *c, fh1_block block)
{
    char config[EDGE_PATH], path[EDGE_PATH], member[80], *text;
    fh1_model m;
    snprintf(member, sizeof member, "\"fh1_block\":\"%s\",", fh1_block_name(block));
    FH1_TRY(edge_config_text(c, FH1_F32, EDGE_FORM_5, member, &text));
    fh1_status s = edge_text(r, "config.json", text);
    free(text);
    if (s) return s;
    FH1_TRY(edge_accepted(
        r, cvt_hf_folder_init(edge_path(r, "config.json", config), edge_path(r, "block", path), r->seed, FH1_F32, true),
        member));
    FH1_TRY(edge_accepted(r, cvt_model_open(path, &m), member));
    s = edge_require(r, m.config.block == block, "%s is read as %s", member, fh1_block_name(m.config.block));
    const fh1_layer *l = &m.layers[0];
    const bool attention = l->attn_layernorm.data != NULL, mlp = l->pre_ff_layernorm.data != NULL;
    if (!s)
        s = edge_require(r, attention == (block == FH1_BLOCK_S_A_M) && mlp == (block != FH1_BLOCK_SAM),
                         "%s: attn_layernorm %d, pre_ff_layernorm %d", member, attention, mlp);
    if (!s) s = edge_check_short(r, &m);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}

static fh1_status block_refused_by_gguf(edge_run *r)
{
    char path[EDGE_PATH], out[EDGE_PATH];
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(edge_path(r, "block", path), &c));
    fh1_status s =
        cvt_gguf_write(c, edge_path(r, "block.gguf", out), CVT_GGUF_KEEP, &(cvt_write_options){.force = true});
    cvt_ckpt_close(c);
    return edge_refused(r, s, "fh1_block", "GGUF of another block");
}

fh1_status edge_block_configs(edge_run *r)
{
    fh1_model m;
    FH1_TRY(edge_model(r, edge_model_text(1), &m));
    fh1_status s = NULL;
    for (int block = FH1_BLOCK_SA_M; block <= FH1_BLOCK_S_A_M && !s; ++block) {
        s = block_model(r, &m.config, (fh1_block)block);
        if (!s && block != FH1_BLOCK_SA_M) s = block_refused_by_gguf(r);
    }
    fh1_model_free(&m);
    return s;
}

const edge_case edge_families[] = {
    {.id = "D-113",
     .title = "Falcon-Mamba's config.json in the keys of its writers",
     .setup =
         "the keys of the released 7B, of transformers 4.57.6 and 5.23.0, time_step_rank \"auto\" with a width that "
         "16 does not divide, expand beside intermediate_size and alone, mixer_rms_eps absent and of its own",
     .invariant =
         "each is the one model: intermediate_size wins over expand, what is absent is what the library takes; "
         "it gives the truth's taps",
     .catches = "SR9 read in source: llama.cpp; TE1 found by running: transformers 4.57.6 writes a tied model without "
                "tie_word_embeddings; FM1",
     .faults = "mixer_eps_of_layers width_by_expand time_step_rank_floored untied_by_default",
     .engines = EDGE_F64 | EDGE_F32 | EDGE_BF16,
     .why = "the files are the same for every engine",
     .run = edge_mamba_configs},
    {.id = "D-114",
     .title = "the three orders of a layer's parts as files",
     .setup = "a new folder with fh1_block SA_M, SAM and S_A_M",
     .invariant =
         "the folder has the norms of its order and gives the truth's taps of it; a GGUF file, whose graph has "
         "one order, is refused for the others",
     .catches = "LO4 class: a key that changes the result and is not read",
     .faults = "block_not_read",
     .engines = EDGE_F64 | EDGE_F32 | EDGE_BF16,
     .why = "the files are the same for every engine",
     .run = edge_block_configs},
    {.id = NULL},
};
