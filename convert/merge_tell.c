/* How large ΔW is beside what quantisation did to the base. */
#include "convert/merge_plan.h"

#include "convert/fault.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static fh1_status gram(const cvt_lora *l, double *A, double *row, double *aa, double *bb)
{
    int64_t r = l->r, in = l->A.shape[1], out = l->B.shape[0];
    fh1_to_f64(A, l->A.data, l->A.dtype, r * in);
    for (int64_t i = 0; i < r; i++)
        for (int64_t k = 0; k <= i; k++) {
            double dot = 0;
            for (int64_t j = 0; j < in; j++) dot += A[i * in + j] * A[k * in + j];
            aa[i * r + k] = aa[k * r + i] = dot;
        }
    for (int64_t j = 0; j < out; j++) {
        fh1_to_f64(row, (const char *)l->B.data + j * r * (fh1_dtype_bits(l->B.dtype) / 8), l->B.dtype, r);
        for (int64_t i = 0; i < r; i++)
            for (int64_t k = 0; k < r; k++) bb[i * r + k] += row[i] * row[k];
    }
    return NULL;
}

fh1_status cvt_merge_delta_rms(const cvt_lora *l, double *out)
{
    size_t r = (size_t)l->r, in = (size_t)l->A.shape[1], room = 2 * r * r + r + r * in;
    double *work = calloc(room, sizeof *work), sum = 0;
    if (!work) return fh1_no_memory(room * sizeof *work, "an adapter");
    double *aa = work, *bb = aa + r * r, *row = bb + r * r, *A = row + r;
    fh1_status s = gram(l, A, row, aa, bb);
    for (size_t i = 0; i < r * r; i++) sum += aa[i] * bb[i];
    *out = fabs(l->scale) * sqrt((sum > 0 ? sum : 0) / ((double)in * (double)l->B.shape[0]));
    free(work);
    return s;
}

static fh1_status add_rows(double *x, double *y, const char *a, fh1_dtype ta, const char *b, fh1_dtype tb, int64_t n,
                           double *sum)
{
    fh1_to_f64(x, a, ta, n);
    fh1_to_f64(y, b, tb, n);
    for (int64_t i = 0; i < n; i++) *sum += (x[i] - y[i]) * (x[i] - y[i]);
    return NULL;
}

/* RMS of the difference between two images of one tensor. */
static fh1_status image_rms(cvt_ckpt *c, int64_t t, cvt_ckpt *other, int64_t u, double *out)
{
    const cvt_ckpt_tensor *a = &c->tensors[t], *b = &other->tensors[u];
    int64_t rows = cvt_ckpt_rows(a), cols = 1;
    if (a->rank != b->rank || memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) != 0 ||
        !fh1_dtype_is_float(b->dtype))
        return fh1_where(FH1_BAD("the two images of the base do not have the same tensors"), "%s, %s", other->path,
                         a->name);
    for (int i = 1; i < a->rank; i++) cols *= a->shape[i];
    size_t n = (size_t)cols;
    double *wide = malloc(2 * n * sizeof *wide), sum = 0;
    char *raw = malloc(16 * n);
    fh1_status s = wide && raw ? NULL : fh1_no_memory(32 * n, "a row");
    for (int64_t i = 0; i < rows && !s; i++) {
        s = cvt_ckpt_read_rows(c, t, i, 1, raw);
        if (!s) s = cvt_ckpt_read_rows(other, u, i, 1, raw + 8 * n);
        if (!s) s = add_rows(wide, wide + n, raw, a->dtype, raw + 8 * n, b->dtype, cols, &sum);
    }
    free(wide);
    free(raw);
    *out = CVT_FAULT(QUANTISATION_NOT_TOLD) ? 0 : sqrt(sum / ((double)rows * (double)cols));
    return s;
}

fh1_status cvt_merge_plan_tell(const cvt_merge_plan *p)
{
    for (int64_t i = 0; p->o->tell && i < p->n_targets; i++) {
        const cvt_merge_target *t = &p->targets[i];
        double change = -1, delta = 0;
        bool adapted = false;
        for (int k = 0; k < t->n_ops; k++) {
            double rms;
            if (t->ops[k].kind != CVT_MERGE_DELTA) continue;
            FH1_TRY(cvt_merge_delta_rms(t->ops[k].lora, &rms));
            rms *= t->ops[k].weight;
            delta = sqrt(delta * delta + rms * rms);
            adapted = true;
        }
        if (!adapted) continue;
        int64_t other = p->o->other_image ? cvt_ckpt_find(p->o->other_image, t->name) : -1;
        if (other >= 0) FH1_TRY(image_rms(p->base, t->source, p->o->other_image, other, &change));
        p->o->tell(p->o->user, t->name, delta, change);
    }
    return NULL;
}
