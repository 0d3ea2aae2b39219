/* New LoRA adapters on a model in memory, as PEFT 0.21.2 would make them, and the folder that they are saved in. */
#pragma once

#include "convert/checkpoint.h"
#include "oracle/grads.h"

#define CLI_LORA_TARGETS 16

typedef struct {
    int64_t r;
    double alpha;
    bool rslora; /* scale alpha/√r instead of alpha/r */
    int n;       /* targets */
    char targets[CLI_LORA_TARGETS][32];
} cli_lora_spec;

/* "8,16,q_proj+v_proj" (or blanks between the targets): in_proj out_proj q_proj k_proj v_proj o_proj gate_proj up_proj
 * down_proj embed_tokens lm_head; Falcon-Mamba: in_proj x_proj dt_proj out_proj embeddings lm_head. FH1_E_INPUT: r < 1,
 * conv1d, a name that is no module, one that is named twice. */
fh1_status cli_lora_parse(const char *text, cli_lora_spec *out);
bool cli_lora_has(const cli_lora_spec *s, const char *target);

typedef struct cli_adapter cli_adapter;

typedef struct {
    int64_t modules, linears; /* adapted; all that could be */
    int64_t params, base;     /* numbers in the adapter; in the model */
} cli_lora_cover;

/* Attaches a pair to every module that the spec names. A: uniform in ±1/√in by (seed, module, ordinal) and B: 0, so
 * that nothing changes before the first step; embedding: A 0, B normal. Values are f32. FH1_E_INPUT: a target that the
 * model has not, r above a width. The model must be freed before the adapter. */
fh1_status cli_adapter_new(fh1_model *m, const cli_lora_spec *spec, uint64_t seed, cli_adapter **out,
                           cli_lora_cover *cover);
void cli_adapter_free(cli_adapter *a);

/* adapter_config.json with PEFT's keys; malloc'ed. `base`: what base_model_name_or_path says. */
fh1_status cli_adapter_config(const cli_lora_spec *spec, const char *base, char **text, size_t *n);

/* A folder with `config` and the adapter tensors of `params` (values[i]: n elements of params->dtype of parameter i,
 * NULL: what the model holds) in f32, opened once as the adapter of `base` to prove that it can be, before it appears
 * under its name. */
fh1_status cli_adapter_save(const char *out, bool force, const char *config, size_t n_config, const fh1_grads *params,
                            const void *const *values, cvt_ckpt *base);
