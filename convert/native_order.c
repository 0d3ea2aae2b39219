/* The order of things in a native file, and their hashes. */
#include "convert/native_impl.h"

#include <stdlib.h>
#include <string.h>

static int by_place(const void *a, const void *b, void *ckpt)
{
    const cvt_ckpt *c = ckpt;
    const cvt_ckpt_tensor *x = &c->tensors[*(const int64_t *)a], *y = &c->tensors[*(const int64_t *)b];
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    const uint64_t bx = cvt_ckpt_tensor_bytes(x), by = cvt_ckpt_tensor_bytes(y);
    if (bx != by) return bx < by ? -1 : 1; /* an empty one lies before the one that begins at the same byte */
    return strcmp(x->name, y->name);
}

static void push_stream(native_stream *streams, int64_t *order, int64_t *n, int64_t *chunk, int64_t what,
                        uint64_t bytes)
{
    streams[*n] = (native_stream){*chunk, bytes};
    order[(*n)++] = what;
    *chunk += native_chunks_of(bytes);
}

/* A file of weights: its tensors follow the header without a hole, to the end. */
static fh1_status plan_weights(const cvt_ckpt *c, int64_t file, const int64_t *sorted, int64_t *next,
                               native_stream *streams, int64_t *order, int64_t *n, int64_t *chunk)
{
    const cvt_ckpt_file *f = &c->files[file];
    if (!f->header) return fh1_fail(FH1_E_INTERNAL, "the file \"%.200s\" has no header yet", f->name);
    push_stream(streams, order, n, chunk, -1 - file, f->header_bytes);
    uint64_t at = f->header_bytes;
    for (; *next < c->n_tensors && c->tensors[sorted[*next]].file == file; ++*next) {
        const cvt_ckpt_tensor *t = &c->tensors[sorted[*next]];
        if (t->begin != at) break;
        push_stream(streams, order, n, chunk, sorted[*next], cvt_ckpt_tensor_bytes(t));
        at += cvt_ckpt_tensor_bytes(t);
    }
    if (at == f->bytes) return NULL;
    return fh1_where(fh1_fail(FH1_E_INTERNAL, "the tensors do not cover the file \"%.200s\"", f->name), "%s, byte %llu",
                     c->path, (unsigned long long)at);
}

fh1_status native_plan(const cvt_ckpt *c, native_stream **streams, int64_t **order, int64_t *n_streams)
{
    const size_t n = (size_t)(c->n_files + c->n_tensors);
    int64_t chunk = 0, next = 0, *sorted = malloc((size_t)(c->n_tensors + 1) * sizeof *sorted);
    *streams = malloc((n + 1) * sizeof **streams);
    *order = malloc((n + 1) * sizeof **order);
    *n_streams = 0;
    fh1_status s = sorted && *streams && *order ? NULL : fh1_no_memory(n * sizeof **streams, "the table of streams");
    for (int64_t i = 0; !s && i < c->n_tensors; i++) sorted[i] = i;
    if (!s) qsort_r(sorted, (size_t)c->n_tensors, sizeof *sorted, by_place, (void *)(uintptr_t)c);
    for (int64_t i = 0; !s && i < c->n_files; i++) {
        if (c->files[i].weights) s = plan_weights(c, i, sorted, &next, *streams, *order, n_streams, &chunk);
        else push_stream(*streams, *order, n_streams, &chunk, -1 - i, c->files[i].bytes);
    }
    free(sorted);
    if (!s) return NULL;
    free(*streams);
    free(*order);
    *streams = NULL;
    *order = NULL;
    return s;
}

/* ---- hashes ---- */

fh1_status native_model_hash(const cvt_ckpt *c, const cvt_hash_text *hashes, cvt_hash_text *out)
{
    cvt_hash *h;
    FH1_TRY(cvt_hash_new(&h));
    for (int64_t i = 0; i < c->n_files; i++) {
        cvt_hash_add(h, hashes[i].hex, 32);
        cvt_hash_add(h, "  ", 2);
        cvt_hash_add(h, c->files[i].name, strlen(c->files[i].name));
        cvt_hash_add(h, "\n", 1);
    }
    *out = cvt_hash_end(h);
    cvt_hash_free(h);
    return NULL;
}

struct native_hasher {
    const cvt_ckpt *c;
    cvt_hash *state;
    cvt_hash_text *hashes;
    int64_t file; /* that the state is of; -1: none yet */
};

void native_hasher_free(native_hasher *h)
{
    if (h) cvt_hash_free(h->state);
    free(h);
}

fh1_status native_hasher_new(const cvt_ckpt *c, cvt_hash_text *hashes, native_hasher **out)
{
    native_hasher *h = malloc(sizeof *h);
    *out = NULL;
    if (!h) return fh1_no_memory(sizeof *h, "a checksum");
    *h = (native_hasher){.c = c, .hashes = hashes, .file = -1};
    fh1_status s = cvt_hash_new(&h->state);
    if (s) {
        free(h);
        return s;
    }
    for (int64_t i = 0; i < c->n_files; i++) hashes[i] = cvt_hash_end(h->state); /* of an empty file */
    *out = h;
    return NULL;
}

void native_hasher_add(native_hasher *h, int64_t file, const void *data, size_t n)
{
    if (file != h->file) {
        native_hasher_end(h);
        cvt_hash_reset(h->state);
        h->file = file;
    }
    cvt_hash_add(h->state, data, n);
}

void native_hasher_end(native_hasher *h)
{
    if (h->file >= 0) h->hashes[h->file] = cvt_hash_end(h->state);
}
