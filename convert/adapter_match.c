#include "convert/adapter_match.h"

#include "convert/fault.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DUMMY "dummy-target-modules" /* PEFT's word for "none" */

fh1_status cvt_adapter_warn(cvt_adapter *a, const char *fmt, ...)
{
    va_list args;
    char *text;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    char **grown = n < 0 ? NULL : realloc(a->warnings, ((size_t)a->n_warnings + 1) * sizeof *grown);
    if (!grown) {
        if (n >= 0) free(text);
        return fh1_no_memory(256, "a warning");
    }
    a->warnings = grown;
    grown[a->n_warnings++] = text;
    return NULL;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Equal, or ends with ".entry". */
static bool entry_matches(const char *path, const char *entry)
{
    size_t n = strlen(path), m = strlen(entry);
    return strcmp(path, entry) == 0 || (n > m && path[n - m - 1] == '.' && ends_with(path, entry));
}

static bool list_has(const cJSON *list, const char *path)
{
    for (const cJSON *v = list ? list->child : NULL; v; v = v->next)
        if (strcmp(v->valuestring, path) == 0) return true;
    return false;
}

static bool list_matches(const cJSON *list, const char *path)
{
    for (const cJSON *v = list ? list->child : NULL; v; v = v->next)
        if (entry_matches(path, v->valuestring)) return true;
    return false;
}

/* The compiled patterns of one config. */
typedef struct {
    const cvt_adapter_config *c;
    cvt_pattern *target, *exclude;
    cvt_pattern **saved, **layers, **ranks, **alphas; /* one per entry, NULL at the end */
    bool *rank_used, *alpha_used;
} rules;

/* One pattern for each entry of a list, a string, or an object (its keys); NULL for NULL. */
static fh1_status compile_all(const cJSON *v, const char *prefix, const char *suffix, const char *what,
                              cvt_pattern ***out)
{
    size_t n = 0, i = 0;
    const cJSON *first = cJSON_IsString(v) ? v : v ? v->child : NULL;
    if (cJSON_IsString(v)) n = 1;
    else
        for (const cJSON *e = first; e; e = e->next) n++;
    *out = calloc(n + 1, sizeof **out);
    if (!*out) return fh1_no_memory(n * sizeof **out, "patterns");
    for (const cJSON *e = first; i < n; e = e->next) {
        const char *text = cJSON_IsString(v) || cJSON_IsArray(v) ? e->valuestring : e->string;
        FH1_TRY(cvt_pattern_new(prefix, text, suffix, CVT_MATCH_BEGIN, what, &(*out)[i++]));
    }
    return NULL;
}

static void free_all(cvt_pattern **p)
{
    for (size_t i = 0; p && p[i]; i++) cvt_pattern_free(p[i]);
    free(p);
}

static void rules_free(rules *x)
{
    cvt_pattern_free(x->target);
    cvt_pattern_free(x->exclude);
    free_all(x->saved);
    free_all(x->layers);
    free_all(x->ranks);
    free_all(x->alphas);
    free(x->rank_used);
    free(x->alpha_used);
}

static bool is_all_linear(const cJSON *targets)
{
    return cJSON_IsString(targets) && strcasecmp(targets->valuestring, "all-linear") == 0;
}

static fh1_status rules_new(const cvt_adapter_config *c, rules *x)
{
    *x = (rules){.c = c};
    if (cJSON_IsString(c->target_modules) && !is_all_linear(c->target_modules))
        FH1_TRY(cvt_pattern_new("", c->target_modules->valuestring, "", CVT_MATCH_FULL, "target_modules", &x->target));
    if (cJSON_IsString(c->exclude_modules))
        FH1_TRY(
            cvt_pattern_new("", c->exclude_modules->valuestring, "", CVT_MATCH_FULL, "exclude_modules", &x->exclude));
    FH1_TRY(compile_all(c->modules_to_save, "(^|.*\\.)", "($|\\..*)", "modules_to_save", &x->saved));
    FH1_TRY(compile_all(c->layers_pattern, "(?:^|.*?\\.)", "\\.(?P<idx>\\d+)\\.", "layers_pattern", &x->layers));
    FH1_TRY(compile_all(c->rank_pattern, "(.*\\.)?(", ")$", "rank_pattern", &x->ranks));
    FH1_TRY(compile_all(c->alpha_pattern, "(.*\\.)?(", ")$", "alpha_pattern", &x->alphas));
    size_t n_ranks = 1, n_alphas = 1;
    while (x->ranks[n_ranks - 1]) n_ranks++;
    while (x->alphas[n_alphas - 1]) n_alphas++;
    x->rank_used = calloc(n_ranks, sizeof *x->rank_used);
    x->alpha_used = calloc(n_alphas, sizeof *x->alpha_used);
    return x->rank_used && x->alpha_used ? NULL : fh1_no_memory(n_ranks + n_alphas, "patterns");
}

static fh1_status any_matches(cvt_pattern *const *p, const char *path, bool *out, int64_t *number)
{
    *out = false;
    for (size_t i = 0; p[i] && !*out; i++) FH1_TRY(cvt_pattern_match(p[i], path, out, number));
    return NULL;
}

/* The number of the first path component that is one, with a component before and behind it. */
static bool first_number(const char *path, int64_t *out)
{
    for (const char *p = strchr(path, '.'); p; p = strchr(p + 1, '.')) {
        size_t n = strspn(p + 1, "0123456789");
        if (p == path || n == 0 || p[1 + n] != '.' || !memchr(path, '.', (size_t)(p - path))) continue;
        *out = strtoll(p + 1, NULL, 10);
        return true;
    }
    return false;
}

/* layers_to_transform, for a module that a list names by its ending. */
static fh1_status layer_allowed(const rules *x, const char *path, bool *out)
{
    int64_t layer, wanted;
    const cJSON *v = x->c->layers_to_transform;
    *out = true;
    if (!v) return NULL;
    if (x->layers[0]) FH1_TRY(any_matches(x->layers, path, out, &layer));
    else *out = first_number(path, &layer);
    if (!*out) return NULL;
    *out = false;
    for (const cJSON *e = cJSON_IsArray(v) ? v->child : v; e && !*out; e = cJSON_IsArray(v) ? e->next : NULL)
        *out = cvt_json_is_int(e, &wanted) && wanted == layer;
    return NULL;
}

static fh1_status excluded(const rules *x, const char *path, bool *out)
{
    *out = false;
    if (x->exclude) FH1_TRY(cvt_pattern_match(x->exclude, path, out, NULL));
    else *out = list_matches(x->c->exclude_modules, path);
    return *out ? NULL : any_matches(x->saved, path, out, NULL);
}

static bool is_mixer(const char *path)
{
    return strstr(path, ".mamba.") || strstr(path, ".mixer.");
}

static fh1_status targeted(const rules *x, const cvt_module *m, bool *out)
{
    const cJSON *t = x->c->target_modules;
    bool no;
    *out = false;
    if (!t || (CVT_FAULT(MIXER_TARGETS_DROPPED) && is_mixer(m->path))) return NULL;
    FH1_TRY(excluded(x, m->path, &no));
    if (no) return NULL;
    if (x->target) return cvt_pattern_match(x->target, m->path, out, NULL);
    if (is_all_linear(t)) *out = m->kind == CVT_MODULE_LINEAR && strcmp(m->path, "lm_head") != 0;
    else if (list_has(t, m->path)) *out = true; /* a full path ignores layers_to_transform */
    else if (list_matches(t, m->path)) return layer_allowed(x, m->path, out);
    return NULL;
}

/* The value of the first key whose pattern matches; NULL: none. */
static fh1_status pattern_value(const cJSON *object, cvt_pattern *const *p, bool *used, const char *path,
                                const cJSON **out)
{
    const cJSON *v = object ? object->child : NULL;
    *out = NULL;
    for (size_t i = 0; v; v = v->next, i++) {
        bool matched;
        FH1_TRY(cvt_pattern_match(p[i], path, &matched, NULL));
        used[i] |= matched;
        if (matched && !*out) *out = v;
    }
    return NULL;
}

/* `path` is the module's, or of a parameter its name. */
static fh1_status set_scale(const rules *x, cvt_module *m, const char *path)
{
    const cJSON *r, *alpha;
    FH1_TRY(pattern_value(x->c->rank_pattern, x->ranks, x->rank_used, path, &r));
    FH1_TRY(pattern_value(x->c->alpha_pattern, x->alphas, x->alpha_used, path, &alpha));
    m->r = x->c->r;
    if (r) cvt_json_is_int(r, &m->r);
    double a = alpha ? alpha->valuedouble : x->c->alpha;
    if (CVT_FAULT(ALPHA_PATTERN_IGNORED)) a = x->c->alpha;
    const double rank = (double)(CVT_FAULT(RANK_PATTERN_NOT_IN_SCALE) ? x->c->r : m->r);
    m->scale = x->c->rslora && !CVT_FAULT(RSLORA_BY_RANK) ? a / sqrt(rank) : a / rank;
    if (CVT_FAULT(ALPHA_NOT_DIVIDED)) m->scale = a;
    return NULL;
}

static fh1_status check_kind(const cvt_module *m)
{
    fh1_status s = NULL;
    if (m->kind == CVT_MODULE_CONV)
        s = FH1_BAD("LoRA on a convolution cannot be merged: it mixes the channels of a depthwise one");
    if (m->kind == CVT_MODULE_OTHER) s = FH1_BAD("the adapter targets a module that holds no matrix");
    return s ? fh1_hint(fh1_where(s, "%s", m->path), "modules_to_save trains such a weight as a whole") : NULL;
}

static fh1_status match_parameters(cvt_modules *m, const rules *x)
{
    for (int64_t i = 0; x->c->target_parameters && i < m->n_tensors; i++) {
        const cvt_base_tensor *t = &m->tensors[i];
        if (!list_matches(x->c->target_parameters, t->name)) continue;
        cvt_module *to = t->module >= 0 ? &m->modules[t->module] : NULL;
        const char *what = t->rank == 2 ? "target_parameters on a parameter of the mixer itself is not supported"
                                        : "target_parameters names a tensor that is no matrix";
        if (t->rank != 2 || !to)
            return fh1_hint(fh1_where(FH1_BAD("%s", what), "%s", t->name), "modules_to_save trains it as a whole");
        if (to->targeted)
            return fh1_where(FH1_BAD("target_parameters and target_modules name the same weight"), "%s", t->name);
        to->targeted = to->parameter = true;
        FH1_TRY(set_scale(x, to, t->name));
    }
    return NULL;
}

/* modules_to_save finds modules by the end of their path, at any place in a name ("norm": input_layernorm too). */
static bool module_ends_with(const char *tensor, const char *end)
{
    size_t len = strlen(end);
    for (const char *p = strchr(tensor, '.'); p; p = strchr(p + 1, '.')) /* each module on the way to the tensor */
        if ((size_t)(p - tensor) >= len && memcmp(p - len, end, len) == 0) return true;
    return false;
}

static fh1_status mark_saved(cvt_modules *m, const cJSON *list, cvt_adapter *a)
{
    for (const cJSON *v = list ? list->child : NULL; v; v = v->next) {
        bool any = false;
        for (int64_t i = 0; i < m->n_tensors; i++) {
            if (!module_ends_with(m->tensors[i].name, v->valuestring)) continue;
            any = m->tensors[i].saved = true;
            if (m->tensors[i].module >= 0) m->modules[m->tensors[i].module].saved = true;
        }
        if (!any) FH1_TRY(cvt_adapter_warn(a, "modules_to_save: \"%.200s\" matches no module", v->valuestring));
    }
    return NULL;
}

/* ensure_weight_tying: what one end of a tied model has, the other end gets. */
static void tie_ends(cvt_modules *m)
{
    cvt_module *embed = cvt_modules_find(m, m->embed), *head = cvt_modules_find(m, "lm_head");
    cvt_base_tensor *ew = cvt_modules_tensor(m, m->embed_weight), *hw = cvt_modules_tensor(m, "lm_head.weight");
    if (!m->tied || !embed || !head || !ew || !hw) return;
    embed->targeted = head->targeted = embed->targeted || head->targeted;
    embed->saved = head->saved = ew->saved = hw->saved = ew->saved || hw->saved;
}

static fh1_status warn_unused(const cJSON *object, const bool *used, const char *what, cvt_adapter *a)
{
    const cJSON *v = object ? object->child : NULL;
    for (size_t i = 0; v; v = v->next, i++)
        if (!used[i]) FH1_TRY(cvt_adapter_warn(a, "%s: the key \"%.200s\" matches no module", what, v->string));
    return NULL;
}

static fh1_status match(cvt_modules *m, const rules *x, cvt_adapter *a)
{
    const cJSON *t = x->c->target_modules;
    int64_t n = 0;
    FH1_TRY(mark_saved(m, x->c->modules_to_save, a));
    for (int64_t i = 0; i < m->n_modules; i++) FH1_TRY(targeted(x, &m->modules[i], &m->modules[i].targeted));
    if (x->c->ensure_weight_tying) tie_ends(m);
    for (int64_t i = 0; i < m->n_modules; i++) {
        if (!m->modules[i].targeted) continue;
        FH1_TRY(check_kind(&m->modules[i]));
        FH1_TRY(set_scale(x, &m->modules[i], m->modules[i].path));
        n++;
    }
    bool dummy = cJSON_IsString(t) && strcmp(t->valuestring, DUMMY) == 0;
    if (t && n == 0 && !dummy && !x->c->target_parameters)
        return fh1_hint(FH1_BAD("target_modules matches no module of this model"),
                        "a string is a regular expression for the whole path, an entry of a list is its end");
    FH1_TRY(match_parameters(m, x));
    FH1_TRY(warn_unused(x->c->rank_pattern, x->rank_used, "rank_pattern", a));
    return warn_unused(x->c->alpha_pattern, x->alpha_used, "alpha_pattern", a);
}

fh1_status cvt_modules_match(cvt_modules *m, const cvt_adapter_config *c, const char *path, cvt_adapter *a)
{
    rules x;
    fh1_status s = rules_new(c, &x);
    if (!s) s = match(m, &x, a);
    rules_free(&x);
    return fh1_where(s, "%s", path);
}
