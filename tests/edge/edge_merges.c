/* D-89, D-92, D-93, D-94: merges against what the real PEFT computed, and which merges are refused. */
#include "tests/edge/edge_file_cases.h"

#include "convert/bnb.h"
#include "convert/file.h"
#include "convert/hash.h"
#include "convert/hf_config.h"
#include "convert/hf_write.h"
#include "convert/json.h"
#include "convert/model_open.h"
#include "convert/native.h"
#include "convert/safetensors.h"
#include "oracle/compare.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

#define MERGES "golden/merges"
enum { MOST_ADAPTERS = 3 };

static const cvt_write_options forced = {.force = true};

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(v) ? v->valuestring : NULL;
}

/* A base as a plain checkpoint, decoded and rounded to the type of its config where it is quantised. */
static fh1_status open_base(const char *path, cvt_ckpt **out)
{
    cvt_ckpt *c;
    cJSON *config;
    fh1_dtype dtype;
    FH1_TRY(cvt_ckpt_open(path, &c));
    bool quantised;
    *out = c;
    FH1_TRY(cvt_bnb_is(c, &quantised));
    if (!quantised) return NULL;
    FH1_TRY(cvt_ckpt_config_json(c, &config));
    fh1_status s = cvt_hf_config_dtype_parse(config, path, &dtype);
    cJSON_Delete(config);
    return s ? s : cvt_ckpt_dequantise(c, dtype, out);
}

/* ---- D-89 ---- */

typedef struct {
    cvt_ckpt *merged;
    cvt_adapter adapters[MOST_ADAPTERS];
    int n;
} merge;

static void merge_end(merge *m)
{
    cvt_ckpt_close(m->merged);
    for (int i = 0; i < m->n; ++i) cvt_adapter_free(&m->adapters[i]);
}

/* The case `entry` of merges.json in one rounding; to be ended also after a failure. */
static fh1_status merge_begin(const cJSON *entry, cvt_rounding rounding, merge *m)
{
    cvt_merge_part parts[MOST_ADAPTERS];
    const cvt_merge_options o = {.rounding = rounding};
    const char *initial = text_of(entry, "initial"), *base_name = text_of(entry, "base");
    char path[EDGE_PATH], first[EDGE_PATH];
    cvt_ckpt *base;
    *m = (merge){0};
    snprintf(path, sizeof path, MERGES "/bases/%s", base_name ? base_name : "");
    snprintf(first, sizeof first, MERGES "/adapters/%s", initial ? initial : "");
    FH1_TRY(open_base(path, &base));
    for (const cJSON *a = cJSON_GetObjectItem(entry, "adapters")->child; a && m->n < MOST_ADAPTERS; a = a->next) {
        snprintf(path, sizeof path, MERGES "/adapters/%s", a->valuestring);
        fh1_status s = cvt_adapter_open(path, initial ? first : NULL, base, &m->adapters[m->n]);
        if (s) {
            cvt_ckpt_close(base);
            return s;
        }
        parts[m->n] = (cvt_merge_part){&m->adapters[m->n], 1};
        m->n++;
    }
    return cvt_ckpt_merge(base, parts, m->n, &o, &m->merged);
}

/* "BF16 [27, 35] 0123456789abcdef" */
static fh1_status describe(cvt_ckpt *c, int64_t t, char *buf, size_t size)
{
    const cvt_ckpt_tensor *e = &c->tensors[t];
    const uint64_t n = cvt_ckpt_tensor_bytes(e);
    const fh1_tensor view = fh1_view(NULL, e->dtype, e->rank, e->shape);
    char shape[128], *data = malloc(n + 1);
    if (!data) return fh1_no_memory(n, "a tensor");
    fh1_status s = cvt_ckpt_read(c, t, 0, n, data);
    snprintf(buf, size, "%s %s %016llx", fh1_dtype_name(e->dtype), fh1_shape_text(&view, shape, sizeof shape),
             (unsigned long long)(s ? 0 : cvt_hash64(data, n)));
    free(data);
    return s;
}

/* Largest distance in ulps from the values that PEFT computed; infinite where there are none of this shape. */
static fh1_status ulps(cvt_ckpt *c, int64_t t, const cvt_st *values, const char *rounding, double *out)
{
    char key[300];
    const cvt_ckpt_tensor *e = &c->tensors[t];
    const uint64_t n = cvt_ckpt_tensor_bytes(e);
    snprintf(key, sizeof key, "%s/%s", rounding, e->name);
    const cvt_st_entry *want = cvt_st_find(values, key);
    char *data = malloc(n + 1);
    if (!data) return fh1_no_memory(n, e->name);
    fh1_status s = cvt_ckpt_read(c, t, 0, n, data);
    const fh1_tensor got = fh1_view(data, e->dtype, e->rank, e->shape);
    const bool fits = want && want->t.dtype == e->dtype && fh1_same_shape(&got, &want->t);
    *out = fits ? 0 : (double)INFINITY;
    for (int64_t i = 0; !s && fits && i < fh1_n_elems(&got); ++i) {
        const double b = fh1_get(&want->t, i), d = fh1_error_of(fh1_get(&got, i), b) / fh1_dtype_ulp(e->dtype, b);
        if (!(d <= *out)) *out = d;
    }
    free(data);
    return s;
}

/* The line of a tensor: the run's, or the base's where PEFT left it alone. */
static fh1_status line_of(edge_run *r, const merge *m, const cJSON *want, int64_t t, char *buf, size_t size)
{
    const char *name = m->merged->tensors[t].name, *line = text_of(want, name);
    snprintf(buf, size, "%s", line ? line : "");
    if (line) return NULL;
    const int64_t b = cvt_ckpt_find(m->merged->below, name);
    return b < 0 ? edge_require(r, false, "%s is new", name) : describe(m->merged->below, b, buf, size);
}

/* Every tensor that PEFT changed is PEFT's, the others are the base's. DoRA's norms are sums in an order of the
 * machine's, so where the run has values, they may be one ulp off. */
static fh1_status compare_run(edge_run *r, const cJSON *entry, const cJSON *run, const merge *m, const cvt_st *values)
{
    char now[256], line[256];
    const cJSON *want = cJSON_GetObjectItem(run, "tensors");
    for (int64_t t = 0; t < m->merged->n_tensors; ++t) {
        const char *name = m->merged->tensors[t].name;
        double off = INFINITY;
        FH1_TRY(edge_accepted(r, describe(m->merged, t, now, sizeof now), name));
        FH1_TRY(line_of(r, m, want, t, line, sizeof line));
        const bool same = strcmp(now, line) == 0;
        if (!same && values) FH1_TRY(ulps(m->merged, t, values, text_of(run, "rounding"), &off));
        FH1_TRY(edge_require(r, same || fh1_within(off, 1), "%s as %s: %s is %s, not %s", text_of(entry, "name"),
                             text_of(run, "rounding"), name, now, line));
    }
    for (const cJSON *v = want->child; v; v = v->next)
        FH1_TRY(edge_require(r, cvt_ckpt_find(m->merged, v->string) >= 0, "%s: %s is missing", text_of(entry, "name"),
                             v->string));
    return NULL;
}

static fh1_status run_of(edge_run *r, const cJSON *entry, const cJSON *run)
{
    merge m;
    cvt_rounding rounding;
    cvt_st *values = NULL;
    char path[EDGE_PATH];
    const char *file = text_of(run, "values");
    snprintf(path, sizeof path, MERGES "/%s", file ? file : "");
    if (file) FH1_TRY(cvt_st_open(path, &values));
    if (!cvt_rounding_parse(text_of(run, "rounding"), &rounding)) return fh1_fail(FH1_E_INTERNAL, "a rounding");
    fh1_status s = edge_accepted(r, merge_begin(entry, rounding, &m), text_of(entry, "name"));
    if (!s) s = compare_run(r, entry, run, &m, values);
    merge_end(&m);
    cvt_st_close(values);
    return s;
}

/* Written, opened again: the same tensors, and the truth's numbers on the engine. */
static fh1_status leg_of(edge_run *r, const cJSON *entry, const cJSON *run)
{
    merge m;
    cvt_rounding rounding;
    fh1_model like;
    char path[EDGE_PATH];
    cvt_rounding_parse(text_of(run, "rounding"), &rounding);
    fh1_status s = edge_accepted(r, merge_begin(entry, rounding, &m), text_of(entry, "name"));
    if (!s) s = cvt_hf_write(m.merged, edge_path(r, "merged", path), &forced);
    if (!s) s = cvt_model_from_ckpt(m.merged, &like);
    merge_end(&m);
    if (s) return s;
    s = edge_check_file(r, path, &like, 0); /* the same bits give the same logits */
    edge_contract(r, r->profile);
    fh1_model_free(&like);
    return s;
}

fh1_status edge_merges_of_peft(edge_run *r)
{
    cJSON *json;
    FH1_TRY(cvt_json_read(MERGES "/merges.json", (size_t)16 << 20, 8, &json));
    fh1_status s = NULL;
    int legs = 0;
    for (const cJSON *e = cJSON_GetObjectItem(json, "cases")->child; e && !s; e = e->next) {
        const cJSON *runs = cJSON_GetObjectItem(e, "runs");
        for (const cJSON *run = runs->child; run && !s && r->bit == EDGE_F64; run = run->next) s = run_of(r, e, run);
        const char *name = text_of(e, "name");
        if (s || (strcmp(name, "all-linear") && strcmp(name, "nested"))) continue;
        s = leg_of(r, e, runs->child);
        legs++;
    }
    cJSON_Delete(json);
    return s ? s : edge_require(r, legs == 2, "%d of 2 written merges were run", legs);
}

/* ---- D-92 ---- */

/* The adapter `from` of the suite with another word for init_lora_weights. */
static fh1_status initialised(edge_run *r, const char *word)
{
    char *text, path[EDGE_PATH], out[4096];
    size_t n;
    FH1_TRY(cvt_file_read(MERGES "/adapters/pissa-residual/adapter_config.json", 1 << 16, &text, &n));
    char *at = strstr(text, "\"init_lora_weights\": "), *end = at ? strchr(at, '\n') : NULL;
    if (end) snprintf(out, sizeof out, "%.*s\"init_lora_weights\": \"%s\",%s", (int)(at - text), text, word, end);
    free(text);
    if (!end) return fh1_fail(FH1_E_INTERNAL, "no init_lora_weights in the adapter");
    FH1_TRY(edge_text(r, "initialised/adapter_config.json", out));
    FH1_TRY(cvt_file_read(MERGES "/adapters/pissa-residual/adapter_model.safetensors", 1 << 24, &text, &n));
    fh1_status s = cvt_file_write(edge_path(r, "initialised/adapter_model.safetensors", path), text, n, true);
    free(text);
    return s;
}

static fh1_status refused_init(edge_run *r, const char *word)
{
    char path[EDGE_PATH], out[EDGE_PATH];
    mkdir(edge_path(r, "initialised", path), 0777);
    FH1_TRY(initialised(r, word));
    FH1_TRY(edge_refused(r, edge_merge(r, MERGES "/bases/plain-f32", path, "wrong", CVT_ROUND_EXACT),
                         "init_lora_weights", word));
    return edge_require(r, !cvt_path_exists(edge_path(r, "wrong", out)), "%s: a target is left behind", word);
}

fh1_status edge_merge_initial(edge_run *r)
{
    static const char *const words[] = {"pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "loftq"};
    cJSON *json;
    for (size_t i = 0; i < sizeof words / sizeof *words; ++i) FH1_TRY(refused_init(r, words[i]));
    FH1_TRY(cvt_json_read(MERGES "/merges.json", (size_t)16 << 20, 8, &json));
    fh1_status s = NULL;
    for (const cJSON *e = cJSON_GetObjectItem(json, "cases")->child; e && !s; e = e->next) {
        if (strcmp(text_of(e, "name"), "pissa-residual") != 0) continue;
        for (const cJSON *run = cJSON_GetObjectItem(e, "runs")->child; run && !s; run = run->next)
            s = run_of(r, e, run);
        if (!s) s = leg_of(r, e, cJSON_GetObjectItem(e, "runs")->child);
    }
    cJSON_Delete(json);
    return s;
}

/* ---- D-93 ---- */

#define Q0 "model.layers.0.self_attn.q_proj"
#define K1 "model.layers.1.self_attn.k_proj"

/* What the adapters "q" and "k" add; k's is the second. */
static void two_deltas(const fh1_config *c, edge_delta d[3])
{
    d[0] = (edge_delta){.module = Q0, .out = c->Hq * c->A, .in = c->D, .r = 3, .scale = 4.0 / 3, .size = 0.2};
    d[1] = (edge_delta){.module = K1, .out = c->Hkv * c->A, .in = c->D, .r = 2, .scale = 1.5, .size = 0.2};
    d[2] = (edge_delta){0};
}

static fh1_status save_two_adapters(edge_run *r, const fh1_config *c)
{
    edge_delta d[3];
    two_deltas(c, d);
    const edge_delta q[2] = {d[0]};
    FH1_TRY(edge_save_deltas(r, "q", "\"r\":3,\"lora_alpha\":4,\"target_modules\":[\"0.self_attn.q_proj\"]", q));
    return edge_save_deltas(r, "k", "\"r\":2,\"lora_alpha\":3,\"target_modules\":[\"1.self_attn.k_proj\"]", d + 1);
}

/* Folder, adapter, folder; all by their names in r->folder. */
static fh1_status merge_named(edge_run *r, const char *base, const char *adapter, const char *out)
{
    char b[EDGE_PATH], a[EDGE_PATH];
    return edge_merge(r, edge_path(r, base, b), edge_path(r, adapter, a), out, CVT_ROUND_EXACT);
}

/* Both adapters in one merge give the folder that two merges gave. */
static fh1_status both_at_once(edge_run *r, cvt_ckpt **out, cvt_adapter a[2])
{
    char path[EDGE_PATH];
    cvt_ckpt *base;
    const cvt_merge_options o = {.rounding = CVT_ROUND_EXACT};
    FH1_TRY(cvt_ckpt_open(edge_path(r, "base", path), &base));
    FH1_TRY(cvt_adapter_open(edge_path(r, "q", path), NULL, base, &a[0]));
    FH1_TRY(cvt_adapter_open(edge_path(r, "k", path), NULL, base, &a[1]));
    return cvt_ckpt_merge(base, (cvt_merge_part[]){{&a[0], 1}, {&a[1], 1}}, 2, &o, out);
}

static fh1_status compare_both(edge_run *r, const fh1_model *one_by_one)
{
    cvt_ckpt *c;
    cvt_adapter a[2];
    fh1_model m;
    FH1_TRY(edge_accepted(r, both_at_once(r, &c, a), "two adapters at once"));
    fh1_status s = cvt_model_from_ckpt(c, &m);
    cvt_ckpt_close(c);
    for (int i = 0; i < 2; ++i) cvt_adapter_free(&a[i]);
    if (s) return s;
    s = edge_same_model(r, &m, one_by_one, "one after the other");
    fh1_model_free(&m);
    return s;
}

/* The container keeps what the model has been through. */
static fh1_status refused_in_container(edge_run *r)
{
    char path[EDGE_PATH], native[EDGE_PATH], adapter[EDGE_PATH];
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(edge_path(r, "merged", path), &c));
    fh1_status s = cvt_native_write(c, edge_path(r, "merged.fh1", native), &forced);
    cvt_ckpt_close(c);
    FH1_TRY(edge_accepted(r, s, "a container of the merged model"));
    return edge_refused(r, edge_merge(r, native, edge_path(r, "q", adapter), "twice", CVT_ROUND_EXACT), "already",
                        "the same adapter onto the container");
}

static fh1_status merge_steps(edge_run *r, const fh1_model *base)
{
    char path[EDGE_PATH];
    fh1_model merged;
    edge_delta d[3];
    FH1_TRY(edge_save(r, base, "base", EDGE_FORM_5));
    FH1_TRY(save_two_adapters(r, &base->config));
    FH1_TRY(edge_accepted(r, merge_named(r, "base", "q", "merged"), "the first merge"));
    FH1_TRY(edge_refused(r, merge_named(r, "merged", "q", "twice"), "already", "the same adapter again"));
    FH1_TRY(edge_require(r, !cvt_path_exists(edge_path(r, "twice", path)), "a refused merge leaves a target"));
    FH1_TRY(refused_in_container(r));
    FH1_TRY(edge_accepted(r, merge_named(r, "merged", "k", "both"), "another adapter onto the merged model"));
    FH1_TRY(edge_refused(r, merge_named(r, "both", "q", "twice"), "already", "the first of two again"));
    FH1_TRY(edge_refused(r, merge_named(r, "both", "k", "twice"), "already", "the second of two again"));
    FH1_TRY(edge_accepted(r, cvt_model_open(edge_path(r, "both", path), &merged), "the merged model"));
    two_deltas(&base->config, d);
    fh1_status s = edge_is_merged(r, base, &merged, d);
    if (!s) s = compare_both(r, &merged);
    if (!s) s = edge_check_short(r, &merged);
    edge_contract(r, r->profile);
    fh1_model_free(&merged);
    return s;
}

fh1_status edge_merge_again(edge_run *r)
{
    fh1_model base;
    FH1_TRY(edge_model(r, edge_model_text(1), &base));
    fh1_status s = merge_steps(r, &base);
    edge_contract(r, r->profile);
    fh1_model_free(&base);
    return s;
}
