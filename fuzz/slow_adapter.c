#include "fuzz/slow_adapter.h"

#include "fuzz/plant.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What a value may be: n null, b bool, i integer, f number, s string, S strings that are not empty, I integers, N an
 * object of numbers, L an object of lists of integers; * anything; ! nothing but null, false and empty. */
static const struct {
    const char *name, *kinds;
} fields[] = {{"alora_invocation_tokens", "!"},
              {"alpha_pattern", "nN"},
              {"arrow_config", "!"},
              {"auto_mapping", "*"},
              {"base_model_name_or_path", "ns"},
              {"bias", "s"},
              {"corda_config", "*"},
              {"ensure_weight_tying", "b"},
              {"eva_config", "*"},
              {"exclude_modules", "nsS"},
              {"fan_in_fan_out", "b"},
              {"inference_mode", "*"},
              {"init_lora_weights", "nbs"},
              {"kasa_config", "!"},
              {"layer_replication", "!"},
              {"layers_pattern", "nsS"},
              {"layers_to_transform", "niI"},
              {"loftq_config", "*"},
              {"lora_alpha", "if"},
              {"lora_bias", "b"},
              {"lora_dropout", "if"},
              {"lora_ga_config", "*"},
              {"megatron_config", "!"},
              {"megatron_core", "ns"},
              {"modules_to_save", "nS"},
              {"monteclora_config", "!"},
              {"peft_type", "s"},
              {"peft_version", "ns"},
              {"qalora_group_size", "*"},
              {"r", "i"},
              {"rank_pattern", "nN"},
              {"revision", "ns"},
              {"target_modules", "nsS"},
              {"target_parameters", "nS"},
              {"task_type", "ns"},
              {"trainable_token_indices", "nIL"},
              {"use_bdlora", "!"},
              {"use_dora", "b"},
              {"use_qalora", "!"},
              {"use_rslora", "b"},
              {"velora_config", "!"}};

static bool is_empty(const slow_json *v)
{
    switch (v->kind) {
    case SLOW_NULL:
    case SLOW_FALSE: return true;
    case SLOW_STRING: return *v->text == '\0';
    case SLOW_ARRAY:
    case SLOW_OBJECT: return v->n == 0;
    default: return false;
    }
}

static bool is_kind(const slow_json *v, char kind);

static bool all(const slow_json *v, slow_kind outer, char inner)
{
    if (v->kind != outer) return false;
    for (const slow_json *e = v->first; e; e = e->next)
        if (!is_kind(e, inner)) return false;
    return true;
}

/* t: a text that is not empty, one of S. */
static bool is_kind(const slow_json *v, char kind)
{
    int64_t n;
    switch (kind) {
    case 'n': return v->kind == SLOW_NULL;
    case 'b': return v->kind == SLOW_TRUE || v->kind == SLOW_FALSE;
    case 'i': return v->kind == SLOW_NUMBER && slow_json_integer(v, &n);
    case 'f': return v->kind == SLOW_NUMBER;
    case 's': return v->kind == SLOW_STRING;
    case 't': return v->kind == SLOW_STRING && *v->text != '\0';
    case 'S': return all(v, SLOW_ARRAY, 't');
    case 'I': return all(v, SLOW_ARRAY, 'i');
    case 'N': return all(v, SLOW_OBJECT, 'f');
    case 'L': return all(v, SLOW_OBJECT, 'I');
    case '!': return is_empty(v) || fuzz_planted("refused");
    default: return true;
    }
}

static bool field_holds(const slow_json *v)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (strcmp(v->name, fields[i].name) != 0) continue;
        for (const char *k = fields[i].kinds; *k; k++)
            if (is_kind(v, *k)) return true;
        return false;
    }
    return is_empty(v) || fuzz_planted("unknown"); /* nobody knows what it would change */
}

static const slow_json *full(const slow_json *root, const char *name)
{
    const slow_json *v = slow_json_member(root, name);
    return v && !is_empty(v) ? v : NULL;
}

static bool on(const slow_json *root, const char *name)
{
    const slow_json *v = slow_json_member(root, name);
    return v && v->kind == SLOW_TRUE;
}

static bool one_of(const char *word, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(word, *list) == 0) return true;
    return false;
}

static bool read_init(const slow_json *v, slow_adapter *a)
{
    static const char *const plain[] = {"gaussian", "orthogonal", "eva", "mica", NULL};
    static const char *const changes[] = {"pissa", "olora", "lora_ga", NULL};
    a->init_name = "true";
    if (!v || v->kind != SLOW_STRING) return true;
    const char *s = a->init_name = v->text;
    if (one_of(s, plain)) return true;
    const bool begins = strncmp(s, "corda", 5) == 0 || strncmp(s, "pissa_niter_", 12) == 0;
    a->init = one_of(s, changes) || begins ? CVT_INIT_RESIDUAL : CVT_INIT_LOFTQ;
    return a->init == CVT_INIT_RESIDUAL || strcmp(s, "loftq") == 0;
}

static bool read_bias(const slow_json *v, slow_adapter *a)
{
    static const char *const names[] = {"none", "all", "lora_only"};
    for (int i = 0; v && i < 3; i++) {
        a->bias = (cvt_adapter_bias)i;
        if (strcmp(v->text, names[i]) == 0) return true;
    }
    return !v;
}

static bool ranks_hold(const slow_adapter *a)
{
    int64_t r;
    for (const slow_json *v = a->rank_pattern ? a->rank_pattern->first : NULL; v; v = v->next)
        if (!slow_json_integer(v, &r) || r < 1) return false;
    return a->r >= 1;
}

static bool together(const slow_adapter *a)
{
    const bool text = a->target_modules && a->target_modules->kind == SLOW_STRING;
    if (a->dora && a->lora_bias && !fuzz_planted("together")) return false;
    if (a->target_parameters && (a->dora || a->lora_bias || a->fan_in_fan_out)) return false;
    return !text || (!a->layers_to_transform && !a->layers_pattern);
}

bool slow_adapter_read(const slow_json *root, slow_adapter *a)
{
    *a = (slow_adapter){.r = 8, .alpha = 8, .base_name = ""};
    if (root->kind != SLOW_OBJECT) return false;
    for (const slow_json *v = root->first; v; v = v->next)
        if (!field_holds(v)) return false;
    const slow_json *type = slow_json_member(root, "peft_type"), *v;
    if (!type || strcmp(type->text, "LORA") != 0) return false;
    if ((v = slow_json_member(root, "r")) != NULL) slow_json_integer(v, &a->r);
    if ((v = slow_json_member(root, "lora_alpha")) != NULL) a->alpha = slow_json_double(v);
    if ((v = full(root, "base_model_name_or_path")) != NULL) a->base_name = v->text;
    a->rslora = on(root, "use_rslora");
    a->dora = on(root, "use_dora");
    a->lora_bias = on(root, "lora_bias");
    a->ensure_weight_tying = on(root, "ensure_weight_tying");
    a->fan_in_fan_out = on(root, "fan_in_fan_out");
    a->target_modules = full(root, "target_modules");
    a->exclude_modules = full(root, "exclude_modules");
    a->modules_to_save = full(root, "modules_to_save");
    a->target_parameters = full(root, "target_parameters");
    a->layers_pattern = full(root, "layers_pattern");
    a->layers_to_transform = full(root, "layers_to_transform");
    a->rank_pattern = full(root, "rank_pattern");
    a->alpha_pattern = full(root, "alpha_pattern");
    a->token_indices = full(root, "trainable_token_indices");
    return read_bias(full(root, "bias"), a) && read_init(slow_json_member(root, "init_lora_weights"), a) &&
           ranks_hold(a) && together(a);
}

/* ---- modules ---- */

/* A word that means itself in a regular expression. */
static bool is_plain(const char *s)
{
    return s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] == '\0';
}

static bool all_plain(const slow_json *v)
{
    if (v && v->kind == SLOW_STRING) return is_plain(v->text);
    for (const slow_json *e = v ? v->first : NULL; e; e = e->next)
        if (!is_plain(v->kind == SLOW_OBJECT ? e->name : e->text)) return false;
    return true;
}

/* The path is the entry, or ends with it behind a point. */
static bool names_end(const char *path, const char *entry)
{
    const char *tail = path;
    for (;;) {
        if (strcmp(tail, entry) == 0) return true;
        tail = strchr(tail, '.');
        if (!tail) return false;
        tail++;
    }
}

static bool names_any_end(const char *path, const slow_json *list)
{
    for (const slow_json *e = list ? list->first : NULL; e; e = e->next)
        if (names_end(path, e->text)) return true;
    return false;
}

/* Some component of the path is the word. */
static bool has_component(const char *path, const char *word)
{
    const size_t n = strlen(word);
    for (const char *p = path; p; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL)
        if (strncmp(p, word, n) == 0 && (p[n] == '.' || p[n] == '\0')) return true;
    return false;
}

/* Of "model.layers.N.…" or "backbone.layers.N.…": N is the only number in a path of these models. */
static int64_t layer_of(const char *path)
{
    int64_t layer = -1;
    if (sscanf(path, "model.layers.%" SCNd64 ".", &layer) < 1) sscanf(path, "backbone.layers.%" SCNd64 ".", &layer);
    return layer;
}

static bool layer_wanted(const slow_adapter *a, const char *path)
{
    const slow_json *v = a->layers_to_transform;
    const int64_t layer = layer_of(path);
    int64_t n;
    if (!v) return true;
    if (layer < 0) return false;
    if (a->layers_pattern) { /* the word before the number */
        const slow_json *p = a->layers_pattern;
        bool any = p->kind == SLOW_STRING && strcmp(p->text, "layers") == 0;
        for (const slow_json *e = p->kind == SLOW_ARRAY ? p->first : NULL; e; e = e->next)
            any |= strcmp(e->text, "layers") == 0;
        if (!any) return false;
    }
    for (const slow_json *e = v->kind == SLOW_ARRAY ? v->first : v; e; e = v->kind == SLOW_ARRAY ? e->next : NULL)
        if (slow_json_integer(e, &n) && n == layer) return true;
    return false;
}

static const slow_json *first_match(const slow_json *object, const char *path)
{
    for (const slow_json *e = object ? object->first : NULL; e; e = e->next)
        if (names_end(path, e->name)) return e;
    return NULL;
}

slow_answer slow_adapter_targets(const slow_adapter *a, const char *path, bool linear, int64_t *rank, double *scale)
{
    const slow_json *t = a->target_modules, *r = first_match(a->rank_pattern, path);
    const slow_json *alpha = first_match(a->alpha_pattern, path);
    const bool any_linear = t && t->kind == SLOW_STRING && strcasecmp(t->text, "all-linear") == 0;
    if (!all_plain(a->modules_to_save) || !all_plain(a->layers_pattern) || !all_plain(a->rank_pattern) ||
        !all_plain(a->alpha_pattern) || a->target_parameters || a->ensure_weight_tying)
        return SLOW_UNSAID;
    if ((t && t->kind == SLOW_STRING && !any_linear) || (a->exclude_modules && a->exclude_modules->kind == SLOW_STRING))
        return SLOW_UNSAID;
    *rank = a->r;
    if (r) slow_json_integer(r, rank);
    const double k = alpha ? slow_json_double(alpha) : a->alpha;
    *scale = k / (a->rslora ? sqrt((double)*rank) : (double)*rank);
    if (!t || names_any_end(path, a->exclude_modules)) return SLOW_NOT_TARGETED;
    for (const slow_json *e = a->modules_to_save ? a->modules_to_save->first : NULL; e; e = e->next)
        if (has_component(path, e->text)) return SLOW_NOT_TARGETED;
    if (any_linear) return linear && strcmp(path, "lm_head") != 0 ? SLOW_TARGETED : SLOW_NOT_TARGETED;
    for (const slow_json *e = t->first; e; e = e->next)
        if (strcmp(e->text, path) == 0) return SLOW_TARGETED; /* whatever its layer */
    const bool wanted = layer_wanted(a, path) || fuzz_planted("layer");
    return names_any_end(path, t) && wanted ? SLOW_TARGETED : SLOW_NOT_TARGETED;
}
