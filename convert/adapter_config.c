#include "convert/adapter_config.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEPTH 16

/* Kinds of values, as bits. */
enum {
    NONE = 1, /* null */
    BOOL = 2,
    INT = 4,
    NUMBER = 8,
    STRING = 16,
    STRINGS = 32, /* a list of strings */
    INTS = 64,
    OBJECT = 128,
    NUMBERS = 256,   /* an object of numbers */
    INT_LISTS = 512, /* an object of lists of integers */
    ANY = 1024
};

static const struct {
    int kind;
    const char *text;
} kind_names[] = {{NONE, "null"},
                  {BOOL, "true or false"},
                  {INT, "an integer"},
                  {NUMBER, "a number"},
                  {STRING, "a string"},
                  {STRINGS, "a list of strings"},
                  {INTS, "a list of integers"},
                  {OBJECT, "an object"},
                  {NUMBERS, "an object of numbers"},
                  {INT_LISTS, "an object of lists of integers"}};

typedef struct {
    const char *name;
    int kinds;
    const char *refused; /* why a value other than null, false and empty cannot be merged; NULL: it can */
} field;

static const field fields[] = {
    {"alora_invocation_tokens", ANY, "an activated LoRA acts from its invocation tokens on, no weight can hold that"},
    {"alpha_pattern", NONE | NUMBERS, NULL},
    {"arrow_config", ANY, "Arrow routes between adapters at run time, no weight can hold that"},
    {"auto_mapping", ANY, NULL},
    {"base_model_name_or_path", NONE | STRING, NULL},
    {"bias", STRING, NULL},
    {"corda_config", ANY, NULL}, /* what it did shows in init_lora_weights, as of the next four */
    {"ensure_weight_tying", BOOL, NULL},
    {"eva_config", ANY, NULL},
    {"exclude_modules", NONE | STRING | STRINGS, NULL},
    {"fan_in_fan_out", BOOL, NULL},
    {"inference_mode", ANY, NULL},
    {"init_lora_weights", NONE | BOOL | STRING, NULL},
    {"kasa_config", ANY, "KaSA truncates the singular values of the base and scales ΔW by a diagonal"},
    {"layer_replication", ANY, "repeated layers share their weights, so that no merged model equals the attached one"},
    {"layers_pattern", NONE | STRING | STRINGS, NULL},
    {"layers_to_transform", NONE | INT | INTS, NULL},
    {"loftq_config", ANY, NULL},
    {"lora_alpha", INT | NUMBER, NULL},
    {"lora_bias", BOOL, NULL},
    {"lora_dropout", INT | NUMBER, NULL},
    {"lora_ga_config", ANY, NULL},
    {"megatron_config", ANY, "layers split by Megatron are not those of this model"},
    {"megatron_core", NONE | STRING, NULL},
    {"modules_to_save", NONE | STRINGS, NULL},
    {"monteclora_config", ANY, "Monte-Carlo LoRA samples its matrices"},
    {"peft_type", STRING, NULL},
    {"peft_version", NONE | STRING, NULL},
    {"qalora_group_size", ANY, NULL}, /* counts with use_qalora only */
    {"r", INT, NULL},
    {"rank_pattern", NONE | NUMBERS, NULL},
    {"revision", NONE | STRING, NULL},
    {"target_modules", NONE | STRING | STRINGS, NULL},
    {"target_parameters", NONE | STRINGS, NULL},
    {"task_type", NONE | STRING, NULL},
    {"trainable_token_indices", NONE | INTS | INT_LISTS, NULL},
    {"use_bdlora", ANY, "block-diagonal factors have other shapes and another product"},
    {"use_dora", BOOL, NULL},
    {"use_qalora", ANY, "QA-LoRA pools the inputs of A"},
    {"use_rslora", BOOL, NULL},
    {"velora_config", ANY, "VeLoRA compresses the inputs in training"},
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static bool all_strings(const cJSON *v)
{
    for (const cJSON *c = v->child; c; c = c->next)
        if (!cJSON_IsString(c) || c->valuestring[0] == '\0') return false;
    return true;
}

static bool all_ints(const cJSON *v)
{
    int64_t n;
    for (const cJSON *c = v->child; c; c = c->next)
        if (!cvt_json_is_int(c, &n)) return false;
    return true;
}

static bool all_numbers(const cJSON *v)
{
    for (const cJSON *c = v->child; c; c = c->next)
        if (!cJSON_IsNumber(c)) return false;
    return true;
}

static bool all_int_lists(const cJSON *v)
{
    for (const cJSON *c = v->child; c; c = c->next)
        if (!cJSON_IsArray(c) || !all_ints(c)) return false;
    return true;
}

static bool is_kind(const cJSON *v, int kinds)
{
    int64_t n;
    if (kinds & ANY) return true;
    if (cJSON_IsNull(v)) return kinds & NONE;
    if (cJSON_IsBool(v)) return kinds & BOOL;
    if (cJSON_IsString(v)) return kinds & STRING;
    if (cJSON_IsNumber(v)) return (kinds & NUMBER) || ((kinds & INT) && cvt_json_is_int(v, &n));
    if (cJSON_IsArray(v)) return ((kinds & STRINGS) && all_strings(v)) || ((kinds & INTS) && all_ints(v));
    return (kinds & OBJECT) || ((kinds & NUMBERS) && all_numbers(v)) || ((kinds & INT_LISTS) && all_int_lists(v));
}

/* null, false, "", [], {} */
static bool is_empty(const cJSON *v)
{
    if (cJSON_IsNull(v) || cJSON_IsFalse(v)) return true;
    if (cJSON_IsString(v)) return v->valuestring[0] == '\0';
    return (cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child;
}

static fh1_status bad_field(const char *path, const cJSON *v, fh1_status s)
{
    char *text = cJSON_PrintUnformatted(v);
    if (text) s = fh1_found(s, "%.200s", text);
    cJSON_free(text);
    return fh1_where(s, "%s, %.100s", path, v->string);
}

static fh1_status check_field(const char *path, const cJSON *v)
{
    const field *f = NULL;
    for (int i = 0; i < N_FIELDS && !f; i++)
        if (strcmp(fields[i].name, v->string) == 0) f = &fields[i];
    if (!f && is_empty(v)) return NULL;
    if (!f)
        return fh1_hint(
            bad_field(path, v, FH1_BAD("the field is not one of PEFT 0.21.2's, and it may change the result")),
            "if it does not, set it to null");
    if (f->refused && !is_empty(v))
        return fh1_hint(bad_field(path, v, FH1_BAD("an adapter with this field cannot be merged: %s", f->refused)),
                        "train without it, or run the adapter attached with PEFT");
    if (f->refused || is_kind(v, f->kinds)) return NULL;
    char expected[200] = "";
    for (size_t i = 0; i < sizeof kind_names / sizeof kind_names[0]; i++) {
        size_t n = strlen(expected);
        if (f->kinds & kind_names[i].kind)
            snprintf(expected + n, sizeof expected - n, "%s%s", n ? " or " : "", kind_names[i].text);
    }
    return fh1_expected(bad_field(path, v, FH1_BAD("the field has a value of another kind")), "%s", expected);
}

static const cJSON *get(const cvt_adapter_config *c, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->json, name);
    return v && !is_empty(v) ? v : NULL;
}

static fh1_status read_bias(const char *path, cvt_adapter_config *c)
{
    const cJSON *v = get(c, "bias");
    if (!v || strcmp(v->valuestring, "none") == 0) c->bias = CVT_BIAS_NONE;
    else if (strcmp(v->valuestring, "all") == 0) c->bias = CVT_BIAS_ALL;
    else if (strcmp(v->valuestring, "lora_only") == 0) c->bias = CVT_BIAS_LORA_ONLY;
    else return fh1_expected(bad_field(path, v, FH1_BAD("unknown value")), "none, all or lora_only");
    return NULL;
}

static bool begins(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0;
}

static fh1_status read_init(const char *path, cvt_adapter_config *c)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->json, "init_lora_weights");
    static const char *const plain[] = {"gaussian", "orthogonal", "eva", "mica"}; /* they set A and B, not the base */
    c->init = CVT_INIT_PLAIN;
    c->init_name = "true";
    if (!v || !cJSON_IsString(v)) return NULL;
    c->init_name = v->valuestring;
    for (int i = 0; i < 4; i++)
        if (strcmp(v->valuestring, plain[i]) == 0) return NULL;
    const char *s = v->valuestring;
    if (strcmp(s, "loftq") == 0) c->init = CVT_INIT_LOFTQ;
    else if (strcmp(s, "pissa") == 0 || begins(s, "pissa_niter_") || strcmp(s, "olora") == 0 || begins(s, "corda") ||
             strcmp(s, "lora_ga") == 0)
        c->init = CVT_INIT_RESIDUAL;
    else
        return fh1_expected(bad_field(path, v, FH1_BAD("unknown initialisation, it may have changed the base")),
                            "true, false, gaussian, orthogonal, eva, mica, pissa, pissa_niter_N, olora, corda, lora_ga "
                            "or loftq");
    return NULL;
}

static bool is_true(const cvt_adapter_config *c, const char *name)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c->json, name));
}

static fh1_status check_ranks(const char *path, const cvt_adapter_config *c)
{
    int64_t r;
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->json, "r");
    if (c->r < 1) return fh1_expected(bad_field(path, v, FH1_BAD("the rank is not positive")), "at least 1");
    for (v = c->rank_pattern ? c->rank_pattern->child : NULL; v; v = v->next)
        if (!cvt_json_is_int(v, &r) || r < 1)
            return fh1_expected(
                fh1_where(bad_field(path, v, FH1_BAD("a rank is not a positive integer")), "rank_pattern"),
                "at least 1");
    return NULL;
}

static fh1_status read_fields(const char *path, cvt_adapter_config *c)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(c->json, "peft_type"), *v;
    if (!type) return fh1_where(FH1_BAD("the key peft_type is missing"), "%s", path);
    if (strcmp(type->valuestring, "LORA") != 0)
        return fh1_expected(bad_field(path, type, FH1_BAD("the adapter is of another method")), "\"LORA\"");
    c->r = 8; /* PEFT's defaults */
    c->alpha = 8;
    if ((v = cJSON_GetObjectItemCaseSensitive(c->json, "r")) != NULL && !cvt_json_is_int(v, &c->r)) c->r = 0;
    if ((v = cJSON_GetObjectItemCaseSensitive(c->json, "lora_alpha")) != NULL) c->alpha = v->valuedouble;
    c->rslora = is_true(c, "use_rslora");
    c->dora = is_true(c, "use_dora");
    c->lora_bias = is_true(c, "lora_bias");
    c->ensure_weight_tying = is_true(c, "ensure_weight_tying");
    c->fan_in_fan_out = is_true(c, "fan_in_fan_out");
    c->base_name = (v = get(c, "base_model_name_or_path")) != NULL ? v->valuestring : "";
    c->target_modules = get(c, "target_modules");
    c->exclude_modules = get(c, "exclude_modules");
    c->modules_to_save = get(c, "modules_to_save");
    c->target_parameters = get(c, "target_parameters");
    c->layers_pattern = get(c, "layers_pattern");
    c->layers_to_transform = get(c, "layers_to_transform");
    c->rank_pattern = get(c, "rank_pattern");
    c->alpha_pattern = get(c, "alpha_pattern");
    c->token_indices = get(c, "trainable_token_indices");
    return NULL;
}

/* Combinations that PEFT refuses when it makes or loads the adapter, so that no right result is known. */
static fh1_status check_combinations(const char *path, const cvt_adapter_config *c)
{
    const char *what = NULL;
    if (c->dora && c->lora_bias) what = "use_dora and lora_bias exclude each other";
    else if (c->target_parameters && c->dora) what = "use_dora and target_parameters exclude each other";
    else if (c->target_parameters && c->lora_bias) what = "lora_bias and target_parameters exclude each other";
    else if (c->target_parameters && c->fan_in_fan_out)
        what = "fan_in_fan_out and target_parameters exclude each other";
    else if (c->layers_to_transform && cJSON_IsString(c->target_modules))
        what = "layers_to_transform needs target_modules as a list";
    else if (c->layers_pattern && cJSON_IsString(c->target_modules))
        what = "layers_pattern needs target_modules as a list";
    return what ? fh1_where(FH1_BAD("%s", what), "%s", path) : NULL;
}

fh1_status cvt_adapter_config_read(const char *path, const char *text, size_t n, cvt_adapter_config *out)
{
    *out = (cvt_adapter_config){0};
    FH1_TRY(cvt_json_parse(text, n, MAX_DEPTH, path, &out->json));
    if (!cJSON_IsObject(out->json)) return fh1_where(FH1_BAD("the text is not a JSON object"), "%s", path);
    for (const cJSON *v = out->json->child; v; v = v->next) FH1_TRY(check_field(path, v));
    FH1_TRY(read_fields(path, out));
    FH1_TRY(read_bias(path, out));
    FH1_TRY(read_init(path, out));
    FH1_TRY(check_ranks(path, out));
    return check_combinations(path, out);
}

void cvt_adapter_config_free(cvt_adapter_config *c)
{
    cJSON_Delete(c->json);
    *c = (cvt_adapter_config){0};
}
