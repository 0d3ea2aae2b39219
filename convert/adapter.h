/* A PEFT adapter folder (LoRA and its relatives), read strictly and matched to the modules of a base.
 *
 * Facts: PEFT 0.21.2, run. Every field of adapter_config.json that changes the result is either followed or refused by
 * name; so is every tensor: one that matches no module, a missing half, a wrong rank or width, NaN and infinity. */
#pragma once

#include "convert/checkpoint.h"
#include "convert/safetensors.h"

/* ΔW of one module. Linear: A [r, in], B [out, r], ΔW = s·B·A; embedding: A [r, V], B [D, r], ΔW = s·(B·A)ᵀ. With an
 * initial adapter A and B hold both, 2r wide. */
typedef struct {
    char *module; /* path without "base_model.model.": "model.layers.0.mamba.in_proj"; it adapts MODULE.weight */
    bool embedding;
    bool parameter; /* found by target_parameters: as a Linear, but PEFT rounds it in another way */
    bool mica;      /* init_lora_weights "mica": plain LoRA that PEFT's merge rounds like a parameter */
    int64_t r;
    double scale;         /* alpha / r or alpha / sqrt(r) in double */
    fh1_tensor A, B;      /* views into the file, or owned by the adapter */
    fh1_tensor bias;      /* lora_bias: added to the module's bias, times scale; data NULL: none */
    fh1_tensor magnitude; /* DoRA; data NULL: none */
} cvt_lora;

/* A tensor that replaces the base's: modules_to_save, biases, .base_layer.weight. */
typedef struct {
    char *name; /* of the base tensor */
    bool copy;  /* modules_to_save: a parameter of its own. Otherwise it is loaded into the base's parameter, which on a
                   tied base is that of both ends */
    fh1_tensor t;
} cvt_replacement;

/* Rows of an embedding that replace the base's: trainable_token_indices. On a tied base both ends are listed when PEFT
 * ties them. */
typedef struct {
    char *module;
    int64_t n;
    int64_t *rows;     /* a row that is named twice gets the last value */
    fh1_tensor values; /* [n, D] */
} cvt_token_rows;

typedef struct {
    char path[4096];
    char hash[40];         /* of config and weights, hexadecimal XXH3-128 */
    char initial_hash[40]; /* of the initial adapter, "" without one */
    char *base_name;       /* base_model_name_or_path, "" when absent */
    cvt_st *file;
    cvt_lora *loras;
    int64_t n_loras; /* sorted by module */
    cvt_replacement *replacements;
    int64_t n_replacements; /* sorted by name */
    cvt_token_rows *tokens;
    int64_t n_tokens;
    bool dora, rslora, ensure_weight_tying;
    char **warnings; /* sentences for stderr */
    int n_warnings;
    uint64_t stamp[4]; /* of the file of weights when it was opened */
    void **owned;      /* n_owned blocks of numbers that are not in the file */
    int n_owned;
} cvt_adapter;

/* Opens the folder and matches it to the modules of `base`: a checkpoint after dequantisation, or a quantised one whose
 * module names count. `initial`: the initial adapter of PiSSA and its relatives, NULL when there is none. */
fh1_status cvt_adapter_open(const char *dir, const char *initial, cvt_ckpt *base, cvt_adapter *out);
void cvt_adapter_free(cvt_adapter *a);
/* FH1_E_INPUT when the file of weights is no longer as it was when it was opened. */
fh1_status cvt_adapter_unchanged(const cvt_adapter *a);
