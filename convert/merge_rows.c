/* Rows of a merged tensor, block by block on all threads; and the norms that must be known before the first row. */
#include "convert/merge_block.h"
#include "oracle/thread.h"

#include "oracle/reached.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    const cvt_merge_target *t;
    cvt_rounding rounding;
    int64_t first, n;
    char *data;
    struct worker {
        cvt_block b; /* made at the thread's first piece */
        bool failed;
        int64_t bad_row; /* the first one that overflowed, -1 */
    } * workers;         /* one per thread */
} job;

static void some_rows(void *ctx, int64_t begin, int64_t end, int thread)
{
    job *j = ctx;
    struct worker *w = &j->workers[thread];
    cvt_block *b = &w->b;
    if (!b->t) w->failed = !cvt_block_new(b, j->t, j->rounding);
    if (w->failed) return;
    for (int64_t at = begin; at < end; at += CVT_BLOCK_ROWS) {
        char *data = j->data + (size_t)(at * j->t->cols) * ((size_t)fh1_dtype_bits(j->t->dtype) / 8);
        b->first = j->first + at;
        b->rows = end - at < CVT_BLOCK_ROWS ? end - at : CVT_BLOCK_ROWS;
        for (b->from = 0; b->from < j->t->cols; b->from += b->cols) {
            int64_t left = j->t->cols - b->from;
            b->cols = left < cvt_block_cols(j->t) ? left : cvt_block_cols(j->t);
            FH1_REACHED(b->rows == CVT_BLOCK_ROWS);
            FH1_REACHED(b->rows < CVT_BLOCK_ROWS);
            FH1_REACHED(b->from > 0); /* rows in several pieces */
            cvt_block_read(b, data);
            cvt_block_run(b, j->t->n_ops - 1, false);
            int64_t bad = cvt_block_write(b, data);
            if (bad >= 0 && (w->bad_row < 0 || bad < w->bad_row)) w->bad_row = bad;
        }
    }
}

static fh1_status overflow(const cvt_merge_target *t, int64_t row)
{
    fh1_status s = FH1_BAD("the merged tensor is not finite in %s where the base is", fh1_dtype_name(t->dtype));
    return fh1_hint(fh1_where(s, "%s, row %lld", t->name, (long long)row),
                    "the adapter does not fit this base, or the type is too narrow: convert the base to bf16 or f32");
}

fh1_status cvt_merge_rows(const cvt_merge_target *t, cvt_rounding rounding, int64_t first, int64_t n, void *data)
{
    int threads = fh1_threads();
    job j = {.t = t, .rounding = rounding, .first = first, .n = n, .data = data};
    int64_t bad = -1;
    bool failed = false;
    if (n <= 0 || t->cols == 0) return NULL;
    j.workers = calloc((size_t)threads, sizeof *j.workers);
    if (!j.workers) return fh1_no_memory((size_t)threads * sizeof *j.workers, "a merge");
    for (int i = 0; i < threads; i++) j.workers[i].bad_row = -1;
    fh1_parallel_for(n, CVT_BLOCK_ROWS, some_rows, &j);
    for (int i = 0; i < threads; i++) {
        const struct worker *w = &j.workers[i];
        if (w->bad_row >= 0 && (bad < 0 || w->bad_row < bad)) bad = w->bad_row;
        failed |= w->failed;
        cvt_block_free(&j.workers[i].b);
    }
    free(j.workers);
    if (failed) return fh1_no_memory((size_t)cvt_block_cols(t) * CVT_BLOCK_ROWS * sizeof(double), "a merge");
    return bad >= 0 ? overflow(t, bad) : NULL;
}

/* ---- norms ---- */

/* Adds the squares of a block, row by row; in f32 where the chain is, as PyTorch does across rows. */
static void add_squares(const cvt_block *b, double *sums)
{
    for (int64_t i = 0; i < b->rows; i++)
        for (int64_t k = 0; k < b->cols; k++) {
            double *sum = &sums[b->from + k];
            if (b->x) *sum += b->x[i * b->cols + k] * b->x[i * b->cols + k];
            else *sum = (double)((float)*sum + b->f[i * b->cols + k] * b->f[i * b->cols + k]);
        }
}

static fh1_status sum_squares(cvt_ckpt *base, const cvt_merge_target *t, int op, cvt_block *b, char *data, double *sums)
{
    for (int64_t row = 0; row < t->rows; row += CVT_BLOCK_ROWS) {
        b->first = row;
        b->rows = t->rows - row < CVT_BLOCK_ROWS ? t->rows - row : CVT_BLOCK_ROWS;
        FH1_TRY(cvt_ckpt_read_rows(base, t->source, row, b->rows, data));
        for (b->from = 0; b->from < t->cols; b->from += b->cols) {
            b->cols = t->cols - b->from < cvt_block_cols(t) ? t->cols - b->from : cvt_block_cols(t);
            cvt_block_read(b, data);
            cvt_block_run(b, op, true);
            add_squares(b, sums);
        }
    }
    for (int64_t k = 0; k < t->cols; k++) sums[k] = b->x ? sqrt(sums[k]) : (double)sqrtf((float)sums[k]);
    return NULL;
}

fh1_status cvt_merge_column_norms(cvt_ckpt *base, cvt_merge_target *t, cvt_rounding rounding)
{
    for (int i = 0; i < t->n_ops; i++) {
        cvt_merge_op *op = &t->ops[i];
        if (op->kind != CVT_MERGE_DELTA || !op->lora->embedding || !op->lora->magnitude.data) continue;
        cvt_block b;
        bool good = cvt_block_new(&b, t, rounding);
        char *data = malloc((size_t)t->cols * CVT_BLOCK_ROWS * (size_t)fh1_dtype_bits(t->dtype) / 8);
        op->norms = calloc((size_t)t->cols, sizeof *op->norms);
        fh1_status s = good && data && op->norms ? NULL : fh1_no_memory((size_t)t->cols * sizeof(double), "norms");
        if (!s) s = sum_squares(base, t, i, &b, data, op->norms);
        cvt_block_free(&b);
        free(data);
        FH1_TRY(s);
    }
    return NULL;
}
