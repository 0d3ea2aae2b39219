/* Loss and gradients of a batch on the device, contract fp32 whatever the checkpoint's types: weights are widened
 * exactly. The forward pass keeps the input of every layer; on the way back each layer is computed again by the same
 * kernels, then differentiated. Gradients stay on the device until the end. */
#pragma once

#include "cuda/adapters.h"
#include "cuda/backward.cuh"
#include "cuda/call.h"
#include "cuda/tokens_upload.h"

namespace CU_NS
{

/* Buffers of the way back, [M, …] each; those of the forward pass are cu_work's. */
enum cu_train_part {
    CU_TRAIN_CHECKPOINT, /* inputs of all layers and of the final norm, [layers + 1, M, D] */
    CU_TRAIN_GRADS,      /* as fh1_grads lays them out */
    CU_TRAIN_EMBED_A,    /* [V, r] of an adapter of the lookup, whose A lies transposed */
    CU_TRAIN_DX,         /* by the residual stream [M, D] */
    CU_TRAIN_BRANCH,     /* by the output of the mixer, or the MLP [M, D] */
    CU_TRAIN_BRANCH_2,   /* by that of attention [M, D] */
    CU_TRAIN_DN,         /* by the normalised input [M, D] */
    CU_TRAIN_DACT,       /* [M, F] */
    CU_TRAIN_DCONTEXT,   /* [M, Hq·A] */
    CU_TRAIN_DQKV,       /* q | k | v of a row */
    CU_TRAIN_DGATED,     /* [M, d_ssm] */
    CU_TRAIN_DSSD,       /* [M, d_ssm] */
    CU_TRAIN_DCONV,      /* [M, c] */
    CU_TRAIN_DX_PROJ,    /* [M, R + 2N] */
    CU_TRAIN_DBC,        /* by B | C as the scan reads them [M, 2N] */
    CU_TRAIN_DLOW,       /* [M, R] */
    CU_TRAIN_DRAW,       /* by dt_proj's output [M, H] */
    CU_TRAIN_DDT,        /* [M, H] */
    CU_TRAIN_DPROJ,      /* [M, in_proj] */
    CU_TRAIN_SCRATCH,    /* of one kernel */
    CU_TRAIN_LOGITS,     /* of a chunk of tokens [n, V], derivatives in their place */
    CU_TRAIN_LOSS,       /* f64: one per token, then their sum */
    CU_TRAIN_LABEL,
    CU_TRAIN_PARTS
};

/* Kept between calls. Zeros to begin with. */
struct cu_train {
    cu_work work;
    cu_token_buffers tokens;
    cu_buffer inv_freq, part[CU_TRAIN_PARTS];
};
void cu_train_free(cu_train *t);

/* One pass, for the files train*.cu. */
struct cu_train_run {
    cu_train *t;
    const fh1_model *m;
    const fh1_config *c;
    const fh1_batch *batch;
    fh1_backward *o;
    const cu_weights *w;
    const cu_adapters *adapters;
    cu_call call; /* its weights: `view`, which begins at the layer at hand */
    cu_weights view;
    fh1_tokens tokens;
    bool deliver;
};

/* fh1_engine.backward with the weights on the device, f32. `deliver`: gradients are added to o->grads; otherwise they
 * stay in CU_TRAIN_GRADS, laid out as o->grads->memory would be, of this batch alone. */
fh1_status cu_train_backward(cu_train *t, cu_ctx *k, const cu_weights *w, const cu_adapters *adapters,
                             const fh1_model *m, const fh1_batch *b, fh1_backward *o, bool deliver);

/* train_layer.cu: CU_X to CU_X; and dx of the stream from behind the layer to before it, with CU_X at the layer's
 * input on entry. */
fh1_status cu_train_layer_fwd(cu_train_run *r, int64_t layer);
fh1_status cu_train_layer_bwd(cu_train_run *r, int64_t layer);
/* train_mixer.cu: by the branch's output to dn: assigned here, added to by attention. train_selective.cu: what is
 * Falcon-Mamba's own of that, CU_TRAIN_DSSD to CU_TRAIN_DCONV. */
fh1_status cu_train_mixer_bwd(cu_train_run *r, int64_t layer);
fh1_status cu_train_selective_bwd(cu_train_run *r, int64_t layer);
fh1_status cu_train_step_sizes_bwd(cu_train_run *r, const cu_layer *l, const fh1_layer *p);
/* train_head.cu: loss, and CU_TRAIN_DX behind the last layer, from CU_N, the final norm. */
fh1_status cu_train_head_bwd(cu_train_run *r);

/* A part with room for n floats; where it is; and where the gradient of a parameter is summed up, NULL: frozen. */
fh1_status cu_train_need(cu_train_run *r, cu_train_part p, int64_t n);
static inline float *cu_train_at(const cu_train_run *r, cu_train_part p)
{
    return static_cast<float *>(r->t->part[p].p);
}
static inline float *cu_train_f32(const cu_train_run *r, cu_part p)
{
    return static_cast<float *>(cu_part_of(&r->call, p));
}
float *cu_train_grad(const cu_train_run *r, const fh1_tensor *value);
/* Scratch of one kernel, NULL where bytes is 0. */
fh1_status cu_train_scratch(cu_train_run *r, size_t bytes, float **out);

/* The product behind tap `id`, its adapter included: rows of x times alpha came in, dy goes back. w: [N, K] on the
 * device. dx assigned, or added to. */
struct cu_train_product {
    fh1_tap_id id;
    int64_t layer;
    int rows;
    const float *x;
    int64_t ldx;
    double alpha;
    const float *w;
    const float *dy;
    int64_t ldy;
    bool add;
    float *dx;
    int64_t lddx;
};
fh1_status cu_train_linear_bwd(cu_train_run *r, const cu_train_product *p);
fh1_status cu_train_norm_bwd(cu_train_run *r, const float *x, const float *w, const fh1_tensor *value, const float *dy,
                             bool add, float *dx);
fh1_status cu_train_norm_fwd(cu_train_run *r, void *x, const float *w);

} // namespace CU_NS
