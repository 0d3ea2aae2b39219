#include "convert/hf_config.h"

#include "convert/fault.h"
#include "convert/fields.h"
#include "convert/hf_config_mamba.h"
#include "convert/hf_rope.h"

#include <math.h>
#include <string.h>

#define MAX_SIZE CVT_HF_MAX_SIZE
#define MAX_LAYERS CVT_HF_MAX_LAYERS
#define MAX_TOKEN (INT64_C(1) << 31)

static fh1_status read_model_type(const cvt_fields *f, fh1_config *c)
{
    const char *type;
    FH1_TRY(cvt_need_string(f, "model_type", &type));
    if (fh1_family_find(type, &c->family)) return NULL;
    return cvt_bad_value(f, "model_type", cvt_optional(f, "model_type"), "this model type is not supported",
                         "\"falcon_h1\" or \"falcon_mamba\"");
}

/* fh1_block is a key of ours: the library knows no order of the parts but SA_M. */
static fh1_status read_block(const cvt_fields *f, fh1_config *c)
{
    const char *block;
    if (!cvt_optional(f, "fh1_block") || CVT_FAULT(BLOCK_NOT_READ)) return NULL;
    FH1_TRY(cvt_need_string(f, "fh1_block", &block));
    if (fh1_block_find(block, &c->block)) return NULL;
    return cvt_bad_value(f, "fh1_block", cvt_optional(f, "fh1_block"), "unknown order of a layer's parts",
                         "\"SA_M\", \"S_A_M\" or \"SAM\"");
}

fh1_status cvt_hf_config_silu(const cvt_fields *f)
{
    const char *act;
    FH1_TRY(cvt_need_string(f, "hidden_act", &act));
    if (strcmp(act, "silu") == 0) return NULL;
    return cvt_bad_value(f, "hidden_act", cvt_optional(f, "hidden_act"), "this activation is not supported",
                         "\"silu\"");
}

static fh1_status read_attention(const cvt_fields *f, fh1_config *c)
{
    FH1_TRY(cvt_need_int(f, "hidden_size", 1, MAX_SIZE, &c->D));
    FH1_TRY(cvt_need_int(f, "num_hidden_layers", 1, MAX_LAYERS, &c->n_layers));
    FH1_TRY(cvt_need_int(f, "vocab_size", 1, MAX_SIZE, &c->V));
    FH1_TRY(cvt_need_int(f, "intermediate_size", 1, MAX_SIZE, &c->F));
    FH1_TRY(cvt_need_int(f, "num_attention_heads", 1, MAX_SIZE, &c->Hq));
    FH1_TRY(cvt_need_int(f, "num_key_value_heads", 1, MAX_SIZE, &c->Hkv));
    FH1_TRY(cvt_need_int(f, "head_dim", 1, MAX_SIZE, &c->A));
    FH1_TRY(cvt_need_number(f, "rms_norm_eps", &c->eps));
    FH1_TRY(cvt_need_bool(f, "attention_bias", &c->attention_bias));
    FH1_TRY(cvt_need_bool(f, "mlp_bias", &c->mlp_bias));
    FH1_TRY(cvt_need_bool(f, "projectors_bias", &c->projectors_bias));
    FH1_TRY(cvt_need_bool(f, "tie_word_embeddings", &c->tied));
    c->tied |= CVT_FAULT(RETIED_ON_LOAD);
    return cvt_hf_config_silu(f);
}

/* mamba_d_ssm, or int(mamba_expand * hidden_size) in its absence. */
static fh1_status read_d_ssm(const cvt_fields *f, fh1_config *c)
{
    double expand;
    if (cvt_optional(f, "mamba_d_ssm") || !cvt_optional(f, "mamba_expand"))
        return cvt_need_int(f, "mamba_d_ssm", 1, MAX_SIZE, &c->d_ssm);
    FH1_TRY(cvt_need_number(f, "mamba_expand", &expand));
    double d = expand * (double)c->D;
    if (!(d >= 1 && d <= (double)MAX_SIZE))
        return cvt_bad_value(f, "mamba_expand", cvt_optional(f, "mamba_expand"), "the value is out of range",
                             "mamba_expand * hidden_size from 1 to 2^31");
    c->d_ssm = (int64_t)d;
    return NULL;
}

/* A number, or "auto" for what the heads leave of mamba_d_ssm. */
static fh1_status read_d_head(const cvt_fields *f, fh1_config *c)
{
    const cJSON *v = cvt_optional(f, "mamba_d_head");
    if (!cJSON_IsString(v)) return cvt_need_int(f, "mamba_d_head", 1, MAX_SIZE, &c->P);
    if (strcmp(v->valuestring, "auto") != 0)
        return cvt_bad_value(f, "mamba_d_head", v, "unknown word", "a whole number or \"auto\"");
    if (c->d_ssm % c->H != 0)
        return fh1_where(FH1_BAD("mamba_d_head is \"auto\", but mamba_n_heads = %lld does not divide the width %lld",
                                 (long long)c->H, (long long)c->d_ssm),
                         "%s", f->path);
    c->P = c->d_ssm / c->H;
    return NULL;
}

static fh1_status read_mixer(const cvt_fields *f, fh1_config *c)
{
    bool mlp = true;
    FH1_TRY(read_d_ssm(f, c));
    FH1_TRY(cvt_need_int(f, "mamba_n_heads", 1, MAX_SIZE, &c->H));
    FH1_TRY(read_d_head(f, c));
    FH1_TRY(cvt_need_int(f, "mamba_n_groups", 1, MAX_SIZE, &c->G));
    FH1_TRY(cvt_need_int(f, "mamba_d_state", 1, MAX_SIZE, &c->N));
    FH1_TRY(cvt_need_int(f, "mamba_d_conv", 1, MAX_SIZE, &c->K));
    FH1_TRY(cvt_need_int(f, "mamba_chunk_size", 1, MAX_SIZE, &c->Q));
    FH1_TRY(cvt_need_bool(f, "mamba_conv_bias", &c->mamba_conv_bias));
    FH1_TRY(cvt_need_bool(f, "mamba_proj_bias", &c->mamba_proj_bias));
    FH1_TRY(cvt_need_bool(f, "mamba_rms_norm", &c->mamba_rms_norm));
    /* Without the norm its place has no meaning. */
    if (c->mamba_rms_norm || cvt_optional(f, "mamba_norm_before_gate"))
        FH1_TRY(cvt_need_bool(f, "mamba_norm_before_gate", &c->norm_before_gate));
    if (cvt_optional(f, "mamba_use_mlp")) FH1_TRY(cvt_need_bool(f, "mamba_use_mlp", &mlp));
    if (!mlp)
        return cvt_bad_value(f, "mamba_use_mlp", cvt_optional(f, "mamba_use_mlp"),
                             "layers without MLP are not supported", "true");
    return NULL;
}

static fh1_status read_multipliers(const cvt_fields *f, fh1_config *c)
{
    double mlp[2];
    FH1_TRY(cvt_need_number(f, "embedding_multiplier", &c->m_emb));
    FH1_TRY(cvt_need_number(f, "lm_head_multiplier", &c->m_lm));
    FH1_TRY(cvt_need_number(f, "key_multiplier", &c->m_key));
    FH1_TRY(cvt_need_number(f, "attention_in_multiplier", &c->m_attn_in));
    FH1_TRY(cvt_need_number(f, "attention_out_multiplier", &c->m_attn_out));
    FH1_TRY(cvt_need_number(f, "ssm_in_multiplier", &c->m_ssm_in));
    FH1_TRY(cvt_need_number(f, "ssm_out_multiplier", &c->m_ssm_out));
    FH1_TRY(cvt_need_numbers(f, "ssm_multipliers", 5, c->m_ssm));
    FH1_TRY(cvt_need_numbers(f, "mlp_multipliers", 2, mlp));
    c->m_gate = mlp[0];
    c->m_down = mlp[1];
    return NULL;
}

/* A number, or transformers' spelling of infinity. */
static bool limit_value(const cJSON *v, double *out)
{
    const cJSON *word = cJSON_IsObject(v) ? cJSON_GetObjectItemCaseSensitive(v, "__float__") : NULL;
    if (cJSON_IsNumber(v)) *out = v->valuedouble;
    else if (cJSON_IsString(word) && strcmp(word->valuestring, "Infinity") == 0) *out = (double)INFINITY;
    else return false;
    return true;
}

static fh1_status read_dt_limit(const cvt_fields *f, fh1_config *c)
{
    const cJSON *v = cvt_optional(f, "time_step_limit");
    c->dt_lo = 0; /* no release has the key */
    c->dt_hi = (double)INFINITY;
    if (!v) return NULL;
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) != 2 || !limit_value(v->child, &c->dt_lo) ||
        !limit_value(v->child->next, &c->dt_hi))
        return cvt_bad_value(f, "time_step_limit", v, "the value is not a range",
                             "null or [low, high], high a number or {\"__float__\": \"Infinity\"}");
    return NULL;
}

static fh1_status read_tokens(const cvt_fields *f, fh1_config *c)
{
    const int room = (int)(sizeof c->eos / sizeof c->eos[0]);
    const cJSON *eos = cvt_optional(f, "eos_token_id");
    c->bos = c->pad = -1;
    FH1_TRY(cvt_may_int(f, "bos_token_id", -1, MAX_TOKEN, &c->bos));
    FH1_TRY(cvt_may_int(f, "pad_token_id", -1, MAX_TOKEN, &c->pad));
    c->n_eos = 0;
    if (eos && !cJSON_IsArray(eos)) {
        FH1_TRY(cvt_need_int(f, "eos_token_id", 0, MAX_TOKEN, &c->eos[0]));
        c->n_eos = 1;
    } else if (eos) {
        for (const cJSON *v = eos->child; v; v = v->next) {
            int64_t id;
            if (!cvt_json_is_int(v, &id) || id < 0 || id > MAX_TOKEN || c->n_eos == room)
                return cvt_bad_value(f, "eos_token_id", eos, "the value is not a list of end tokens",
                                     "at most 8 token numbers");
            c->eos[c->n_eos++] = id;
        }
    }
    return NULL;
}

/* Absent, null or every layer: attention in some layers only is no model that exists. */
static fh1_status check_attention_layers(const cvt_fields *f, const fh1_config *c)
{
    const cJSON *v = cvt_optional(f, "attn_layer_indices");
    int64_t n = 0, layer;
    if (!v) return NULL;
    if (cJSON_IsArray(v))
        for (const cJSON *e = v->child; e && cvt_json_is_int(e, &layer) && layer == n; e = e->next) n++;
    if (!cJSON_IsArray(v) || n != c->n_layers || cJSON_GetArraySize(v) != n)
        return cvt_bad_value(f, "attn_layer_indices", v, "layers without attention are not supported",
                             "null or the list of all layers");
    return NULL;
}

static fh1_status read_h1(const cvt_fields *f, fh1_config *c)
{
    FH1_TRY(read_block(f, c));
    FH1_TRY(read_attention(f, c));
    FH1_TRY(read_mixer(f, c));
    FH1_TRY(read_multipliers(f, c));
    FH1_TRY(read_dt_limit(f, c));
    FH1_TRY(read_tokens(f, c));
    FH1_TRY(check_attention_layers(f, c));
    return cvt_hf_rope_parse(f, c);
}

fh1_status cvt_hf_config_parse(const cJSON *json, const char *path, fh1_config *out)
{
    const cvt_fields f = {json, path, ""};
    fh1_config *c = out;
    *c = (fh1_config){0};
    if (!cJSON_IsObject(json)) return fh1_where(FH1_BAD("the config is not a JSON object"), "%s", path);
    FH1_TRY(read_model_type(&f, c));
    if (c->family == FH1_FALCON_H1) FH1_TRY(read_h1(&f, c));
    else {
        FH1_TRY(cvt_hf_config_mamba_parse(&f, c));
        FH1_TRY(read_tokens(&f, c));
    }
    return fh1_where(fh1_config_check(c), "%s", path);
}

fh1_status cvt_hf_config_read(const char *path, fh1_config *out)
{
    cJSON *json;
    FH1_TRY(cvt_json_read(path, CVT_HF_CONFIG_BYTES, CVT_HF_CONFIG_DEPTH, &json));
    fh1_status s = cvt_hf_config_parse(json, path, out);
    cJSON_Delete(json);
    return s;
}

fh1_status cvt_hf_config_refuse_quantised(const cJSON *json, const char *path)
{
    const cvt_fields f = {json, path, ""};
    const cJSON *q = cvt_optional(&f, "quantization_config");
    if (!q) return NULL;
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(q, "quant_method");
    return fh1_hint(fh1_where(FH1_BAD("the model is quantised (%.60s), which is not supported",
                                      cJSON_IsString(method) ? method->valuestring : "quantization_config"),
                              "%s", path),
                    "use the folder of the unquantised model");
}

static const struct {
    const char *name;
    fh1_dtype dtype;
} dtypes[] = {{"bfloat16", FH1_BF16}, {"float32", FH1_F32}, {"float16", FH1_F16}, {"float64", FH1_F64}};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

const char *cvt_hf_dtype_name(fh1_dtype t)
{
    for (int i = 0; i < N_DTYPES; i++)
        if (dtypes[i].dtype == t) return dtypes[i].name;
    return NULL;
}

fh1_status cvt_hf_config_dtype_parse(const cJSON *json, const char *path, fh1_dtype *out)
{
    const cvt_fields f = {json, path, ""};
    const cJSON *now = cvt_optional(&f, "dtype"), *old = cvt_optional(&f, "torch_dtype");
    const char *key = now ? "dtype" : "torch_dtype", *name;
    *out = FH1_F32;
    if (!now && !old) return NULL;
    bool same = true;
    if (now && old) FH1_TRY(cvt_json_same(now, old, &same));
    if (!same)
        return cvt_bad_value(&f, "dtype", now, "the value contradicts torch_dtype", "the same type in both keys");
    FH1_TRY(cvt_need_string(&f, key, &name));
    for (int i = 0; i < N_DTYPES; i++) {
        if (strcmp(name, dtypes[i].name) != 0) continue;
        *out = dtypes[i].dtype;
        return NULL;
    }
    return cvt_bad_value(&f, key, now ? now : old, "unknown type of weights", "bfloat16, float32, float16 or float64");
}

fh1_status cvt_hf_config_dtype(const char *path, fh1_dtype *out)
{
    cJSON *json;
    FH1_TRY(cvt_json_read(path, CVT_HF_CONFIG_BYTES, CVT_HF_CONFIG_DEPTH, &json));
    fh1_status s = cvt_hf_config_dtype_parse(json, path, out);
    cJSON_Delete(json);
    return s;
}
