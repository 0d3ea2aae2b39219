/* The parameters of a model that a training step moves, and their gradients.
 *
 * A parameter is a tensor that an engine reads: a weight by its name in the checkpoint, or a tensor of an attached
 * adapter by its key in adapter_model.safetensors. Order is that of a backward pass: lm_head, final_layernorm, then per
 * layer from the last one down, up, gate, pre_ff_layernorm, o, v, k, q, attn_layernorm (block S_A_M), out_proj, norm,
 * D, A_log, dt_bias, conv1d, in_proj, input_layernorm (Falcon-Mamba: out_proj, D, A_log, dt_proj, x_proj, conv1d,
 * in_proj, norm); embed_tokens last, tied or not; weight before bias, both before lora_A, lora_B and the bias of
 * lora_B.
 */
#pragma once

#include "oracle/model.h"

#define FH1_PARAM_NAME 160

typedef struct {
    char name[FH1_PARAM_NAME]; /* behind "grad." in a trace */
    fh1_tensor *value;         /* the view of the model that engines read; a trainer may exchange its data */
    fh1_tensor grad;           /* dense, in the shape of value; data NULL: frozen */
    int64_t layer;             /* -1: of the whole model */
    bool adapter;              /* of an adapter */
} fh1_param;

typedef struct fh1_grads {
    fh1_dtype dtype; /* F64 or F32: the compute type of the engine */
    int64_t n;
    fh1_param *params;           /* all parameters, frozen ones too, in backward order */
    int64_t *by_value;           /* ordinals, sorted by the address of `value` */
    const fh1_tensor *tied_head; /* the model's slot of a head that is the embedding, else NULL */
    const fh1_tensor *embed;     /* and that of the embedding */
    void *memory;                /* of all gradients, one block */
    size_t bytes;
} fh1_grads;

/* Every parameter of `m` with its adapters; gradients, all zero, for those that `wanted` takes (NULL: all). `m` must
 * stay where it is. The weights of a model with a tied head that was untied by an adapter are two parameters.
 * FH1_E_INPUT: DoRA, or two adapters on one module (their keys would be the same). FH1_E_INTERNAL without memory.
 * Freed by fh1_grads_free. */
fh1_status fh1_grads_new(fh1_model *m, fh1_dtype dtype, bool (*wanted)(void *user, const fh1_param *p), void *user,
                         fh1_grads **out);
void fh1_grads_free(fh1_grads *g);
void fh1_grads_zero(fh1_grads *g);

/* Where the gradient of the tensor at `value` (&layer->q_w, &lora->A …) is summed up, NULL: frozen, or no parameter.
 * Asked with the addresses of the model that the gradients were made for; the head of a tied model is its embedding. */
void *fh1_grad_of(const fh1_grads *g, const fh1_tensor *value);
/* By its name, -1 when there is none. */
int64_t fh1_grads_find(const fh1_grads *g, const char *name);
