/* config.json of model_type falcon_mamba. transformers 4.57.6 and 5.23.0 read the same keys in the same way:
 *
 * intermediate_size wins over expand, which the released 7B has as 16 beside twice the width; int(expand·hidden_size)
 * only where it is absent.
 *
 * time_step_rank is a number, or "auto": ceil(hidden_size / 16).
 *
 * mixer_rms_eps is 1e-6 where absent; the released 7B does not have the key.
 *
 * tie_word_embeddings is true where absent: 4.57.6 leaves the key out when it writes a tied model.
 *
 * use_mambapy, use_falcon_mambapy and use_associative_scan choose between implementations of the same sum;
 * time_step_min, _max, _floor, _scale, _init_scheme, initializer_range and rescale_prenorm_residual only make new
 * weights. */
#include "convert/hf_config_mamba.h"

#include "convert/fault.h"

#include <math.h>
#include <string.h>

static fh1_status read_width(const cvt_fields *f, fh1_config *c)
{
    double expand;
    if (cvt_optional(f, "intermediate_size") && !CVT_FAULT(WIDTH_BY_EXPAND))
        return cvt_need_int(f, "intermediate_size", 1, CVT_HF_MAX_SIZE, &c->d_ssm);
    if (!cvt_optional(f, "expand")) return cvt_need_int(f, "intermediate_size", 1, CVT_HF_MAX_SIZE, &c->d_ssm);
    FH1_TRY(cvt_need_number(f, "expand", &expand));
    const double width = expand * (double)c->D;
    if (!(width >= 1 && width <= (double)CVT_HF_MAX_SIZE))
        return cvt_bad_value(f, "expand", cvt_optional(f, "expand"), "the value is out of range",
                             "expand * hidden_size from 1 to 2^31");
    c->d_ssm = (int64_t)width;
    return NULL;
}

static fh1_status read_rank(const cvt_fields *f, fh1_config *c)
{
    const cJSON *v = cvt_optional(f, "time_step_rank");
    if (!cJSON_IsString(v)) return cvt_need_int(f, "time_step_rank", 1, CVT_HF_MAX_SIZE, &c->R);
    if (strcmp(v->valuestring, "auto") != 0)
        return cvt_bad_value(f, "time_step_rank", v, "unknown word", "a whole number or \"auto\"");
    c->R = CVT_FAULT(TIME_STEP_RANK_FLOORED) ? c->D / 16 : (c->D + 15) / 16;
    return NULL;
}

static fh1_status read_sizes(const cvt_fields *f, fh1_config *c)
{
    FH1_TRY(cvt_need_int(f, "hidden_size", 1, CVT_HF_MAX_SIZE, &c->D));
    FH1_TRY(cvt_need_int(f, "num_hidden_layers", 1, CVT_HF_MAX_LAYERS, &c->n_layers));
    FH1_TRY(cvt_need_int(f, "vocab_size", 1, CVT_HF_MAX_SIZE, &c->V));
    FH1_TRY(cvt_need_int(f, "state_size", 1, CVT_HF_MAX_SIZE, &c->N));
    FH1_TRY(cvt_need_int(f, "conv_kernel", 1, CVT_HF_MAX_SIZE, &c->K));
    FH1_TRY(read_width(f, c));
    return read_rank(f, c);
}

static fh1_status read_switches(const cvt_fields *f, fh1_config *c)
{
    FH1_TRY(cvt_need_bool(f, "residual_in_fp32", &c->residual_in_fp32));
    FH1_TRY(cvt_need_bool(f, "use_bias", &c->mamba_proj_bias));
    FH1_TRY(cvt_need_bool(f, "use_conv_bias", &c->mamba_conv_bias));
    c->projectors_bias = c->mamba_proj_bias;
    c->tied = !CVT_FAULT(UNTIED_BY_DEFAULT);
    if (cvt_optional(f, "tie_word_embeddings")) FH1_TRY(cvt_need_bool(f, "tie_word_embeddings", &c->tied));
    return cvt_hf_config_silu(f);
}

static fh1_status read_norms(const cvt_fields *f, fh1_config *c)
{
    FH1_TRY(cvt_need_number(f, "layer_norm_epsilon", &c->eps));
    c->mixer_eps = 1e-6;
    FH1_TRY(cvt_may_number(f, "mixer_rms_eps", &c->mixer_eps));
    if (CVT_FAULT(MIXER_EPS_OF_LAYERS)) c->mixer_eps = c->eps;
    return NULL;
}

/* What the family does not have, in the fields that it shares with the other one. */
static void fill_shared(fh1_config *c)
{
    c->H = c->d_ssm;
    c->P = c->G = c->Q = 1;
    c->dt_hi = (double)INFINITY;
    c->m_emb = c->m_lm = c->m_key = c->m_attn_in = c->m_attn_out = c->m_ssm_in = c->m_ssm_out = 1;
    c->m_gate = c->m_down = 1;
    for (int k = 0; k < 5; k++) c->m_ssm[k] = 1;
}

fh1_status cvt_hf_config_mamba_parse(const cvt_fields *f, fh1_config *c)
{
    const cJSON *block = cvt_optional(f, "fh1_block");
    if (block)
        return cvt_bad_value(f, "fh1_block", block, "a falcon_mamba layer has one part, so no order of them",
                             "no such key");
    FH1_TRY(read_sizes(f, c));
    FH1_TRY(read_switches(f, c));
    FH1_TRY(read_norms(f, c));
    fill_shared(c);
    return NULL;
}
