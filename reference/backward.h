/* The working set of one backward pass of the whole model. Shared by the files backward*_tmpl.c.
 *
 * The forward pass leaves the input of each layer (the checkpoints) and the output of the final norm. Going back, a
 * layer is computed again from its checkpoint, its taps are caught, and the ops are walked in reverse on them: what an
 * op read in the forward pass is what its backward pass reads, bit for bit, roundings of the profile included.
 * Gradients themselves are not rounded to anything: a rounding point has the derivative 1. */
#pragma once

#include "reference/call.h"

/* What a layer leaves for its backward pass, by tap; [M, …] each. NULL where nobody reads it. */
typedef struct {
    real *tap[FH1_TAP_LAYER];
    real *memory;
} REF(ref_acts);

typedef struct {
    REF(ref_call) k; /* engine, model, profile, tokens; its buffers are not used */
    const fh1_batch *batch;
    fh1_backward *o;
    real *checkpoint;     /* [n_layers + 1, M, D] */
    real *h;              /* final norm, [M, D] */
    REF(ref_acts) * acts; /* one layer, or with o->keep each */
    int64_t first;        /* layer that is computed again, -1: the forward pass */
    real *cos_sin;        /* [2, M, A/2] */

    real *dx;     /* by the residual stream, [M, D]; what stands behind the layer at hand, then before it */
    real *branch; /* by the output of a branch, [M, D] */
    real *dn;     /* by the output of a norm, [M, D] */
    real *scaled; /* input of a projection, [M, D]: the normalised stream times its multiplier */
    real *dscaled;
    real *memory;
    size_t bytes, peak; /* allocated now, and at most */
} REF(ref_bwd);

/* An array of n elements that counts in `peak`; FH1_E_INTERNAL without memory. Given back with its n. */
fh1_status REF(ref_bwd_new)(REF(ref_bwd) * b, int64_t n, real **out);
void REF(ref_bwd_delete)(REF(ref_bwd) * b, int64_t n, real *p);

static inline const REF(ref_acts) * REF(ref_bwd_acts)(const REF(ref_bwd) * b, int64_t layer)
{
    return &b->acts[b->o->keep ? layer : 0];
}

/* Backward of y = x·Wᵀ + b and of its adapter, for the product with the tap `id`: parameters' gradients are added,
 * dx [rows, in] assigned, with `add` added to. dy is shown to o->flow first. */
fh1_status REF(ref_bwd_linear)(REF(ref_bwd) * b, fh1_tap_id id, int64_t layer, int64_t rows, const real *x, real *dy,
                               bool add, real *dx);
/* The same without showing dy: for a product whose output is no tap (FH1_TAP_DT: dt_proj, whose bias stands in
 * dt_softplus). */
fh1_status REF(ref_bwd_product)(REF(ref_bwd) * b, fh1_tap_id id, int64_t layer, int64_t rows, const real *x,
                                const real *dy, bool add, real *dx);

/* Through a norm into the stream, which also passes by it: dx += J(norm)ᵀ·dn. x is what the norm read. */
fh1_status REF(ref_bwd_norm)(REF(ref_bwd) * b, fh1_tap_id id, int64_t layer, const real *x, const fh1_tensor *w);

/* Documents of the row that begins at this packed token, NULL where the mixer ignores them. */
const int64_t *REF(ref_bwd_documents)(const REF(ref_bwd) * b, int64_t begin);
/* The conv of one row of n tokens from `begin` on: proj as the conv read it, dconv [M,c], dproj assigned at the conv's
 * columns. window: room for [c,K-1] twice. u: the multipliers that stand before the conv. */
fh1_status REF(ref_bwd_conv_row)(REF(ref_bwd) * b, int64_t layer, int64_t row, const real u[5], const real *proj,
                                 const real *dconv, real *window, real *dproj);

/* Shows d, by the tap, to o->flow. */
fh1_status REF(ref_bwd_flow)(const REF(ref_bwd) * b, fh1_tap_id id, int64_t layer, int64_t rows, real *d);

/* scaled = R(n·m), the input of the projections that read it. */
void REF(ref_bwd_scale)(REF(ref_bwd) * b, const real *n, double m);

/* Loss, gradient of the head, b->dx = by the output of the last layer. */
fh1_status REF(ref_bwd_head)(REF(ref_bwd) * b);
/* b->dx by the output of the layer becomes that by its input; the layer's activations stand in its acts. */
fh1_status REF(ref_bwd_layer)(REF(ref_bwd) * b, int64_t layer);
/* Both branches take b->branch, by their output before the out multiplier, and add to b->dn. */
fh1_status REF(ref_bwd_attention)(REF(ref_bwd) * b, int64_t layer);
fh1_status REF(ref_bwd_mixer)(REF(ref_bwd) * b, int64_t layer);
/* A layer of Falcon-Mamba, as ref_bwd_layer. */
fh1_status REF(ref_bwd_mamba_layer)(REF(ref_bwd) * b, int64_t layer);

/* fh1_engine.backward */
fh1_status REF(ref_backward)(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_backward *o);
