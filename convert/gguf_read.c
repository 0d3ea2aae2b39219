/* The strict reader of the GGUF container. The head is read piece by piece as it is parsed, so that a length that lies
 * costs an error and no memory. */
#include "convert/gguf_file.h"

#include "convert/json_scan.h" /* cvt_utf8_len */
#include "oracle/reached.h"
#include "oracle/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    cvt_gguf_file *f;
    uint64_t at;       /* of the next byte to parse */
    char subject[160]; /* the key or tensor at hand, for messages */
} parser;

static fh1_status bad(const parser *p, fh1_status s, uint64_t at)
{
    return fh1_where(s, "%s, byte %llu%s", p->f->path, (unsigned long long)at, p->subject);
}

/* The next n bytes are in f->head; *at is where they begin. */
static fh1_status take(parser *p, uint64_t n, const char *what, uint64_t *at)
{
    cvt_gguf_file *f = p->f;
    if (n > f->file_bytes - p->at)
        return bad(
            p,
            fh1_found(fh1_expected(FH1_BAD("the file ends inside of %s", what), "%llu bytes", (unsigned long long)n),
                      "%llu", (unsigned long long)(f->file_bytes - p->at)),
            p->at);
    const uint64_t end = p->at + n;
    if (end > CVT_GGUF_MAX_HEAD)
        return bad(p,
                   fh1_expected(FH1_BAD("what stands before the tensors is too large"), "at most %llu bytes",
                                (unsigned long long)CVT_GGUF_MAX_HEAD),
                   p->at);
    if (end > f->head_bytes) {
        uint64_t want = 2 * f->head_bytes < 65536 ? 65536 : 2 * f->head_bytes;
        if (want < end) want = end;
        if (want > f->file_bytes) want = f->file_bytes;
        if (want > CVT_GGUF_MAX_HEAD) want = CVT_GGUF_MAX_HEAD;
        unsigned char *grown = realloc(f->head, want);
        if (!grown) return fh1_no_memory(want, "the head of a GGUF file");
        f->head = grown;
        FH1_TRY(cvt_gguf_read(f, f->head_bytes, want - f->head_bytes, f->head + f->head_bytes));
        f->head_bytes = want;
    }
    *at = p->at;
    p->at = end;
    return NULL;
}

static fh1_status take_u32(parser *p, const char *what, uint32_t *v)
{
    uint64_t at = 0;
    FH1_TRY(take(p, 4, what, &at));
    *v = cvt_gguf_u32(p->f->head + at);
    return NULL;
}

static fh1_status take_u64(parser *p, const char *what, uint64_t *v)
{
    uint64_t at = 0;
    FH1_TRY(take(p, 8, what, &at));
    *v = cvt_gguf_u64(p->f->head + at);
    return NULL;
}

/* A length and as many bytes. */
static fh1_status take_string(parser *p, uint64_t most, const char *what, uint64_t *at, uint64_t *n)
{
    FH1_TRY(take_u64(p, what, n));
    if (*n > most)
        return bad(
            p,
            fh1_found(fh1_expected(FH1_BAD("%s is too long", what), "at most %llu bytes", (unsigned long long)most),
                      "%llu", (unsigned long long)*n),
            p->at - 8);
    return take(p, *n, what, at);
}

/* A key or the name of a tensor: UTF-8 without zeros, malloc'ed. */
static fh1_status take_name(parser *p, uint64_t most, const char *what, char **out)
{
    uint64_t at = 0, n = 0;
    FH1_TRY(take_string(p, most, what, &at, &n));
    const char *s = (const char *)p->f->head + at;
    if (n == 0) return bad(p, FH1_BAD("%s is empty", what), at - 8);
    for (uint64_t i = 0, step; i < n; i += step) {
        step = cvt_utf8_len(s + i, n - i);
        if (step == 0 || s[i] == '\0') return bad(p, FH1_BAD("%s is not UTF-8 text", what), at + i);
    }
    *out = malloc(n + 1);
    if (!*out) return fh1_no_memory(n, what);
    memcpy(*out, s, n);
    (*out)[n] = '\0';
    return NULL;
}

static int kind_bytes(uint32_t kind)
{
    static const int bytes[CVT_GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return kind < CVT_GGUF_KINDS ? bytes[kind] : 0;
}

static fh1_status check_bools(parser *p, uint64_t at, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p->f->head[at + i] > 1)
            return bad(p,
                       fh1_found(fh1_expected(FH1_BAD("a bool is neither true nor false"), "0 or 1"), "%d",
                                 p->f->head[at + i]),
                       at + i);
    return NULL;
}

static fh1_status unknown_kind(const parser *p, const char *what, uint32_t kind, uint64_t at)
{
    return bad(
        p, fh1_found(fh1_expected(FH1_BAD("%s is of no known type", what), "0 to %d", CVT_GGUF_KINDS - 1), "%u", kind),
        at);
}

static fh1_status take_array(parser *p, cvt_gguf_kv *kv)
{
    const uint64_t head = p->at;
    FH1_TRY(take_u32(p, "the type of an array", &kv->item));
    FH1_TRY(take_u64(p, "the length of an array", &kv->n));
    if (kv->item == CVT_GGUF_ARRAY)
        return bad(p, fh1_hint(FH1_BAD("there is an array of arrays"), "no writer makes them"), head);
    if (kv->item >= CVT_GGUF_KINDS) return unknown_kind(p, "an array", kv->item, head);
    if (kv->n > CVT_GGUF_MAX_ITEMS)
        return bad(p,
                   fh1_found(fh1_expected(FH1_BAD("the array is too long"), "at most %llu items",
                                          (unsigned long long)CVT_GGUF_MAX_ITEMS),
                             "%llu", (unsigned long long)kv->n),
                   head + 4);
    FH1_REACHED(kv->n == 0);
    FH1_REACHED(kv->item == CVT_GGUF_STRING);
    kv->value_at = p->at;
    uint64_t at, n;
    if (kv->item == CVT_GGUF_STRING)
        for (uint64_t i = 0; i < kv->n; i++)
            FH1_TRY(take_string(p, CVT_GGUF_MAX_STRING, "a text of an array", &at, &n));
    else FH1_TRY(take(p, kv->n * (uint64_t)kind_bytes(kv->item), "an array", &at));
    kv->bytes = p->at - kv->value_at;
    return kv->item == CVT_GGUF_BOOL ? check_bools(p, kv->value_at, kv->n) : NULL;
}

static fh1_status take_value(parser *p, cvt_gguf_kv *kv)
{
    FH1_TRY(take_u32(p, "the type of a value", &kv->kind));
    kv->n = 1;
    if (kv->kind == CVT_GGUF_ARRAY) return take_array(p, kv);
    if (kv->kind == CVT_GGUF_STRING) {
        FH1_TRY(take_string(p, CVT_GGUF_MAX_STRING, "a text", &kv->value_at, &kv->n));
        kv->bytes = kv->n;
        return NULL;
    }
    if (kv->kind >= CVT_GGUF_KINDS) return unknown_kind(p, "a value", kv->kind, p->at - 4);
    kv->bytes = (uint64_t)kind_bytes(kv->kind);
    FH1_TRY(take(p, kv->bytes, "a value", &kv->value_at));
    return kv->kind == CVT_GGUF_BOOL ? check_bools(p, kv->value_at, 1) : NULL;
}

static fh1_status grow(void **table, int64_t n, int64_t *room, size_t size, const char *what)
{
    if (n < *room) return NULL;
    int64_t more = *room ? 2 * *room : 64;
    void *grown = realloc(*table, (size_t)more * size);
    if (!grown) return fh1_no_memory((size_t)more * size, what);
    *table = grown;
    *room = more;
    return NULL;
}

static int by_key(const void *a, const void *b)
{
    const cvt_gguf_kv *x = a, *y = b;
    int order = strcmp(x->key, y->key);
    return order ? order : (x->at > y->at) - (x->at < y->at);
}

static fh1_status take_kvs(parser *p, uint64_t n)
{
    cvt_gguf_file *f = p->f;
    int64_t room = 0;
    for (uint64_t i = 0; i < n; i++) {
        void *table = f->kv;
        FH1_TRY(grow(&table, f->n_kv, &room, sizeof *f->kv, "the keys of a GGUF file"));
        f->kv = table;
        cvt_gguf_kv *kv = &f->kv[f->n_kv];
        *kv = (cvt_gguf_kv){.at = p->at};
        FH1_TRY(take_name(p, CVT_GGUF_MAX_KEY, "a key", &kv->key));
        f->n_kv++;
        snprintf(p->subject, sizeof p->subject, ", key \"%.120s\"", kv->key);
        FH1_TRY(take_value(p, kv));
        p->subject[0] = '\0';
    }
    if (f->n_kv) qsort(f->kv, (size_t)f->n_kv, sizeof *f->kv, by_key);
    for (int64_t i = 1; i < f->n_kv; i++)
        if (strcmp(f->kv[i].key, f->kv[i - 1].key) == 0)
            return cvt_gguf_at(fh1_where(FH1_BAD("the key stands in the file twice"), "key \"%.120s\"", f->kv[i].key),
                               f, f->kv[i].at);
    return NULL;
}

static fh1_status read_alignment(cvt_gguf_file *f)
{
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, "general.alignment");
    f->alignment = 32;
    if (!kv) return NULL;
    uint64_t a = kv->kind == CVT_GGUF_U32 ? cvt_gguf_u32(f->head + kv->value_at) : 0;
    if (a < 8 || a > (1 << 20) || (a & (a - 1)) != 0)
        return cvt_gguf_at(
            fh1_found(fh1_expected(fh1_where(FH1_BAD("the alignment is impossible"), "key \"general.alignment\""),
                                   "a uint32, a power of two from 8 to 2^20"),
                      "%s %llu", cvt_gguf_kind_name(kv->kind), (unsigned long long)a),
            f, kv->value_at);
    f->alignment = a;
    return NULL;
}

static fh1_status take_dims(parser *p, cvt_gguf_info *t, int64_t *n_elems)
{
    uint32_t n;
    FH1_TRY(take_u32(p, "the number of dimensions", &n));
    if (n < 1 || n > CVT_GGUF_MAX_DIMS)
        return bad(
            p,
            fh1_found(fh1_expected(FH1_BAD("the number of dimensions is impossible"), "1 to %d", CVT_GGUF_MAX_DIMS),
                      "%u", n),
            p->at - 4);
    t->n_dims = (int)n;
    *n_elems = 1;
    for (int i = 0; i < CVT_GGUF_MAX_DIMS; i++) t->dim[i] = 1;
    for (int i = 0; i < t->n_dims; i++) {
        uint64_t d;
        FH1_TRY(take_u64(p, "a dimension", &d));
        if (d < 1 || d > INT64_MAX)
            return bad(p,
                       fh1_found(fh1_expected(FH1_BAD("a dimension is impossible"), "1 to 2^63 - 1"), "%llu",
                                 (unsigned long long)d),
                       p->at - 8);
        t->dim[i] = (int64_t)d;
        if (!fh1_mul_i64(*n_elems, t->dim[i], n_elems))
            return bad(p, FH1_BAD("the product of the dimensions overflows at dimension %d", i), p->at - 8);
    }
    return NULL;
}

static fh1_status take_info(parser *p, cvt_gguf_info *t)
{
    int64_t n_elems, bytes;
    uint32_t id;
    uint64_t offset;
    FH1_TRY(take_dims(p, t, &n_elems));
    FH1_TRY(take_u32(p, "the type of a tensor", &id));
    t->format = cvt_gguf_format_of(id);
    if (!t->format)
        return bad(p,
                   fh1_hint(fh1_found(FH1_BAD("the type of the tensor is not known"), "%u", id),
                            "F32, F16, BF16 and Q8_0 are supported"),
                   p->at - 4);
    if (t->dim[0] % t->format->block != 0)
        return bad(p,
                   fh1_found(fh1_expected(FH1_BAD("the rows are no whole number of blocks of %s", t->format->name),
                                          "a multiple of %d", t->format->block),
                             "%lld", (long long)t->dim[0]),
                   t->at);
    if (!fh1_mul_i64(n_elems / t->format->block, t->format->bytes, &bytes))
        return bad(p, FH1_BAD("the size of the tensor overflows"), t->at);
    t->bytes = (uint64_t)bytes;
    FH1_TRY(take_u64(p, "the offset of a tensor", &offset));
    if (offset % p->f->alignment != 0)
        return bad(p,
                   fh1_found(fh1_expected(FH1_BAD("the tensor is not aligned"), "a multiple of %llu",
                                          (unsigned long long)p->f->alignment),
                             "%llu", (unsigned long long)offset),
                   p->at - 8);
    t->begin = offset;
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    const cvt_gguf_info *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->at > y->at) - (x->at < y->at);
}

static fh1_status take_infos(parser *p, uint64_t n)
{
    cvt_gguf_file *f = p->f;
    int64_t room = 0;
    f->infos_at = p->at;
    for (uint64_t i = 0; i < n; i++) {
        void *table = f->tensors;
        FH1_TRY(grow(&table, f->n_tensors, &room, sizeof *f->tensors, "the tensors of a GGUF file"));
        f->tensors = table;
        cvt_gguf_info *t = &f->tensors[f->n_tensors];
        *t = (cvt_gguf_info){.at = p->at};
        FH1_TRY(take_name(p, CVT_GGUF_MAX_NAME, "the name of a tensor", &t->name));
        f->n_tensors++;
        snprintf(p->subject, sizeof p->subject, ", tensor \"%.63s\"", t->name);
        FH1_TRY(take_info(p, t));
        p->subject[0] = '\0';
    }
    f->infos_end = p->at;
    if (f->n_tensors) qsort(f->tensors, (size_t)f->n_tensors, sizeof *f->tensors, by_name);
    for (int64_t i = 1; i < f->n_tensors; i++)
        if (strcmp(f->tensors[i].name, f->tensors[i - 1].name) == 0)
            return cvt_gguf_at(
                fh1_where(FH1_BAD("the tensor stands in the file twice"), "tensor \"%.63s\"", f->tensors[i].name), f,
                f->tensors[i].at);
    return NULL;
}

static fh1_status check_version(const cvt_gguf_file *f, uint32_t version)
{
    fh1_status s = NULL;
    if (version == 3) return NULL;
    if (version == 0x03000000u || version == 0x02000000u || version == 0x01000000u)
        s = fh1_hint(FH1_BAD("the file is written for a big-endian machine, which is not supported"),
                     "convert the model anew without --bigendian");
    else if (version == 0 || version > 99) s = FH1_BAD("there is no such version of GGUF");
    else
        s = fh1_hint(FH1_BAD("this version of GGUF is not supported"),
                     version < 3 ? "convert the model anew with a converter of 2023-10 or later"
                                 : "a newer release of fh1 may read it");
    return cvt_gguf_at(fh1_found(fh1_expected(s, "version 3"), "0x%08x", version), f, 4);
}

static fh1_status check_count(const cvt_gguf_file *f, const char *what, uint64_t n, uint64_t at)
{
    if (n <= CVT_GGUF_MAX_ENTRIES) return NULL;
    return cvt_gguf_at(fh1_found(fh1_expected(FH1_BAD("there are too many %s", what), "at most %llu",
                                              (unsigned long long)CVT_GGUF_MAX_ENTRIES),
                                 "%llu", (unsigned long long)n),
                       f, at);
}

fh1_status cvt_gguf_parse(cvt_gguf_file *f)
{
    parser p = {.f = f};
    uint64_t at, n_tensors, n_kv;
    uint32_t version;
    FH1_TRY(take(&p, 4, "the magic", &at));
    if (memcmp(f->head, "GGUF", 4) != 0) return cvt_gguf_at(FH1_BAD("the file is not a GGUF file"), f, 0);
    FH1_TRY(take_u32(&p, "the version", &version));
    FH1_TRY(check_version(f, version));
    FH1_TRY(take_u64(&p, "the number of tensors", &n_tensors));
    FH1_TRY(take_u64(&p, "the number of keys", &n_kv));
    FH1_TRY(check_count(f, "tensors", n_tensors, 8));
    FH1_TRY(check_count(f, "keys", n_kv, 16));
    FH1_TRY(take_kvs(&p, n_kv));
    FH1_TRY(read_alignment(f));
    FH1_TRY(take_infos(&p, n_tensors));
    return cvt_gguf_place(f);
}
