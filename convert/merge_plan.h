/* What is done to each tensor of the base, in order. For convert/merge*.c. */
#pragma once

#include "convert/merge.h"

typedef enum {
    CVT_MERGE_REPLACE, /* by t */
    CVT_MERGE_ROWS,    /* some rows, by those of tokens */
    CVT_MERGE_DELTA,   /* + weight·s·B·A, then DoRA */
    CVT_MERGE_BIAS     /* + weight·s·bias */
} cvt_merge_kind;

typedef struct {
    cvt_merge_kind kind;
    int part; /* index of the adapter */
    bool copy;
    double weight;
    fh1_tensor t;
    const cvt_token_rows *tokens;
    const cvt_lora *lora;
    double *norms; /* DoRA on an embedding: the norm of each column, [D], owned */
} cvt_merge_op;

typedef struct {
    char *name;     /* of the merged tensor */
    int64_t source; /* its base, index in the checkpoint below */
    fh1_dtype dtype;
    int64_t rows, cols;
    cvt_merge_op *ops;
    int n_ops;
} cvt_merge_target;

typedef struct {
    cvt_ckpt *base;
    const cvt_merge_part *parts;
    int n_parts;
    const cvt_merge_options *o;
    const char *embed; /* the embedding's tensor */
    bool tied, untie;  /* the base is; the merged model is no longer */
    cvt_merge_target *targets;
    int64_t n_targets; /* sorted by name */
} cvt_merge_plan;

fh1_status cvt_merge_plan_make(cvt_merge_plan *p);
void cvt_merge_plan_free(cvt_merge_plan *p);
cvt_merge_target *cvt_merge_plan_find(const cvt_merge_plan *p, const char *tensor); /* NULL: as it is in the base */
/* The same, made if it is not there; pointers to other targets move then. */
fh1_status cvt_merge_plan_target(cvt_merge_plan *p, const char *tensor, cvt_merge_target **out);
/* Steps of the plan, in merge_tie.c: what happens to the two ends of a tied base. */
fh1_status cvt_merge_plan_tie(cvt_merge_plan *p);
void cvt_merge_warn(const cvt_merge_plan *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Turns n rows of the base, from `first` on, into those of the merged tensor, in place. FH1_E_INPUT where a finite row
 * becomes infinite. Any thread. */
fh1_status cvt_merge_rows(const cvt_merge_target *t, cvt_rounding rounding, int64_t first, int64_t n, void *data);
/* The norms of the columns that DoRA on an embedding needs before the first row can be computed. */
fh1_status cvt_merge_column_norms(cvt_ckpt *base, cvt_merge_target *t, cvt_rounding rounding);
/* Calls tell for each adapted matrix. */
fh1_status cvt_merge_plan_tell(const cvt_merge_plan *p);
/* RMS of s·B·A, without forming it: |BA|² = Σ (A·Aᵀ)∘(Bᵀ·B). */
fh1_status cvt_merge_delta_rms(const cvt_lora *l, double *out);
