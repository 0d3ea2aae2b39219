/* The private keys of a GGUF file: side files, types and metadata of the original, and what folding loses. */
#include "convert/gguf_export.h"

#include "convert/json_scan.h" /* cvt_utf8_len */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE ((uint64_t)1 << 20)
#define MAX_ORIGINAL ((uint64_t)1 << 20)
#define INDEX "model.safetensors.index.json" /* says what the one file of an import no longer needs */

static bool is_text(const char *s, size_t n)
{
    for (size_t i = 0, step; i < n; i += step) {
        step = cvt_utf8_len(s + i, n - i);
        if (step == 0 || s[i] == '\0') return false;
    }
    return true;
}

static void put_bytes(cvt_gguf_writer *w, const char *key, const char *data, size_t n)
{
    cvt_gguf_put_array(w, key, CVT_GGUF_U8, n);
    cvt_text_bytes(&w->kv, data, n);
}

static bool travels(const cvt_ckpt_file *f)
{
    return !f->weights && strcmp(f->name, INDEX) != 0;
}

/* GGUF knows only UTF-8. No name in a folder begins with a slash, so one does where it is in hexadecimal. */
static void add_name(cvt_gguf_writer *w, const char *name)
{
    cvt_text hex = {0};
    if (!is_text(name, strlen(name))) {
        cvt_text_add(&hex, "/");
        cvt_text_hex(&hex, name);
        w->kv.failed |= hex.failed;
        name = hex.failed ? "" : hex.s;
    }
    cvt_gguf_add_string(w, name, strlen(name));
    free(hex.s);
}

static void put_names(cvt_gguf_writer *w, const cvt_ckpt *c, const char *key, bool small)
{
    uint64_t n = 0;
    for (int64_t i = 0; i < c->n_files; i++) n += travels(&c->files[i]) && (c->files[i].bytes <= MAX_FILE) == small;
    cvt_gguf_put_array(w, key, CVT_GGUF_STRING, n);
    for (int64_t i = 0; i < c->n_files; i++)
        if (travels(&c->files[i]) && (c->files[i].bytes <= MAX_FILE) == small) add_name(w, c->files[i].name);
}

static fh1_status put_files(cvt_gguf_writer *w, cvt_ckpt *c)
{
    int64_t at = 0;
    put_names(w, c, CVT_GGUF_KEY_FILES, true);
    put_names(w, c, CVT_GGUF_KEY_LEFT_OUT, false);
    for (int64_t i = 0; i < c->n_files; i++) {
        char key[32], *text;
        size_t n;
        if (!travels(&c->files[i]) || c->files[i].bytes > MAX_FILE) continue;
        snprintf(key, sizeof key, "fh1.file.%lld", (long long)at++);
        FH1_TRY(cvt_ckpt_file_text(c, i, MAX_FILE, &text, &n));
        if (is_text(text, n)) cvt_gguf_put_text(w, key, text, n);
        else put_bytes(w, key, text, n);
        free(text);
    }
    return NULL;
}

static void put_tensors(cvt_gguf_writer *w, const cvt_ckpt *c)
{
    cvt_gguf_put_array(w, CVT_GGUF_KEY_TENSORS, CVT_GGUF_STRING, (uint64_t)c->n_tensors);
    for (int64_t i = 0; i < c->n_tensors; i++) cvt_gguf_add_string(w, c->tensors[i].name, strlen(c->tensors[i].name));
    cvt_gguf_put_array(w, CVT_GGUF_KEY_DTYPES, CVT_GGUF_STRING, (uint64_t)c->n_tensors);
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const char *name = fh1_dtype_name(c->tensors[i].dtype);
        cvt_gguf_add_string(w, name, strlen(name));
    }
}

static void put_metadata(cvt_gguf_writer *w, const cvt_ckpt *c)
{
    const cvt_ckpt_file *f = NULL;
    for (int64_t i = 0; i < c->n_files && !f; i++)
        if (c->files[i].weights) f = &c->files[i];
    cvt_gguf_put_array(w, CVT_GGUF_KEY_META, CVT_GGUF_STRING, f ? 2 * (uint64_t)f->n_meta : 0);
    for (int k = 0; f && k < f->n_meta; k++) {
        cvt_gguf_add_string(w, f->meta[k].key, strlen(f->meta[k].key));
        cvt_gguf_add_string(w, f->meta[k].value, strlen(f->meta[k].value));
    }
}

/* The bytes of a small tensor whose folded form does not give it back; NULL where it does. */
static fh1_status lost_original(cvt_ckpt *c, const cvt_gguf_job *j, char **out)
{
    const cvt_ckpt_tensor *t = &c->tensors[j->source];
    const size_t n = cvt_ckpt_tensor_bytes(t);
    uint64_t inexact = 0;
    *out = NULL;
    char *original = malloc(n + 1);
    unsigned char *folded = malloc((size_t)j->e->rows * cvt_gguf_row_bytes(j) + 1);
    fh1_status s = original && folded ? NULL : fh1_no_memory(n, t->name);
    if (!s) s = cvt_gguf_fold_piece(c, j, 0, j->e->rows, folded, &inexact);
    if (!s && inexact) s = cvt_ckpt_read(c, j->source, 0, n, original);
    if (!s && inexact) *out = original;
    else free(original);
    free(folded);
    return s;
}

static fh1_status put_originals(cvt_gguf_writer *w, cvt_ckpt *c, cvt_gguf_job *jobs, int64_t n)
{
    uint64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        char key[32], *original;
        cvt_gguf_job *j = &jobs[i];
        if (j->e->matrix || j->source < 0 || j->written < 0) continue;
        if (cvt_ckpt_tensor_bytes(&c->tensors[j->source]) > MAX_ORIGINAL) continue;
        FH1_TRY(lost_original(c, j, &original));
        if (!original) continue;
        j->kept = true;
        snprintf(key, sizeof key, "fh1.original.%llu", (unsigned long long)count++);
        put_bytes(w, key, original, cvt_ckpt_tensor_bytes(&c->tensors[j->source]));
        free(original);
    }
    cvt_gguf_put_array(w, CVT_GGUF_KEY_KEPT, CVT_GGUF_STRING, count);
    for (int64_t i = 0; i < n; i++)
        if (jobs[i].kept) cvt_gguf_add_string(w, jobs[i].e->hf, strlen(jobs[i].e->hf));
    return NULL;
}

fh1_status cvt_gguf_put_private(cvt_gguf_writer *w, cvt_ckpt *c, cvt_gguf_job *jobs, int64_t n)
{
    cvt_gguf_put_uint(w, CVT_GGUF_KEY_VERSION, CVT_GGUF_PRIVATE_VERSION);
    cvt_gguf_put_bool(w, CVT_GGUF_KEY_FOLDED, true);
    cvt_gguf_put_text(w, CVT_GGUF_KEY_TOOL, FH1_TOOL, strlen(FH1_TOOL));
    FH1_TRY(put_files(w, c));
    put_tensors(w, c);
    put_metadata(w, c);
    return put_originals(w, c, jobs, n);
}
