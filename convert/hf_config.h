/* config.json of a folder of Falcon-H1 or Falcon-Mamba, in the key forms of transformers 4.5x and 5.x. */
#pragma once

#include "convert/json.h"
#include "oracle/config.h"
#include "oracle/tensor.h"

/* A key that changes the result and is missing is FH1_E_INPUT naming it, never a default. Absent are allowed:
 * time_step_limit, rope_scaling, the dtype keys, keys that nothing reads, mamba_expand when mamba_d_ssm is given,
 * fh1_block (SA_M); of Falcon-Mamba expand when intermediate_size is given, and two keys that real files lack:
 * mixer_rms_eps (1e-6) and tie_word_embeddings (true). Contradictory rope keys (top-level rope_theta against
 * rope_parameters, rope_type against type, rope_scaling against rope_parameters) are refused. */
fh1_status cvt_hf_config_parse(const cJSON *json, const char *path, fh1_config *out);
fh1_status cvt_hf_config_read(const char *path, fh1_config *out);

/* `dtype` / `torch_dtype` of config.json: BF16, F32, F16 or F64; F32 when neither is present. */
fh1_status cvt_hf_config_dtype_parse(const cJSON *json, const char *path, fh1_dtype *out);
fh1_status cvt_hf_config_dtype(const char *path, fh1_dtype *out);
const char *cvt_hf_dtype_name(fh1_dtype t); /* "bfloat16"; NULL for a type that is none of the four */

/* FH1_E_INPUT if the config has a quantization_config. */
fh1_status cvt_hf_config_refuse_quantised(const cJSON *json, const char *path);

/* Limits for reading config.json: it has 2 kB, and some with all their tokens listed. */
#define CVT_HF_CONFIG_BYTES ((size_t)16 << 20)
#define CVT_HF_CONFIG_DEPTH 16
