/* The geometry and constants of one model of the Falcon-H1 family, and their checks. Pure data: the JSON form is
 * read by convert/hf_config.h. Letters as in docs/numerics.md. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

typedef enum {
    FH1_ROPE_DEFAULT,
    FH1_ROPE_LINEAR,
    FH1_ROPE_DYNAMIC,
    FH1_ROPE_YARN,
    FH1_ROPE_LLAMA3,
    FH1_ROPE_LONGROPE
} fh1_rope_type;

const char *fh1_rope_type_name(fh1_rope_type t);

/* Keys as in Hugging Face's rope_parameters. A field that its type does not use is 0. */
typedef struct {
    fh1_rope_type type;
    double theta;
    double factor;                            /* all but default; 0 = absent (yarn, longrope: derived) */
    double attention_factor;                  /* yarn, longrope; 0 = absent: derived from factor */
    double beta_fast, beta_slow;              /* yarn: 32 and 1 when absent */
    double mscale, mscale_all_dim;            /* yarn; 0 = absent */
    bool truncate;                            /* yarn: true when absent */
    double low_freq_factor, high_freq_factor; /* llama3 */
    int64_t original_max_position;            /* yarn, llama3, longrope */
    int64_t max_position;                     /* max_position_embeddings, 0 = absent (default, linear, llama3) */
    const double *long_factor;                /* longrope: A/2 each, owned by the config */
    const double *short_factor;
} fh1_rope;

/* model_type. Falcon-Mamba is the pure Mamba-1 sibling: no attention, no MLP, no multipliers, a state per channel. */
typedef enum { FH1_FALCON_H1, FH1_FALCON_MAMBA } fh1_family;

/* How the three parts of a Falcon-H1 layer stand to each other (key fh1_block; falcon_h1 only). N are RMS norms:
 *   SA_M    x += mixer(N x)·m_ssm_out + attention(N x)·m_attn_out;  x += mlp(N' x)·m_down      (released; default)
 *   SAM     x += mixer(N x)·m_ssm_out + attention(N x)·m_attn_out + mlp(N x)·m_down            (one norm)
 *   S_A_M   x += mixer(N x)·m_ssm_out;  x += attention(N'' x)·m_attn_out;  x += mlp(N' x)·m_down
 * with N input_layernorm, N'' attn_layernorm, N' pre_ff_layernorm. */
typedef enum { FH1_BLOCK_SA_M, FH1_BLOCK_SAM, FH1_BLOCK_S_A_M } fh1_block;

const char *fh1_family_name(fh1_family f); /* "falcon_h1" */
/* The embedding's module and its tensor: "model.embed_tokens", "backbone.embeddings". */
const char *fh1_embed_module(fh1_family f);
const char *fh1_embed_weight(fh1_family f);
/* What its layers are called before their number: "model.layers", "backbone.layers". */
const char *fh1_layers_module(fh1_family f);
/* The key of config.json that `eps` comes from: "rms_norm_eps", "layer_norm_epsilon". */
const char *fh1_eps_key(fh1_family f);
bool fh1_family_find(const char *name, fh1_family *out); /* by model_type; false: no such family */
const char *fh1_block_name(fh1_block b);                 /* "SA_M" */
bool fh1_block_find(const char *name, fh1_block *out);   /* false: no such block */

typedef struct {
    fh1_family family;
    fh1_block block;
    int64_t n_layers;         /* num_hidden_layers */
    int64_t D;                /* hidden_size */
    int64_t V;                /* rows of the embedding tensor; vocab_size until a model is bound */
    int64_t F;                /* intermediate_size */
    int64_t Hq, Hkv, A;       /* attention: query heads, key/value heads, head_dim */
    int64_t H, P, N, G, K, Q; /* mixer: heads, head width, state, groups, conv taps, chunk */
    int64_t d_ssm;            /* H*P */
    /* Falcon-Mamba: d_ssm is its intermediate_size I, a head is a channel (H = I, P = 1, G = Q = 1); F, Hq, Hkv and A
     * are 0, the multipliers 1. */
    int64_t R;             /* time_step_rank; 0 elsewhere */
    double mixer_eps;      /* mixer_rms_eps, of the norms inside the mixer; 0 elsewhere */
    bool residual_in_fp32; /* 16-bit pipelines keep the residual in f32, and round it in front of each norm but the last
                            */

    bool attention_bias, mlp_bias, mamba_proj_bias, projectors_bias, mamba_conv_bias;
    bool mamba_rms_norm, norm_before_gate;
    bool tied; /* tie_word_embeddings */

    double eps;          /* rms_norm_eps */
    double dt_lo, dt_hi; /* time_step_limit; (0, inf) when absent */
    fh1_rope rope;

    /* the 14 multipliers */
    double m_emb, m_lm, m_key, m_attn_in, m_attn_out, m_ssm_in, m_ssm_out;
    double m_gate, m_down;
    double m_ssm[5]; /* segments z, x, B, C, dt of in_proj */

    int64_t bos, pad; /* -1 when absent */
    int64_t eos[8];
    int n_eos;
    double factors[2][512]; /* storage of rope.long_factor and rope.short_factor */
} fh1_config;

/* Derived widths. */
int64_t fh1_conv_dim(const fh1_config *c);    /* d_ssm + 2GN; Falcon-Mamba: d_ssm */
int64_t fh1_in_proj_dim(const fh1_config *c); /* 2 d_ssm + 2GN + H; Falcon-Mamba: 2 d_ssm */
int64_t fh1_x_proj_dim(const fh1_config *c);  /* Falcon-Mamba: R + 2N, columns dt | B | C; 0 elsewhere */
/* First columns of in_proj that go to the conv and to the gate: z | x B C | dt, and Falcon-Mamba's x | z. */
int64_t fh1_in_proj_conv(const fh1_config *c);
int64_t fh1_in_proj_gate(const fh1_config *c);

/* The row of the embedding whose lookups have no gradient (transformers' padding_idx), -1: none. Falcon-Mamba's table
 * is made without one, whatever pad_token_id says. */
int64_t fh1_padding_idx(const fh1_config *c);
/* The length of a prefill around which scans change their ways: mamba_chunk_size; for Falcon-Mamba, whose scan has no
 * chunks of its own, the 16 tokens that kernels keep together. */
int64_t fh1_scan_chunk(const fh1_config *c);

/* A copy whose rope.long_factor and rope.short_factor point into itself; plain assignment would leave
 * them in the original. dst and src may be the same. */
void fh1_config_copy(fh1_config *dst, const fh1_config *src);

/* Positive sizes, heads that divide, an even head width, ordered limits, finite multipliers, sizes
 * small enough that no product of two overflows. FH1_E_INPUT names the key of config.json. */
fh1_status fh1_config_check(const fh1_config *c);

/* The f64 inverse frequencies [A/2] and the factor on cos and sin, as Hugging Face defines the rope
 * type. `seq_len` is the longest position + 1 seen so far, this call's included (dynamic, longrope;
 * ignored otherwise): max(cache.rope_seq_len, tokens.max_position + 1). Up to max_position (dynamic) or
 * original_max_position (longrope) it changes nothing. */
void fh1_rope_frequencies(const fh1_config *c, int64_t seq_len, double *inv_freq, double *scale);
/* The same in the order and precision of transformers (f32 powers and products). */
void fh1_rope_frequencies_f32(const fh1_config *c, int64_t seq_len, float *inv_freq, double *scale);
