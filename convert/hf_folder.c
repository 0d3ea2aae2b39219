#include "convert/hf_folder.h"

#include "convert/file.h"
#include "convert/hf_config.h"
#include "convert/hf_index.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What keeps the views of a model alive. */
typedef struct {
    cvt_hf_files files;
    void **copies; /* of tensors that lie unaligned in their file */
    size_t n_copies;
} hf_owner;

static void free_owner(void *owner)
{
    hf_owner *o = owner;
    if (!o) return;
    for (size_t i = 0; i < o->n_copies; i++) free(o->copies[i]);
    free(o->copies);
    cvt_hf_files_close(&o->files);
    free(o);
}

static fh1_status check_folder(const char *dir)
{
    struct stat st;
    char config[PATH_MAX];
    if (stat(dir, &st) != 0)
        return fh1_where(FH1_BAD("the model folder cannot be opened: %s", strerror(errno)), "%s", dir);
    if (!S_ISDIR(st.st_mode))
        return fh1_hint(fh1_where(FH1_BAD("this is not a model folder"), "%s", dir),
                        "give the folder that holds config.json and the weights");
    FH1_TRY(cvt_path_join(config, sizeof config, dir, "config.json"));
    if (!cvt_path_exists(config))
        return fh1_hint(fh1_where(FH1_BAD("the folder has no config.json"), "%s", dir),
                        "give the folder that holds config.json and the weights");
    return NULL;
}

static fh1_status read_config(const char *dir, fh1_config *config)
{
    char path[PATH_MAX];
    cJSON *json;
    FH1_TRY(cvt_path_join(path, sizeof path, dir, "config.json"));
    FH1_TRY(cvt_json_read(path, CVT_HF_CONFIG_BYTES, CVT_HF_CONFIG_DEPTH, &json));
    fh1_status s = cvt_hf_config_parse(json, path, config);
    if (!s) s = cvt_hf_config_refuse_quantised(json, path);
    cJSON_Delete(json);
    return s;
}

/* Quantised files carry their scales under these names, whatever config.json says. */
static fh1_status check_plain(const cvt_st *f, const cvt_st_entry *e)
{
    bool scales =
        cvt_has_suffix(e->name, ".absmax") || cvt_has_suffix(e->name, ".quant_map") || cvt_has_suffix(e->name, ".SCB");
    bool codes = cvt_has_suffix(e->name, ".weight") && (e->t.dtype == FH1_U8 || e->t.dtype == FH1_I8);
    if (!scales && !codes) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the tensor is part of a quantised model (%s), which is not supported",
                                      fh1_dtype_name(e->t.dtype)),
                              "%s, tensor \"%.120s\"", cvt_st_path(f), e->name),
                    "use the folder of the unquantised model");
}

/* Kernels read weights as typed pointers, so a tensor that is not aligned for its type gets a copy. */
static fh1_status align(hf_owner *o, fh1_tensor *t)
{
    size_t width = (size_t)fh1_dtype_bits(t->dtype) / 8, n = fh1_n_bytes(t);
    if (width <= 1 || n == 0 || (uintptr_t)t->data % width == 0) return NULL;
    void **grown = realloc(o->copies, (o->n_copies + 1) * sizeof *grown);
    void *copy = aligned_alloc(64, (n + 63) / 64 * 64);
    if (grown) o->copies = grown;
    if (!grown || !copy) {
        free(copy);
        return fh1_no_memory(n, "an aligned copy of a tensor");
    }
    memcpy(copy, t->data, n);
    o->copies[o->n_copies++] = copy;
    t->data = copy;
    return NULL;
}

static void free_weights(fh1_weight *w, int64_t n)
{
    for (int64_t i = 0; i < n; i++) free(w[i].name);
    free(w);
}

static fh1_status collect(hf_owner *o, fh1_weight **out, int64_t *n_out)
{
    int64_t n = 0;
    *n_out = 0;
    for (int64_t i = 0; i < o->files.n_files; i++) n += cvt_st_count(o->files.files[i]);
    fh1_weight *w = *out = calloc((size_t)n + 1, sizeof *w);
    if (!w) return fh1_no_memory((size_t)n * sizeof *w, "the table of weights");
    for (int64_t i = 0; i < o->files.n_files; i++) {
        const cvt_st *f = o->files.files[i];
        for (int64_t k = 0; k < cvt_st_count(f); k++) {
            const cvt_st_entry *e = cvt_st_at(f, k);
            FH1_TRY(check_plain(f, e));
            w[*n_out].name = strdup(e->name);
            if (!w[*n_out].name) return fh1_no_memory(strlen(e->name), "a tensor's name");
            w[*n_out].t = e->t;
            FH1_TRY(align(o, &w[(*n_out)++].t));
        }
    }
    return NULL;
}

static int64_t find_weight(const fh1_weight *w, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++)
        if (strcmp(w[i].name, name) == 0) return i;
    return -1;
}

/* Some writers store the head of a tied model too. It must then be the embedding itself. */
static fh1_status drop_tied_head(const char *dir, fh1_weight *w, int64_t *n)
{
    int64_t head = find_weight(w, *n, "lm_head.weight"), embed = find_weight(w, *n, "model.embed_tokens.weight");
    if (head < 0 || embed < 0) return NULL;
    const fh1_tensor *a = &w[head].t, *b = &w[embed].t;
    bool same = a->dtype == b->dtype && fh1_same_shape(a, b) && memcmp(a->data, b->data, fh1_n_bytes(a)) == 0;
    if (!same)
        return fh1_hint(
            fh1_where(FH1_BAD("lm_head.weight differs from model.embed_tokens.weight, but tie_word_embeddings "
                              "is true"),
                      "%s", dir),
            "set tie_word_embeddings to false if the head was trained, or remove lm_head.weight");
    free(w[head].name);
    w[head] = w[--*n];
    return NULL;
}

/* "bf16, 51 tensors, 1042822208 bytes" */
static void describe(const fh1_weight *w, int64_t n, char *buf, size_t size)
{
    char type[16] = "mixed";
    uint64_t bytes = 0;
    bool one = n > 0;
    for (int64_t i = 0; i < n; i++) {
        bytes += fh1_n_bytes(&w[i].t);
        one &= w[i].t.dtype == w[0].t.dtype;
    }
    if (one) snprintf(type, sizeof type, "%s", fh1_dtype_name(w[0].t.dtype));
    for (char *p = type; *p; p++) *p = (char)tolower((unsigned char)*p);
    snprintf(buf, size, "%s, %lld tensors, %llu bytes", type, (long long)n, (unsigned long long)bytes);
}

/* Everything after the files are open; `o` stays the caller's on failure. */
static fh1_status bind(const char *dir, const fh1_config *config, hf_owner *o, fh1_model *out)
{
    fh1_weight *w = NULL;
    int64_t n = 0;
    char revision[sizeof out->revision];
    fh1_status s = collect(o, &w, &n);
    if (!s && config->tied) s = drop_tied_head(dir, w, &n);
    if (s) {
        free_weights(w, n);
        return s;
    }
    describe(w, n, revision, sizeof revision);
    s = fh1_model_bind(out, config, w, n);
    if (s) return fh1_where(s, "%s", dir);
    memcpy(out->revision, revision, sizeof revision);
    memcpy(out->path, dir, strlen(dir) + 1);
    out->owner = o;
    out->free_owner = free_owner;
    return NULL;
}

fh1_status cvt_hf_folder_open(const char *dir, fh1_model *out)
{
    memset(out, 0, sizeof *out);
    if (strlen(dir) >= sizeof out->path) return fh1_where(FH1_BAD("the path is too long"), "%.200s", dir);
    FH1_TRY(check_folder(dir));
    fh1_config *config = malloc(sizeof *config);
    hf_owner *o = calloc(1, sizeof *o);
    fh1_status s = config && o ? NULL : fh1_no_memory(sizeof *config, "a config");
    if (!s) s = read_config(dir, config);
    if (!s) s = cvt_hf_files_open(dir, &o->files);
    if (!s) s = bind(dir, config, o, out);
    free(config);
    if (s) free_owner(o);
    return s;
}
