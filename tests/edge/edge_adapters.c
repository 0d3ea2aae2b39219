/* D-90, D-91, D-96, D-110: adapters of every kind, merged, written, opened, attached. */
#include "tests/edge/edge_file_cases.h"

#include "convert/file.h"
#include "convert/gguf.h"
#include "convert/hf_write.h"
#include "convert/model_attach.h"
#include "convert/model_open.h"
#include "golden/merged.h"
#include "reference/engine.h"

#include <math.h>
#include <string.h>

/* ---- one adapter: merged, written, opened, and attached ---- */

/* Merged against attached, both in f64, at every tap: half an ulp of each weight is allowed, nothing else. */
static fh1_status judge_attached(edge_run *r, const fh1_model *attached, const fh1_model *merged)
{
    const gld_merged j = {.attached = attached,
                          .merged = merged,
                          .engine = "ref-f64",
                          .halves = 1,
                          .seed = r->seed,
                          .subject = "merged",
                          .make_engine = ref_engine_new};
    fh1_report *report = NULL;
    FILE *out = fopen("/dev/null", "w");
    if (!out) return fh1_fail(FH1_E_INTERNAL, "/dev/null cannot be opened");
    fh1_status s = fh1_report_new(FH1_REPORT_TABLE, false, out, &report);
    if (!s) s = gld_judge_merged(&j, report);
    int code = FH1_E_INTERNAL;
    if (!s) {
        fh1_report_end_subject(report, "merged", NULL, 0);
        code = fh1_report_finish(report, "", "");
    }
    fh1_report_free(report);
    fclose(out);
    return s ? s : edge_require(r, code == 0, "the merged model is not the attached one (verdict %d)", code);
}

typedef struct {
    const char *base, *adapter; /* folders in r->folder */
    const fh1_model *model;     /* the base */
    const edge_delta *deltas;
} merged_case;

static fh1_status compare_attached(edge_run *r, const merged_case *c, const fh1_model *merged)
{
    char base[EDGE_PATH], adapter[EDGE_PATH];
    const char *const list[] = {edge_path(r, c->adapter, adapter)};
    const cvt_attach attach = {.adapters = list, .n = 1, .as = CVT_ATTACH_EXACT};
    fh1_model attached;
    FH1_TRY(edge_accepted(r, cvt_model_open_attached(edge_path(r, c->base, base), &attach, &attached), c->adapter));
    fh1_status s = judge_attached(r, &attached, merged);
    fh1_model_free(&attached);
    return s;
}

static fh1_status merge_case(edge_run *r, const merged_case *c, bool leg)
{
    char base[EDGE_PATH], adapter[EDGE_PATH], path[EDGE_PATH];
    fh1_model merged;
    FH1_TRY(edge_accepted(
        r, edge_merge(r, edge_path(r, c->base, base), edge_path(r, c->adapter, adapter), "merged", CVT_ROUND_EXACT),
        c->adapter));
    FH1_TRY(edge_accepted(r, cvt_model_open(edge_path(r, "merged", path), &merged), "the merged model"));
    fh1_status s = NULL;
    if (r->bit == EDGE_F64) s = edge_is_merged(r, c->model, &merged, c->deltas);
    if (!s && r->bit == EDGE_F64) s = compare_attached(r, c, &merged);
    if (!s && leg) s = edge_check_short(r, &merged);
    edge_contract(r, r->profile);
    fh1_model_free(&merged);
    return fh1_where(s, "%s", c->adapter);
}

/* ---- D-90 ---- */

#define L0 "model.layers.0."
#define L1 "model.layers.1."

typedef struct {
    const char *name, *members;
    edge_delta d[4];
} kind;

/* Sizes of every module that the cases adapt. */
static fh1_status run_kinds(edge_run *r, const char *spec, const fh1_model *base)
{
    const fh1_config *c = &base->config;
    const int64_t q = c->Hq * c->A, kv = c->Hkv * c->A, D = c->D, V = c->V, in = fh1_in_proj_dim(c);
    (void)spec;
    const kind kinds[] = {
        {"patterns",
         "\"r\":3,\"lora_alpha\":6,\"target_modules\":[\"q_proj\",\"k_proj\",\"v_proj\"],\"layers_to_transform\":[0],"
         "\"rank_pattern\":{\"k_proj\":5},\"alpha_pattern\":{\"0.self_attn.v_proj\":2}",
         {{L0 "self_attn.q_proj", q, D, 3, 2, 0.2, false, false, false},
          {L0 "self_attn.k_proj", kv, D, 5, 6.0 / 5, 0.2, false, false, false},
          {L0 "self_attn.v_proj", kv, D, 3, 2.0 / 3, 0.2, false, false, false}}},
        {"rslora",
         "\"r\":3,\"lora_alpha\":7,\"use_rslora\":true,\"target_modules\":\".*1\\\\.(mamba\\\\.in_proj|feed_"
         "forward\\\\."
         "down_proj)\",\"rank_pattern\":{\"in_proj\":5}",
         {{L1 "mamba.in_proj", in, D, 5, 7 / sqrt(5), 0.2, false, false, false},
          {L1 "feed_forward.down_proj", D, c->F, 3, 7 / sqrt(3), 0.2, false, false, false}}},
        {"fan_in",
         "\"r\":2,\"lora_alpha\":3,\"fan_in_fan_out\":true,\"target_modules\":[\"1.feed_forward.gate_proj\"]",
         {{L1 "feed_forward.gate_proj", c->F, D, 2, 1.5, 0.2, false, false, false}}},
        {"ends",
         "\"r\":2,\"lora_alpha\":3,\"target_modules\":[\"embed_tokens\",\"lm_head\"]",
         {{"model.embed_tokens", V, D, 2, 1.5, 0.2, true, false, false},
          {"lm_head", V, D, 2, 1.5, 0.2, false, false, false}}},
        {"lora_bias",
         "\"r\":2,\"lora_alpha\":3,\"lora_bias\":true,\"target_modules\":[\"0.self_attn.o_proj\",\"0.mamba.in_proj\"]",
         {{L0 "self_attn.o_proj", D, q, 2, 1.5, 0.2, false, true, false},
          {L0 "mamba.in_proj", in, D, 2, 1.5, 0.2, false, true, false}}},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        FH1_TRY(edge_save_deltas(r, kinds[i].name, kinds[i].members, kinds[i].d));
        FH1_TRY(merge_case(r, &(merged_case){"base", kinds[i].name, base, kinds[i].d}, i == 1 || i == 3));
    }
    return NULL;
}

static fh1_status with_base(edge_run *r, const char *spec,
                            fh1_status (*run)(edge_run *, const char *, const fh1_model *))
{
    fh1_model base;
    FH1_TRY(edge_model(r, spec, &base));
    fh1_status s = edge_save(r, &base, "base", EDGE_FORM_5);
    if (!s) s = run(r, spec, &base);
    edge_contract(r, r->profile);
    fh1_model_free(&base);
    return s;
}

fh1_status edge_merge_closed_form(edge_run *r)
{
    char narrow[1024];
    FH1_TRY(with_base(r, edge_model_text(1), run_kinds));
    if (r->bit != EDGE_F64) return NULL; /* the same tensors in another type */
    snprintf(narrow, sizeof narrow, "%s,dtype=bf16", edge_model_text(1));
    return with_base(r, narrow, run_kinds);
}

/* ---- D-91 ---- */

/* The hash of the base that the merged folder tells, and nothing else of its metadata. */
static fh1_status told_base(edge_run *r, const char *folder, char out[64])
{
    char path[EDGE_PATH];
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(edge_path(r, folder, path), &c));
    const char *text = cvt_ckpt_meta(c, "fh1.merge"), *at = text ? strstr(text, "\"base\":\"") : NULL;
    snprintf(out, 64, "%.32s", at ? at + strlen("\"base\":\"") : "");
    cvt_ckpt_close(c);
    return edge_require(r, strlen(out) == 32, "%s does not tell its base", folder);
}

static fh1_status run_dora(edge_run *r, const char *spec, const fh1_model *base)
{
    const fh1_config *c = &base->config;
    const edge_delta d[] = {{L0 "self_attn.q_proj", c->Hq * c->A, c->D, 3, 2, 0.2, false, false, true},
                            {L1 "feed_forward.down_proj", c->D, c->F, 3, 2, 0.2, false, false, true},
                            {"model.embed_tokens", c->V, c->D, 3, 2, 0.2, true, false, true},
                            {0}};
    char first[64], second[64], base_path[EDGE_PATH], adapter[EDGE_PATH];
    (void)spec;
    FH1_TRY(edge_save_deltas(r, "dora",
                             "\"r\":3,\"lora_alpha\":6,\"use_dora\":true,\"target_modules\":[\"0.self_attn.q_proj\","
                             "\"1.feed_forward.down_proj\",\"embed_tokens\"]",
                             d));
    FH1_TRY(merge_case(r, &(merged_case){"base", "dora", base, d}, true));
    FH1_TRY(told_base(r, "merged", first));
    FH1_TRY(edge_merge(r, edge_path(r, "base", base_path), edge_path(r, "dora", adapter), "merged", CVT_ROUND_EXACT));
    FH1_TRY(told_base(r, "merged", second));
    FH1_TRY(edge_require(r, strcmp(first, second) == 0, "one base has two hashes"));
    const float was = base->layers[0].q_w.dtype == FH1_F32 ? ((float *)base->layers[0].q_w.data)[5] : 0;
    ((float *)base->layers[0].q_w.data)[5] = nextafterf(was, INFINITY); /* one ulp of one weight */
    FH1_TRY(edge_save(r, base, "base", EDGE_FORM_5));
    FH1_TRY(merge_case(r, &(merged_case){"base", "dora", base, d}, false));
    FH1_TRY(told_base(r, "merged", second));
    return edge_require(r, strcmp(first, second) != 0, "a base that is one ulp off has the same hash %s", first);
}

fh1_status edge_merge_dora(edge_run *r)
{
    return with_base(r, edge_model_text(0), run_dora);
}

/* ---- D-96 ---- */

/* One end of a tied or untied pair is adapted, or both with different words. */
static fh1_status run_ends(edge_run *r, const char *spec, const fh1_model *base)
{
    const int64_t V = base->config.V, D = base->config.D;
    const edge_delta e = {"model.embed_tokens", V, D, 2, 1.5, 0.2, true, false, false},
                     h = {"lm_head", V, D, 2, 1.5, 0.2, false, false, false};
    const kind kinds[] = {
        {"embed", "\"r\":2,\"lora_alpha\":3,\"target_modules\":[\"embed_tokens\"]", {e}},
        {"head", "\"r\":2,\"lora_alpha\":3,\"target_modules\":[\"lm_head\"]", {h}},
        {"both", "\"r\":2,\"lora_alpha\":3,\"target_modules\":[\"embed_tokens\",\"lm_head\"]", {e, h}},
    };
    (void)spec;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        FH1_TRY(edge_save_deltas(r, kinds[i].name, kinds[i].members, kinds[i].d));
        FH1_TRY(merge_case(r, &(merged_case){"base", kinds[i].name, base, kinds[i].d}, i == 1));
    }
    return NULL;
}

/* A tied model through GGUF, where each end has its own multiplier: the same function, told apart by stock keys alone.
 */
static fh1_status run_tied_fold(edge_run *r, const char *spec, const fh1_model *base)
{
    char path[EDGE_PATH], gguf[EDGE_PATH];
    const cvt_write_options o = {.force = true};
    cvt_ckpt *c;
    FH1_TRY(run_ends(r, spec, base));
    FH1_TRY(cvt_ckpt_open(edge_path(r, "base", path), &c));
    fh1_status s = cvt_gguf_write(c, edge_path(r, "tied.gguf", gguf), CVT_GGUF_F32, &o);
    cvt_ckpt_close(c);
    FH1_TRY(edge_accepted(r, s, "a tied model as GGUF"));
    FH1_TRY(edge_hide_private(r, "tied.gguf"));
    return edge_check_file(r, gguf, base, EDGE_FOLDED);
}

fh1_status edge_merge_tied(edge_run *r)
{
    char tied[1024];
    snprintf(tied, sizeof tied, "%s,tied=1", edge_model_text(0));
    FH1_TRY(with_base(r, edge_model_text(0), run_ends));
    return with_base(r, tied, run_tied_fold);
}

/* ---- D-110 ---- */

/* Of every linear module of the model, whether the adapter names it: the report is what cvt_adapter holds. */
static fh1_status covered(edge_run *r, const char *folder, const fh1_model *m, const char *const *modules, int64_t n)
{
    char base[EDGE_PATH], adapter[EDGE_PATH];
    cvt_ckpt *c;
    cvt_adapter a;
    (void)m;
    FH1_TRY(cvt_ckpt_open(edge_path(r, "base", base), &c));
    fh1_status s = edge_accepted(r, cvt_adapter_open(edge_path(r, folder, adapter), NULL, c, &a), folder);
    cvt_ckpt_close(c);
    if (s) return s;
    s = edge_require(r, a.n_loras == n, "%s: %d modules are adapted, not %d", folder, (int)a.n_loras, (int)n);
    for (int64_t i = 0; !s && i < n; ++i) {
        bool found = false;
        for (int64_t k = 0; k < a.n_loras; ++k) found |= strcmp(a.loras[k].module, modules[i]) == 0;
        s = edge_require(r, found, "%s: %s is not adapted", folder, modules[i]);
    }
    cvt_adapter_free(&a);
    return s;
}

static fh1_status unmatched(edge_run *r, const char *name, const char *members, const edge_delta *d, const char *word)
{
    char base[EDGE_PATH], adapter[EDGE_PATH], out[EDGE_PATH];
    FH1_TRY(edge_save_deltas(r, name, members, d));
    FH1_TRY(edge_refused(
        r, edge_merge(r, edge_path(r, "base", base), edge_path(r, name, adapter), "wrong", CVT_ROUND_EXACT), word,
        name));
    return edge_require(r, !cvt_path_exists(edge_path(r, "wrong", out)), "%s: a target is left behind", name);
}

static fh1_status run_coverage(edge_run *r, const char *spec, const fh1_model *base)
{
    const fh1_config *c = &base->config;
    const int64_t D = c->D, q = c->Hq * c->A, in = fh1_in_proj_dim(c);
    const edge_delta good[] = {{L0 "mamba.in_proj", in, D, 2, 1.5, 0.2, false, false, false},
                               {L1 "self_attn.o_proj", D, q, 2, 1.5, 0.2, false, false, false},
                               {0}};
    static const char *const hit[] = {L0 "mamba.in_proj", L1 "self_attn.o_proj"};
    const char *two = "\"r\":2,\"lora_alpha\":3,\"target_modules\":[\"0.mamba.in_proj\",\"1.self_attn.o_proj\"]";
    (void)spec;
    FH1_TRY(edge_save_deltas(r, "two", two, good));
    FH1_TRY(covered(r, "two", base, hit, 2));
    FH1_TRY(merge_case(r, &(merged_case){"base", "two", base, good}, true));
    const edge_delta more[] = {good[0], good[1], {L1 "mlp.gate_proj", c->F, D, 2, 1.5, 0.2, false, false, false}, {0}};
    FH1_TRY(unmatched(r, "other_name", two, more, "mlp.gate_proj"));
    const edge_delta deep[] = {
        good[0], good[1], {"model.layers.7.self_attn.q_proj", q, D, 2, 1.5, 0.2, false, false, false}, {0}};
    FH1_TRY(unmatched(r, "layer_7", two, deep, "model.layers.7"));
    const edge_delta untold[] = {
        good[0], good[1], {L1 "self_attn.q_proj", q, D, 2, 1.5, 0.2, false, false, false}, {0}};
    FH1_TRY(unmatched(r, "not_targeted", two, untold, "1.self_attn.q_proj"));
    const edge_delta one[] = {good[0], {0}};
    return unmatched(r, "half_there", two, one, "1.self_attn.o_proj");
}

fh1_status edge_adapter_coverage(edge_run *r)
{
    return with_base(r, edge_model_text(1), run_coverage);
}
