/* Judges gradients against the f64 backward pass.
 *
 * Truth is the backward pass of ref-f64 (docs/gradients.md says who proves that one). What is allowed is no table: an
 * honest pipeline of the judged contract is run a few times, each time with its taps and the derivatives on their way
 * back moved by one more rounding of the contract, and the spread of its gradients around the truth is the yardstick,
 * element by element: a sum that cancels (A_log, dt_bias, D) spreads more than one that does not. */
#pragma once

#include "golden/trace.h"
#include "oracle/engine.h"
#include "oracle/report.h"

/* Makes the reference engines; NULL without memory. */
typedef fh1_engine *(*gld_engine_maker)(const char *name, const fh1_profile *p, unsigned variants);
typedef fh1_engine *(*gld_faulty_maker)(const char *name, const fh1_profile *p, unsigned variants, fh1_fault f);

/* What gradients of one batch are held against. Read-only once made, so one serves several judgements. */
typedef struct {
    const fh1_model *model;
    const fh1_batch *batch;
    const fh1_profile *profile;
    unsigned variants;
    double divisor;   /* of the loss, as in fh1_backward */
    fh1_grads *grads; /* truth, F64, all parameters */
    double loss;
    int64_t n_labels;
    double **spread2; /* [grads->n], each by element: mean square distance of the honest pipeline from the truth */
    double loss_spread2;
} gld_grad_truth;

/* Computes it on the labels of `b`. FH1_E_INPUT: no labels, none that counts, a label that is predicted from padding
 * (gld_grad_check_labels), and what a backward pass refuses. `m` and `b` must outlive it. Freed by gld_grad_truth_free
 * in any case. */
fh1_status gld_grad_truth_new(const fh1_model *m, const fh1_batch *b, const fh1_profile *p, unsigned variants,
                              double divisor, gld_engine_maker make, gld_grad_truth *out);
void gld_grad_truth_free(gld_grad_truth *t);

/* FH1_E_INPUT names row and column of a label whose predecessor is padding: the library predicts it from what stands
 * there, and that prediction has a gradient. The first real token behind left padding must have the label -100. */
fh1_status gld_grad_check_labels(const fh1_batch *b, int64_t V);

/* What is judged. */
typedef struct {
    const char *subject;
    int64_t step;
    const fh1_tensor *grads;      /* [truth->grads->n], in backward order; data NULL: not there */
    const double *loss;           /* NULL: not there */
    fh1_dtype stored;             /* type that the loss is stored in */
    gld_faulty_maker make_faulty; /* explains the first divergence; NULL: no causes are looked for */
} gld_grad_judged;

enum { GLD_MOST_GRAD_SUSPECTS = 5 };

/* The first divergence in backward order; `param` -1: the loss. */
typedef struct {
    bool failed;
    int64_t param, n_passed; /* n_passed: PASS before and after it */
    fh1_tap_result result;
    fh1_suspect suspect[GLD_MOST_GRAD_SUSPECTS]; /* best first */
    int n_suspects;
} gld_grad_first;

/* One result per tensor to `report`, "loss" first; the caller ends the subject. `first` may be NULL. */
fh1_status gld_grad_judge(const gld_grad_truth *t, const gld_grad_judged *j, fh1_report *report, gld_grad_first *first);

/* Judges the gradients of a trace. FH1_E_INPUT: no gradients, gradients without labels or of a call on a filled cache.
 */
typedef struct {
    const fh1_model *model;
    const fh1_profile *profile;
    unsigned variants;
    const char *subject;
    gld_engine_maker make_engine;
    gld_faulty_maker make_faulty;
} gld_gradcheck_options;
fh1_status gld_gradcheck_trace(const gld_trace *t, const gld_gradcheck_options *o, fh1_report *report,
                               gld_grad_first *first);

/* Zeroed gradients of all parameters; the same list for every engine of `dtype`. */
fh1_status gld_grads_new(const fh1_model *m, fh1_dtype dtype, fh1_grads **out);

/* Where a wrong gradient of this parameter points to: "ssd_scan (dA_log)". */
const char *gld_grad_points_to(const char *param);
/* Says so behind the reason of a FAIL. */
void gld_grad_point(fh1_tap_result *r, const char *param);
/* Rank in backward order of the op that makes a tap among the parameters of such a model: the ordinal of the first
 * parameter whose gradient may be wrong when the backward pass of that op is. */
int64_t gld_grad_first_of(const fh1_grads *g, fh1_tap_id id, int64_t layer);
