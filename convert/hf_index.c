#include "convert/hf_index.h"

#include "convert/fault.h"
#include "convert/fields.h"
#include "convert/file.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define MAX_INDEX ((size_t)64 << 20) /* the longest released one has 0.2 MB */
#define MAX_DEPTH 8

/* weight_map, sorted by tensor name. */
typedef struct {
    const char *tensor, *file;
    int64_t at; /* index of the file */
} mapping;

typedef struct {
    char path[PATH_MAX]; /* of the index, for messages */
    const char *dir;
    bool scan;   /* headers only, and no warnings */
    cJSON *json; /* owns the strings */
    mapping *map;
    size_t n;
    const char **names; /* distinct files, sorted; files[i] is names[i] */
} hf_index;

static fh1_status in_index(const hf_index *x, fh1_status s)
{
    return fh1_where(s, "%s", x->path);
}

/* The name of a file in this folder: nothing that could lead out of it. */
static fh1_status check_file_name(const hf_index *x, const mapping *m)
{
    if (CVT_FAULT(TRAVERSAL_FOLLOWED)) return NULL;
    bool plain = m->file[0] != '\0' && m->file[0] != '.' && !strpbrk(m->file, "/\\") && strlen(m->file) <= NAME_MAX;
    if (plain && cvt_has_suffix(m->file, ".safetensors")) return NULL;
    return fh1_found(
        fh1_expected(
            in_index(x, FH1_BAD("tensor \"%.100s\" is mapped to something that is not a plain file name", m->tensor)),
            "a name like model-00001-of-00004.safetensors"),
        "%.100s", m->file);
}

static int by_tensor(const void *a, const void *b)
{
    return strcmp(((const mapping *)a)->tensor, ((const mapping *)b)->tensor);
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const mapping *find_mapping(const hf_index *x, const char *tensor)
{
    mapping key = {.tensor = tensor};
    return bsearch(&key, x->map, x->n, sizeof key, by_tensor);
}

static bool faulty_missing(const hf_index *x, const char *name)
{
    char path[PATH_MAX];
    return cvt_path_join(path, sizeof path, x->dir, name) == NULL && !cvt_path_exists(path);
}

static fh1_status read_weight_map(hf_index *x)
{
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(x->json, "weight_map");
    if (!cJSON_IsObject(map) || !map->child)
        return in_index(x, FH1_BAD("the index has no weight_map (an object of tensor names and files)"));
    for (const cJSON *v = map->child; v; v = v->next) x->n++;
    x->map = calloc(x->n, sizeof *x->map);
    x->names = calloc(x->n, sizeof *x->names);
    if (!x->map || !x->names) return fh1_no_memory(x->n * sizeof *x->map, "the index");
    size_t i = 0;
    for (const cJSON *v = map->child; v; v = v->next, i++) {
        if (!cJSON_IsString(v)) return in_index(x, FH1_BAD("tensor \"%.100s\" is mapped to no file name", v->string));
        x->map[i] = (mapping){v->string, v->valuestring, 0};
        x->names[i] = v->valuestring;
        FH1_TRY(check_file_name(x, &x->map[i]));
        if (CVT_FAULT(MISSING_SHARD_DROPPED) && faulty_missing(x, v->valuestring)) x->n--, i--;
    }
    qsort(x->map, x->n, sizeof *x->map, by_tensor);
    return NULL;
}

static fh1_status open_weights(const hf_index *x, const char *path, cvt_st **out)
{
    return x->scan ? cvt_st_open_header(path, out) : cvt_st_open(path, out);
}

static fh1_status open_shards(hf_index *x, cvt_hf_files *out)
{
    char path[PATH_MAX];
    qsort(x->names, x->n, sizeof *x->names, by_string);
    size_t distinct = 0;
    for (size_t i = 0; i < x->n; i++)
        if (i == 0 || strcmp(x->names[i], x->names[i - 1]) != 0) x->names[distinct++] = x->names[i];
    out->files = calloc(distinct, sizeof *out->files);
    if (!out->files) return fh1_no_memory(distinct * sizeof *out->files, "shards");
    for (size_t i = 0; i < distinct; i++) {
        FH1_TRY(cvt_path_join(path, sizeof path, x->dir, x->names[i]));
        if (!cvt_path_exists(path))
            return fh1_hint(in_index(x, FH1_BAD("the index names a file that is missing: %.120s", x->names[i])),
                            "fetch the missing shard");
        FH1_TRY(open_weights(x, path, &out->files[i]));
        out->n_files++;
    }
    for (size_t i = 0; i < x->n; i++) {
        const char **name = bsearch(&x->map[i].file, x->names, distinct, sizeof *x->names, by_string);
        x->map[i].at = name - x->names;
    }
    return NULL;
}

/* Each tensor of each shard is mapped to that shard. */
static fh1_status audit_shard(const hf_index *x, const cvt_hf_files *f, int64_t at)
{
    for (int64_t i = 0; i < cvt_st_count(f->files[at]); i++) {
        const char *tensor = cvt_st_at(f->files[at], i)->name;
        const mapping *m = find_mapping(x, tensor);
        if (!m) return in_index(x, FH1_BAD("tensor \"%.100s\" of %s is not in the index", tensor, x->names[at]));
        if (m->at == at) continue;
        if (cvt_st_find(f->files[m->at], tensor))
            return in_index(x, FH1_BAD("tensor \"%.100s\" is in two files, %s and %s", tensor, m->file, x->names[at]));
        return in_index(x, FH1_BAD("tensor \"%.100s\" is mapped to %s but lies in %s", tensor, m->file, x->names[at]));
    }
    return NULL;
}

static fh1_status audit(const hf_index *x, const cvt_hf_files *f)
{
    uint64_t total = 0;
    if (CVT_FAULT(STALE_INDEX_BELIEVED)) return NULL;
    for (int64_t i = 0; i < f->n_files; i++) {
        FH1_TRY(audit_shard(x, f, i));
        for (int64_t k = 0; k < cvt_st_count(f->files[i]); k++)
            total += cvt_st_at(f->files[i], k)->end - cvt_st_at(f->files[i], k)->begin;
    }
    for (size_t i = 0; i < x->n; i++)
        if (!cvt_st_find(f->files[x->map[i].at], x->map[i].tensor))
            return in_index(x, FH1_BAD("tensor \"%.100s\" is missing in %s", x->map[i].tensor, x->map[i].file));
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(x->json, "metadata");
    const cJSON *size = metadata ? cJSON_GetObjectItemCaseSensitive(metadata, "total_size") : NULL;
    if (CVT_FAULT(MISSING_SHARD_DROPPED) &&
        x->n < (size_t)cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(x->json, "weight_map")))
        return NULL;
    if (size && !(cJSON_IsNumber(size) && size->valuedouble == (double)total))
        return fh1_found(fh1_expected(in_index(x, FH1_BAD("metadata.total_size is not the size of the tensors")),
                                      "%llu", (unsigned long long)total),
                         "%.17g", cJSON_IsNumber(size) ? size->valuedouble : 0.0);
    return NULL;
}

/* One line if the folder holds weight files that are not among `names`. */
static void warn_unused(const char *dir, const char *const *names, int64_t n_names)
{
    char first[80] = "";
    int64_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        bool used = !cvt_has_suffix(e->d_name, ".safetensors") || e->d_name[0] == '.';
        for (int64_t i = 0; i < n_names && !used; i++) used = strcmp(names[i], e->d_name) == 0;
        if (used) continue;
        if (n++ == 0) snprintf(first, sizeof first, "%.79s", e->d_name);
    }
    if (d) closedir(d);
    if (n > 0)
        fprintf(stderr, "warning: %s: %lld weight file%s not part of the model and not read: %s%s\n", dir, (long long)n,
                n == 1 ? " is" : "s are", first, n == 1 ? "" : ", ...");
}

/* The files of the folder that the index does not name, too. */
static fh1_status faulty_glob(const hf_index *x, cvt_hf_files *out)
{
    char path[PATH_MAX];
    fh1_status s = NULL;
    DIR *d = opendir(x->dir);
    for (struct dirent *e; d && !s && (e = readdir(d)) != NULL;) {
        bool known = !cvt_has_suffix(e->d_name, ".safetensors");
        for (int64_t i = 0; i < out->n_files && !known; i++)
            known = cvt_has_suffix(cvt_st_path(out->files[i]), e->d_name);
        cvt_st **grown = known ? NULL : realloc(out->files, ((size_t)out->n_files + 1) * sizeof *grown);
        if (!grown) continue;
        out->files = grown;
        s = cvt_path_join(path, sizeof path, x->dir, e->d_name);
        if (!s) s = open_weights(x, path, &out->files[out->n_files]);
        if (!s) out->n_files++;
    }
    if (d) closedir(d);
    return s;
}

static fh1_status open_indexed(hf_index *x, cvt_hf_files *out)
{
    FH1_TRY(cvt_json_read(x->path, MAX_INDEX, MAX_DEPTH, &x->json));
    FH1_TRY(read_weight_map(x));
    FH1_TRY(open_shards(x, out));
    FH1_TRY(audit(x, out));
    if (CVT_FAULT(EVERY_FILE_LOADED)) FH1_TRY(faulty_glob(x, out));
    if (!x->scan) warn_unused(x->dir, x->names, out->n_files);
    return NULL;
}

static fh1_status open_single(const hf_index *x, const char *path, bool index_too, cvt_hf_files *out)
{
    const char *const name = SINGLE;
    out->files = calloc(1, sizeof *out->files);
    if (!out->files) return fh1_no_memory(sizeof *out->files, "weight files");
    FH1_TRY(open_weights(x, path, &out->files[0]));
    out->n_files = 1;
    if (x->scan) return NULL;
    if (index_too) fprintf(stderr, "warning: %s: " INDEX " is ignored, " SINGLE " is read\n", x->dir);
    warn_unused(x->dir, &name, 1);
    return NULL;
}

fh1_status cvt_hf_no_weights(const char *dir)
{
    const char *kind = NULL;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        if (cvt_has_suffix(e->d_name, ".bin") || cvt_has_suffix(e->d_name, ".pt") || cvt_has_suffix(e->d_name, ".pth"))
            kind = "pickled weights (.bin)";
        else if (!kind && cvt_has_suffix(e->d_name, ".gguf")) kind = "a .gguf file";
        else if (!kind && cvt_has_suffix(e->d_name, ".safetensors")) kind = "other .safetensors files";
    }
    if (d) closedir(d);
    fh1_status s = fh1_expected(fh1_where(FH1_BAD("the folder has no weights"), "%s", dir), SINGLE " or " INDEX);
    if (kind) s = fh1_found(s, "%s", kind);
    return fh1_hint(s, "save the model with save_pretrained(..., safe_serialization=True)");
}

static fh1_status open_files(const char *dir, bool scan, cvt_hf_files *out)
{
    char single[PATH_MAX];
    hf_index *x = calloc(1, sizeof *x);
    *out = (cvt_hf_files){0};
    if (!x) return fh1_no_memory(sizeof *x, "the index");
    x->dir = dir;
    x->scan = scan;
    fh1_status s = cvt_path_join(single, sizeof single, dir, SINGLE);
    if (!s) s = cvt_path_join(x->path, sizeof x->path, dir, INDEX);
    if (!s) {
        bool indexed = cvt_path_exists(x->path);
        if (cvt_path_exists(single)) s = open_single(x, single, indexed, out);
        else if (indexed) s = open_indexed(x, out);
        else if (!scan) s = cvt_hf_no_weights(dir);
    }
    cJSON_Delete(x->json);
    free(x->map);
    free(x->names);
    free(x);
    if (s) cvt_hf_files_close(out);
    return s;
}

fh1_status cvt_hf_files_open(const char *dir, cvt_hf_files *out)
{
    return open_files(dir, false, out);
}

fh1_status cvt_hf_files_scan(const char *dir, cvt_hf_files *out)
{
    return open_files(dir, true, out);
}

void cvt_hf_files_close(cvt_hf_files *f)
{
    for (int64_t i = 0; i < f->n_files; i++) cvt_st_close(f->files[i]);
    free(f->files);
    *f = (cvt_hf_files){0};
}
