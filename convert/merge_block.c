/* The arithmetic of a merge. EXACT works in f64 and rounds once, at the end. The others work in f32 and round where the
 * library does (docs/merge.md); between two operations a value is one of the base's type. */
#include "convert/merge_block.h"

#include "convert/fault.h"
#include "convert/merge_kernel.h"

#include <math.h>
#include <stdlib.h>

enum { PANEL = 256 };

static bool whole_rows(const cvt_merge_target *t)
{
    for (int i = 0; i < t->n_ops; i++)
        if (t->ops[i].kind == CVT_MERGE_DELTA && t->ops[i].lora->magnitude.data && !t->ops[i].lora->embedding)
            return true;
    return false;
}

int64_t cvt_block_cols(const cvt_merge_target *t)
{
    return whole_rows(t) || t->cols < PANEL ? t->cols : PANEL;
}

static int64_t max_rank(const cvt_merge_target *t)
{
    int64_t r = 1;
    for (int i = 0; i < t->n_ops; i++)
        if (t->ops[i].kind == CVT_MERGE_DELTA && t->ops[i].lora->r > r) r = t->ops[i].lora->r;
    return r;
}

bool cvt_block_new(cvt_block *b, const cvt_merge_target *t, cvt_rounding rounding)
{
    size_t n = (size_t)cvt_block_cols(t) * CVT_BLOCK_ROWS, l = (size_t)max_rank(t) * CVT_BLOCK_ROWS,
           r = (size_t)max_rank(t) * PANEL;
    bool exact = rounding == CVT_ROUND_EXACT;
    *b = (cvt_block){.t = t, .rounding = rounding};
    b->L = malloc(l * sizeof *b->L);
    b->R = malloc(r * sizeof *b->R);
    if (exact) b->x = malloc(n * sizeof *b->x);
    if (exact) return b->L && b->R && b->x;
    b->f = malloc(n * sizeof *b->f);
    b->d = malloc(n * sizeof *b->d);
    b->L32 = malloc(l * sizeof *b->L32);
    b->R32 = malloc(r * sizeof *b->R32);
    return b->L && b->R && b->f && b->d && b->L32 && b->R32;
}

void cvt_block_free(cvt_block *b)
{
    free(b->L);
    free(b->R);
    free(b->x);
    free(b->f);
    free(b->d);
    free(b->L32);
    free(b->R32);
}

static size_t width_of(fh1_dtype t)
{
    return (size_t)fh1_dtype_bits(t) / 8;
}

/* n numbers of a dense tensor from element `at`. */
static void load(double *dst, const fh1_tensor *t, int64_t at, int64_t n)
{
    cvt_kernel_widen(dst, (const char *)t->data + (size_t)at * width_of(t->dtype), t->dtype, n);
}

/* A matrix of LoRA; one of f64 is read as f32, as PEFT does, so that all products are exact. */
static void load_matrix(double *dst, const fh1_tensor *t, int64_t at, int64_t n)
{
    load(dst, t, at, n);
    if (t->dtype == FH1_F64)
        for (int64_t i = 0; i < n; i++) dst[i] = (double)(float)dst[i];
}

/* ΔW[i, j] = s·Σ_k L[i, k]·R[k, j]: of a Linear L is B and R is A, of an embedding L is Aᵀ and R is Bᵀ. */
static void load_left(cvt_block *b, const cvt_lora *l)
{
    double some[CVT_BLOCK_ROWS];
    if (!l->embedding) load_matrix(b->L, &l->B, b->first * l->r, b->rows * l->r);
    for (int64_t k = 0; l->embedding && k < l->r; k++) {
        load_matrix(some, &l->A, k * l->A.shape[1] + b->first, b->rows);
        for (int64_t i = 0; i < b->rows; i++) b->L[i * l->r + k] = some[i];
    }
}

/* Columns [from, from + n) of the tensor, n ≤ PANEL. */
static void load_right(cvt_block *b, const cvt_lora *l, int64_t from, int64_t n)
{
    double some[PANEL];
    for (int64_t k = 0; !l->embedding && k < l->r; k++)
        load_matrix(b->R + k * PANEL, &l->A, k * l->A.shape[1] + from, n);
    for (int64_t j = 0; l->embedding && j < n; j++)
        for (int64_t k = 0; k < l->r; k += PANEL) {
            int64_t m = l->r - k < PANEL ? l->r - k : PANEL;
            load_matrix(some, &l->B, (from + j) * l->r + k, m);
            for (int64_t q = 0; q < m; q++) b->R[(k + q) * PANEL + j] = some[q];
        }
}

/* ---- exact ---- */

static void faulty_column_norm(cvt_block *b, const fh1_tensor *m)
{
    for (int64_t j = 0; j < b->cols; j++) {
        double sum = 0;
        for (int64_t i = 0; i < b->rows; i++) sum += b->x[i * b->cols + j] * b->x[i * b->cols + j];
        for (int64_t i = 0; i < b->rows; i++) b->x[i * b->cols + j] *= fh1_get(m, b->first + i) / sqrt(sum);
    }
}

static void dora_exact(cvt_block *b, const cvt_merge_op *op)
{
    const fh1_tensor *m = &op->lora->magnitude;
    if (CVT_FAULT(DORA_COLUMN_NORM) && !op->lora->embedding) {
        faulty_column_norm(b, m);
        return;
    }
    for (int64_t i = 0; i < b->rows; i++) {
        double *x = b->x + i * b->cols, sum = 0;
        if (op->lora->embedding) {
            for (int64_t j = 0; j < b->cols; j++) x[j] *= fh1_get(m, b->from + j) / op->norms[b->from + j];
            continue;
        }
        for (int64_t j = 0; j < b->cols; j++) sum += x[j] * x[j];
        double f = fh1_get(m, b->first + i) / sqrt(sum);
        for (int64_t j = 0; j < b->cols; j++) x[j] *= f;
    }
}

/* Planted in both kinds of arithmetic; in the product the scale as it is. */
static double faulty_scale(const cvt_lora *l, double s)
{
    if (CVT_FAULT(SCALE_ON_A_AND_B)) s *= s;
    if (CVT_FAULT(EMBEDDING_NOT_SCALED) && l->embedding) s = 1;
    return CVT_FAULT(DELTA_ADDED_TWICE) ? 2 * s : s;
}

static void delta_exact(cvt_block *b, const cvt_merge_op *op)
{
    double s = faulty_scale(op->lora, op->weight * op->lora->scale);
    load_left(b, op->lora);
    for (int64_t j = 0; j < b->cols; j += PANEL) {
        int64_t n = b->cols - j < PANEL ? b->cols - j : PANEL;
        load_right(b, op->lora, b->from + j, n);
        cvt_kernel_add_f64(b->rows, op->lora->r, n, s, b->L, b->R, PANEL, b->x + j, b->cols);
    }
}

static void op_exact(cvt_block *b, const cvt_merge_op *op)
{
    int64_t cols = b->cols;
    switch (op->kind) {
    case CVT_MERGE_DELTA: delta_exact(b, op); break;
    case CVT_MERGE_REPLACE:
        for (int64_t i = 0; i < b->rows; i++)
            load(b->x + i * cols, &op->t, (b->first + i) * b->t->cols + b->from, cols);
        break;
    case CVT_MERGE_BIAS:
        for (int64_t i = 0; i < b->rows; i++)
            b->x[i] += op->weight * (CVT_FAULT(LORA_BIAS_NOT_SCALED) ? 1 : op->lora->scale) *
                       fh1_get(&op->lora->bias, b->first + i);
        break;
    case CVT_MERGE_ROWS:
        for (int64_t k = 0; k < op->tokens->n; k++) {
            int64_t row = op->tokens->rows[k] - b->first;
            if (row >= 0 && row < b->rows) load(b->x + row * cols, &op->tokens->values, k * b->t->cols + b->from, cols);
        }
        break;
    }
}

/* ---- the chains of libraries ---- */

static void load_f32(float *dst, const fh1_tensor *t, int64_t at, int64_t n)
{
    fh1_to_f32(dst, (const char *)t->data + (size_t)at * width_of(t->dtype), t->dtype, n);
}

/* Are the adapter's numbers rounded to the base's type before anything is computed? */
static bool rounds_adapter(cvt_rounding r)
{
    if (CVT_FAULT(NOAUTOCAST_IN_F32)) return false;
    return r == CVT_ROUND_PEFT_NOAUTOCAST || r == CVT_ROUND_PEFT_LOW_MEMORY;
}

static void round_all(const cvt_block *b, float *v, int64_t n)
{
    cvt_kernel_round_f32(v, b->t->dtype, n);
}

static void to_f32(const cvt_block *b, float *dst, const double *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dst[i] = (float)src[i];
    if (rounds_adapter(b->rounding)) round_all(b, dst, n);
}

/* PyTorch's BLAS takes another kernel for small matrices, as dt_proj's of a narrow Falcon-Mamba. */
static bool is_small(const cvt_lora *l)
{
    return l->B.shape[0] < 4 || l->A.shape[1] < 12;
}

/* d = fl32(B·A), the k-th term fused onto the sum of those before it; of a small one rounded first. */
static void product_f32(cvt_block *b, const cvt_lora *l)
{
    int64_t cols = b->cols;
    load_left(b, l);
    to_f32(b, b->L32, b->L, b->rows * l->r);
    for (int64_t j = 0; j < cols; j += PANEL) {
        int64_t n = cols - j < PANEL ? cols - j : PANEL;
        load_right(b, l, b->from + j, n);
        for (int64_t k = 0; k < l->r; k++) to_f32(b, b->R32 + k * PANEL, b->R + k * PANEL, n);
        (is_small(l) ? cvt_kernel_products_f32 : cvt_kernel_chain_f32)(b->rows, l->r, n, b->L32, b->R32, PANEL,
                                                                       b->d + j, cols);
    }
}

/* fl32(m / n), rounded again where PEFT keeps it in the base's type. */
static float dora_factor(const cvt_block *b, double m, double norm)
{
    bool narrow = b->rounding == CVT_ROUND_PEFT_NOAUTOCAST;
    float f = (float)m, n = (float)norm;
    if (rounds_adapter(b->rounding)) round_all(b, &f, 1);
    if (narrow) round_all(b, &n, 1);
    f /= n;
    if (narrow) round_all(b, &f, 1);
    return f;
}

static void dora_f32(cvt_block *b, const cvt_merge_op *op)
{
    const fh1_tensor *m = &op->lora->magnitude;
    for (int64_t i = 0; i < b->rows; i++) {
        float *x = b->f + i * b->cols;
        if (op->lora->embedding) {
            for (int64_t j = 0; j < b->cols; j++)
                x[j] *= dora_factor(b, fh1_get(m, b->from + j), op->norms[b->from + j]);
            continue;
        }
        float f = dora_factor(b, fh1_get(m, b->first + i), (double)cvt_kernel_norm_f32(x, b->cols));
        for (int64_t j = 0; j < b->cols; j++) x[j] *= f;
    }
}

/* f = W + D before DoRA and before the last rounding. */
static void delta_f32(cvt_block *b, const cvt_merge_op *op)
{
    int64_t n = b->rows * b->cols;
    float s = (float)faulty_scale(op->lora, op->lora->scale);
    bool dora = op->lora->magnitude.data, two = op->lora->embedding || op->lora->parameter || op->lora->mica;
    product_f32(b, op->lora);
    if (b->rounding == CVT_ROUND_UNSLOTH16) {
        cvt_kernel_fma_f32(n, s, b->d, b->f);
        return;
    }
    for (int64_t i = 0; i < n; i++) b->d[i] *= s;
    bool narrow = b->rounding == CVT_ROUND_PEFT_NOAUTOCAST || (!dora && (two || b->rounding == CVT_ROUND_PEFT_SAFE));
    if (CVT_FAULT(SAFE_MERGE_ROUNDS_ONCE) && b->rounding == CVT_ROUND_PEFT_SAFE) narrow = false;
    if (CVT_FAULT(PLAIN_MERGE_ROUNDS_TWICE) && b->rounding == CVT_ROUND_PEFT) narrow = true;
    if (narrow) round_all(b, b->d, n);
    for (int64_t i = 0; i < n; i++) b->f[i] += b->d[i];
    if (dora && b->rounding == CVT_ROUND_PEFT_NOAUTOCAST) round_all(b, b->f, n);
}

static void bias_f32(cvt_block *b, const cvt_merge_op *op)
{
    for (int64_t i = 0; i < b->rows; i++) {
        float v = (float)fh1_get(&op->lora->bias, b->first + i);
        if (rounds_adapter(b->rounding)) round_all(b, &v, 1);
        if (!CVT_FAULT(LORA_BIAS_NOT_SCALED)) v *= (float)op->lora->scale;
        if (b->rounding == CVT_ROUND_PEFT_NOAUTOCAST) round_all(b, &v, 1);
        b->f[i] += v;
    }
}

static void op_f32(cvt_block *b, const cvt_merge_op *op)
{
    int64_t cols = b->cols;
    switch (op->kind) {
    case CVT_MERGE_DELTA: delta_f32(b, op); break;
    case CVT_MERGE_BIAS: bias_f32(b, op); break;
    case CVT_MERGE_REPLACE:
        for (int64_t i = 0; i < b->rows; i++)
            load_f32(b->f + i * cols, &op->t, (b->first + i) * b->t->cols + b->from, cols);
        break;
    case CVT_MERGE_ROWS:
        for (int64_t k = 0; k < op->tokens->n; k++) {
            int64_t row = op->tokens->rows[k] - b->first;
            if (row >= 0 && row < b->rows)
                load_f32(b->f + row * cols, &op->tokens->values, k * b->t->cols + b->from, cols);
        }
        break;
    }
}

/* ---- blocks ---- */

void cvt_block_run(cvt_block *b, int last, bool without_dora)
{
    int64_t n = b->rows * b->cols;
    for (int i = 0; i <= last; i++) {
        const cvt_merge_op *op = &b->t->ops[i];
        bool open = without_dora && i == last;
        bool dora = op->kind == CVT_MERGE_DELTA && op->lora->magnitude.data && !open;
        if (b->x) {
            op_exact(b, op);
            if (dora) dora_exact(b, op);
            continue;
        }
        op_f32(b, op);
        if (dora) dora_f32(b, op);
        if (!open) round_all(b, b->f, n);
    }
}

void cvt_block_read(cvt_block *b, const char *data)
{
    size_t width = width_of(b->t->dtype);
    for (int64_t i = 0; i < b->rows; i++) {
        const char *row = data + (size_t)(i * b->t->cols + b->from) * width;
        if (b->x) cvt_kernel_widen(b->x + i * b->cols, row, b->t->dtype, b->cols);
        else fh1_to_f32(b->f + i * b->cols, row, b->t->dtype, b->cols);
    }
}

int64_t cvt_block_write(const cvt_block *b, char *data)
{
    size_t width = width_of(b->t->dtype);
    int64_t bad = -1;
    for (int64_t i = b->rows; i-- > 0;) {
        char *row = data + (size_t)(i * b->t->cols + b->from) * width;
        int64_t before = cvt_kernel_not_finite(row, b->t->dtype, b->cols);
        if (b->x) cvt_kernel_narrow(row, b->t->dtype, b->x + i * b->cols, b->cols);
        else fh1_from_f32(row, b->t->dtype, b->f + i * b->cols, b->cols);
        if (cvt_kernel_not_finite(row, b->t->dtype, b->cols) > before) bad = b->first + i;
    }
    return bad;
}
