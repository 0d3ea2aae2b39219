/* The geometry and constants of one Falcon-H1 model, and their checks. Pure data: the JSON form is
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

typedef struct {
    int64_t n_layers;         /* num_hidden_layers */
    int64_t D;                /* hidden_size */
    int64_t V;                /* rows of the embedding tensor; vocab_size until a model is bound */
    int64_t F;                /* intermediate_size */
    int64_t Hq, Hkv, A;       /* attention: query heads, key/value heads, head_dim */
    int64_t H, P, N, G, K, Q; /* mixer: heads, head width, state, groups, conv taps, chunk */
    int64_t d_ssm;            /* H*P */

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
int64_t fh1_conv_dim(const fh1_config *c);    /* d_ssm + 2GN */
int64_t fh1_in_proj_dim(const fh1_config *c); /* 2 d_ssm + 2GN + H */

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
