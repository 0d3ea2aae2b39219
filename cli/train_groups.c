#include "cli/train_groups.h"

#include "convert/fields.h"
#include "convert/file.h"
#include "convert/hash.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 1 << 20, MAX_DEPTH = 4 };

bool cli_glob(const char *pattern, const char *name)
{
    const char *star = NULL, *retry = NULL;
    while (*name) {
        if (*pattern == '*') {
            star = ++pattern;
            retry = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star) { /* the last star takes one more */
            pattern = star;
            name = ++retry;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return *pattern == '\0';
}

/* ---- kinds ---- */

const char *const cli_param_kinds[] = {
    "embed_tokens", "lm_head", "in_proj", "conv1d", "dt_bias", "A_log",     "D",       "norm",
    "out_proj",     "q_proj",  "k_proj",  "v_proj", "o_proj",  "gate_proj", "up_proj", "down_proj",
    "layernorm",    "bias",    "lora_A",  "lora_B", "x_proj",  "dt_proj",   NULL};

static const char *kind_named(const char *text, size_t n)
{
    for (int i = 0; cli_param_kinds[i]; i++)
        if (strlen(cli_param_kinds[i]) == n && strncmp(cli_param_kinds[i], text, n) == 0) return cli_param_kinds[i];
    return NULL;
}

const char *cli_param_kind(const char *name)
{
    size_t n = strlen(name);
    const bool mamba = strncmp(name, "backbone.", 9) == 0; /* Falcon-Mamba's own names */
    if (strstr(name, ".lora_A.") || cvt_has_suffix(name, ".lora_embedding_A")) return "lora_A";
    if (cvt_has_suffix(name, ".lora_B.bias")) return "bias";
    if (strstr(name, ".lora_B.") || cvt_has_suffix(name, ".lora_embedding_B")) return "lora_B";
    if (mamba && cvt_has_suffix(name, ".dt_proj.bias")) return "dt_bias";
    if (cvt_has_suffix(name, ".bias")) return "bias";
    if (cvt_has_suffix(name, "layernorm.weight")) return "layernorm";
    if (cvt_has_suffix(name, ".weight")) n -= strlen(".weight");
    size_t last = n;
    while (last > 0 && name[last - 1] != '.') last--;
    /* Falcon-Mamba: its table, its final norm and the norms of its layers have other names; `norm` is a mixer's. */
    if (mamba) {
        const char *const of_model[][2] = {
            {"embeddings", "embed_tokens"}, {"norm_f", "layernorm"}, {"norm", "layernorm"}};
        for (size_t i = 0; i < sizeof of_model / sizeof *of_model; i++)
            if (strlen(of_model[i][0]) == n - last && strncmp(name + last, of_model[i][0], n - last) == 0)
                return of_model[i][1];
    }
    const char *kind = kind_named(name + last, n - last);
    return kind ? kind : "";
}

static bool contains(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

bool cli_decays_in_hf(const char *name)
{
    return !contains(name, "bias") && !contains(name, "layernorm") && !contains(name, ".norm.");
}

/* ---- the file ---- */

static fh1_status read_factor(const cvt_fields *f, const char *key, double *out)
{
    *out = 1;
    FH1_TRY(cvt_may_number(f, key, out));
    if (isfinite(*out) && *out >= 0) return NULL;
    return cvt_bad_value(f, key, cvt_optional(f, key), "not a factor", "0 or more");
}

static fh1_status read_text(const cvt_fields *f, const char *key, char **out)
{
    const char *text;
    if (!cvt_optional(f, key)) return NULL;
    FH1_TRY(cvt_need_string(f, key, &text));
    *out = strdup(text);
    return *out ? NULL : fh1_no_memory(strlen(text), "a pattern");
}

static fh1_status check_keys(const cJSON *object, const char *path, const char *where, const char *const *known)
{
    for (const cJSON *v = object->child; v; v = v->next) {
        bool found = false;
        for (int i = 0; known[i]; i++) found |= strcmp(v->string, known[i]) == 0;
        if (!found) return fh1_where(FH1_BAD("a key that nothing reads: '%.100s'", v->string), "%s, %s", path, where);
    }
    return NULL;
}

static fh1_status unknown_kind(fh1_status s, const char *kind)
{
    char list[256] = "";
    for (int i = 0; cli_param_kinds[i]; i++) {
        const size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", n ? " " : "", cli_param_kinds[i]);
    }
    return fh1_found(fh1_expected(s, "%s", list), "'%.100s'", kind);
}

static fh1_status read_group(const char *path, int i, const cJSON *v, cli_group *g)
{
    static const char *const known[] = {"match", "kind", "lr", "weight_decay", NULL};
    char prefix[32];
    snprintf(prefix, sizeof prefix, "groups[%d].", i);
    const cvt_fields f = {v, path, prefix};
    if (!cJSON_IsObject(v)) return fh1_where(FH1_BAD("a group is an object"), "%s, groups[%d]", path, i);
    FH1_TRY(check_keys(v, path, prefix, known));
    FH1_TRY(read_text(&f, "match", &g->match));
    FH1_TRY(read_text(&f, "kind", &g->kind));
    if (!g->match && !g->kind)
        return fh1_where(FH1_BAD("a group needs \"match\" (a pattern) or \"kind\""), "%s, groups[%d]", path, i);
    if (g->kind && !kind_named(g->kind, strlen(g->kind)))
        return unknown_kind(fh1_where(FH1_BAD("unknown kind"), "%s, %skind", path, prefix), g->kind);
    FH1_TRY(read_factor(&f, "lr", &g->f.lr));
    return read_factor(&f, "weight_decay", &g->f.decay);
}

static fh1_status read_all(const char *path, const cJSON *json, cli_groups *out)
{
    static const char *const known[] = {"groups", NULL};
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "groups");
    if (!cJSON_IsObject(json) || !cJSON_IsArray(list) || !list->child)
        return fh1_where(fh1_expected(FH1_BAD("no groups"), "{\"groups\": [{\"match\": …, \"lr\": …}, …]}"), "%s",
                         path);
    FH1_TRY(check_keys(json, path, "the outermost object", known));
    const int n = cJSON_GetArraySize(list);
    if (!(out->groups = calloc((size_t)n, sizeof *out->groups)))
        return fh1_no_memory((size_t)n * sizeof *out->groups, "groups");
    for (const cJSON *v = list->child; v; v = v->next) {
        const int i = out->n++;
        FH1_TRY(read_group(path, i, v, &out->groups[i]));
    }
    return NULL;
}

static fh1_status hash_text(const char *text, size_t n, char out[33])
{
    cvt_hash *h;
    FH1_TRY(cvt_hash_new(&h));
    cvt_hash_add(h, text, n);
    memcpy(out, cvt_hash_end(h).hex, 33);
    cvt_hash_free(h);
    return NULL;
}

fh1_status cli_groups_read(const char *path, cli_groups *out)
{
    cJSON *json = NULL;
    char *text = NULL;
    size_t n;
    *out = (cli_groups){0};
    fh1_status s = cvt_file_read(path, MAX_BYTES, &text, &n);
    if (!s) s = cvt_json_parse(text, n, MAX_DEPTH, path, &json);
    if (!s) s = read_all(path, json, out);
    if (!s) s = hash_text(text, n, out->hash);
    cJSON_Delete(json);
    free(text);
    if (s) cli_groups_free(out);
    return s;
}

void cli_groups_free(cli_groups *g)
{
    for (int i = 0; i < g->n; i++) {
        free(g->groups[i].match);
        free(g->groups[i].kind);
    }
    free(g->groups);
    *g = (cli_groups){0};
}

/* ---- what fits ---- */

bool cli_group_fits(const cli_group *g, const char *name)
{
    return (!g->match || cli_glob(g->match, name)) && (!g->kind || strcmp(g->kind, cli_param_kind(name)) == 0);
}

static fh1_status idle_group(const cli_group *g, int i, const fh1_grads *params)
{
    const char *what = g->match ? g->match : g->kind;
    bool taken = false, frozen = false;
    for (int64_t k = 0; k < params->n; k++) {
        if (!cli_group_fits(g, params->params[k].name)) continue;
        if (params->params[k].grad.data) taken = true;
        else frozen = true;
    }
    fh1_status s = FH1_BAD("--mup: group %d fits no parameter%s", i,
                           taken    ? " that no earlier group has taken"
                           : frozen ? " that is trained"
                                    : "");
    return fh1_hint(fh1_found(s, "'%.200s'", what), taken ? "the first group that fits counts: put it before"
                                                          : "names are those of fh1 trace's grad.* and of the files");
}

fh1_status cli_groups_apply(const cli_groups *g, const fh1_grads *params, cli_factors *out)
{
    bool *used = calloc((size_t)g->n + 1, sizeof *used);
    if (!used) return fh1_no_memory((size_t)g->n, "groups");
    for (int64_t k = 0; k < params->n; k++) {
        out[k] = (cli_factors){1, 1};
        for (int i = 0; i < g->n; i++) {
            if (!cli_group_fits(&g->groups[i], params->params[k].name)) continue;
            used[i] |= params->params[k].grad.data != NULL;
            out[k] = g->groups[i].f;
            break;
        }
    }
    fh1_status s = NULL;
    for (int i = 0; i < g->n && !s; i++)
        if (!used[i]) s = idle_group(&g->groups[i], i, params);
    free(used);
    return s;
}

/* ---- --train and --freeze ---- */

/* One of the globs of "a,b" fits. */
static bool one_fits(const char *item, const char *name)
{
    char glob[512];
    for (const char *p = item; *p;) {
        const size_t n = strcspn(p, ",");
        if (n > 0 && n < sizeof glob) {
            memcpy(glob, p, n);
            glob[n] = '\0';
            if (cli_glob(glob, name)) return true;
        }
        p += n + (p[n] == ',');
    }
    return false;
}

static bool any_fits(const cli_globs *g, const char *name)
{
    for (int i = 0; i < g->n; i++)
        if (one_fits(g->items[i], name)) return true;
    return false;
}

bool cli_is_trained(const cli_globs *train, const cli_globs *freeze, const char *name)
{
    return (train->n == 0 || any_fits(train, name)) && !any_fits(freeze, name);
}

static bool glob_fits_some(const char *glob, const fh1_grads *params)
{
    for (int64_t k = 0; k < params->n; k++)
        if (cli_glob(glob, params->params[k].name)) return true;
    return false;
}

fh1_status cli_globs_check(const char *option, const cli_globs *g, const fh1_grads *params)
{
    char glob[512];
    for (int i = 0; i < g->n; i++)
        for (const char *p = g->items[i]; *p;) {
            const size_t n = strcspn(p, ",");
            snprintf(glob, sizeof glob, "%.*s", (int)n, p);
            p += n + (p[n] == ',');
            if (n > 0 && n < sizeof glob && glob_fits_some(glob, params)) continue;
            return fh1_hint(fh1_found(FH1_BAD("%s: the pattern fits no parameter", option), "'%.200s'", glob),
                            "patterns are over names such as %s and %s; a tied head is the embedding",
                            params->params[0].name, params->params[params->n / 2].name);
        }
    return NULL;
}
