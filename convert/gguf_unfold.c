/* Reading numbers out of a GGUF file: decoded, divided by what was folded into them, rounded once. */
#include "convert/gguf_import.h"

#include <stdlib.h>
#include <string.h>

#define PIECE_ELEMS ((int64_t)1 << 17)

fh1_status cvt_gguf_check_supported(const cvt_gguf_file *f, const cvt_gguf_info *t)
{
    switch (t->format->id) {
    case CVT_GGUF_ID_F32:
    case CVT_GGUF_ID_F16:
    case CVT_GGUF_ID_BF16:
    case CVT_GGUF_ID_F64:
    case CVT_GGUF_ID_Q8_0: return NULL;
    default: break;
    }
    fh1_status s = fh1_where(FH1_BAD("the type of the tensor is not supported"), "tensor \"%.63s\"", t->name);
    s = fh1_found(fh1_expected(s, "F32, F16, BF16, F64 or Q8_0"), "%s", t->format->name);
    return cvt_gguf_at(fh1_hint(s, "use a GGUF file of another type of the same model"), f, t->at);
}

static void decode(const cvt_gguf_format *f, const unsigned char *in, int64_t n, double *v)
{
    switch (f->id) {
    case CVT_GGUF_ID_F16: fh1_to_f64(v, in, FH1_F16, n); break;
    case CVT_GGUF_ID_BF16: fh1_to_f64(v, in, FH1_BF16, n); break;
    case CVT_GGUF_ID_F64: fh1_to_f64(v, in, FH1_F64, n); break;
    case CVT_GGUF_ID_Q8_0: cvt_gguf_q8_0_decode(in, n, v); break;
    default: fh1_to_f64(v, in, FH1_F32, n);
    }
}

/* Elements [first, first + n) of a tensor, from the blocks that hold them: a row of a vector is a part of one. */
static fh1_status decode_range(const cvt_gguf_file *f, const cvt_gguf_info *t, int64_t first, int64_t n,
                               unsigned char *raw, double *v)
{
    const int64_t block = t->format->block, skip = first % block, blocks = (skip + n + block - 1) / block;
    const uint64_t bytes = (uint64_t)t->format->bytes;
    FH1_TRY(cvt_gguf_read(f, t->begin + (uint64_t)(first / block) * bytes, (uint64_t)blocks * bytes, raw));
    decode(t->format, raw, blocks * block, v);
    if (skip) memmove(v, v + skip, (size_t)n * sizeof *v);
    return NULL;
}

static fh1_status unfold_piece(const cvt_gguf_file *f, const cvt_gguf_source *s, fh1_dtype dtype, int64_t first,
                               int64_t rows, unsigned char *raw, double *v, void *dst)
{
    const int64_t n = rows * s->e->cols;
    FH1_TRY(decode_range(f, s->info, first * s->e->cols, n, raw, v));
    for (int64_t i = 0; s->e->fold == CVT_GGUF_NEG_EXP && i < n; i++)
        if (!(v[i] <= 0))
            return fh1_where(
                fh1_found(fh1_expected(FH1_BAD("the decay of a head is not negative"), "A <= 0"), "%g", v[i]),
                "%s, tensor \"%s\", element %lld", f->path, s->info->name, (long long)(first + i));
    cvt_gguf_unfold_rows(s->e, first, rows, v);
    fh1_from_f64(dst, dtype, v, n);
    return NULL;
}

static fh1_status unfold(const cvt_gguf_file *f, const cvt_gguf_source *s, fh1_dtype dtype, int64_t first, int64_t n,
                         char *dst)
{
    const size_t width = (size_t)s->e->cols * (size_t)fh1_dtype_bits(dtype) / 8;
    int64_t most = PIECE_ELEMS / s->e->cols;
    if (most < 1) most = 1;
    if (most > n) most = n;
    const size_t elems =
        (size_t)(most * s->e->cols + 2 * s->info->format->block); /* and the rest of both outer blocks */
    unsigned char *raw = malloc(elems * 8);
    double *v = malloc(elems * sizeof *v);
    fh1_status e = raw && v ? NULL : fh1_no_memory(elems * 16, "a piece of a tensor");
    for (int64_t done = 0; done < n && !e; done += most) {
        const int64_t now = n - done < most ? n - done : most;
        e = unfold_piece(f, s, dtype, first + done, now, raw, v, dst + (size_t)done * width);
    }
    free(raw);
    free(v);
    return e;
}

fh1_status cvt_gguf_unfold(const cvt_gguf_file *f, const cvt_gguf_source *s, fh1_dtype dtype, int64_t first, int64_t n,
                           void *dst)
{
    const int64_t elems = n * s->e->cols;
    if (n == 0) return NULL;
    if (!s->info) {
        memset(dst, 0, (size_t)elems * (size_t)fh1_dtype_bits(dtype) / 8);
        return NULL;
    }
    if (!s->original) return unfold(f, s, dtype, first, n, dst);
    const size_t width = (size_t)fh1_dtype_bits(s->original->dtype) / 8;
    const unsigned char *bytes = s->original->bytes + (size_t)(first * s->e->cols) * width;
    const fh1_tensor from = fh1_view1((void *)(uintptr_t)bytes, s->original->dtype, elems),
                     to = fh1_view1(dst, dtype, elems);
    fh1_copy(&to, &from);
    return NULL;
}

fh1_status cvt_gguf_original_fits(const cvt_gguf_file *f, const cvt_gguf_source *s, const cvt_gguf_original *o,
                                  bool *fits)
{
    const int64_t n = s->e->rows * s->e->cols;
    *fits = s->info && s->info->format->id == CVT_GGUF_ID_F32 && fh1_dtype_is_float(o->dtype) &&
            o->n_bytes == (uint64_t)n * (uint64_t)fh1_dtype_bits(o->dtype) / 8;
    if (!*fits) return NULL;
    double *v = malloc((size_t)n * sizeof *v);
    unsigned char *stored = malloc((size_t)n * 4), *folded = malloc((size_t)n * 4);
    fh1_status e = v && stored && folded ? NULL : fh1_no_memory((size_t)n * 16, s->e->hf);
    if (!e) e = cvt_gguf_read(f, s->info->begin, (uint64_t)n * 4, stored);
    if (!e) {
        fh1_to_f64(v, o->bytes, o->dtype, n);
        cvt_gguf_fold_rows(s->e, 0, s->e->rows, v);
        fh1_from_f64(folded, FH1_F32, v, n);
        *fits = memcmp(folded, stored, (size_t)n * 4) == 0;
    }
    free(v);
    free(stored);
    free(folded);
    return e;
}
