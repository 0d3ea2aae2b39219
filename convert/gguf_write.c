/* The writer of the GGUF container: entries are gathered in memory, data goes to its place as it comes. */
#include "convert/gguf_file.h"

#include "convert/checkpoint.h"
#include "oracle/round.h"
#include "oracle/tensor.h"

#include <stdlib.h>
#include <string.h>

static void put_bytes(cvt_text *b, uint64_t v, int bytes)
{
    char text[8];
    for (int i = 0; i < bytes; i++) text[i] = (char)(unsigned char)(v >> (8 * i));
    cvt_text_bytes(b, text, (size_t)bytes);
}

static void put_string(cvt_text *b, const char *text, size_t n)
{
    put_bytes(b, n, 8);
    cvt_text_bytes(b, text, n);
}

static void put_key(cvt_gguf_writer *w, const char *key, cvt_gguf_kind kind)
{
    w->n_kv++;
    put_string(&w->kv, key, strlen(key));
    put_bytes(&w->kv, kind, 4);
}

void cvt_gguf_put_uint(cvt_gguf_writer *w, const char *key, uint64_t v)
{
    put_key(w, key, CVT_GGUF_U32);
    put_bytes(&w->kv, v, 4);
}

void cvt_gguf_put_real(cvt_gguf_writer *w, const char *key, double v)
{
    put_key(w, key, CVT_GGUF_FLOAT);
    put_bytes(&w->kv, fh1_f32_bits((float)v), 4);
}

void cvt_gguf_put_bool(cvt_gguf_writer *w, const char *key, bool v)
{
    put_key(w, key, CVT_GGUF_BOOL);
    put_bytes(&w->kv, v, 1);
}

void cvt_gguf_put_text(cvt_gguf_writer *w, const char *key, const char *text, size_t n)
{
    put_key(w, key, CVT_GGUF_STRING);
    put_string(&w->kv, text, n);
}

void cvt_gguf_put_array(cvt_gguf_writer *w, const char *key, cvt_gguf_kind item, uint64_t n)
{
    put_key(w, key, CVT_GGUF_ARRAY);
    put_bytes(&w->kv, item, 4);
    put_bytes(&w->kv, n, 8);
}

void cvt_gguf_add_string(cvt_gguf_writer *w, const char *text, size_t n)
{
    put_string(&w->kv, text, n);
}

void cvt_gguf_add_number(cvt_gguf_writer *w, uint64_t v, int bytes)
{
    put_bytes(&w->kv, v, bytes);
}

static uint64_t align_up(uint64_t v)
{
    return (v + CVT_GGUF_ALIGNMENT - 1) / CVT_GGUF_ALIGNMENT * CVT_GGUF_ALIGNMENT;
}

fh1_status cvt_gguf_put_tensor(cvt_gguf_writer *w, const char *name, const cvt_gguf_format *f, int n_dims,
                               const int64_t *dim)
{
    int64_t bytes = f->bytes;
    if (w->n_tensors == w->room) {
        const int64_t room = w->room ? 2 * w->room : 64;
        uint64_t *begin = realloc(w->begin, (size_t)room * sizeof *begin);
        if (begin) w->begin = begin;
        uint64_t *sizes = realloc(w->bytes, (size_t)room * sizeof *sizes);
        if (sizes) w->bytes = sizes;
        if (!begin || !sizes) return fh1_no_memory((size_t)room * 16, "the tensors of a GGUF file");
        w->room = room;
    }
    for (int i = 0; i < n_dims; i++)
        if (!fh1_mul_i64(bytes, i ? dim[i] : dim[i] / f->block, &bytes))
            return fh1_where(FH1_BAD("the size of the tensor overflows"), "tensor \"%.63s\"", name);
    put_string(&w->infos, name, strlen(name));
    put_bytes(&w->infos, (uint64_t)n_dims, 4);
    for (int i = 0; i < n_dims; i++) put_bytes(&w->infos, (uint64_t)dim[i], 8);
    put_bytes(&w->infos, f->id, 4);
    put_bytes(&w->infos, w->data_bytes, 8);
    w->begin[w->n_tensors] = w->data_bytes;
    w->bytes[w->n_tensors++] = (uint64_t)bytes;
    w->data_bytes = align_up(w->data_bytes + (uint64_t)bytes);
    if (w->data_bytes > INT64_MAX / 2)
        return fh1_where(FH1_BAD("the tensors are too large for a file"), "tensor \"%.63s\"", name);
    return NULL;
}

#define FIXED 24 /* magic, version, two counts */

uint64_t cvt_gguf_file_size(const cvt_gguf_writer *w)
{
    return align_up(FIXED + w->kv.n + w->infos.n) + w->data_bytes;
}

fh1_status cvt_gguf_begin(cvt_gguf_writer *w, const char *path, bool force)
{
    cvt_text fixed = {0};
    if (FIXED + w->kv.n + w->infos.n > CVT_GGUF_MAX_HEAD)
        return fh1_where(fh1_expected(FH1_BAD("what stands before the tensors would be too large"),
                                      "at most %llu bytes", (unsigned long long)CVT_GGUF_MAX_HEAD),
                         "%s", path);
    cvt_text_bytes(&fixed, "GGUF", 4);
    put_bytes(&fixed, 3, 4);
    put_bytes(&fixed, (uint64_t)w->n_tensors, 8);
    put_bytes(&fixed, w->n_kv, 8);
    w->data_begin = align_up(FIXED + w->kv.n + w->infos.n);
    if (w->kv.failed || w->infos.failed || fixed.failed) {
        free(fixed.s);
        return fh1_no_memory(w->data_begin, "the head of a GGUF file");
    }
    fh1_status s = cvt_check_space(path, cvt_gguf_file_size(w));
    if (!s) {
        s = cvt_target_begin(path, false, force, &w->target);
        w->open = true;
    }
    if (!s) s = cvt_write_at(w->target.fd, path, fixed.s, FIXED, 0);
    if (!s) s = cvt_write_at(w->target.fd, path, w->kv.s, w->kv.n, FIXED);
    if (!s) s = cvt_write_at(w->target.fd, path, w->infos.s, w->infos.n, FIXED + w->kv.n);
    free(fixed.s);
    return s;
}

/* What is not written reads as zero, the gaps between tensors too; only the last gap must be made. */
static fh1_status write_padding(cvt_gguf_writer *w)
{
    static const char zeros[CVT_GGUF_ALIGNMENT];
    if (w->n_tensors == 0) return NULL;
    const uint64_t end = w->begin[w->n_tensors - 1] + w->bytes[w->n_tensors - 1];
    return cvt_write_at(w->target.fd, w->target.target, zeros, w->data_bytes - end, w->data_begin + end);
}

fh1_status cvt_gguf_put_data(cvt_gguf_writer *w, int64_t tensor, uint64_t first, const void *data, uint64_t n)
{
    if (first > w->bytes[tensor] || n > w->bytes[tensor] - first)
        return fh1_fail(FH1_E_INTERNAL, "data outside of tensor %lld", (long long)tensor);
    return cvt_write_at(w->target.fd, w->target.target, data, n, w->data_begin + w->begin[tensor] + first);
}

fh1_status cvt_gguf_patch(cvt_gguf_writer *w, uint64_t at, const void *data, uint64_t n)
{
    return cvt_write_at(w->target.fd, w->target.target, data, n, FIXED + at);
}

fh1_status cvt_gguf_commit(cvt_gguf_writer *w)
{
    FH1_TRY(write_padding(w));
    return cvt_target_commit(&w->target);
}

void cvt_gguf_writer_free(cvt_gguf_writer *w)
{
    if (w->open) cvt_target_free(&w->target);
    free(w->kv.s);
    free(w->infos.s);
    free(w->begin);
    free(w->bytes);
    *w = (cvt_gguf_writer){0};
}
