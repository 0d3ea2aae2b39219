/* A config.json from a config: every key that fh1 reads, none that it can derive. */
#include "fuzz/slow_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void put_truth(FILE *f, const char *key, bool v)
{
    fprintf(f, "\"%s\":%s,", key, v ? "true" : "false");
}

static void put_size(FILE *f, const char *key, int64_t v)
{
    fprintf(f, "\"%s\":%" PRId64 ",", key, v);
}

static void put_number(FILE *f, const char *key, double v)
{
    fprintf(f, "\"%s\":%.17g,", key, v);
}

static void put_list(FILE *f, const char *key, const double *v, int64_t n)
{
    fprintf(f, "\"%s\":[", key);
    for (int64_t i = 0; i < n; i++) fprintf(f, "%s%.17g", i ? "," : "", v[i]);
    fprintf(f, "],");
}

static void put_common(FILE *f, const fh1_config *c)
{
    put_size(f, "hidden_size", c->D);
    put_size(f, "num_hidden_layers", c->n_layers);
    put_size(f, "vocab_size", c->V);
    put_size(f, "bos_token_id", c->bos);
    put_size(f, "pad_token_id", c->pad);
    fprintf(f, "\"eos_token_id\":[");
    for (int i = 0; i < c->n_eos; i++) fprintf(f, "%s%" PRId64, i ? "," : "", c->eos[i]);
    fprintf(f, "],");
    put_truth(f, "tie_word_embeddings", c->tied);
}

static void put_sizes(FILE *f, const fh1_config *c)
{
    put_size(f, "intermediate_size", c->F);
    put_size(f, "num_attention_heads", c->Hq);
    put_size(f, "num_key_value_heads", c->Hkv);
    put_size(f, "head_dim", c->A);
    put_size(f, "mamba_d_ssm", c->d_ssm);
    put_size(f, "mamba_n_heads", c->H);
    put_size(f, "mamba_d_head", c->P);
    put_size(f, "mamba_n_groups", c->G);
    put_size(f, "mamba_d_state", c->N);
    put_size(f, "mamba_d_conv", c->K);
    put_size(f, "mamba_chunk_size", c->Q);
}

static void put_numbers(FILE *f, const fh1_config *c)
{
    const double mlp[2] = {c->m_gate, c->m_down};
    put_number(f, "rms_norm_eps", c->eps);
    put_number(f, "embedding_multiplier", c->m_emb);
    put_number(f, "lm_head_multiplier", c->m_lm);
    put_number(f, "key_multiplier", c->m_key);
    put_number(f, "attention_in_multiplier", c->m_attn_in);
    put_number(f, "attention_out_multiplier", c->m_attn_out);
    put_number(f, "ssm_in_multiplier", c->m_ssm_in);
    put_number(f, "ssm_out_multiplier", c->m_ssm_out);
    put_list(f, "ssm_multipliers", c->m_ssm, 5);
    put_list(f, "mlp_multipliers", mlp, 2);
    fprintf(f, "\"time_step_limit\":[%.17g,", c->dt_lo);
    if (isinf(c->dt_hi)) fprintf(f, "{\"__float__\":\"Infinity\"}],");
    else fprintf(f, "%.17g],", c->dt_hi);
}

static void put_switches(FILE *f, const fh1_config *c)
{
    put_truth(f, "attention_bias", c->attention_bias);
    put_truth(f, "mlp_bias", c->mlp_bias);
    put_truth(f, "projectors_bias", c->projectors_bias);
    put_truth(f, "mamba_conv_bias", c->mamba_conv_bias);
    put_truth(f, "mamba_proj_bias", c->mamba_proj_bias);
    put_truth(f, "mamba_rms_norm", c->mamba_rms_norm);
    put_truth(f, "mamba_norm_before_gate", c->norm_before_gate);
}

/* 0 stands for absent; -0 was given. */
static bool given(double v)
{
    return v != 0 || signbit(v);
}

/* What the type reads. */
static void put_rope(FILE *f, const fh1_config *c)
{
    const fh1_rope *r = &c->rope;
    if (given(r->factor)) put_number(f, "factor", r->factor);
    else if (r->type == FH1_ROPE_YARN) fprintf(f, "\"factor\":null,");
    if (given(r->attention_factor)) put_number(f, "attention_factor", r->attention_factor);
    if (given(r->beta_fast)) put_number(f, "beta_fast", r->beta_fast);
    if (given(r->beta_slow)) put_number(f, "beta_slow", r->beta_slow);
    if (given(r->mscale)) put_number(f, "mscale", r->mscale);
    if (given(r->mscale_all_dim)) put_number(f, "mscale_all_dim", r->mscale_all_dim);
    if (r->type == FH1_ROPE_YARN) put_truth(f, "truncate", r->truncate);
    if (r->type == FH1_ROPE_LLAMA3) put_number(f, "low_freq_factor", r->low_freq_factor);
    if (r->type == FH1_ROPE_LLAMA3) put_number(f, "high_freq_factor", r->high_freq_factor);
    if (r->original_max_position) put_size(f, "original_max_position_embeddings", r->original_max_position);
    if (r->long_factor) put_list(f, "long_factor", r->long_factor, c->A / 2);
    if (r->short_factor) put_list(f, "short_factor", r->short_factor, c->A / 2);
}

static void put_h1(FILE *f, const fh1_config *c, bool v5)
{
    static const char *const types[] = {"default", "linear", "dynamic", "yarn", "llama3", "longrope"};
    static const char *const blocks[] = {"SA_M", "SAM", "S_A_M"};
    put_sizes(f, c);
    put_numbers(f, c);
    put_switches(f, c);
    if (c->block != FH1_BLOCK_SA_M || v5) fprintf(f, "\"fh1_block\":\"%s\",", blocks[c->block]);
    if (c->rope.max_position) put_size(f, "max_position_embeddings", c->rope.max_position);
    if (!v5) put_number(f, "rope_theta", c->rope.theta);
    fprintf(f, "\"%s\":{", v5 ? "rope_parameters" : "rope_scaling");
    put_rope(f, c);
    if (v5) put_number(f, "rope_theta", c->rope.theta);
    fprintf(f, "\"%s\":\"%s\"},", v5 ? "rope_type" : "type", types[c->rope.type]);
}

static void put_mamba(FILE *f, const fh1_config *c)
{
    put_size(f, "intermediate_size", c->d_ssm);
    put_size(f, "expand", 16); /* not read */
    put_size(f, "state_size", c->N);
    put_size(f, "conv_kernel", c->K);
    put_size(f, "time_step_rank", c->R);
    put_number(f, "layer_norm_epsilon", c->eps);
    put_number(f, "mixer_rms_eps", c->mixer_eps);
    put_truth(f, "residual_in_fp32", c->residual_in_fp32);
    put_truth(f, "use_bias", c->mamba_proj_bias);
    put_truth(f, "use_conv_bias", c->mamba_conv_bias);
}

char *slow_config_write(const fh1_config *c, bool v5)
{
    const bool mamba = c->family == FH1_FALCON_MAMBA;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f) abort();
    fprintf(f, "{");
    put_common(f, c);
    if (mamba) put_mamba(f, c);
    else put_h1(f, c, v5);
    fprintf(f, "\"hidden_act\":\"silu\",\"model_type\":\"%s\"}", mamba ? "falcon_mamba" : "falcon_h1");
    if (fclose(f) != 0) abort();
    return text;
}
