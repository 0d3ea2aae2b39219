/* Making the tables of a checkpoint, by readers. */
#include "convert/checkpoint.h"
#include "convert/st_layout.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

fh1_status cvt_ckpt_new(const char *path, const cvt_ckpt_ops *ops, void *state, cvt_ckpt **out)
{
    *out = NULL;
    if (strlen(path) >= sizeof(*out)->path) return fh1_where(FH1_BAD("the path is too long"), "%.200s", path);
    cvt_ckpt *c = calloc(1, sizeof *c);
    if (!c) return fh1_no_memory(sizeof *c, "a checkpoint");
    c->ops = ops;
    c->state = state;
    memcpy(c->path, path, strlen(path) + 1);
    *out = c;
    return NULL;
}

/* Room for one more: tables have room for the next power of two. */
static void *grown(void *table, int64_t n, size_t size)
{
    if (n & (n - 1)) return table;
    return realloc(table, (n ? 2 * (size_t)n : 1) * size);
}

fh1_status cvt_ckpt_push_file(cvt_ckpt *c, const char *name, bool weights, uint64_t bytes, int64_t source)
{
    cvt_ckpt_file *table = grown(c->files, c->n_files, sizeof *table);
    if (table) c->files = table;
    char *copy = table ? strdup(name) : NULL;
    if (!copy) return fh1_no_memory(sizeof *table, "the table of files");
    c->files[c->n_files++] = (cvt_ckpt_file){.name = copy, .weights = weights, .bytes = bytes, .source = source};
    return NULL;
}

fh1_status cvt_ckpt_push_tensor(cvt_ckpt *c, const char *name, fh1_dtype dtype, int rank, const int64_t *shape,
                                int64_t file, uint64_t begin, int64_t source)
{
    if (rank < 0 || rank > FH1_MAX_RANK) return fh1_fail(FH1_E_INTERNAL, "a tensor of rank %d", rank);
    cvt_ckpt_tensor *table = grown(c->tensors, c->n_tensors, sizeof *table);
    if (table) c->tensors = table;
    char *copy = table ? strdup(name) : NULL;
    if (!copy) return fh1_no_memory(sizeof *table, "the table of tensors");
    cvt_ckpt_tensor *t = &c->tensors[c->n_tensors++];
    *t = (cvt_ckpt_tensor){.name = copy, .dtype = dtype, .rank = rank, .file = file, .begin = begin, .source = source};
    for (int i = 0; i < rank; i++) t->shape[i] = shape[i];
    return NULL;
}

fh1_status cvt_ckpt_push_meta(cvt_ckpt_file *f, const char *key, const char *value)
{
    cvt_pair *table = grown(f->meta, f->n_meta, sizeof *table);
    if (table) f->meta = table;
    cvt_pair p = {table ? strdup(key) : NULL, table ? strdup(value) : NULL};
    if (!p.key || !p.value) {
        free(p.key);
        free(p.value);
        return fh1_no_memory(strlen(key) + strlen(value), "metadata");
    }
    f->meta[f->n_meta++] = p;
    return NULL;
}

void cvt_ckpt_clear_file(cvt_ckpt_file *f)
{
    for (int i = 0; i < f->n_meta; i++) {
        free(f->meta[i].key);
        free(f->meta[i].value);
    }
    free(f->meta);
    free(f->name);
    free(f->data);
    free(f->header);
    *f = (cvt_ckpt_file){0};
}

/* Relative, no part that is empty, "." or "..", nothing that a file system refuses. */
static bool stays_inside(const char *name)
{
    if (strlen(name) >= PATH_MAX) return false;
    for (const char *part = name;;) {
        size_t n = strcspn(part, "/");
        if (n == 0 || n > NAME_MAX || (n == 1 && part[0] == '.') || (n == 2 && memcmp(part, "..", 2) == 0))
            return false;
        if (part[n] == '\0') return true;
        part += n + 1;
    }
}

static fh1_status in_checkpoint(const cvt_ckpt *c, const char *kind, const char *name, fh1_status s)
{
    return fh1_where(s, "%s, %s \"%.120s\"", c->path, kind, name);
}

/* A file must not be a folder of another file's name. */
static fh1_status check_folders(const cvt_ckpt *c, const char *name)
{
    char folder[PATH_MAX];
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        memcpy(folder, name, (size_t)(slash - name));
        folder[slash - name] = '\0';
        if (cvt_ckpt_find_file(c, folder) >= 0)
            return in_checkpoint(c, "file", name, FH1_BAD("one file is a folder of another one's name"));
    }
    return NULL;
}

static int file_order(const void *a, const void *b, void *files)
{
    const cvt_ckpt_file *f = files;
    return strcmp(f[*(const int64_t *)a].name, f[*(const int64_t *)b].name);
}

static int tensor_order(const void *a, const void *b)
{
    return strcmp(((const cvt_ckpt_tensor *)a)->name, ((const cvt_ckpt_tensor *)b)->name);
}

/* Files in order of their names; `file` of the tensors is renumbered. */
static fh1_status sort_files(cvt_ckpt *c)
{
    size_t n = (size_t)c->n_files;
    int64_t *order = malloc((n + 1) * sizeof *order), *place = malloc((n + 1) * sizeof *place);
    cvt_ckpt_file *sorted = malloc((2 * n + 1) * sizeof *sorted); /* room as by `grown` */
    fh1_status s = order && place && sorted ? NULL : fh1_no_memory(n * sizeof *sorted, "the table of files");
    for (size_t i = 0; !s && i < n; i++) order[i] = (int64_t)i;
    if (!s) qsort_r(order, n, sizeof *order, file_order, c->files);
    for (size_t i = 0; !s && i < n; i++) {
        sorted[i] = c->files[order[i]];
        place[order[i]] = (int64_t)i;
    }
    for (int64_t i = 0; !s && i < c->n_tensors; i++) {
        int64_t file = c->tensors[i].file;
        if (file < 0 || file >= c->n_files || !c->files[file].weights)
            s = in_checkpoint(c, "tensor", c->tensors[i].name, FH1_BAD("the tensor lies in no file of weights"));
        else c->tensors[i].file = place[file];
    }
    if (!s) {
        free(c->files);
        c->files = sorted;
        sorted = NULL;
    }
    free(sorted);
    free(order);
    free(place);
    return s;
}

static fh1_status check_tensor(const cvt_ckpt *c, const cvt_ckpt_tensor *t)
{
    int64_t n_elems;
    uint64_t n_bytes;
    const cvt_ckpt_file *f = &c->files[t->file];
    FH1_TRY(cvt_st_check_name(t->name));
    FH1_TRY(cvt_st_size(t->dtype, t->rank, t->shape, &n_elems, &n_bytes));
    if (f->header && (t->begin < f->header_bytes || t->begin > f->bytes || n_bytes > f->bytes - t->begin))
        return FH1_BAD("the tensor lies outside of its file %.120s", f->name);
    return NULL;
}

fh1_status cvt_ckpt_finish(cvt_ckpt *c)
{
    FH1_TRY(sort_files(c));
    if (c->n_tensors) qsort(c->tensors, (size_t)c->n_tensors, sizeof *c->tensors, tensor_order);
    for (int64_t i = 0; i < c->n_files; i++) {
        const char *name = c->files[i].name;
        if (!stays_inside(name))
            return fh1_expected(in_checkpoint(c, "file", name, FH1_BAD("the file's name leads out of the folder")),
                                "a relative path without empty, \".\" and \"..\" parts");
        if (i > 0 && strcmp(c->files[i - 1].name, name) == 0)
            return in_checkpoint(c, "file", name, FH1_BAD("two files have the same name"));
        FH1_TRY(check_folders(c, name));
    }
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        if (i > 0 && strcmp(c->tensors[i - 1].name, name) == 0)
            return in_checkpoint(c, "tensor", name, FH1_BAD("two tensors have the same name"));
        FH1_TRY(in_checkpoint(c, "tensor", name, check_tensor(c, &c->tensors[i])));
    }
    return NULL;
}
