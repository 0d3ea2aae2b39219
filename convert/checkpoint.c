#include "convert/checkpoint.h"

#include "convert/file.h"
#include "convert/find_name.h"
#include "convert/gguf.h"
#include "convert/hf_config.h"
#include "convert/json.h"
#include "convert/native.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* By the first bytes of a regular file. */
static fh1_status kind_of_file(const char *path, cvt_kind *out)
{
    char begin[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return fh1_where(cvt_cannot(errno, "the file cannot be opened"), "%s", path);
    size_t n;
    fh1_status s = cvt_read_begin(fd, path, begin, sizeof begin, &n);
    close(fd);
    if (!s && cvt_native_is(begin, n)) *out = CVT_KIND_NATIVE;
    else if (!s && cvt_gguf_is(begin, n)) *out = CVT_KIND_GGUF;
    return s;
}

fh1_status cvt_ckpt_kind(const char *path, cvt_kind *out)
{
    struct stat st;
    *out = CVT_KIND_NONE;
    if (stat(path, &st) != 0) return fh1_where(cvt_cannot(errno, "the model cannot be opened"), "%s", path);
    if (S_ISDIR(st.st_mode)) *out = CVT_KIND_HF;
    return S_ISREG(st.st_mode) ? kind_of_file(path, out) : NULL;
}

static fh1_status open_kind(const char *path, cvt_kind kind, bool wide, cvt_ckpt **out)
{
    switch (kind) {
    case CVT_KIND_HF: return cvt_hf_ckpt_open(path, out);
    case CVT_KIND_NATIVE: return cvt_native_open(path, out);
    case CVT_KIND_GGUF: return wide ? cvt_gguf_open_wide(path, out) : cvt_gguf_open(path, out);
    case CVT_KIND_NONE: break;
    }
    return fh1_hint(fh1_expected(fh1_where(FH1_BAD("this is not a model"), "%s", path),
                                 "a model folder, or a file that begins like a native file (.fh1) or like GGUF"),
                    "%s",
                    cvt_has_suffix(path, ".safetensors") ? "give the folder that holds this file and config.json"
                                                         : "give a model folder, a .fh1 file or a .gguf file");
}

/* One look at the kind: what another program puts in the file's place between two of them would pass for the model. */
static fh1_status open_any(const char *path, bool wide, cvt_ckpt **out)
{
    cvt_kind kind;
    *out = NULL;
    FH1_TRY(cvt_ckpt_kind(path, &kind));
    FH1_TRY(open_kind(path, kind, wide, out));
    (*out)->kind = kind;
    return NULL;
}

fh1_status cvt_ckpt_open(const char *path, cvt_ckpt **out)
{
    return open_any(path, false, out);
}

fh1_status cvt_ckpt_open_wide(const char *path, cvt_ckpt **out)
{
    return open_any(path, true, out);
}

void cvt_ckpt_close(cvt_ckpt *c)
{
    while (c) {
        cvt_ckpt *below = c->below;
        if (c->ops->free_state) c->ops->free_state(c);
        for (int64_t i = 0; i < c->n_files; i++) cvt_ckpt_clear_file(&c->files[i]);
        for (int64_t i = 0; i < c->n_tensors; i++) free(c->tensors[i].name);
        free(c->files);
        free(c->tensors);
        free(c);
        c = below;
    }
}

int64_t cvt_ckpt_find(const cvt_ckpt *c, const char *tensor)
{
    return cvt_find_name(c->tensors, c->n_tensors, sizeof *c->tensors, tensor);
}

int64_t cvt_ckpt_find_file(const cvt_ckpt *c, const char *name)
{
    return cvt_find_name(c->files, c->n_files, sizeof *c->files, name);
}

const char *cvt_ckpt_meta(const cvt_ckpt *c, const char *key)
{
    for (int64_t i = 0; i < c->n_files; i++)
        for (int k = 0; k < c->files[i].n_meta; k++)
            if (strcmp(c->files[i].meta[k].key, key) == 0) return c->files[i].meta[k].value;
    return NULL;
}

/* cvt_ckpt_finish has seen that these products stand. */
static uint64_t n_elems(const cvt_ckpt_tensor *t, int from)
{
    uint64_t n = 1;
    for (int i = from; i < t->rank; i++) n *= (uint64_t)t->shape[i];
    return n;
}

static bool by_rows(const cvt_ckpt_tensor *t)
{
    return t->rank > 0 && fh1_dtype_bits(t->dtype) >= 8;
}

int64_t cvt_ckpt_rows(const cvt_ckpt_tensor *t)
{
    return by_rows(t) ? t->shape[0] : 1;
}

uint64_t cvt_ckpt_tensor_bytes(const cvt_ckpt_tensor *t)
{
    return n_elems(t, 0) * (uint64_t)fh1_dtype_bits(t->dtype) / 8;
}

uint64_t cvt_ckpt_row_bytes(const cvt_ckpt_tensor *t)
{
    if (!by_rows(t)) return cvt_ckpt_tensor_bytes(t);
    return t->shape[0] == 0 ? 0 : n_elems(t, 1) * (uint64_t)fh1_dtype_bits(t->dtype) / 8;
}

uint64_t cvt_ckpt_total_bytes(const cvt_ckpt *c)
{
    uint64_t total = 0;
    for (int64_t i = 0; i < c->n_tensors; i++) total += cvt_ckpt_tensor_bytes(&c->tensors[i]);
    for (int64_t i = 0; i < c->n_files; i++)
        if (!c->files[i].weights) total += c->files[i].bytes;
    return total;
}

static fh1_status outside(const cvt_ckpt *c, const char *name)
{
    return fh1_where(fh1_fail(FH1_E_INTERNAL, "a read outside of its bounds"), "%s, %s", c->path, name);
}

/* Can a tensor that a view does not read itself be taken from below as it is? */
static bool passes_through(const cvt_ckpt *c, const cvt_ckpt_tensor *e)
{
    if (!c->below || e->source < 0 || e->source >= c->below->n_tensors) return false;
    const cvt_ckpt_tensor *from = &c->below->tensors[e->source];
    return cvt_ckpt_row_bytes(e) == cvt_ckpt_row_bytes(from) && cvt_ckpt_rows(e) == cvt_ckpt_rows(from);
}

fh1_status cvt_ckpt_read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    if (t < 0 || t >= c->n_tensors) return outside(c, "the table of tensors");
    const cvt_ckpt_tensor *e = &c->tensors[t];
    int64_t rows = cvt_ckpt_rows(e);
    if (first < 0 || n < 0 || first > rows || n > rows - first) return outside(c, e->name);
    if (n == 0 || cvt_ckpt_row_bytes(e) == 0) return NULL;
    if (c->ops->read_rows) return c->ops->read_rows(c, t, first, n, dst);
    if (!passes_through(c, e)) return outside(c, e->name);
    return cvt_ckpt_read_rows(c->below, e->source, first, n, dst);
}

/* Bytes [skip, skip + n) of one row. */
static fh1_status read_part_of_row(cvt_ckpt *c, int64_t t, int64_t row, uint64_t skip, uint64_t n, void *dst)
{
    uint64_t width = cvt_ckpt_row_bytes(&c->tensors[t]);
    char *whole = malloc(width);
    if (!whole) return fh1_no_memory(width, c->tensors[t].name);
    fh1_status s = cvt_ckpt_read_rows(c, t, row, 1, whole);
    if (!s) memcpy(dst, whole + skip, n);
    free(whole);
    return s;
}

static fh1_status read_by_rows(cvt_ckpt *c, int64_t t, uint64_t first, uint64_t n, char *dst)
{
    uint64_t width = cvt_ckpt_row_bytes(&c->tensors[t]);
    while (n > 0) {
        uint64_t skip = first % width, now;
        int64_t row = (int64_t)(first / width);
        if (skip != 0 || n < width) {
            now = width - skip < n ? width - skip : n;
            FH1_TRY(read_part_of_row(c, t, row, skip, now, dst));
        } else {
            now = n / width * width;
            FH1_TRY(cvt_ckpt_read_rows(c, t, row, (int64_t)(n / width), dst));
        }
        dst += now;
        first += now;
        n -= now;
    }
    return NULL;
}

fh1_status cvt_ckpt_read(cvt_ckpt *c, int64_t t, uint64_t first, uint64_t n, void *dst)
{
    if (t < 0 || t >= c->n_tensors) return outside(c, "the table of tensors");
    uint64_t size = cvt_ckpt_tensor_bytes(&c->tensors[t]);
    if (first > size || n > size - first) return outside(c, c->tensors[t].name);
    if (n == 0) return NULL;
    if (c->ops->read_bytes) return c->ops->read_bytes(c, t, first, n, dst);
    if (c->ops->read_rows) return read_by_rows(c, t, first, n, dst);
    if (!passes_through(c, &c->tensors[t])) return outside(c, c->tensors[t].name);
    return cvt_ckpt_read(c->below, c->tensors[t].source, first, n, dst);
}

uint64_t cvt_ckpt_piece(const cvt_ckpt *c, int64_t t, uint64_t wanted)
{
    uint64_t width = cvt_ckpt_row_bytes(&c->tensors[t]);
    while (!c->ops->read_bytes && !c->ops->read_rows && c->below) c = c->below;
    if (c->ops->read_bytes || width == 0) return wanted;
    return wanted < width ? width : wanted / width * width;
}

fh1_status cvt_ckpt_read_file(cvt_ckpt *c, int64_t file, uint64_t first, uint64_t n, void *dst)
{
    if (file < 0 || file >= c->n_files) return outside(c, "the table of files");
    const cvt_ckpt_file *f = &c->files[file];
    if (f->weights || first > f->bytes || n > f->bytes - first) return outside(c, f->name);
    if (n == 0) return NULL;
    if (f->data) {
        memcpy(dst, f->data + first, n);
        return NULL;
    }
    if (c->ops->read_file) return c->ops->read_file(c, file, first, n, dst);
    return cvt_ckpt_read_file(c->below, f->source, first, n, dst);
}

fh1_status cvt_ckpt_unchanged(cvt_ckpt *c)
{
    if (c->ops->unchanged) return c->ops->unchanged(c);
    return c->below ? cvt_ckpt_unchanged(c->below) : NULL;
}

fh1_status cvt_ckpt_file_text(cvt_ckpt *c, int64_t file, size_t max_bytes, char **text, size_t *n)
{
    const cvt_ckpt_file *f = &c->files[file];
    *text = NULL;
    *n = 0;
    if (f->bytes > max_bytes)
        return fh1_found(fh1_expected(fh1_where(FH1_BAD("the file is too large"), "%s, %s", c->path, f->name),
                                      "at most %zu bytes", max_bytes),
                         "%llu", (unsigned long long)f->bytes);
    char *buf = malloc(f->bytes + 1);
    if (!buf) return fh1_no_memory(f->bytes, f->name);
    fh1_status s = cvt_ckpt_read_file(c, file, 0, f->bytes, buf);
    if (s) {
        free(buf);
        return s;
    }
    buf[f->bytes] = '\0';
    *text = buf;
    *n = f->bytes;
    return NULL;
}

fh1_status cvt_ckpt_config_json(cvt_ckpt *c, cJSON **out)
{
    char *text;
    size_t n;
    int64_t i = cvt_ckpt_find_file(c, "config.json");
    *out = NULL;
    if (i < 0 || c->files[i].weights)
        return fh1_hint(fh1_where(FH1_BAD("the model has no config.json"), "%s", c->path),
                        "give the folder that holds config.json and the weights");
    FH1_TRY(cvt_ckpt_file_text(c, i, CVT_HF_CONFIG_BYTES, &text, &n));
    fh1_status s = cvt_json_parse(text, n, CVT_HF_CONFIG_DEPTH, "config.json", out);
    free(text);
    return fh1_where(s, "%s", c->path);
}

fh1_status cvt_ckpt_config(cvt_ckpt *c, fh1_config *out)
{
    cJSON *json;
    FH1_TRY(cvt_ckpt_config_json(c, &json));
    fh1_status s = fh1_where(cvt_hf_config_parse(json, "config.json", out), "%s", c->path);
    cJSON_Delete(json);
    int64_t embed = s ? -1 : cvt_ckpt_find(c, fh1_embed_weight(out->family));
    /* A quantised embedding is flat and says nothing about V. */
    if (embed >= 0 && c->tensors[embed].rank == 2 && fh1_dtype_is_float(c->tensors[embed].dtype) &&
        c->tensors[embed].shape[0] > 0)
        out->V = c->tensors[embed].shape[0];
    return s;
}
