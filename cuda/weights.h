/* A model's weights on the device. Matrices are in the storage type of the contract; parameters that enter sums as they
 * are (norms, biases, conv taps, A, D, dt_bias) are f32. Matrices that read the same input lie behind one another, so
 * that one product can make all their outputs. */
#pragma once

#include "cuda/oracle.h"

namespace CU_NS
{

struct cu_layer {
    const float *input_layernorm, *attn_layernorm, *pre_ff_layernorm; /* [D]; NULL: the block has none */
    const void *in_qkv;           /* [in_proj + (Hq + 2 Hkv)·A, D]: in_proj | q | k | v */
    const float *in_qkv_b;        /* their biases, zeros where one has none; NULL: none has any */
    const float *conv_w, *conv_b; /* [c, K]; [c] or NULL */
    const void *x_proj, *dt_proj; /* Falcon-Mamba: [R + 2N, d_ssm], [d_ssm, R] */
    const float *dt_bias, *A, *D; /* [H]; A = -exp(A_log), computed in f64, Falcon-Mamba [H, N] */
    const float *norm;            /* [d_ssm] or NULL */
    const void *out, *o;          /* [D, d_ssm], [D, Hq·A] */
    const float *out_b, *o_b;     /* [D] or NULL */
    const void *gate_up;          /* [2 F, D]: gate | up */
    const float *gate_up_b;       /* as in_qkv_b */
    const void *down;             /* [D, F] */
    const float *down_b;
};

struct cu_weights {
    cu_type type;
    const fh1_config *config; /* the model's; borrowed */
    const void *embed;        /* [V, D] */
    const void *lm_head;      /* [V, D]; `embed` itself where tied */
    const float *final_layernorm;
    const double *inv_freq; /* [A/2] where they do not depend on the call, else NULL (dynamic, longrope) */
    double rope_scale;
    cu_layer *layers; /* [n_layers] on the host */
    size_t bytes;     /* on the device */
    void *owner;
};

/* The storage type of a contract for this model. FH1_E_INPUT: a bf16 contract over matrices that are not all bf16, an
 * adapter (merge it first), a profile that this engine does not have. profile NULL: decided by the checkpoint. */
fh1_status cu_contract(const fh1_model *m, const fh1_profile *profile, const fh1_profile **out, cu_type *type);

/* What cu_weights_load will take on the device. */
size_t cu_weights_bytes(const fh1_model *m, cu_type type);

struct cu_load_options {
    void (*tell)(void *user, size_t done, size_t total); /* after every piece, bytes on the device; may be NULL */
    void *user;
    size_t staging; /* bytes of each pinned buffer; 0: 64 MiB, or the largest tensor where that is less */
};

/* Copies, widening exactly where the contract is f32, through two pinned buffers, so that reading the file and the copy
 * overlap. NaN weights and infinities are taken as they are: the judge names them. Freed by cu_weights_free, nothing to
 * free after a failure. F64 weights, which no released checkpoint has, round once to f32. */
fh1_status cu_weights_load(const fh1_model *m, cu_type type, cudaStream_t stream, cu_weights *out,
                           const cu_load_options *options = nullptr);
void cu_weights_free(cu_weights *w);

} // namespace CU_NS
