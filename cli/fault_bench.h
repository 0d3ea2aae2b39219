/* What the rows of the fault matrix share: models, inputs, engines. Internal to cli/fault_*.c. */
#pragma once

#include "cli/fault_matrix.h"
#include "golden/trace.h"

enum { FAULT_MOST_MODELS = 32, FAULT_MOST_CASES = 128, FAULT_LAW_MODELS = 3 };

typedef struct {
    const fh1_model *m;
    gld_fault_input inputs;
    gld_trace in, honest; /* recorded by the engine without a fault */
} fault_setting;

struct fault_bench {
    const char *folder;
    bool bf16, cuda;
    struct {
        char name[64];
        fh1_model m;
    } models[FAULT_MOST_MODELS];
    int n_models;
    fault_setting settings[FAULT_MOST_CASES];
    int n_settings;
    fh1_model law_model[2][FAULT_LAW_MODELS]; /* of each family */
    bool has_law_model[2][FAULT_LAW_MODELS];
    fh1_engine *truth;
    struct fault_gradients *gradients; /* cli/fault_gradient.c */
};

/* What the fault's row of that family runs: ref-f32, or where its case is one of the bf16 pipeline ref-bf16. Freed by
 * its free(). */
fh1_status fault_engine_of(const fault_bench *b, fh1_fault f, fh1_family family, fh1_engine **out);
/* The model and inputs of a fault's case, with what that engine records without a fault. */
fh1_status fault_setting_of(fault_bench *b, fh1_fault f, fh1_family family, const fault_setting **out);

typedef struct {
    bool failed;
    int64_t step, order; /* of the first divergence */
    fh1_tap_id tap;
    int64_t layer;
    int rank; /* of `f` among the suspects */
    char suspects[320];
} fault_verdict;

/* The judge on a recorded trace under its contract; f NONE: no causes are looked for. */
fh1_status fault_judge(const gld_trace *t, const fh1_model *m, fh1_fault f, fault_verdict *v);
/* "step 1 self_attn.q_rope" (layer 0) or "step 1 layers.2.self_attn.q_rope". */
void fault_place(fh1_family family, int64_t step, fh1_tap_id tap, int64_t layer, char *buf, size_t size);

/* A law on one of the three models of a family; FH1_SKIP where an engine cannot take it. */
fh1_status fault_law_run(fault_bench *b, const gld_law *law, fh1_family family, int model, fh1_engine *e,
                         gld_law_result *r);
/* Op cases of one regime: how many ran and how many were red; `op` NULL: all ops, else those the fault touches in
 * models of `family`. `all`: do not stop at the first red one; `first` receives the line and reason of it. */
fh1_status fault_regimes_run(fault_bench *b, const char *op, fh1_family family, bool all, fh1_engine *e, fault_row *row,
                             char *first, size_t size);
/* The family's scan over 50 100 tokens. */
fh1_status fault_horizon_run(fault_bench *b, fh1_family family, fh1_engine *e, fh1_verdict *v);

/* ---- gradients ---- */

/* The judge of gradients on models of `family` and batches, in a fixed order, until one is red; if none is, the
 * backward ops alone. */
fh1_status fault_gradient_run(fault_bench *b, fh1_fault f, fh1_family family, const fh1_fault_info *info,
                              fault_row *row);
/* An engine on all of them, and on all backward ops; `first` receives what rejects it. */
fh1_status fault_gradient_honest(fault_bench *b, fh1_engine *e, fault_row *row, char *first, size_t size);
void fault_gradients_free(struct fault_gradients *g);
