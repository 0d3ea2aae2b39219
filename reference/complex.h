/* The complex truth: derivatives of the forward pass itself, by no formula of a backward pass and by no difference.
 *
 * The templates of the reference are compiled once more over complex f64 (REF_BITS 128, reference/real.h). A number is
 * then x + i·h·v with h = FH1_COMPLEX_STEP: v is the direction that it moves in, and every function f of such numbers
 * ends with Im f = h · (the derivative of f in that direction), off by h² = 1e-200 and by the rounding of the sums
 * (Squire and Trapp, SIAM Review 40, 1998: the complex step). Decisions (max, clamp, softplus' branch at 20) are made
 * by real parts, so at a corner the derivative is that of the branch which the forward pass takes. A derivative
 * below 1e-208 underflows to 0, and a value of exactly 0 may read 1e-200.
 *
 * Taps of such an engine, its caches and the arrays of its ops are of FH1_C128: two f64, real and imaginary. */
#pragma once

#include "oracle/engine.h"

#define FH1_COMPLEX_STEP 1e-100

/* The engine "ref-c128", not one of those that users name: ops and forward of ref-f64 over complex numbers. Weights are
 * of any float type, or of FH1_C128. ops->cross_entropy assigns two f64, ops->sample is NULL; no gauges, no backward.
 * `variants` as for ref_engine_new. NULL without memory. Freed by e->free. Its forward refuses (FH1_E_INTERNAL) a sink
 * that asks for gauges or for the roundings of a contract: a rounding has no derivative. */
fh1_engine *ref_complex_engine_new(unsigned variants);

/* A model whose parameters may move, and a function of them to differentiate. One thread at a time uses it; several of
 * one model are independent of each other. */
typedef struct ref_complex_model ref_complex_model;

/* Over the weights and adapters of `m`, which is neither copied nor changed and must outlive it: only tensors that have
 * a direction are complex copies (16 bytes an element, kept until free). `pad` is the row of the embedding that lookups
 * hold constant, as padding_idx does (-1: none); a tied head moves with that row all the same. `variants` as above.
 * FH1_E_INPUT as fh1_grads_new (DoRA, two adapters on one module), FH1_E_INTERNAL without memory. */
fh1_status ref_complex_model_new(fh1_model *m, unsigned variants, int64_t pad, ref_complex_model **out);
void ref_complex_model_free(ref_complex_model *x);

/* What is differentiated, at most one of the two left out:
 *   loss: cross entropy of the labels over an empty cache, the sum divided by `divisor` (0: by the number of labels
 * that count; fh1_backward.divisor), left out where the batch has no labels Σ w·logits with w [B,T,V], NULL: left out.
 * Rows of padding are not read. `batch` and `w` are borrowed until the next call. Runs the model once, for the residual
 * stream that an evaluation begins from where no earlier layer moves: [layers, tokens, D] complex numbers. Errors of
 * the forward pass. */
fh1_status ref_complex_function(ref_complex_model *x, const fh1_batch *batch, double divisor, const double *w);

/* The direction of the parameter at `value`, an address of `m` as in fh1_param.value; it stays until it is set again.
 * v [elements] dense, NULL: none. FH1_E_INTERNAL: no such parameter, or no memory. */
fh1_status ref_complex_direct(ref_complex_model *x, const fh1_tensor *value, const double *v);
/* The same for one element, by its row-major ordinal; the other elements keep theirs. */
fh1_status ref_complex_direct_element(ref_complex_model *x, const fh1_tensor *value, int64_t i, double v);
void ref_complex_clear(ref_complex_model *x); /* no direction anywhere */

/* The function and its derivative in the direction that is set; layers below the first that moves are not run again. A
 * loss without labels that count is NaN (mean) or 0. Errors of the forward pass. */
fh1_status ref_complex_value(ref_complex_model *x, double *value, double *derivative);
