/* A second reading of adapter_config.json beside convert/adapter_config.c: the fields of PEFT 0.21.2 in one table, over
 * slow_json; and of which modules it names, where no regular expression is needed to say so. */
#pragma once

#include "convert/adapter_match.h"
#include "fuzz/slow_json.h"

typedef struct {
    int64_t r;
    double alpha;
    bool rslora, dora, lora_bias, ensure_weight_tying, fan_in_fan_out;
    cvt_adapter_bias bias;
    cvt_adapter_init init;
    const char *init_name, *base_name;
    const slow_json *target_modules, *exclude_modules, *modules_to_save, *target_parameters, *layers_pattern;
    const slow_json *layers_to_transform, *rank_pattern, *alpha_pattern, *token_indices; /* NULL: none */
} slow_adapter;

/* False: refused. */
bool slow_adapter_read(const slow_json *root, slow_adapter *out);

typedef enum { SLOW_NOT_TARGETED, SLOW_TARGETED, SLOW_UNSAID } slow_answer;
/* Is the module targeted, and by which rank? UNSAID where a pattern would have to be understood. */
slow_answer slow_adapter_targets(const slow_adapter *a, const char *path, bool linear, int64_t *rank, double *scale);
