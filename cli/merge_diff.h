/* What distinguishes a merged model from its base: which tensors, by how much, and of what rank the difference is. */
#pragma once

#include "convert/checkpoint.h"

/* A table on stdout, or JSON lines. Quantised models are decoded. */
fh1_status cli_merge_diff(const char *base, const char *merged, bool json);

typedef struct {
    int64_t n_changed, n; /* elements */
    double rms, rms_base, max;
    int64_t rank; /* singular values above what rounding makes; -1: not a matrix, or unchanged */
    bool more;    /* the rank is at least that: all that was looked for */
    double share; /* of the squared difference, that those singular values hold */
} cli_difference;

/* Of tensor t of `a` and u of `b`, which have the same shape. */
fh1_status cli_difference_of(cvt_ckpt *a, int64_t t, cvt_ckpt *b, int64_t u, cli_difference *out);
