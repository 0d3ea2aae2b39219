/* A piece of a merged tensor and the operations on it. For convert/merge_*.c. */
#pragma once

#include "convert/merge_plan.h"

enum { CVT_BLOCK_ROWS = 64 };

/* Rows [first, first + rows), columns [from, from + cols). */
typedef struct {
    const cvt_merge_target *t;
    cvt_rounding rounding;
    int64_t first, rows, from, cols;
    double *x;        /* [rows, cols], exact rounding */
    float *f, *d;     /* [rows, cols]: value and ΔW, the others */
    double *L, *R;    /* [rows, r], [r, a panel] */
    float *L32, *R32; /* the same in f32 */
} cvt_block;

/* Columns of a block at most: DoRA takes the norm of whole rows; all else goes by panels, which stay in the cache. */
int64_t cvt_block_cols(const cvt_merge_target *t);
bool cvt_block_new(cvt_block *b, const cvt_merge_target *t, cvt_rounding rounding); /* false without memory */
void cvt_block_free(cvt_block *b);

/* `data` holds the tensor's rows from b->first on. */
void cvt_block_read(cvt_block *b, const char *data);
/* All operations up to `last`; of that one DoRA is left out when its norms are still to be found. */
void cvt_block_run(cvt_block *b, int last, bool without_dora);
/* The first row that overflowed, -1: none. */
int64_t cvt_block_write(const cvt_block *b, char *data);
