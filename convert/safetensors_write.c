#include "convert/safetensors.h"

#include "convert/file.h"
#include "convert/st_layout.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t first, end; /* elements */
} span;

typedef struct {
    char *name;
    fh1_dtype dtype;
    int rank;
    int64_t shape[FH1_MAX_RANK];
    int64_t n_elems;
    uint64_t n_bytes, begin; /* begin: from the start of the file, once laid out */
    span *done;              /* what has been written, ascending, neither touching nor overlapping */
    size_t n_done;
} out_tensor;

struct cvt_st_writer {
    cvt_target target;
    bool laid_out, committed;
    out_tensor *tensors; /* as declared */
    size_t n_tensors, room_tensors;
    size_t *by_name; /* indices of tensors, for the search */
    cvt_pair *meta;  /* sorted by key */
    size_t n_meta;
    uint64_t end; /* size of the file */
};

static fh1_status misuse(const cvt_st_writer *w, const char *name, fh1_status s)
{
    return fh1_where(s, "%s, tensor \"%.120s\"", w->target.target, name);
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
    FH1_TRY(misuse(w, key, cvt_st_check_text(key)));
    FH1_TRY(misuse(w, value, cvt_st_check_text(value)));
    size_t at = 0;
    while (at < w->n_meta && strcmp(w->meta[at].key, key) < 0) at++;
    if (at < w->n_meta && strcmp(w->meta[at].key, key) == 0)
        return misuse(w, key, FH1_BAD("a metadata key is given twice"));
    cvt_pair *grown = realloc(w->meta, (w->n_meta + 1) * sizeof *grown);
    if (!grown) return fh1_no_memory((w->n_meta + 1) * sizeof *grown, "metadata");
    w->meta = grown;
    cvt_pair m = {strdup(key), strdup(value)};
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
    FH1_TRY(misuse(w, name, cvt_st_check_name(name)));
    out_tensor t = {.dtype = dtype, .rank = rank};
    FH1_TRY(misuse(w, name, cvt_st_size(dtype, rank, shape, &t.n_elems, &t.n_bytes)));
    for (int i = 0; i < rank; i++) t.shape[i] = shape[i];
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

static int by_name(const void *a, const void *b, void *tensors)
{
    const out_tensor *t = tensors;
    return strcmp(t[*(const size_t *)a].name, t[*(const size_t *)b].name);
}

static fh1_status index_names(cvt_st_writer *w)
{
    free(w->by_name); /* of an attempt that failed */
    w->by_name = malloc((w->n_tensors + 1) * sizeof *w->by_name);
    if (!w->by_name) return fh1_no_memory(w->n_tensors * sizeof *w->by_name, "the table of tensors");
    for (size_t i = 0; i < w->n_tensors; i++) w->by_name[i] = i;
    qsort_r(w->by_name, w->n_tensors, sizeof *w->by_name, by_name, w->tensors);
    return NULL;
}

/* Gives each tensor its place and makes the header. */
static fh1_status place_tensors(cvt_st_writer *w, char **header, size_t *n)
{
    cvt_st_item *items = calloc(w->n_tensors + 1, sizeof *items);
    if (!items) return fh1_no_memory(w->n_tensors * sizeof *items, "the table of tensors");
    for (size_t i = 0; i < w->n_tensors; i++) {
        const out_tensor *t = &w->tensors[i];
        items[i] = (cvt_st_item){
            .name = t->name, .dtype = t->dtype, .rank = t->rank, .shape = t->shape, .n_bytes = t->n_bytes, .tag = i};
    }
    fh1_status s = cvt_st_layout(items, w->n_tensors, w->meta, w->n_meta, header, n);
    w->end = s ? 0 : *n;
    for (size_t i = 0; !s && i < w->n_tensors; i++) {
        w->tensors[items[i].tag].begin = *n + items[i].begin;
        w->end += items[i].n_bytes;
    }
    free(items);
    return s ? fh1_where(s, "%s", w->target.target) : index_names(w);
}

/* Ends the declarations: order, header, and the room on the disk, so that a full one shows before the work. */
static fh1_status lay_out(cvt_st_writer *w)
{
    char *header = NULL;
    size_t n = 0;
    if (w->laid_out) return NULL;
    fh1_status s = place_tensors(w, &header, &n);
    if (!s) s = cvt_write_at(w->target.fd, w->target.target, header, n, 0);
    free(header);
    if (s) return s;
    FH1_TRY(cvt_file_reserve(w->target.fd, w->target.target, w->end));
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
    FH1_TRY(cvt_write_at(w->target.fd, w->target.target, data, (size_t)(size / 8), t->begin + skip / 8));
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
