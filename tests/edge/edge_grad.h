/* Gradients in the edge cases: batches, one backward pass of the judged engine, and its verdict. */
#pragma once

#include "golden/gradcheck.h"
#include "tests/edge/edge_mixer.h"

enum { EDGE_BATCH_TOKENS = 96 };

typedef struct {
    fh1_batch batch;
    int64_t ids[EDGE_BATCH_TOKENS], labels[EDGE_BATCH_TOKENS], mask[EDGE_BATCH_TOKENS], doc[EDGE_BATCH_TOKENS],
        pos[EDGE_BATCH_TOKENS];
} edge_batch;

/* The model of a spec; for ref-bf16 with the weights of a new model instead of a trained one's, whose outliers leave so
 * little of a bf16 gradient over a dozen labels that its error is luck, and no spread of eight runs bounds luck. */
fh1_status edge_grad_model(edge_run *r, const char *text, fh1_model *out);

/* B rows of T random ids of [lo, hi); each token's label is its id (the one before predicts it), every fifth ignored,
 * the first too. Neither mask nor documents. `name`: another text. */
void edge_batch_new(const edge_run *r, int64_t B, int64_t T, int64_t lo, int64_t hi, const char *name, edge_batch *b);
/* The first `left` columns of a row become padding with this id; labels there and of the first real token are ignored,
 * positions count real tokens. */
void edge_batch_pad(edge_batch *b, int64_t row, int64_t left, int64_t id);
/* A document begins in this column of a row; its first label, which another document would predict, is ignored. */
void edge_batch_cut(edge_batch *b, int64_t row, int64_t column);

/* Gradients of all parameters of the judged engine, freed by the caller; o->grads is set. */
fh1_status edge_backward(edge_run *r, fh1_model *m, const fh1_batch *b, fh1_backward *o);

/* What `fh1 gradcheck` asks of the judged engine on this batch: loss and every gradient (f64: by the complex step;
 * others: by the spread of their contract's honest pipeline), the adjoint identity, the same bits with activations kept
 * and with threads, sums that add. */
fh1_status edge_gradcheck(edge_run *r, fh1_model *m, const fh1_batch *b);
/* The same; on cuda and cuda-host, where a pass takes a fifth of a second, loss and gradients alone. */
fh1_status edge_gradcheck_once(edge_run *r, fh1_model *m, const fh1_batch *b);
/* One backward op alone, on what the pass of a whole model does not reach (cli/gradcheck.h). */
fh1_status edge_backward_op(edge_run *r, const fh1_model *m, const char *op);
/* <Jv, w> = <v, Jᵀw> with w on the logits of `b`, which needs no labels; spreads are those under `labelled`. */
fh1_status edge_adjoint(edge_run *r, fh1_model *m, const fh1_batch *b, const fh1_batch *labelled);

/* Elements whose bits differ. */
int64_t edge_bits_differ(const fh1_grads *a, const fh1_grads *b);
/* The largest absolute gradient of rows [first, first + n) of a parameter; NaN counts as infinite. */
double edge_largest_row(const fh1_grads *g, const fh1_tensor *value, int64_t first, int64_t n);
/* The parameter at this address; NULL: none. */
const fh1_param *edge_param(const fh1_grads *g, const fh1_tensor *value);
