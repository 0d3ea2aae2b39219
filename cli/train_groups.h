/* Which parameters are trained, and at which share of the learning rate and of the weight decay. */
#pragma once

#include "oracle/grads.h"

/* Whether a name fits a pattern: '*' stands for any text, '?' for one byte, everything else for itself. */
bool cli_glob(const char *pattern, const char *name);

/* What kind of tensor a parameter is, by its name: embed_tokens, lm_head, in_proj, conv1d, dt_bias, A_log, D, norm (the
 * mixer's), out_proj, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, layernorm (of layers and the final
 * one), bias (of any module; dt_bias is its own kind), lora_A, lora_B. Falcon-Mamba's x_proj and dt_proj have kinds of
 * their own; its embeddings are embed_tokens, the bias of dt_proj is dt_bias, its norms are layernorm. */
const char *cli_param_kind(const char *name);

/* The NULL-terminated list of all kinds. */
extern const char *const cli_param_kinds[];

/* Multiply learning rate and weight decay. */
typedef struct {
    double lr, decay;
} cli_factors;

typedef struct {
    char *match, *kind; /* malloc'ed; NULL: any. Both must fit */
    cli_factors f;
} cli_group;

typedef struct {
    cli_group *groups; /* n, the first that fits counts */
    int n;
    char hash[33]; /* of the file's bytes; "" without a file */
} cli_groups;

/* {"groups": [{"match": GLOB, "kind": KIND, "lr": x, "weight_decay": y}, …]}: one of match and kind at least, factors
 * of 0 or more, 1 when absent. FH1_E_INPUT: any other key, an unknown kind, no group. */
fh1_status cli_groups_read(const char *path, cli_groups *out);
void cli_groups_free(cli_groups *g);
bool cli_group_fits(const cli_group *g, const char *name); /* by the name of a parameter */

/* The factors of each parameter of `params` (1 and 1 where no group fits). FH1_E_INPUT: a group that fits no parameter
 * with a gradient, or only ones that an earlier group has taken. `out` has params->n entries. */
fh1_status cli_groups_apply(const cli_groups *g, const fh1_grads *params, cli_factors *out);

/* transformers' Trainer decays everything but biases (dt_bias too) and norms, by their names: Falcon-Mamba's norm_f is
 * decayed, since no pattern of it fits that name. torch.optim.AdamW decays all. */
bool cli_decays_in_hf(const char *name);

/* Globs over names of parameters, for --train and --freeze: their separators are commas, or words of their own. */
typedef struct {
    const char *const *items;
    int n;
} cli_globs;

/* Is the parameter among those of `train` (none given: all) and not among those of `freeze`? */
bool cli_is_trained(const cli_globs *train, const cli_globs *freeze, const char *name);
/* FH1_E_INPUT: a glob that fits no name of `params`. */
fh1_status cli_globs_check(const char *option, const cli_globs *g, const fh1_grads *params);
