/* Reading the private keys of a GGUF file back. */
#include "convert/gguf_import.h"
#include "convert/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fh1_status at_key(fh1_status s, const cvt_gguf_file *f, const char *key)
{
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, key);
    s = fh1_where(s, "key \"%s\"", key);
    return kv ? cvt_gguf_at(s, f, kv->at) : fh1_where(s, "%s", f->path);
}

fh1_status cvt_gguf_check_private(cvt_gguf_state *s)
{
    const cvt_gguf_kv *folded = cvt_gguf_find_kv(s->f, CVT_GGUF_KEY_FOLDED);
    uint64_t version = 0;
    s->own = folded != NULL;
    if (!s->own) return NULL;
    FH1_TRY(cvt_gguf_get_uint(s->f, CVT_GGUF_KEY_VERSION, &version));
    if (version != CVT_GGUF_PRIVATE_VERSION)
        return fh1_hint(at_key(fh1_found(fh1_expected(FH1_BAD("the private keys are of another version"), "%d",
                                                      CVT_GGUF_PRIVATE_VERSION),
                                         "%llu", (unsigned long long)version),
                               s->f, CVT_GGUF_KEY_VERSION),
                        "a newer release of fh1 may read the file");
    if (folded->kind != CVT_GGUF_BOOL || s->f->head[folded->value_at] != 1)
        return at_key(FH1_BAD("the value must be true"), s->f, CVT_GGUF_KEY_FOLDED);
    return NULL;
}

fh1_status cvt_gguf_strings(const cvt_gguf_file *f, const char *key, uint64_t *n, uint64_t *at)
{
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, key);
    *n = 0;
    *at = 0;
    if (!kv) return NULL;
    if (kv->kind != CVT_GGUF_ARRAY || kv->item != CVT_GGUF_STRING)
        return at_key(fh1_expected(FH1_BAD("the value is of the wrong type"), "an array of strings"), f, key);
    if (kv->n > CVT_GGUF_MAX_ENTRIES)
        return at_key(fh1_expected(FH1_BAD("the array is too long"), "at most %llu items",
                                   (unsigned long long)CVT_GGUF_MAX_ENTRIES),
                      f, key);
    *n = kv->n;
    *at = kv->value_at;
    return NULL;
}

/* The next string of an array, malloc'ed and zero-terminated. */
static fh1_status take_string(const cvt_gguf_file *f, const char *key, uint64_t *at, char **out)
{
    uint64_t n;
    const char *text = cvt_gguf_next_string(f, at, &n);
    *out = NULL;
    if (n && memchr(text, 0, n)) return at_key(FH1_BAD("a text with a zero in it"), f, key);
    *out = strndup(text, n);
    return *out ? NULL : fh1_no_memory(n, key);
}

/* The bytes of fh1.WHAT.I, a text or an array of uint8. */
static fh1_status numbered(const cvt_gguf_file *f, const char *what, uint64_t i, const unsigned char **data,
                           uint64_t *n)
{
    char key[48];
    snprintf(key, sizeof key, "fh1.%s.%llu", what, (unsigned long long)i);
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, key);
    if (!kv) return at_key(FH1_BAD("the key is missing"), f, key);
    if (kv->kind != CVT_GGUF_STRING && (kv->kind != CVT_GGUF_ARRAY || kv->item != CVT_GGUF_U8))
        return at_key(fh1_expected(FH1_BAD("the value is of the wrong type"), "a string or an array of uint8"), f, key);
    *data = f->head + kv->value_at;
    *n = kv->n;
    return NULL;
}

fh1_status cvt_gguf_add_file(cvt_ckpt *c, const char *name, const void *data, size_t n)
{
    FH1_TRY(cvt_ckpt_push_file(c, name, false, n, 0));
    cvt_ckpt_file *f = &c->files[c->n_files - 1];
    f->data = malloc(n + 1);
    if (!f->data) return fh1_no_memory(n, name);
    if (n) memcpy(f->data, data, n);
    return NULL;
}

/* In place: a name behind a slash is in hexadecimal, of bytes that are not UTF-8. */
static fh1_status decode_name(const cvt_gguf_file *f, char *name)
{
    const size_t size = strlen(name);
    if (name[0] != '/') return NULL;
    char *hex = strdup(name + 1);
    if (!hex) return fh1_no_memory(size, "a name");
    const bool good = cvt_text_unhex(hex, name, size);
    free(hex);
    return good ? NULL : at_key(FH1_BAD("the name of a file is wrong"), f, CVT_GGUF_KEY_FILES);
}

fh1_status cvt_gguf_add_files(cvt_ckpt *c, const cvt_gguf_state *s)
{
    uint64_t n, at, bytes = 0;
    FH1_TRY(cvt_gguf_strings(s->f, CVT_GGUF_KEY_FILES, &n, &at));
    for (uint64_t i = 0; i < n; i++) {
        char *name;
        const unsigned char *data = NULL;
        FH1_TRY(take_string(s->f, CVT_GGUF_KEY_FILES, &at, &name));
        fh1_status e = numbered(s->f, "file", i, &data, &bytes);
        if (!e) e = decode_name(s->f, name);
        if (!e) e = cvt_gguf_add_file(c, name, data, bytes);
        free(name);
        if (e) return e;
    }
    return NULL;
}

fh1_status cvt_gguf_add_metadata(cvt_ckpt *c, const cvt_gguf_state *s)
{
    uint64_t n, at;
    cvt_ckpt_file *f = &c->files[c->n_files - 1];
    if (!s->own) {
        FH1_TRY(cvt_ckpt_push_meta(f, "format", "pt"));
        return cvt_ckpt_push_meta(f, CVT_GGUF_FOLDED_META, "true");
    }
    FH1_TRY(cvt_gguf_strings(s->f, CVT_GGUF_KEY_META, &n, &at));
    for (uint64_t i = 0; i + 1 < n; i += 2) {
        char *key = NULL, *value = NULL;
        fh1_status e = take_string(s->f, CVT_GGUF_KEY_META, &at, &key);
        if (!e) e = take_string(s->f, CVT_GGUF_KEY_META, &at, &value);
        if (!e) e = cvt_ckpt_push_meta(f, key, value);
        free(key);
        free(value);
        if (e) return e;
    }
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cvt_gguf_original *)a)->name, ((const cvt_gguf_original *)b)->name);
}

const cvt_gguf_original *cvt_gguf_find_original(const cvt_gguf_state *s, const char *name)
{
    const cvt_gguf_original key = {.name = (char *)(uintptr_t)name};
    if (!s->n_originals) return NULL;
    return bsearch(&key, s->originals, (size_t)s->n_originals, sizeof key, by_name);
}

/* The bytes that folding loses, to the tensors that they belong to. */
static fh1_status read_kept(cvt_gguf_state *s)
{
    uint64_t n, at;
    FH1_TRY(cvt_gguf_strings(s->f, CVT_GGUF_KEY_KEPT, &n, &at));
    for (uint64_t i = 0; i < n; i++) {
        char *name;
        FH1_TRY(take_string(s->f, CVT_GGUF_KEY_KEPT, &at, &name));
        const cvt_gguf_original *found = cvt_gguf_find_original(s, name);
        free(name);
        if (!found) return at_key(FH1_BAD("an original of a tensor that is not listed"), s->f, CVT_GGUF_KEY_KEPT);
        cvt_gguf_original *o = &s->originals[found - s->originals];
        FH1_TRY(numbered(s->f, "original", i, &o->bytes, &o->n_bytes));
    }
    return NULL;
}

fh1_status cvt_gguf_read_originals(cvt_gguf_state *s)
{
    uint64_t n, at, n_types, types_at;
    if (!s->own) return NULL;
    FH1_TRY(cvt_gguf_strings(s->f, CVT_GGUF_KEY_TENSORS, &n, &at));
    FH1_TRY(cvt_gguf_strings(s->f, CVT_GGUF_KEY_DTYPES, &n_types, &types_at));
    if (n != n_types)
        return at_key(fh1_found(fh1_expected(FH1_BAD("not one type for each tensor"), "%llu", (unsigned long long)n),
                                "%llu", (unsigned long long)n_types),
                      s->f, CVT_GGUF_KEY_DTYPES);
    s->originals = calloc(n + 1, sizeof *s->originals);
    if (!s->originals) return fh1_no_memory(n * sizeof *s->originals, "the table of tensors");
    for (uint64_t i = 0; i < n; i++) {
        cvt_gguf_original *o = &s->originals[i];
        char *type;
        FH1_TRY(take_string(s->f, CVT_GGUF_KEY_TENSORS, &at, &o->name));
        s->n_originals++;
        FH1_TRY(take_string(s->f, CVT_GGUF_KEY_DTYPES, &types_at, &type));
        const bool good = fh1_dtype_parse(type, &o->dtype) && fh1_dtype_is_float(o->dtype);
        free(type);
        if (!good)
            return at_key(
                fh1_expected(FH1_BAD("the type of tensor \"%.96s\" is impossible", o->name), "F64, F32, BF16 or F16"),
                s->f, CVT_GGUF_KEY_DTYPES);
    }
    if (n) qsort(s->originals, n, sizeof *s->originals, by_name);
    return read_kept(s);
}
