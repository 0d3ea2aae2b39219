#include "convert/safetensors.h"

#include "convert/file.h"
#include "convert/json_scan.h" /* cvt_utf8_len */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER 100000000u /* what the readers accept */

/* The reference writer's order of types, by their place in its enumeration, from its end. */
static const fh1_dtype file_order[] = {
    FH1_U64, FH1_I64, FH1_F64,     FH1_C64,         FH1_F32,         FH1_U32,     FH1_I32,     FH1_BF16,
    FH1_F16, FH1_U16, FH1_I16,     FH1_F8_E5M2FNUZ, FH1_F8_E4M3FNUZ, FH1_F8_E8M0, FH1_F8_E4M3, FH1_F8_E5M2,
    FH1_I8,  FH1_U8,  FH1_F6_E3M2, FH1_F6_E2M3,     FH1_F4,          FH1_BOOL,
};
_Static_assert(sizeof file_order / sizeof *file_order == FH1_DTYPE_COUNT, "every type has a place in the file");

typedef struct {
    int64_t first, end; /* elements */
} span;

typedef struct {
    char *name;
    fh1_dtype dtype;
    int rank;
    int64_t shape[FH1_MAX_RANK];
    int64_t n_elems;
    uint64_t n_bytes, begin; /* begin: from the start of the data */
    span *done;              /* what has been written, ascending, neither touching nor overlapping */
    size_t n_done;
} out_tensor;

typedef struct {
    char *key, *value;
} out_meta;

struct cvt_st_writer {
    cvt_target target;
    bool laid_out, committed;
    out_tensor *tensors; /* in file order once laid out */
    size_t n_tensors, room_tensors;
    size_t *by_name; /* indices of tensors, for the search */
    out_meta *meta;
    size_t n_meta;
    uint64_t data_begin;
};

static fh1_status misuse(const cvt_st_writer *w, const char *name, fh1_status s)
{
    return fh1_where(s, "%s, tensor \"%.120s\"", w->target.target, name);
}

static fh1_status check_text(const cvt_st_writer *w, const char *text)
{
    for (size_t i = 0, n = strlen(text), step; i < n; i += step) {
        step = cvt_utf8_len(text + i, n - i);
        if (step == 0) return misuse(w, text, FH1_BAD("a name or metadata text is not valid UTF-8"));
    }
    return NULL;
}

fh1_status cvt_st_writer_new(const char *path, bool force, cvt_st_writer **out)
{
    *out = NULL;
    cvt_st_writer *w = calloc(1, sizeof *w);
    if (!w) return fh1_no_memory(sizeof *w, "a safetensors writer");
    fh1_status s = cvt_target_begin(path, false, force, &w->target);
    if (s) cvt_st_writer_free(w);
    else *out = w;
    return s;
}

fh1_status cvt_st_writer_meta(cvt_st_writer *w, const char *key, const char *value)
{
    if (w->laid_out) return misuse(w, key, fh1_fail(FH1_E_INTERNAL, "metadata after the first data"));
    FH1_TRY(check_text(w, key));
    FH1_TRY(check_text(w, value));
    size_t at = 0;
    while (at < w->n_meta && strcmp(w->meta[at].key, key) < 0) at++;
    if (at < w->n_meta && strcmp(w->meta[at].key, key) == 0)
        return misuse(w, key, FH1_BAD("a metadata key is given twice"));
    out_meta *grown = realloc(w->meta, (w->n_meta + 1) * sizeof *grown);
    if (!grown) return fh1_no_memory((w->n_meta + 1) * sizeof *grown, "metadata");
    w->meta = grown;
    out_meta m = {strdup(key), strdup(value)};
    if (!m.key || !m.value) {
        free(m.key);
        free(m.value);
        return fh1_no_memory(strlen(key) + strlen(value), "metadata");
    }
    memmove(grown + at + 1, grown + at, (w->n_meta - at) * sizeof *grown);
    grown[at] = m;
    w->n_meta++;
    return NULL;
}

fh1_status cvt_st_writer_declare(cvt_st_writer *w, const char *name, fh1_dtype dtype, int rank, const int64_t *shape)
{
    if (w->laid_out) return misuse(w, name, fh1_fail(FH1_E_INTERNAL, "a declaration after the first data"));
    if (strcmp(name, "__metadata__") == 0)
        return misuse(w, name, FH1_BAD("a tensor cannot have this name: readers take it for the metadata"));
    FH1_TRY(check_text(w, name));
    out_tensor t = {.dtype = dtype, .rank = rank, .n_elems = 1};
    int64_t bits;
    if (rank < 0 || rank > FH1_MAX_RANK || (unsigned)dtype >= FH1_DTYPE_COUNT)
        return misuse(w, name, fh1_fail(FH1_E_INTERNAL, "a tensor of rank %d cannot be written", rank));
    for (int i = 0; i < rank; i++) {
        t.shape[i] = shape[i];
        if (shape[i] < 0 || !fh1_mul_i64(t.n_elems, shape[i], &t.n_elems))
            return misuse(w, name, FH1_BAD("the product of the shape overflows at dimension %d", i));
    }
    if (!fh1_mul_i64(t.n_elems, fh1_dtype_bits(dtype), &bits) || bits % 8 != 0)
        return misuse(
            w, name,
            FH1_BAD("%lld elements of %s are no whole number of bytes", (long long)t.n_elems, fh1_dtype_name(dtype)));
    t.n_bytes = (uint64_t)bits / 8;
    if (w->n_tensors == w->room_tensors) {
        size_t room = w->room_tensors ? 2 * w->room_tensors : 64;
        out_tensor *grown = realloc(w->tensors, room * sizeof *grown);
        if (!grown) return fh1_no_memory(room * sizeof *grown, "the table of tensors");
        w->tensors = grown;
        w->room_tensors = room;
    }
    t.name = strdup(name);
    if (!t.name) return fh1_no_memory(strlen(name), "a tensor's name");
    w->tensors[w->n_tensors++] = t;
    return NULL;
}

/* A growing text; n > room means that memory ran out. */
typedef struct {
    char *s;
    size_t n, room;
} text_buf;

static void __attribute__((format(printf, 2, 3))) add(text_buf *b, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    size_t need = (size_t)vsnprintf(NULL, 0, fmt, args) + 1;
    if (b->n <= b->room && b->n + need > b->room) {
        size_t room = 2 * (b->n + need);
        char *grown = realloc(b->s, room);
        if (grown) {
            b->s = grown;
            b->room = room;
        } else {
            b->n = SIZE_MAX;
        }
    }
    if (b->n <= b->room) b->n += (size_t)vsnprintf(b->s + b->n, need, fmt, again);
    va_end(again);
    va_end(args);
}

/* A JSON string in the reference writer's spelling: short escapes where JSON has them, UTF-8 as it is. */
static void add_string(text_buf *b, const char *s)
{
    static const char special[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    add(b, "\"");
    while (*s) {
        size_t plain = 0;
        while ((unsigned char)s[plain] >= 0x20 && s[plain] != '"' && s[plain] != '\\') plain++;
        add(b, "%.*s", (int)plain, s);
        s += plain;
        if (!*s) break;
        const char *k = strchr(special, *s);
        if (k) add(b, "\\%c", letter[k - special]);
        else add(b, "\\u%04x", (unsigned)(unsigned char)*s);
        s++;
    }
    add(b, "\"");
}

static void add_header(text_buf *b, const cvt_st_writer *w)
{
    add(b, "{");
    for (size_t i = 0; i < w->n_meta; i++) {
        add(b, i ? "," : "\"__metadata__\":{");
        add_string(b, w->meta[i].key);
        add(b, ":");
        add_string(b, w->meta[i].value);
    }
    if (w->n_meta) add(b, w->n_tensors ? "}," : "}");
    for (size_t i = 0; i < w->n_tensors; i++) {
        const out_tensor *t = &w->tensors[i];
        if (i) add(b, ",");
        add_string(b, t->name);
        add(b, ":{\"dtype\":\"%s\",\"shape\":[", fh1_dtype_name(t->dtype));
        for (int k = 0; k < t->rank; k++) add(b, "%s%lld", k ? "," : "", (long long)t->shape[k]);
        add(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->begin,
            (unsigned long long)(t->begin + t->n_bytes));
    }
    add(b, "}");
    while (b->n < b->room && b->n % 8 != 0) add(b, " ");
}

static int file_rank(fh1_dtype t)
{
    int i = 0;
    while (file_order[i] != t) i++;
    return i;
}

static int by_file_order(const void *a, const void *b)
{
    const out_tensor *x = a, *y = b;
    int rank = file_rank(x->dtype) - file_rank(y->dtype);
    return rank ? rank : strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b, void *tensors)
{
    const out_tensor *t = tensors;
    return strcmp(t[*(const size_t *)a].name, t[*(const size_t *)b].name);
}

static fh1_status order_tensors(cvt_st_writer *w)
{
    uint64_t at = 0;
    if (w->n_tensors) qsort(w->tensors, w->n_tensors, sizeof *w->tensors, by_file_order);
    free(w->by_name); /* of an attempt that failed */
    w->by_name = malloc((w->n_tensors + 1) * sizeof *w->by_name);
    if (!w->by_name) return fh1_no_memory(w->n_tensors * sizeof *w->by_name, "the table of tensors");
    for (size_t i = 0; i < w->n_tensors; i++) {
        w->by_name[i] = i;
        w->tensors[i].begin = at;
        at += w->tensors[i].n_bytes;
        if (at > INT64_MAX / 2) return misuse(w, w->tensors[i].name, FH1_BAD("the tensors are too large for a file"));
    }
    qsort_r(w->by_name, w->n_tensors, sizeof *w->by_name, by_name, w->tensors);
    for (size_t i = 1; i < w->n_tensors; i++) {
        const char *name = w->tensors[w->by_name[i]].name;
        if (strcmp(w->tensors[w->by_name[i - 1]].name, name) == 0)
            return misuse(w, name, FH1_BAD("two tensors have the same name"));
    }
    return NULL;
}

/* Ends the declarations: order, header, and the room on the disk, so that a full one shows before the work. */
static fh1_status lay_out(cvt_st_writer *w)
{
    if (w->laid_out) return NULL;
    FH1_TRY(order_tensors(w));
    text_buf b = {0};
    add_header(&b, w);
    fh1_status s = NULL;
    if (b.n > b.room) s = fh1_no_memory(b.room, "a safetensors header");
    else if (b.n > MAX_HEADER)
        s = fh1_where(fh1_found(fh1_expected(FH1_BAD("the header would be too large for readers"), "at most %u bytes",
                                             MAX_HEADER),
                                "%zu", b.n),
                      "%s", w->target.target);
    char length[8];
    for (int i = 0; i < 8; i++) length[i] = (char)(unsigned char)((uint64_t)b.n >> (8 * i));
    if (!s) s = cvt_write_at(w->target.fd, w->target.target, length, 8, 0);
    if (!s) s = cvt_write_at(w->target.fd, w->target.target, b.s, b.n, 8);
    free(b.s);
    if (s) return s;
    w->data_begin = 8 + b.n;
    uint64_t total = w->data_begin;
    if (w->n_tensors) total += w->tensors[w->n_tensors - 1].begin + w->tensors[w->n_tensors - 1].n_bytes;
    if (fallocate(w->target.fd, 0, 0, (off_t)total) != 0 && (errno == ENOSPC || errno == EFBIG || errno == EDQUOT))
        return fh1_where(
            fh1_fail(FH1_E_INTERNAL, "no room for %llu bytes: %s", (unsigned long long)total, strerror(errno)), "%s",
            w->target.target);
    w->laid_out = true;
    return NULL;
}

static out_tensor *find(const cvt_st_writer *w, const char *name)
{
    size_t lo = 0, hi = w->n_tensors;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        out_tensor *t = &w->tensors[w->by_name[mid]];
        int order = strcmp(name, t->name);
        if (order == 0) return t;
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

/* Adds [first, end) to what is written, joining spans that touch. */
static fh1_status note_done(out_tensor *t, int64_t first, int64_t end)
{
    size_t a = 0;
    while (a < t->n_done && t->done[a].end < first) a++;
    size_t b = a; /* spans a..b-1 are swallowed */
    while (b < t->n_done && t->done[b].first <= end) b++;
    if (a == b) {
        span *grown = realloc(t->done, (t->n_done + 1) * sizeof *grown);
        if (!grown) return fh1_no_memory((t->n_done + 1) * sizeof *grown, "pieces of a tensor");
        t->done = grown;
        memmove(grown + a + 1, grown + a, (t->n_done - a) * sizeof *grown);
        t->n_done++;
        grown[a] = (span){first, end};
        return NULL;
    }
    if (t->done[a].first < first) first = t->done[a].first;
    if (t->done[b - 1].end > end) end = t->done[b - 1].end;
    t->done[a] = (span){first, end};
    memmove(t->done + a + 1, t->done + b, (t->n_done - b) * sizeof *t->done);
    t->n_done -= b - a - 1;
    return NULL;
}

fh1_status cvt_st_writer_put(cvt_st_writer *w, const char *name, int64_t first, const void *data, int64_t n)
{
    FH1_TRY(lay_out(w));
    out_tensor *t = find(w, name);
    if (!t) return misuse(w, name, fh1_fail(FH1_E_INTERNAL, "data for a tensor that was not declared"));
    if (first < 0 || n < 0 || first > t->n_elems || n > t->n_elems - first)
        return misuse(w, name,
                      fh1_fail(FH1_E_INTERNAL, "data for elements %lld to %lld of %lld", (long long)first,
                               (long long)first + (long long)n, (long long)t->n_elems));
    if (n == 0) return NULL;
    uint64_t bits = (uint64_t)fh1_dtype_bits(t->dtype), skip = (uint64_t)first * bits, size = (uint64_t)n * bits;
    if (skip % 8 != 0 || size % 8 != 0)
        return misuse(w, name, fh1_fail(FH1_E_INTERNAL, "a piece that does not end at a byte boundary"));
    FH1_TRY(
        cvt_write_at(w->target.fd, w->target.target, data, (size_t)(size / 8), w->data_begin + t->begin + skip / 8));
    return note_done(t, first, first + n);
}

fh1_status cvt_st_writer_commit(cvt_st_writer *w)
{
    if (w->committed) return fh1_where(fh1_fail(FH1_E_INTERNAL, "a second commit"), "%s", w->target.target);
    FH1_TRY(lay_out(w));
    for (size_t i = 0; i < w->n_tensors; i++) {
        const out_tensor *t = &w->tensors[i];
        bool whole = t->n_elems == 0 || (t->n_done == 1 && t->done[0].first == 0 && t->done[0].end == t->n_elems);
        if (!whole) return misuse(w, t->name, fh1_fail(FH1_E_INTERNAL, "the tensor is not complete"));
    }
    FH1_TRY(cvt_target_commit(&w->target));
    w->committed = true;
    return NULL;
}

void cvt_st_writer_free(cvt_st_writer *w)
{
    if (!w) return;
    cvt_target_free(&w->target);
    for (size_t i = 0; i < w->n_tensors; i++) {
        free(w->tensors[i].name);
        free(w->tensors[i].done);
    }
    for (size_t i = 0; i < w->n_meta; i++) {
        free(w->meta[i].key);
        free(w->meta[i].value);
    }
    free(w->tensors);
    free(w->by_name);
    free(w->meta);
    free(w);
}
