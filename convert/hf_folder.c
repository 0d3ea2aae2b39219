#include "convert/hf_folder.h"

#include "convert/file.h"
#include "convert/hf_config.h"
#include "convert/hf_index.h"
#include "convert/weights.h"

#include <errno.h>
#include <limits.h>
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
    if (stat(dir, &st) != 0) return fh1_where(cvt_cannot(errno, "the model folder cannot be opened"), "%s", dir);
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
            FH1_TRY(cvt_weights_plain(cvt_st_path(f), e->name, e->t.dtype));
            w[*n_out].name = strdup(e->name);
            if (!w[*n_out].name) return fh1_no_memory(strlen(e->name), "a tensor's name");
            w[*n_out].t = e->t;
            FH1_TRY(align(o, &w[(*n_out)++].t));
        }
    }
    return NULL;
}

/* Everything after the files are open; `o` stays the caller's on failure. */
static fh1_status bind(const char *dir, const fh1_config *config, hf_owner *o, fh1_model *out)
{
    fh1_weight *w = NULL;
    int64_t n = 0;
    char revision[sizeof out->revision];
    fh1_status s = collect(o, &w, &n);
    if (!s && config->tied) s = cvt_weights_drop_tied_head(dir, config->family, w, &n);
    if (s) {
        cvt_weights_free(w, n);
        return s;
    }
    cvt_weights_describe(w, n, revision, sizeof revision);
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
