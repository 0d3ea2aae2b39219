/* adapter_config.json, and which modules of a model it names.
 *
 * The fields are what the second reading makes of the text; written again it reads the same; the modules of a small
 * model are targeted as it says where no regular expression is needed to say so, and twice the same where one is. */
#include "convert/adapter_config.h"
#include "convert/adapter_match.h"
#include "fuzz/fuzz.h"
#include "fuzz/mutate_json.h"
#include "fuzz/plant.h"
#include "fuzz/slow_adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Reading: as fuzz_config.c. Matching: a compiled pattern takes up to 64 kB twice over (PCRE2's limit, and its room
 * while it compiles), and each match up to 200000 steps for each of the 24 modules. */
enum { HEAP = 65536, HEAP_PER_BYTE = 100, MS = 5, MS_PER_KB = 5, DEPTH = 16 };
enum { MATCH_HEAP = 200000, HEAP_PER_PATTERN = 400000, MATCH_MS = 50, MS_PER_PATTERN = 250 };

typedef struct {
    const char *text;
    size_t n;
    cvt_adapter_config *config;
    char line[2048]; /* of the refusal; empty: read */
} reading;

static void read_text(void *user)
{
    reading *r = user;
    r->line[0] = '\0';
    cvt_adapter_config_free(r->config); /* of the time before */
    fh1_status s = cvt_adapter_config_read("adapter_config.json", r->text, r->n, r->config);
    if (s) fh1_status_line(s, r->line, sizeof r->line);
    FUZZ_CHECK(!s || s->code == FH1_E_INPUT, "code %d: %s", (int)s->code, r->line);
}

static bool same_value(const cJSON *a, const slow_json *b)
{
    if (!a || !b) return !a == !b;
    switch (b->kind) {
    case SLOW_STRING: return cJSON_IsString(a) && strcmp(a->valuestring, b->text) == 0;
    case SLOW_NUMBER: return cJSON_IsNumber(a) && a->valuedouble == slow_json_double(b);
    case SLOW_NULL: return cJSON_IsNull(a);
    case SLOW_TRUE: return cJSON_IsTrue(a);
    case SLOW_FALSE: return cJSON_IsFalse(a);
    default: break;
    }
    if (!(b->kind == SLOW_ARRAY ? cJSON_IsArray(a) : cJSON_IsObject(a))) return false;
    const slow_json *y = b->first;
    const cJSON *x = a->child;
    for (; x && y; x = x->next, y = y->next)
        if ((y->name && strcmp(x->string, y->name) != 0) || !same_value(x, y)) return false;
    return !x && !y;
}

static void compare(const cvt_adapter_config *c, const slow_adapter *s)
{
    FUZZ_CHECK(c->r == s->r + fuzz_planted("rank") && c->alpha == s->alpha, "r %lld and alpha %g, not %lld and %g",
               (long long)c->r, c->alpha, (long long)s->r, s->alpha);
    FUZZ_CHECK(c->rslora == s->rslora && c->dora == s->dora && c->lora_bias == s->lora_bias &&
                   c->ensure_weight_tying == s->ensure_weight_tying && c->fan_in_fan_out == s->fan_in_fan_out,
               "switches differ");
    FUZZ_CHECK(c->bias == s->bias && c->init == s->init && strcmp(c->init_name, s->init_name) == 0 &&
                   strcmp(c->base_name, s->base_name) == 0,
               "bias, initialisation or base differ: %d %d %s '%s'", (int)s->bias, (int)s->init, s->init_name,
               s->base_name);
    FUZZ_CHECK(same_value(c->target_modules, s->target_modules) && same_value(c->exclude_modules, s->exclude_modules) &&
                   same_value(c->modules_to_save, s->modules_to_save) &&
                   same_value(c->target_parameters, s->target_parameters) &&
                   same_value(c->layers_pattern, s->layers_pattern) &&
                   same_value(c->layers_to_transform, s->layers_to_transform) &&
                   same_value(c->rank_pattern, s->rank_pattern) && same_value(c->alpha_pattern, s->alpha_pattern) &&
                   same_value(c->token_indices, s->token_indices),
               "lists differ");
}

/* ---- modules ---- */

static const fh1_config mamba = {.family = FH1_FALCON_MAMBA,
                                 .n_layers = 2,
                                 .D = 8,
                                 .V = 16,
                                 .H = 12,
                                 .P = 1,
                                 .N = 4,
                                 .G = 1,
                                 .K = 4,
                                 .Q = 1,
                                 .d_ssm = 12,
                                 .R = 2,
                                 .mamba_conv_bias = true,
                                 .tied = true};
static const fh1_config h1 = {.n_layers = 2,
                              .D = 8,
                              .V = 16,
                              .F = 8,
                              .Hq = 2,
                              .Hkv = 1,
                              .A = 4,
                              .H = 2,
                              .P = 4,
                              .N = 4,
                              .G = 1,
                              .K = 4,
                              .Q = 8,
                              .d_ssm = 8,
                              .mamba_conv_bias = true,
                              .mamba_rms_norm = true,
                              .tied = true};

typedef struct {
    const cvt_adapter_config *c;
    const fh1_config *geometry;
    cvt_modules m;
    cvt_adapter a; /* warnings */
    char line[2048];
} matching;

static void match(void *user)
{
    matching *x = user;
    cvt_modules_free(&x->m);
    cvt_adapter_free(&x->a);
    x->a = (cvt_adapter){0};
    x->line[0] = '\0';
    fh1_status s = cvt_modules_of(x->geometry, &x->m);
    if (!s) s = cvt_modules_match(&x->m, x->c, "adapter_config.json", &x->a);
    if (s) fh1_status_line(s, x->line, sizeof x->line);
}

static size_t n_patterns(const slow_adapter *s)
{
    const slow_json *const all[] = {s->target_modules, s->exclude_modules, s->modules_to_save,
                                    s->layers_pattern, s->rank_pattern,    s->alpha_pattern};
    size_t n = 1;
    for (int i = 0; i < 6; i++) n += all[i] ? (all[i]->kind == SLOW_STRING ? 1 : all[i]->n) : 0;
    return n;
}

static void compare_modules(const matching *x, const slow_adapter *s)
{
    for (int64_t i = 0; i < x->m.n_modules; i++) {
        const cvt_module *m = &x->m.modules[i];
        int64_t rank = 0;
        double scale = 0;
        const slow_answer says = slow_adapter_targets(s, m->path, m->kind == CVT_MODULE_LINEAR, &rank, &scale);
        if (says == SLOW_UNSAID) return;
        FUZZ_CHECK(m->targeted == (says == SLOW_TARGETED), "%s is %stargeted", m->path, m->targeted ? "" : "not ");
        if (m->targeted)
            FUZZ_CHECK(m->r == rank && (m->scale == scale || (isnan(scale) && isnan(m->scale))),
                       "%s: rank %lld, scale %g, not %lld, %g", m->path, (long long)m->r, m->scale, (long long)rank,
                       scale);
    }
}

static void check_modules(const cvt_adapter_config *c, const slow_adapter *s, const fh1_config *geometry)
{
    matching x = {.c = c, .geometry = geometry}, y = x;
    fuzz_bounds b;
    fuzz_bounds_begin(&b);
    match(&x);
    fuzz_bounds_end(&b, n_patterns(s), MATCH_HEAP, HEAP_PER_PATTERN, MATCH_MS, 1024 * MS_PER_PATTERN, match, &x);
    match(&y);
    FUZZ_CHECK(strcmp(x.line, y.line) == 0 && x.a.n_warnings == y.a.n_warnings, "'%s', then '%s'", x.line, y.line);
    if (!x.line[0]) compare_modules(&x, s);
    for (int64_t i = 0; !x.line[0] && i < x.m.n_modules; i++)
        FUZZ_CHECK(x.m.modules[i].targeted == y.m.modules[i].targeted, "%s", x.m.modules[i].path);
    cvt_modules_free(&x.m);
    cvt_modules_free(&y.m);
    cvt_adapter_free(&x.a);
    cvt_adapter_free(&y.a);
}

/* ---- the whole ---- */

/* Numbers as they were written: cJSON prints 15 digits where it thinks that they do. */
static void put(FILE *f, const slow_json *v)
{
    static const char *const plain[] = {"null", "false", "true"};
    if (v->name) fprintf(f, "\"%s\":", v->name);
    if (v->kind == SLOW_NUMBER) fprintf(f, "%s", v->text);
    else if (v->kind == SLOW_STRING) fprintf(f, "\"%s\"", v->text);
    else if (v->kind < SLOW_NUMBER) fprintf(f, "%s", plain[v->kind]);
    else fprintf(f, "%c", v->kind == SLOW_ARRAY ? '[' : '{');
    for (const slow_json *e = v->first; e; e = e->next) {
        put(f, e);
        if (e->next) fprintf(f, ", ");
    }
    if (v->kind == SLOW_ARRAY || v->kind == SLOW_OBJECT) fprintf(f, "%c", v->kind == SLOW_ARRAY ? ']' : '}');
}

/* Texts that need no escapes, all over. */
static bool needs_no_escapes(const slow_json *v)
{
    const char *const texts[] = {v->name, v->text};
    for (int i = 0; i < 2; i++)
        for (const char *p = texts[i]; p && *p; p++)
            if (*p == '"' || *p == '\\' || (unsigned char)*p < 0x20) return false;
    for (const slow_json *e = v->first; e; e = e->next)
        if (!needs_no_escapes(e)) return false;
    return true;
}

static void print_again(const slow_json *root, const slow_adapter *s)
{
    cvt_adapter_config d = {0};
    char *text = NULL;
    reading r = {.config = &d};
    if (!needs_no_escapes(root)) return;
    FILE *f = open_memstream(&text, &r.n);
    if (!f) abort();
    put(f, root);
    if (fclose(f) != 0) abort();
    r.text = text;
    read_text(&r);
    FUZZ_CHECK(!r.line[0], "written again it is refused: %s: %s", r.line, text);
    compare(&d, s);
    cvt_adapter_config_free(&d);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    slow_json_without = getenv("FH1_FUZZ_PLANT");
    cvt_adapter_config c = {0};
    slow_adapter s;
    fuzz_bounds b;
    reading r = {.text = (const char *)data, .n = size, .config = &c};
    fuzz_bounds_begin(&b);
    read_text(&r);
    fuzz_bounds_end(&b, size, HEAP, HEAP_PER_BYTE, MS, MS_PER_KB, read_text, &r);
    slow_json *root = slow_json_read(r.text, r.n, DEPTH);
    const bool taken = root && slow_adapter_read(root, &s);
    FUZZ_CHECK(taken == !r.line[0], "the second reading %s it: %s", taken ? "takes" : "refuses", r.line);
    if (taken) {
        compare(&c, &s);
        print_again(root, &s);
        check_modules(&c, &s, size % 2 ? &mamba : &h1);
    } else if (size % 4 == 0) {
        char line[2048];
        memcpy(line, r.line, sizeof line);
        read_text(&r);
        FUZZ_CHECK(strcmp(line, r.line) == 0, "'%s', then '%s'", line, r.line);
    }
    slow_json_free(root);
    cvt_adapter_config_free(&c);
    fuzz_nothing_left(&b);
    return 0;
}

/* ---- mutations ---- */

static const char *const words[] = {
    "peft_type",
    "LORA",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "bias",
    "none",
    "lora_only",
    "all",
    "init_lora_weights",
    "gaussian",
    "pissa_niter_4",
    "loftq",
    "corda",
    "mica",
    "target_modules",
    "all-linear",
    "exclude_modules",
    "modules_to_save",
    "target_parameters",
    "layers_pattern",
    "layers_to_transform",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "base_model_name_or_path",
    "kasa_config",
    "layer_replication",
    "q_proj",
    "in_proj",
    "layers",
    "self_attn.q_proj",
    "model.layers.1.mamba.in_proj",
    "embed_tokens",
    "embeddings",
    "x_proj",
    "dt_proj",
    "lm_head",
    "norm",
    "dummy-target-modules",
    "model\\.layers\\.\\d+\\..*proj",
    "(a+)+$",
    "(?P<x>.)",
    NULL,
};

static const char other[] =
    "{\"target_modules\":[\"q_proj\",\"in_proj\",\"model.layers.1.self_attn.k_proj\"],\"rank_pattern\":{\"q_proj\":4},"
    "\"alpha_pattern\":{\"in_proj\":32},\"exclude_modules\":[\"k_proj\"],\"layers_to_transform\":[0,1],"
    "\"layers_pattern\":\"layers\",\"modules_to_save\":[\"lm_head\"],\"trainable_token_indices\":{\"embed_tokens\":[1]}"
    ","
    "\"target_parameters\":[\"q_proj.weight\"],\"t\":\".*\\\\.(q|k)_proj\"}";

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    return fuzz_mutate_jsons(data, size, max_size, &(fuzz_json_stock){other, sizeof other - 1, words}, seed);
}
