/* Views and the edits of their tables. */
#include "convert/checkpoint.h"
#include "convert/hf_config.h"
#include "convert/json.h"
#include "convert/json_scan.h"
#include "convert/text.h"

#include <stdlib.h>
#include <string.h>

static const cvt_ckpt_ops view_ops = {0};

/* The tables of `below`; contents that it holds in memory are asked of it when they are read. */
static fh1_status copy_tables(cvt_ckpt *c, const cvt_ckpt *below)
{
    for (int64_t i = 0; i < below->n_files; i++) {
        const cvt_ckpt_file *f = &below->files[i];
        FH1_TRY(cvt_ckpt_push_file(c, f->name, f->weights, f->bytes, i));
        cvt_ckpt_file *own = &c->files[i];
        for (int k = 0; k < f->n_meta; k++) FH1_TRY(cvt_ckpt_push_meta(own, f->meta[k].key, f->meta[k].value));
        if (!f->header) continue;
        own->header = malloc(f->header_bytes);
        if (!own->header) return fh1_no_memory(f->header_bytes, "a safetensors header");
        memcpy(own->header, f->header, f->header_bytes);
        own->header_bytes = f->header_bytes;
    }
    for (int64_t i = 0; i < below->n_tensors; i++) {
        const cvt_ckpt_tensor *t = &below->tensors[i];
        FH1_TRY(cvt_ckpt_push_tensor(c, t->name, t->dtype, t->rank, t->shape, t->file, t->begin, i));
    }
    return NULL;
}

fh1_status cvt_ckpt_view(cvt_ckpt *below, cvt_ckpt **out)
{
    cvt_ckpt *c = NULL;
    *out = NULL;
    fh1_status s = cvt_ckpt_new(below->path, &view_ops, NULL, &c);
    if (!s) s = copy_tables(c, below);
    if (c) c->below = below;
    if (s) cvt_ckpt_close(c ? c : below);
    else *out = c;
    return s;
}

void cvt_ckpt_drop_header(cvt_ckpt *c, int64_t file)
{
    cvt_ckpt_file *f = &c->files[file];
    free(f->header);
    f->header = NULL;
    f->header_bytes = f->bytes = 0;
}

/* Moves the last file to its place by name; the tensors follow. Returns the place. */
static int64_t settle_file(cvt_ckpt *c)
{
    int64_t last = c->n_files - 1, at = last;
    cvt_ckpt_file f = c->files[last];
    while (at > 0 && strcmp(c->files[at - 1].name, f.name) > 0) at--;
    memmove(&c->files[at + 1], &c->files[at], (size_t)(last - at) * sizeof f);
    c->files[at] = f;
    for (int64_t i = 0; i < c->n_tensors; i++)
        if (c->tensors[i].file >= at) c->tensors[i].file++;
    return at;
}

fh1_status cvt_ckpt_set_file(cvt_ckpt *c, const char *name, const void *data, size_t n)
{
    int64_t at = cvt_ckpt_find_file(c, name);
    if (at >= 0 && c->files[at].weights)
        return fh1_where(fh1_fail(FH1_E_INTERNAL, "a file of weights is replaced by a side file"), "%s", name);
    char *copy = malloc(n + 1);
    if (!copy) return fh1_no_memory(n, name);
    if (n) memcpy(copy, data, n);
    copy[n] = '\0';
    if (at < 0) {
        fh1_status s = cvt_ckpt_push_file(c, name, false, 0, -1);
        if (s) {
            free(copy);
            return s;
        }
        at = settle_file(c);
    }
    free(c->files[at].data);
    c->files[at].data = copy;
    c->files[at].bytes = n;
    return NULL;
}

void cvt_ckpt_remove_file(cvt_ckpt *c, const char *name)
{
    int64_t at = cvt_ckpt_find_file(c, name);
    if (at < 0) return;
    for (int64_t i = c->n_tensors; i-- > 0;)
        if (c->tensors[i].file == at) cvt_ckpt_remove_tensor(c, c->tensors[i].name);
    cvt_ckpt_clear_file(&c->files[at]);
    memmove(&c->files[at], &c->files[at + 1], (size_t)(c->n_files - at - 1) * sizeof *c->files);
    c->n_files--;
    for (int64_t i = 0; i < c->n_tensors; i++)
        if (c->tensors[i].file > at) c->tensors[i].file--;
}

fh1_status cvt_ckpt_add_tensor(cvt_ckpt *c, const char *name, fh1_dtype dtype, int rank, const int64_t *shape,
                               const char *file, int64_t source)
{
    int64_t at = cvt_ckpt_find_file(c, file);
    if (cvt_ckpt_find(c, name) >= 0) return fh1_where(FH1_BAD("two tensors have the same name"), "%s", name);
    if (at >= 0 && !c->files[at].weights)
        return fh1_where(FH1_BAD("a file that is not part of the model has this name"), "%s, %s", c->path, file);
    if (at < 0) {
        FH1_TRY(cvt_ckpt_push_file(c, file, true, 0, -1));
        at = settle_file(c);
    }
    FH1_TRY(cvt_ckpt_push_tensor(c, name, dtype, rank, shape, at, 0, source));
    cvt_ckpt_drop_header(c, at);
    int64_t last = c->n_tensors - 1, place = last;
    cvt_ckpt_tensor t = c->tensors[last];
    while (place > 0 && strcmp(c->tensors[place - 1].name, t.name) > 0) place--;
    memmove(&c->tensors[place + 1], &c->tensors[place], (size_t)(last - place) * sizeof t);
    c->tensors[place] = t;
    return NULL;
}

void cvt_ckpt_remove_tensor(cvt_ckpt *c, const char *name)
{
    int64_t at = cvt_ckpt_find(c, name);
    if (at < 0) return;
    cvt_ckpt_drop_header(c, c->tensors[at].file);
    free(c->tensors[at].name);
    memmove(&c->tensors[at], &c->tensors[at + 1], (size_t)(c->n_tensors - at - 1) * sizeof *c->tensors);
    c->n_tensors--;
}

static fh1_status set_pair(cvt_ckpt_file *f, const char *key, const char *value)
{
    for (int i = 0; i < f->n_meta; i++) {
        if (strcmp(f->meta[i].key, key) != 0) continue;
        char *copy = value ? strdup(value) : NULL;
        if (value && !copy) return fh1_no_memory(strlen(value), "metadata");
        free(f->meta[i].value);
        f->meta[i].value = copy;
        if (value) return NULL;
        free(f->meta[i].key);
        memmove(&f->meta[i], &f->meta[i + 1], (size_t)(f->n_meta - i - 1) * sizeof *f->meta);
        f->n_meta--;
        return NULL;
    }
    return value ? cvt_ckpt_push_meta(f, key, value) : NULL;
}

fh1_status cvt_ckpt_set_meta(cvt_ckpt *c, const char *key, const char *value)
{
    for (int64_t i = 0; i < c->n_files; i++) {
        if (!c->files[i].weights) continue;
        FH1_TRY(set_pair(&c->files[i], key, value));
        cvt_ckpt_drop_header(c, i);
    }
    return NULL;
}

/* Where a member of the outermost object lies: its key from `begin`, its value, and the comma at either side. */
typedef struct {
    size_t begin, value, end;
    size_t comma_before, comma_after; /* SIZE_MAX: none */
    size_t open;                      /* the object's brace */
    bool found, others;
} member;

static void find_member(const char *text, size_t n, const char *key, member *m)
{
    cvt_scan s = {.text = text, .n = n, .what = ""};
    size_t len = strlen(key), comma = SIZE_MAX, begin = 0;
    int depth = 0;
    bool inside = false, is_key = true; /* inside: between the member's colon and its end */
    *m = (member){.comma_before = SIZE_MAX, .comma_after = SIZE_MAX};
    while (!cvt_scan_next(&s) && s.kind != CVT_TOKEN_END) {
        if (s.kind == CVT_TOKEN_OPEN && depth++ == 0) {
            m->open = s.begin;
            continue;
        }
        if (s.kind == CVT_TOKEN_CLOSE) depth--;
        if (depth == 0) return; /* the end of the object */
        if (depth == 1 && s.kind == CVT_TOKEN_COMMA) {
            if (inside) m->comma_after = s.begin;
            inside = false;
            is_key = true;
            comma = s.begin;
        } else if (depth == 1 && s.kind == CVT_TOKEN_STRING && is_key) {
            is_key = false;
            begin = s.begin;
            inside = s.end - s.begin == len + 2 && memcmp(text + s.begin + 1, key, len) == 0;
            m->others |= !inside;
            if (!inside) continue;
            *m = (member){begin, 0, 0, comma, SIZE_MAX, m->open, true, m->others};
        } else if (inside && s.kind != CVT_TOKEN_COLON) {
            if (m->value == 0) m->value = s.begin;
            m->end = s.end;
        }
    }
}

/* The text with the key replaced, added or removed. */
static void edit(cvt_text *b, const char *text, size_t n, const char *key, const char *raw, const member *m)
{
    if (m->found && raw) {
        cvt_text_bytes(b, text, m->value);
        cvt_text_add(b, "%s", raw);
        cvt_text_bytes(b, text + m->end, n - m->end);
    } else if (m->found && m->comma_before != SIZE_MAX) {
        cvt_text_bytes(b, text, m->comma_before);
        cvt_text_bytes(b, text + m->end, n - m->end);
    } else if (m->found) {
        size_t end = m->comma_after != SIZE_MAX ? m->comma_after + 1 : m->end;
        cvt_text_bytes(b, text, m->open + 1);
        cvt_text_bytes(b, text + end, n - end);
    } else {
        cvt_text_bytes(b, text, m->open + 1);
        cvt_text_add(b, "\n  ");
        cvt_text_json(b, key, true);
        cvt_text_add(b, ": %s%s", raw, m->others ? "," : "\n");
        cvt_text_bytes(b, text + m->open + 1, n - m->open - 1);
    }
}

fh1_status cvt_ckpt_edit_config(cvt_ckpt *c, const char *key, const char *raw)
{
    char *text;
    size_t n;
    member m;
    cJSON *json;
    cvt_text b = {0};
    FH1_TRY(cvt_ckpt_config_json(c, &json)); /* the text is well-formed */
    bool object = cJSON_IsObject(json);
    cJSON_Delete(json);
    if (!object) return fh1_where(FH1_BAD("config.json is not a JSON object"), "%s", c->path);
    FH1_TRY(cvt_ckpt_file_text(c, cvt_ckpt_find_file(c, "config.json"), CVT_HF_CONFIG_BYTES, &text, &n));
    find_member(text, n, key, &m);
    if (!m.found && !raw) {
        free(text);
        return NULL;
    }
    edit(&b, text, n, key, raw, &m);
    free(text);
    fh1_status s = b.failed ? fh1_no_memory(b.n, "config.json") : cvt_ckpt_set_file(c, "config.json", b.s, b.n);
    free(b.s);
    return s;
}
