/* The checks of fh1 gradcheck on an engine: its gradients against the truth, and properties of the engine itself. */
#pragma once

#include "cli/options.h"
#include "golden/gradcheck.h"

typedef struct {
    int64_t seed, elements; /* per tensor, against the complex step */
} gradcheck_options;

/* ---- batches ---- */

enum { GRADCHECK_MOST_TOKENS = 4096 };

typedef struct {
    char name[24];
    fh1_batch batch;
    int64_t *memory;
} gradcheck_batch;

/* The seeded batches of a model: rows of one and three tokens, one chunk less and more a token, two chunks and five
 * tokens with ignored labels, padding on either side, packed documents. NULL past the last name. */
const char *gradcheck_batch_name(int i);
fh1_status gradcheck_batch_new(const fh1_config *c, uint64_t seed, int i, gradcheck_batch *out);
void gradcheck_batch_free(gradcheck_batch *b);

/* ---- an engine on a batch ---- */

typedef struct {
    fh1_model *m;
    const gld_grad_truth *truth; /* under the engine's contract */
    const gradcheck_options *o;
    const char *subject;
    gld_faulty_maker make_faulty; /* NULL: no causes are looked for */
    fh1_report *report;
} gradcheck_case;

/* All checks: gradients (f64: by the complex step; others: by the gauge), the adjoint identity, recomputation,
 * accumulation, threads. The caller ends the subject. */
fh1_status gradcheck_engine(const gradcheck_case *c, fh1_engine *e);

/* Gradients of the whole model that an exact engine computed, against the complex step: along one direction of all
 * parameters, along one of each tensor, at seeded elements and at the largest. */
fh1_status gradcheck_exact(const gradcheck_case *c, const fh1_grads *g, double loss);
/* <J v, w> = <v, Jt w> with w on the logits of the engine and J v by the complex step. */
fh1_status gradcheck_adjoint(const gradcheck_case *c, fh1_engine *e);

/* One backward op of an engine against the truth's, on what the pass of a whole model does not reach: fills verdict,
 * reason, margin and place of the worst output. `m`: for the angles of rope. NULL past the last name. */
const char *gradcheck_op_name(int i);
fh1_status gradcheck_op(int i, fh1_engine *e, fh1_engine *truth, const fh1_model *m, fh1_tap_result *result);
/* All of them, "backward.<op>". The caller ends the subject. */
fh1_status gradcheck_ops(const char *subject, fh1_engine *e, fh1_engine *truth, const fh1_model *m, fh1_report *report);

/* A result that is no tensor of the model: "backward.adjoint". */
fh1_status gradcheck_tell(const gradcheck_case *c, const char *name, int order, double err, double allowed,
                          const char *reason);
/* Every parameter's direction: numbers of the size of the parameter's own, seeded; malloc'ed. */
fh1_status gradcheck_direction(const fh1_param *p, uint64_t seed, const char *what, double **out);
