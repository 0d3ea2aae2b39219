/* A model in memory: the config and a table of weight views by their Hugging Face name. Each view
 * points into a mapped file (or a buffer of a test); bf16 stays bf16. */
#pragma once

#include "oracle/config.h"
#include "oracle/tap.h"
#include "oracle/tensor.h"

typedef struct {
    char *name;
    fh1_tensor t;
} fh1_weight;

/* An adapter that is attached to a weight W [out, in], not merged into it (docs/numerics.md, "Adapters"):
 *   y = W·x + bias + s·(B·(A·x) + b)        LoRA; several on one weight add up
 *   y = f ⊙ (W·x + s·B·(A·x)) + bias         DoRA, f = m / ‖W + s·B·A‖ per output; only as the first on its weight
 * On the embedding table [V, D] x is a one at the token's id: A [r, V] gives its column, f and B are per channel. */
typedef struct fh1_lora {
    fh1_tensor A, B; /* [r, in], [out, r] */
    fh1_tensor bias; /* b [out], or data NULL */
    double scale;
    const double *f;       /* [out], NULL: LoRA */
    const double *f_terms; /* [out] Σ|V|·|s|·(|B|·|A|) / ‖V‖², V = W + s·B·A: how roundings of B·A reach f */
    struct fh1_lora *next; /* another one on the same weight */
} fh1_lora;

/* The weights of one layer, data == NULL where the config has none. Linear weights are [out, in]. Falcon-Mamba's norm
 * is input_layernorm, its channels are H. */
typedef struct {
    fh1_tensor input_layernorm, attn_layernorm, pre_ff_layernorm; /* [D] */
    fh1_tensor q_w, q_b, k_w, k_b, v_w, v_b, o_w, o_b;
    fh1_tensor A_log;          /* [H]; Falcon-Mamba [H, N] */
    fh1_tensor D, dt_bias;     /* [H] */
    fh1_tensor in_w, in_b;     /* [2d+2GN+H, D]; Falcon-Mamba [2 d_ssm, D] */
    fh1_tensor conv_w, conv_b; /* [c, 1, K], [c] */
    fh1_tensor x_w, dt_w;      /* Falcon-Mamba: [R+2N, d_ssm], [d_ssm, R] */
    fh1_tensor norm;           /* [d_ssm] */
    fh1_tensor out_w, out_b;   /* [D, d_ssm] */
    fh1_tensor gate_w, gate_b, up_w, up_b, down_w, down_b;
    fh1_lora
        *lora[FH1_TAP_LAYER]; /* by the tap of the product (fh1_tap_is_linear), dt_proj at FH1_TAP_DT; NULL: none */
} fh1_layer;

typedef struct {
    fh1_config config;
    fh1_tensor embed;           /* [V, D] */
    fh1_tensor final_layernorm; /* [D] */
    fh1_tensor lm_head;         /* [V, D]; the same view as embed when tied */
    fh1_layer *layers;          /* config.n_layers */
    fh1_lora *embed_lora, *head_lora;

    fh1_weight *weights; /* n_weights, sorted by name; views only */
    int64_t n_weights;
    void *owner; /* what keeps the memory alive; released by free_owner */
    void (*free_owner)(void *owner);
    char path[1024];   /* as given by the user, for messages and repro lines */
    char revision[80]; /* free text for reports: file hashes, seed; may be empty */
} fh1_model;

/* Resolve every name of the config in `weights`, check shapes and float types, set config.V from the
 * embedding tensor. A missing, extra or wrongly shaped tensor is FH1_E_INPUT naming it; a tied model
 * may store lm_head.weight too if its bytes are those of the embedding. Takes `weights` (malloc'ed
 * array with malloc'ed names) over in any case; sets the fields above `owner` and leaves owner,
 * free_owner, path and revision to the caller, also when it fails. */
fh1_status fh1_model_bind(fh1_model *m, const fh1_config *config, fh1_weight *weights, int64_t n);
/* A linear layer by the tap of its output (logits: the head, without a bias; FH1_TAP_DT: dt_proj of Falcon-Mamba, whose
 * bias is dt_bias and whose output goes on through softplus). w->data NULL: the model has none. */
typedef struct {
    fh1_tensor *w, *b; /* b NULL: it never has one */
    fh1_lora **lora;   /* the first one attached */
} fh1_linear;
fh1_linear fh1_model_linear(fh1_model *m, fh1_tap_id id, int64_t layer);
static inline const fh1_lora *fh1_lora_of(const fh1_model *m, fh1_tap_id id, int64_t layer)
{
    return id == FH1_TAP_LOGITS ? m->head_lora : m->layers[layer].lora[id];
}
/* What the engines read for a weight of this name, NULL when the model has none; a tied head has its own slot. */
fh1_tensor *fh1_model_slot(fh1_model *m, const char *name);
void fh1_model_free(fh1_model *m); /* releases tables and the owner; m itself is the caller's */

/* For each tensor name that `config` requires, in checkpoint order: visit(user, name, shape). Stops
 * at the first error. Used by bind, init and info. */
typedef fh1_status (*fh1_weight_visit)(void *user, const char *name, int rank, const int64_t *shape);
fh1_status fh1_config_weights(const fh1_config *c, fh1_weight_visit visit, void *user);
/* Whether tokens are multiplied with a weight of that name: it has two axes, and is no table of rates (Falcon-Mamba's
 * A_log [I,N]). The embedding counts. */
bool fh1_weight_is_matrix(const char *name, int rank);
