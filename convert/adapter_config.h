/* adapter_config.json of PEFT 0.21.2, field by field. For convert/adapter_*.c. */
#pragma once

#include "convert/json.h"

typedef enum { CVT_BIAS_NONE, CVT_BIAS_ALL, CVT_BIAS_LORA_ONLY } cvt_adapter_bias;

/* What init_lora_weights did to the base before training: nothing; took B·A of the initial adapter away; replaced it.
 */
typedef enum { CVT_INIT_PLAIN, CVT_INIT_RESIDUAL, CVT_INIT_LOFTQ } cvt_adapter_init;

typedef struct {
    cJSON *json;
    int64_t r;
    double alpha;
    bool rslora, dora, lora_bias, ensure_weight_tying, fan_in_fan_out;
    cvt_adapter_bias bias;
    cvt_adapter_init init;
    const char *init_name; /* of init_lora_weights */
    const char *base_name; /* base_model_name_or_path, "" when absent */
    /* NULL when absent, null or empty; the strings and numbers in them are checked */
    const cJSON *target_modules, *exclude_modules; /* string or list of strings */
    const cJSON *modules_to_save, *target_parameters, *layers_pattern;
    const cJSON *layers_to_transform;          /* integer or list of integers */
    const cJSON *rank_pattern, *alpha_pattern; /* objects of numbers, in the order of the file */
    const cJSON *token_indices;                /* list of integers, or an object of such lists */
} cvt_adapter_config;

/* `text`: the n bytes of the file `path`, which is for messages. Freed by the next function in any case. */
fh1_status cvt_adapter_config_read(const char *path, const char *text, size_t n, cvt_adapter_config *out);
void cvt_adapter_config_free(cvt_adapter_config *c);
