#include "cli/verify.h"
#include "convert/adapter_config.h"
#include "convert/bnb.h"
#include "convert/file.h"
#include "convert/hf_config.h"
#include "convert/hf_index.h"
#include "convert/safetensors.h"
#include "oracle/model.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_JSON ((size_t)64 << 20) /* a tokenizer has 20 MB */
#define MAX_JSON_DEPTH 64

/* The files of a folder as they were before it was opened, without those below it. */
typedef struct {
    char name[NAME_MAX + 1];
    struct stat st;
} known_file;

typedef struct {
    known_file *files;
    size_t n;
} known_folder;

static fh1_status look_around(const char *dir, known_folder *out)
{
    *out = (known_folder){0};
    DIR *d = opendir(dir);
    if (!d) return fh1_where(cvt_cannot(errno, "the folder cannot be read"), "%s", dir);
    fh1_status s = NULL;
    for (struct dirent *e; !s && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if ((out->n & (out->n - 1)) == 0) {
            known_file *grown = realloc(out->files, (out->n ? 2 * out->n : 1) * sizeof *grown);
            if (!grown) s = fh1_no_memory(2 * out->n * sizeof *grown, "a list of files");
            else out->files = grown;
        }
        if (s || fstatat(dirfd(d), e->d_name, &out->files[out->n].st, 0) != 0) continue;
        snprintf(out->files[out->n++].name, NAME_MAX + 1, "%s", e->d_name);
        if (faccessat(dirfd(d), e->d_name, R_OK, 0) != 0 && errno == EACCES)
            s = fh1_where(FH1_BAD("the file cannot be opened: %s", strerror(EACCES)), "%s/%s", dir, e->d_name);
    }
    closedir(d);
    return s;
}

/* What went wrong with a file that somebody changed meanwhile says nothing about damage. */
static fh1_status damage_unless_changed(const char *dir, const known_folder *before, fh1_status s)
{
    if (!s) return NULL;
    const fh1_error e = *s; /* what follows may make another */
    for (size_t i = 0; i < before->n; i++) {
        char path[4096];
        struct stat now;
        FH1_TRY(cvt_path_join(path, sizeof path, dir, before->files[i].name));
        if (stat(path, &now) != 0 || !cli_same_file(&now, &before->files[i].st)) return cvt_changed(path);
    }
    return cli_damage(&e);
}

/* Does the library read it as JSON, so that the folder is of no use when it is not? Others may say NaN, as logs of
 * training do. */
static bool must_be_json(const char *name)
{
    static const char *const names[] = {"config.json",        "generation_config.json", "tokenizer.json",
                                        "vocab.json",         "tokenizer_config.json",  "special_tokens_map.json",
                                        "adapter_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return cvt_has_suffix(name, ".index.json");
}

static fh1_status check_json(cvt_ckpt *c, int64_t file, cli_verified *out)
{
    const cvt_ckpt_file *f = &c->files[file];
    char what[4400];
    if (f->bytes > MAX_JSON) {
        cli_verify_note(out, "%s has %llu bytes and was not parsed", f->name, (unsigned long long)f->bytes);
        return NULL;
    }
    snprintf(what, sizeof what, "%s/%s", c->path, f->name);
    char *text = malloc(f->bytes + 1);
    if (!text) return fh1_no_memory(f->bytes, f->name);
    fh1_status s = cvt_ckpt_read_file(c, file, 0, f->bytes, text);
    cJSON *json = NULL;
    fh1_status bad = s ? NULL : cvt_json_parse(text, f->bytes, MAX_JSON_DEPTH, what, &json);
    cJSON_Delete(json);
    free(text);
    if (s || !bad) return s;
    if (bad->code != FH1_E_INPUT || must_be_json(f->name)) return cli_damage(bad);
    char line[900];
    cli_verify_note(out, "not strict JSON: %s", fh1_status_line(bad, line, sizeof line));
    return NULL;
}

static fh1_status check_pointer(cvt_ckpt *c, int64_t file)
{
    static const char lfs[] = "version https://git-lfs";
    char begin[sizeof lfs] = "";
    const cvt_ckpt_file *f = &c->files[file];
    if (f->bytes < sizeof lfs || f->bytes > 1024) return NULL;
    FH1_TRY(cvt_ckpt_read_file(c, file, 0, sizeof lfs - 1, begin));
    if (strcmp(begin, lfs) != 0) return NULL;
    fh1_status s = fh1_fail(FH1_E_WRONG, "this is a git-lfs pointer, not the file itself");
    return fh1_hint(fh1_where(s, "%s/%s", c->path, f->name), "fetch the file with `git lfs pull`");
}

/* Side files: JSON is JSON, nothing is a mere pointer, weights that nothing mentions are told. */
static fh1_status check_side_files(cvt_ckpt *c, cli_verified *out)
{
    for (int64_t i = 0; i < c->n_files; i++) {
        const cvt_ckpt_file *f = &c->files[i];
        if (f->weights) continue;
        FH1_TRY(check_pointer(c, i));
        if (cvt_has_suffix(f->name, ".json")) FH1_TRY(check_json(c, i, out));
        if (cvt_has_suffix(f->name, ".safetensors") && strncmp(f->name, "adapter_", 8) != 0)
            cli_verify_note(out, "%s is no part of the model and was not checked", f->name);
    }
    return NULL;
}

/* A tied head that is stored too must say the same as the embedding. */
static fh1_status check_tied_head(cvt_ckpt *c, const fh1_config *config, int64_t head)
{
    const char *name = fh1_embed_weight(config->family);
    int64_t embed = cvt_ckpt_find(c, name);
    if (embed < 0) return NULL; /* told elsewhere */
    const cvt_ckpt_tensor *a = &c->tensors[head], *b = &c->tensors[embed];
    bool same = a->dtype == b->dtype && a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++) same = a->shape[i] == b->shape[i];
    uint64_t n = cvt_ckpt_tensor_bytes(a), piece = 1 << 20;
    char *x = malloc(2 * piece);
    if (!x) return fh1_no_memory(2 * piece, "reading");
    fh1_status s = NULL;
    for (uint64_t at = 0; !s && same && at < n; at += piece) {
        uint64_t k = n - at < piece ? n - at : piece;
        s = cvt_ckpt_read(c, head, at, k, x);
        if (!s) s = cvt_ckpt_read(c, embed, at, k, x + piece);
        if (!s) same = memcmp(x, x + piece, k) == 0;
    }
    free(x);
    if (s || same) return s;
    s = fh1_fail(FH1_E_WRONG, "lm_head.weight differs from %s, but tie_word_embeddings is true", name);
    return fh1_hint(fh1_where(s, "%s", c->path), "set tie_word_embeddings to false if the head was trained");
}

/* Names and shapes as the config wants them, without data. */
static fh1_status check_shapes(cvt_ckpt *c, const fh1_config *config)
{
    fh1_weight *w = calloc((size_t)c->n_tensors + 1, sizeof *w);
    fh1_model *m = calloc(1, sizeof *m);
    fh1_status s = w && m ? NULL : fh1_no_memory((size_t)c->n_tensors * sizeof *w, "the table of weights");
    int64_t n = 0;
    for (int64_t i = 0; !s && i < c->n_tensors; i++) {
        const cvt_ckpt_tensor *t = &c->tensors[i];
        if (config->tied && strcmp(t->name, "lm_head.weight") == 0) {
            s = check_tied_head(c, config, i);
            continue;
        }
        w[n].name = strdup(t->name);
        if (!w[n].name) s = fh1_no_memory(strlen(t->name), "a tensor's name");
        else w[n++].t = fh1_view(NULL, t->dtype, t->rank, t->shape);
    }
    if (s) {
        for (int64_t i = 0; i < n; i++) free(w[i].name);
        free(w);
    } else { /* takes the table over */
        s = fh1_where(fh1_model_bind(m, config, w, n), "%s", c->path);
        if (!s) fh1_model_free(m);
    }
    free(m);
    return s;
}

/* config.json and what it says of the tensors. `c` is taken over, since a quantised one is looked at decoded. */
static fh1_status check_model(cvt_ckpt *c, cli_verified *out)
{
    cJSON *json = NULL;
    fh1_config *config = malloc(sizeof *config);
    fh1_status s = config ? NULL : fh1_no_memory(sizeof *config, "a config");
    if (!s) s = cvt_ckpt_config_json(c, &json);
    const cJSON *type = s ? NULL : cJSON_GetObjectItemCaseSensitive(json, "model_type");
    fh1_family family;
    bool ours = !cJSON_IsString(type) || fh1_family_find(type->valuestring, &family);
    if (!s && !ours)
        cli_verify_note(out, "model_type is %.60s: names and shapes of the tensors were not checked",
                        type->valuestring);
    if (!s && ours) s = cvt_ckpt_config(c, config);
    bool quantised = false;
    if (!s && ours) s = cvt_bnb_is(c, &quantised);
    if (!s && quantised) {
        cvt_ckpt *below = c;
        s = cvt_ckpt_dequantise(below, FH1_DTYPE_COUNT, &c); /* checks the state of every tensor */
        if (s) c = NULL;
    }
    if (!s && ours) s = check_shapes(c, config);
    cJSON_Delete(json);
    free(config);
    cvt_ckpt_close(c);
    return s;
}

static fh1_status verify_model(const char *dir, const cvt_progress *progress, cli_verified *out)
{
    cvt_ckpt *c, *again;
    FH1_TRY(cvt_ckpt_open(dir, &c));
    fh1_status s = check_side_files(c, out);
    if (!s) s = cvt_ckpt_open(dir, &again);
    if (!s) s = check_model(again, out);
    if (!s) s = cli_verify_contents(c, progress, out);
    if (!s) s = cvt_ckpt_unchanged(c);
    out->tensors += c->n_tensors;
    out->files += c->n_files;
    cvt_ckpt_close(c);
    return s;
}

static bool any_weights(const known_folder *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (cvt_has_suffix(f->files[i].name, ".safetensors") || cvt_has_suffix(f->files[i].name, ".index.json"))
            return true;
    return false;
}

fh1_status cli_verify_model_folder(const char *dir, const cvt_progress *progress, cli_verified *out)
{
    known_folder before;
    out->kind = "model folder";
    fh1_status s = look_around(dir, &before);
    if (!s && !any_weights(&before)) s = cvt_hf_no_weights(dir); /* pickled, perhaps: nothing that could be damaged */
    else if (!s) s = damage_unless_changed(dir, &before, verify_model(dir, progress, out));
    free(before.files);
    return s;
}

/* The first entry whose name begins with the n bytes and goes on with a point or ends; NULL: none. */
static const cvt_st_entry *find_prefix(const cvt_st *f, const char *prefix, size_t n)
{
    int64_t low = 0, high = cvt_st_count(f);
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (strncmp(cvt_st_at(f, middle)->name, prefix, n) < 0) low = middle + 1;
        else high = middle;
    }
    for (const cvt_st_entry *e; (e = cvt_st_at(f, low)) != NULL && strncmp(e->name, prefix, n) == 0; low++)
        if (e->name[n] == '.' || e->name[n] == '\0') return e;
    return NULL;
}

/* Half `k` of a pair (0: A, 1: B) has its other half, of the same rank; spellings of the two may differ. */
static fh1_status check_half(const cvt_st *f, const cvt_st_entry *e, const char *at, size_t n_mine, const char *theirs,
                             int k)
{
    char other[1024];
    int n = snprintf(other, sizeof other, "%.*s%s", (int)(at - e->name), e->name, theirs);
    const cvt_st_entry *o = n > 0 && (size_t)n < sizeof other ? find_prefix(f, other, (size_t)n) : NULL;
    if (at[n_mine] != '.' && at[n_mine] != '\0') return NULL;
    if (cvt_has_suffix(e->name, ".bias")) return NULL; /* lora_B has one, lora_A has not */
    fh1_status s = NULL;
    if (!o) s = fh1_expected(fh1_fail(FH1_E_WRONG, "the other half of the pair is missing"), "%.200s", other);
    else if (e->t.rank != 2 || (o->t.rank == 2 && e->t.shape[k] != o->t.shape[1 - k]))
        s = fh1_expected(fh1_fail(FH1_E_WRONG, "the halves of the pair do not fit"), "A [r, in], B [out, r]");
    return fh1_where(s, "%s, tensor \"%.200s\"", cvt_st_path(f), e->name);
}

static fh1_status check_pairs(const cvt_st *f)
{
    static const char *const halves[][2] = {{".lora_A", ".lora_B"}, {".lora_embedding_A", ".lora_embedding_B"}};
    for (int64_t i = 0; i < cvt_st_count(f); i++)
        for (int k = 0; k < 4; k++) {
            const cvt_st_entry *e = cvt_st_at(f, i);
            const char *mine = halves[k / 2][k % 2], *at = strstr(e->name, mine);
            if (at) FH1_TRY(check_half(f, e, at, strlen(mine), halves[k / 2][1 - k % 2], k % 2));
        }
    return NULL;
}

static fh1_status check_adapter_config(const char *dir)
{
    char path[4096], *text = NULL;
    size_t n;
    cvt_adapter_config config;
    FH1_TRY(cvt_path_join(path, sizeof path, dir, "adapter_config.json"));
    FH1_TRY(cvt_file_read(path, CVT_HF_CONFIG_BYTES, &text, &n));
    fh1_status s = cvt_adapter_config_read(path, text, n, &config);
    cvt_adapter_config_free(&config);
    free(text);
    return s;
}

static fh1_status verify_adapter(const char *dir, const cvt_progress *progress, cli_verified *out)
{
    char path[4096];
    cvt_st *f = NULL;
    FH1_TRY(check_adapter_config(dir));
    FH1_TRY(cvt_path_join(path, sizeof path, dir, "adapter_model.safetensors"));
    FH1_TRY(cvt_st_open_header(path, &f));
    fh1_status s = check_pairs(f);
    if (!s) s = cli_verify_values(f, progress, out);
    out->tensors += cvt_st_count(f);
    out->files += 2;
    cvt_st_close(f);
    return s;
}

fh1_status cli_verify_adapter_folder(const char *dir, const cvt_progress *progress, cli_verified *out)
{
    known_folder before;
    out->kind = "adapter folder";
    fh1_status s = look_around(dir, &before);
    if (!s) s = damage_unless_changed(dir, &before, verify_adapter(dir, progress, out));
    free(before.files);
    return s;
}
