#include "convert/adapter_parts.h"
#include "convert/fault.h"
#include "convert/file.h"
#include "convert/hash.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CONFIG "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"
#define MAX_CONFIG ((size_t)16 << 20)

/* What the user may have meant: adapters that are not called "default" lie in sub-folders. */
static fh1_status no_config(const char *dir)
{
    fh1_status s = fh1_where(FH1_BAD("the folder has no " CONFIG), "%s", dir);
    char path[4096], inner[4096];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.' || cvt_path_join(inner, sizeof inner, dir, e->d_name)) continue;
        if (cvt_path_join(path, sizeof path, inner, CONFIG) || !cvt_path_exists(path)) continue;
        s = fh1_hint(s, "there is one in its sub-folder %.100s: name that", e->d_name);
        break;
    }
    if (d) closedir(d);
    return fh1_hint(s, "an adapter is a folder as PeftModel.save_pretrained makes it");
}

static fh1_status no_weights(const char *dir)
{
    char bin[4096];
    fh1_status s = fh1_where(FH1_BAD("the folder has no " WEIGHTS), "%s", dir);
    FH1_TRY(cvt_path_join(bin, sizeof bin, dir, "adapter_model.bin"));
    if (!cvt_path_exists(bin)) return s;
    return fh1_hint(
        fh1_found(s, "adapter_model.bin"),
        "a pickle may run code and is not read; convert it in Python: save_file({k: v.contiguous() for k, v in "
        "torch.load('adapter_model.bin', weights_only=True).items()}, '" WEIGHTS "')");
}

static fh1_status hash_all(cvt_adapter *a, const char *config, size_t n)
{
    const void *data;
    size_t n_data;
    cvt_hash *h;
    FH1_TRY(cvt_file_map(cvt_st_path(a->file), &data, &n_data));
    fh1_status s = cvt_hash_new(&h);
    if (!s) {
        cvt_hash_add(h, config, n);
        cvt_hash_add(h, data, n_data);
        snprintf(a->hash, sizeof a->hash, "%s", cvt_hash_end(h).hex);
        cvt_hash_free(h);
    }
    cvt_file_unmap(data, n_data);
    return s;
}

static fh1_status check_init(const cvt_adapter_config *c, const char *path, bool has_initial)
{
    fh1_status s = NULL;
    if (c->init == CVT_INIT_LOFTQ)
        s = fh1_hint(FH1_BAD("the adapter belongs to the base that LoftQ made, not to the original one"),
                     "if BASE is that base, set init_lora_weights to true; an initial adapter does not help");
    else if (c->init == CVT_INIT_RESIDUAL && !has_initial && !CVT_FAULT(PISSA_ONTO_BASE))
        s = fh1_hint(FH1_BAD("the adapter was trained on a base that its initialisation had changed"),
                     "give the initial adapter with --initial, or save it with "
                     "path_initial_model_for_weight_conversion");
    else if (c->init == CVT_INIT_PLAIN && has_initial)
        s = fh1_hint(FH1_BAD("the adapter belongs to the unchanged base, an initial adapter has no place"),
                     "leave --initial out");
    else if (c->init == CVT_INIT_RESIDUAL && c->dora)
        s = FH1_BAD("use_dora with an initialisation that changed the base: the magnitudes belong to another base");
    return fh1_found(fh1_where(s, "%s, init_lora_weights", path), "%.50s", c->init_name);
}

static fh1_status match_and_sort(cvt_adapter *a, const cvt_adapter_config *c, cvt_ckpt *base)
{
    fh1_config *geometry = malloc(sizeof *geometry);
    cvt_modules m;
    if (!geometry) return fh1_no_memory(sizeof *geometry, "a config");
    fh1_status s = cvt_ckpt_config(base, geometry);
    if (!s) s = cvt_modules_of(geometry, &m);
    free(geometry);
    if (s) return s;
    s = cvt_modules_match(&m, c, a->path, a);
    if (!s) s = cvt_adapter_sort_tensors(a, &m, c);
    cvt_modules_free(&m);
    return s;
}

static bool stamp_of(const char *path, uint64_t stamp[4])
{
    struct stat st;
    if (stat(path, &st) != 0) return false;
    stamp[0] = (uint64_t)st.st_size;
    stamp[1] = (uint64_t)st.st_ino;
    stamp[2] = (uint64_t)st.st_mtim.tv_sec;
    stamp[3] = (uint64_t)st.st_mtim.tv_nsec;
    return true;
}

fh1_status cvt_adapter_unchanged(const cvt_adapter *a)
{
    uint64_t now[4];
    if (stamp_of(cvt_st_path(a->file), now) && memcmp(now, a->stamp, sizeof now) == 0) return NULL;
    return fh1_where(FH1_BAD("the file was changed while it was read"), "%s", cvt_st_path(a->file));
}

static fh1_status read_all(cvt_adapter *a, cvt_ckpt *base, cvt_adapter_config *c, const char *config, size_t n,
                           bool is_initial, bool has_initial)
{
    char weights[4096];
    FH1_TRY(cvt_adapter_config_read(a->path, config, n, c));
    if (!is_initial) FH1_TRY(check_init(c, a->path, has_initial));
    a->dora = c->dora;
    a->rslora = c->rslora;
    a->ensure_weight_tying = c->ensure_weight_tying;
    a->base_name = strdup(c->base_name);
    if (!a->base_name) return fh1_no_memory(strlen(c->base_name), "a name");
    if (c->fan_in_fan_out)
        FH1_TRY(cvt_adapter_warn(a, "fan_in_fan_out is taken as false, as PEFT does for this model's layers"));
    snprintf(weights, sizeof weights, "%.*s" WEIGHTS, (int)(strlen(a->path) - strlen(CONFIG)), a->path);
    stamp_of(weights, a->stamp);
    FH1_TRY(cvt_st_open(weights, &a->file));
    FH1_TRY(match_and_sort(a, c, base));
    if (a->n_loras + a->n_replacements + a->n_tokens == 0)
        return fh1_where(FH1_BAD("the adapter changes nothing: its file holds no tensor"), "%s", weights);
    return hash_all(a, config, n);
}

static fh1_status open_one(const char *dir, cvt_ckpt *base, bool is_initial, bool has_initial, cvt_adapter *a)
{
    char *config, weights[4096];
    size_t n;
    *a = (cvt_adapter){0};
    FH1_TRY(cvt_path_join(a->path, sizeof a->path, dir, CONFIG));
    if (!cvt_path_exists(a->path)) return no_config(dir);
    FH1_TRY(cvt_path_join(weights, sizeof weights, dir, WEIGHTS));
    if (!cvt_path_exists(weights)) return no_weights(dir);
    FH1_TRY(cvt_file_read(a->path, MAX_CONFIG, &config, &n));
    cvt_adapter_config c = {0};
    fh1_status s = read_all(a, base, &c, config, n, is_initial, has_initial);
    cvt_adapter_config_free(&c);
    free(config);
    return s;
}

fh1_status cvt_adapter_open(const char *dir, const char *initial, cvt_ckpt *base, cvt_adapter *out)
{
    cvt_adapter first = {0};
    fh1_status s = open_one(dir, base, false, initial != NULL, out);
    if (!s && initial) s = open_one(initial, base, true, false, &first);
    if (!s && initial) s = cvt_adapter_add_initial(out, &first);
    if (!s && initial) memcpy(out->initial_hash, first.hash, sizeof out->initial_hash);
    cvt_adapter_free(&first);
    if (s) cvt_adapter_free(out);
    return s;
}

void cvt_adapter_free(cvt_adapter *a)
{
    for (int64_t i = 0; i < a->n_loras; i++) free(a->loras[i].module);
    for (int64_t i = 0; i < a->n_replacements; i++) free(a->replacements[i].name);
    for (int64_t i = 0; i < a->n_tokens; i++) {
        free(a->tokens[i].module);
        free(a->tokens[i].rows);
    }
    for (int i = 0; i < a->n_warnings; i++) free(a->warnings[i]);
    for (int i = 0; i < a->n_owned; i++) free(a->owned[i]);
    free(a->loras);
    free(a->replacements);
    free(a->tokens);
    free(a->warnings);
    free(a->owned);
    free(a->base_name);
    cvt_st_close(a->file);
    *a = (cvt_adapter){0};
}
