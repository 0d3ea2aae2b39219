/* Backward passes behind an engine: op by op, and the whole model. Formulas stand at the functions of reference/ of the
 * same names (*_bwd), the truth that judges them at docs/gradients.md. */
#pragma once

#include "oracle/batch.h"
#include "oracle/grads.h"
#include "oracle/tap.h"
#include "oracle/tensor.h"

struct fh1_engine;
struct fh1_adamw;

/* The transposed Jacobians of the ops of fh1_ops, on dense arrays in the engine's compute type, weights as stored.
 * d<name> is the derivative of the loss by <name>. Gradients of activations are assigned, those of parameters are
 * added to what is there; both may be NULL: not wanted. Inputs are those of the forward op, before it ran (window and
 * state as they came in). Sums are in an order of their own that depends on nothing but the shape: two runs give the
 * same bits whatever the number of threads. Nothing is rounded but by the arithmetic. */
typedef struct fh1_bwd_ops {
    /* dtable[V,D] += dy at the rows of the ids; the row `pad` gets nothing (padding_idx; -1: none) */
    fh1_status (*embed)(struct fh1_engine *e, int64_t M, const int64_t *ids, int64_t V, int64_t D, int64_t pad,
                        const void *dy, void *dtable);
    fh1_status (*rmsnorm)(struct fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps,
                          const void *dy, void *dx, void *dw);
    /* y = x·Wᵀ + b: dx = dy·W, dw[n,k] += dyᵀ·x, db[n] += Σ dy */
    fh1_status (*linear)(struct fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const void *dy, void *dx,
                         void *dw, void *db);
    /* dwindow_out [c,K-1]: by the window after the call, NULL: 0; dwindow: by the one before */
    fh1_status (*conv1d)(struct fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                         const fh1_tensor *b, const int64_t *doc, int64_t window_doc, const void *window,
                         const void *dy, const void *dwindow_out, void *dx, void *dw, void *db, void *dwindow);
    /* dt as the forward op gives it is not needed; dbias[H] += Σ draw */
    fh1_status (*dt_softplus)(struct fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias,
                              double lo, double hi, const void *ddt, void *draw, void *dbias);
    /* dstate_out [H,P,N]: by the state after the call, NULL: 0; dstate: by the one before */
    fh1_status (*ssd_scan)(struct fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                           const void *B, const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                           const int64_t *doc, int64_t state_doc, const void *state, const void *dy,
                           const void *dstate_out, void *dx, void *dB, void *dC, void *ddt, void *dA_log, void *dD,
                           void *dstate);
    /* the same for fh1_ops.selective_scan; dB, dC [T,N], dA_log, dstate [I,N] */
    fh1_status (*selective_scan)(struct fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                 const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                 const int64_t *doc, int64_t state_doc, const void *state, const void *dy,
                                 const void *dstate_out, void *dx, void *dB, void *dC, void *ddt, void *dA_log,
                                 void *dD, void *dstate);
    fh1_status (*gated_norm)(struct fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                             const fh1_tensor *w, double eps, bool norm_before_gate, const void *dout, void *dy,
                             void *dz, void *dw);
    /* dx[T,heads,A]: by the rotated vectors on entry, by the unrotated ones after, in place */
    fh1_status (*rope)(struct fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                       int64_t seq_len, void *dx);
    /* dq[T,Hq,A], dk and dv [Hkv,S,A], the past ones included */
    fh1_status (*attention)(struct fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A,
                            const void *q, const void *k, const void *v, const int64_t *first, const void *dout,
                            void *dq, void *dk, void *dv);
    fh1_status (*swiglu)(struct fh1_engine *e, int64_t M, int64_t F, const void *gate, double m_gate, const void *up,
                         const void *dact, void *dgate, void *dup);
    /* x' = x + a·m_a + b·m_b: da = dx'·m_a, db = dx'·m_b (NULL: not wanted); that by x is dx' itself */
    fh1_status (*residual)(struct fh1_engine *e, int64_t n, const void *dx, double m_a, void *da, double m_b, void *db);
    fh1_status (*lm_head)(struct fh1_engine *e, int64_t M, const void *h, const fh1_tensor *w, double m_lm,
                          const void *dlogits, void *dh, void *dw);
    /* loss = Σ over labels != -100 / divisor; divisor 0: their number (mean), 1: the sum. dlogits[M,V] = that by the
     * logits, exactly 0 in ignored rows; may be `logits`. No label that counts: loss NaN (mean) or 0, dlogits 0. */
    fh1_status (*cross_entropy)(struct fh1_engine *e, int64_t M, int64_t V, const void *logits, const int64_t *labels,
                                double divisor, double *loss, void *dlogits);
    /* One step of AdamW (reference/adamw.h), w, m, v, g of n elements in the engine's compute type. */
    fh1_status (*adamw)(struct fh1_engine *e, int64_t n, const struct fh1_adamw *o, const void *g, void *w, void *m,
                        void *v);
    /* Σ g² in f64 */
    fh1_status (*sum_of_squares)(struct fh1_engine *e, int64_t n, const void *g, double *sum);
} fh1_bwd_ops;

/* AdamW with decoupled weight decay, torch.optim.AdamW's order of operations:
 *   w = w·(1 - lr·decay);  m = m + (1 - beta1)·(s·g - m);  v = beta2·v + (1 - beta2)·(s·g)²
 *   w = w - lr/(1 - beta1^t) · m / (√v / √(1 - beta2^t) + eps)
 * with s = grad_scale, what clipping leaves of the gradient. */
typedef struct fh1_adamw {
    double lr, beta1, beta2, eps, decay, grad_scale;
    int64_t t; /* this step, from 1 */
} fh1_adamw;

/* One forward and backward pass of the whole model over a batch on an empty cache. */
typedef struct fh1_backward {
    fh1_grads *grads; /* summed up: += d loss */
    /* The loss: cross entropy of batch->labels (stored unshifted; a token predicts the label of its row's next column),
     * its sum divided by `divisor`; 0: by the number of labels that count. Ignored where dlogits is given. */
    double divisor;
    /* Instead of a loss: the derivative by the logits, [B, T, V] dense in the engine's compute type. Rows of padding
     * are not read. */
    const void *dlogits;
    bool keep; /* the activations of all layers are kept; otherwise each layer's input is, and the layer is computed
                  again when its turn comes. The same bits either way. */
    /* Both optional, for emulated pipelines: the taps of the forward pass, which may be overwritten, and the
     * derivatives on their way back: d [M, …] by a tap, before the op in front of it sees it. A layer that is computed
     * again shows its taps again: `sink` must do the same to them. */
    const fh1_tap_sink *sink;
    fh1_status (*flow)(void *user, fh1_tap_id id, int64_t layer, const fh1_tensor *d);
    void *flow_user;
    /* Out: */
    double loss;      /* NaN when no label counts and the mean is asked for, or with dlogits */
    int64_t n_labels; /* that counted */
    size_t peak;      /* bytes of activations and checkpoints at most */
} fh1_backward;

/* Assigns the loss and adds the gradients; FH1_E_INPUT: batch without labels and without dlogits, a batch that
 * fh1_tokens_pack refuses, an adapter that has no backward. Gradients are unusable after an error. */
typedef fh1_status (*fh1_backward_fn)(struct fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_backward *o);
