/* One piece of a tensor: read, fold in f64, round once, and see what would not come back. */
#include "convert/gguf_export.h"

#include "convert/fault.h"

#include "oracle/clones.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t cvt_gguf_row_bytes(const cvt_gguf_job *j)
{
    return (uint64_t)(j->e->cols / j->format->block) * (uint64_t)j->format->bytes;
}

static fh1_dtype dtype_of(const cvt_gguf_format *f)
{
    switch (f->id) {
    case CVT_GGUF_ID_F16: return FH1_F16;
    case CVT_GGUF_ID_BF16: return FH1_BF16;
    default: return FH1_F32;
    }
}

/* Finite values from here on round to infinity. */
static double overflow_of(const cvt_gguf_format *f)
{
    switch (f->id) {
    case CVT_GGUF_ID_F16: return 65520;
    case CVT_GGUF_ID_BF16: return 0x1.ffp127;
    case CVT_GGUF_ID_Q8_0: return 65520.0 * 127; /* its scale is an f16 */
    default: return 0x1.ffffffp127;
    }
}

static fh1_status at_element(fh1_status s, const cvt_ckpt *c, const cvt_gguf_job *j, int64_t first, int64_t i)
{
    return fh1_where(s, "%s, tensor \"%.96s\", element %lld", c->path, j->e->hf, (long long)(first * j->e->cols + i));
}

/* NaN is not below. */
FH1_CLONES static bool all_below(const double *v, int64_t n, double limit)
{
    int64_t above = 0;
    for (int64_t i = 0; i < n; i++) above += !(fabs(v[i]) < limit);
    return above == 0;
}

/* The first value that the format cannot hold. NaN and infinities of the original pass, but not into blocks. */
static fh1_status check_range(const cvt_ckpt *c, const cvt_gguf_job *j, int64_t first, int64_t n, const double *v,
                              const fh1_tensor *original)
{
    const double limit = overflow_of(j->format);
    if (all_below(v, n, limit)) return NULL;
    for (int64_t i = 0; i < n; i++) {
        if (fabs(v[i]) < limit) continue;
        const double w = fh1_get(original, i);
        const bool block = j->format->block > 1;
        if (isfinite(w))
            return fh1_hint(
                fh1_expected(
                    at_element(FH1_BAD("the folded value %g of %g is too large for %s", v[i], w, j->format->name), c, j,
                               first, i),
                    "a magnitude below %g", limit),
                j->format->id == CVT_GGUF_ID_F32 ? "the model is damaged" : "export with --dtype f32 or bf16");
        if (block)
            return fh1_hint(at_element(FH1_BAD("%s cannot hold %g", j->format->name, w), c, j, first, i),
                            "the model is damaged; --dtype f32 keeps the value");
    }
    return NULL;
}

static uint64_t count_different(const unsigned char *a, const unsigned char *b, int64_t n, size_t width)
{
    uint64_t count = 0;
    if (memcmp(a, b, (size_t)n * width) == 0) return 0;
    for (int64_t i = 0; i < n; i++) count += memcmp(a + (size_t)i * width, b + (size_t)i * width, width) != 0;
    return count;
}

typedef struct {
    unsigned char *original, *again;
    double *v;
    float *narrow;
} buffers;

static void free_buffers(buffers *b)
{
    free(b->original);
    free(b->again);
    free(b->v);
    free(b->narrow);
}

static void round_each(fh1_dtype dtype, double *v, int64_t n)
{
    double narrow;
    for (int64_t i = 0; i < n; i++) {
        fh1_from_f64(&narrow, dtype, &v[i], 1);
        fh1_to_f64(&v[i], &narrow, dtype, 1);
    }
}

/* A part of the factor, a rounding, the rest. */
static void faulty_fold(const cvt_gguf_job *j, fh1_dtype dtype, int64_t first, int64_t rows, double *v)
{
    cvt_gguf_entry part = *j->e;
    for (int k = 0; k < part.n_factors; k++) part.factor[k] = sqrt(fabs(part.factor[k]));
    cvt_gguf_fold_rows(&part, first, rows, v);
    if (part.fold == CVT_GGUF_NEG_EXP || cvt_gguf_factor_is_one(j->e)) return;
    round_each(dtype, v, rows * part.cols);
    for (int k = 0; k < part.n_factors; k++) part.factor[k] = j->e->factor[k] / part.factor[k];
    cvt_gguf_fold_rows(&part, first, rows, v);
}

static fh1_status fold(cvt_ckpt *c, const cvt_gguf_job *j, int64_t first, int64_t rows, buffers *b, unsigned char *out,
                       uint64_t *inexact)
{
    const cvt_ckpt_tensor *t = &c->tensors[j->source];
    const int64_t n = rows * j->e->cols;
    FH1_TRY(cvt_ckpt_read_rows(c, j->source, first, rows, b->original));
    const fh1_tensor original = fh1_view1(b->original, t->dtype, n);
    fh1_to_f64(b->v, b->original, t->dtype, n);
    if (CVT_FAULT(FOLD_ROUNDS_TWICE)) faulty_fold(j, t->dtype, first, rows, b->v);
    else cvt_gguf_fold_rows(j->e, first, rows, b->v);
    if (CVT_FAULT(SSM_PARAMETERS_QUANTISED) && strstr(j->e->name, ".ssm_")) round_each(FH1_BF16, b->v, n);
    FH1_TRY(check_range(c, j, first, n, b->v, &original));
    if (j->format->id == CVT_GGUF_ID_Q8_0) {
        for (int64_t i = 0; i < n; i++) b->narrow[i] = (float)b->v[i];
        cvt_gguf_q8_0_encode(b->narrow, n, out);
        return NULL;
    }
    fh1_from_f64(out, dtype_of(j->format), b->v, n);
    fh1_to_f64(b->v, out, dtype_of(j->format), n);
    cvt_gguf_unfold_rows(j->e, first, rows, b->v);
    fh1_from_f64(b->again, t->dtype, b->v, n);
    *inexact += count_different(b->original, b->again, n, (size_t)fh1_dtype_bits(t->dtype) / 8);
    return NULL;
}

fh1_status cvt_gguf_fold_piece(cvt_ckpt *c, const cvt_gguf_job *j, int64_t first, int64_t n, unsigned char *out,
                               uint64_t *inexact)
{
    if (j->source < 0) {
        memset(out, 0, (size_t)n * cvt_gguf_row_bytes(j));
        return NULL;
    }
    const size_t elems = (size_t)(n * j->e->cols), width = (size_t)fh1_dtype_bits(c->tensors[j->source].dtype) / 8;
    buffers b = {malloc(elems * width), malloc(elems * width), malloc(elems * sizeof(double)),
                 malloc(elems * sizeof(float))};
    fh1_status s = b.original && b.again && b.v && b.narrow ? NULL : fh1_no_memory(elems * 16, "a piece of a tensor");
    if (!s) s = fold(c, j, first, n, &b, out, inexact);
    free_buffers(&b);
    return s;
}
