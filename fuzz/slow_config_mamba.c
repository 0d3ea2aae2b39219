/* The keys of Falcon-Mamba, read and written a second time. */
#include "fuzz/plant.h"
#include "fuzz/slow_config.h"
#include "fuzz/slow_value.h"

#include <math.h>

static bool read_width(const slow_json *o, fh1_config *c)
{
    double expand;
    if (value(o, "intermediate_size")) return size(o, "intermediate_size", &c->d_ssm);
    if (!number(o, "expand", &expand)) return false;
    expand *= (double)c->D;
    if (!(expand >= 1) || expand > (double)MOST_SIZE) return false;
    c->d_ssm = (int64_t)floor(expand);
    return true;
}

static bool read_rank(const slow_json *o, fh1_config *c)
{
    if (!is_word(o, "time_step_rank", "auto")) return size(o, "time_step_rank", &c->R);
    c->R = c->D / 16;
    if (c->D % 16 != 0 && !fuzz_planted("rank")) c->R++;
    return true;
}

bool slow_config_read_mamba(const slow_json *o, fh1_config *c)
{
    if (value(o, "fh1_block")) return false;
    if (!size(o, "hidden_size", &c->D) || !size(o, "vocab_size", &c->V) || !size(o, "state_size", &c->N) ||
        !size(o, "conv_kernel", &c->K) || !is_integer(value(o, "num_hidden_layers"), 1, 16384, &c->n_layers))
        return false;
    if (!read_width(o, c) || !read_rank(o, c)) return false;
    if (!truth(o, "residual_in_fp32", &c->residual_in_fp32) || !truth(o, "use_bias", &c->mamba_proj_bias) ||
        !truth(o, "use_conv_bias", &c->mamba_conv_bias))
        return false;
    c->tied = true;
    if (value(o, "tie_word_embeddings") && !truth(o, "tie_word_embeddings", &c->tied)) return false;
    c->mixer_eps = 1e-6;
    if (!number(o, "layer_norm_epsilon", &c->eps) || !maybe_number(o, "mixer_rms_eps", &c->mixer_eps)) return false;
    c->projectors_bias = c->mamba_proj_bias;
    c->H = c->d_ssm;
    c->P = c->G = c->Q = 1;
    c->dt_hi = (double)INFINITY;
    double *const ones[] = {&c->m_emb,    &c->m_lm,      &c->m_key,    &c->m_attn_in, &c->m_attn_out,
                            &c->m_ssm_in, &c->m_ssm_out, &c->m_gate,   &c->m_down,    &c->m_ssm[0],
                            &c->m_ssm[1], &c->m_ssm[2],  &c->m_ssm[3], &c->m_ssm[4]};
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) *ones[i] = 1;
    return true;
}
