/* D-90, D-91, D-96, D-110: adapters of every kind against closed forms, which are written here from the formulas and
 * share nothing with the converters: W + s·B·A, its transpose for an embedding, DoRA's m·V/‖V‖ by rows. */
#include "tests/edge/edge_file_cases.h"

#include "convert/file.h"
#include "convert/gguf.h"
#include "convert/hf_write.h"
#include "convert/model_attach.h"
#include "convert/model_open.h"
#include "golden/merged.h"
#include "oracle/compare.h"
#include "oracle/random.h"
#include "reference/engine.h"

#include <math.h>
#include <string.h>

/* ---- the closed form ---- */

enum { MOST_TENSORS = 24 };

static const char *part_name(const edge_delta *d, char part, char buf[160])
{
    const char *end = part == 'm'    ? "lora_magnitude_vector"
                      : part == 'b'  ? "lora_B.bias"
                      : d->embedding ? (part == 'A' ? "lora_embedding_A" : "lora_embedding_B")
                      : part == 'A'  ? "lora_A.weight"
                                     : "lora_B.weight";
    snprintf(buf, 160, "%s.%s", d->module, end);
    return buf;
}

/* The numbers of one of its tensors, as edge_save_adapter draws them; NULL without memory. */
static double *numbers(const edge_run *r, const edge_delta *d, char part, int64_t n)
{
    char name[160];
    const fh1_stream s = fh1_stream_open(r->seed, part_name(d, part, name));
    double *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; v && i < n; ++i) v[i] = (double)(float)(d->size * fh1_random_normal(s, (uint64_t)i));
    return v;
}

fh1_status edge_save_deltas(const edge_run *r, const char *name, const char *members, const edge_delta *d)
{
    static char names[MOST_TENSORS][160];
    edge_adapter_tensor t[MOST_TENSORS + 1] = {{0}};
    int n = 0;
    for (; d->module && n + 4 <= MOST_TENSORS; ++d) {
        t[n] = (edge_adapter_tensor){part_name(d, 'A', names[n]), d->r, d->embedding ? d->out : d->in, d->size}, n++;
        t[n] = (edge_adapter_tensor){part_name(d, 'B', names[n]), d->embedding ? d->in : d->out, d->r, d->size}, n++;
        if (d->bias) t[n] = (edge_adapter_tensor){part_name(d, 'b', names[n]), d->out, 0, d->size}, n++;
        if (d->dora)
            t[n] = (edge_adapter_tensor){part_name(d, 'm', names[n]), d->embedding ? d->in : d->out, 0, d->size}, n++;
    }
    return edge_save_adapter(r, name, members, t);
}

/* W' in long double, and per element the sum of magnitudes that an f64 sum may lose its last bits of. */
typedef struct {
    double *A, *B, *m;
    long double *want;
    double *terms;
} form;

static void add_products(const edge_delta *d, const fh1_tensor *w, form *f)
{
    for (int64_t i = 0; i < d->out * d->in; ++i) {
        const int64_t row = i / d->in, col = i % d->in;
        f->want[i] = (long double)fh1_get(w, i);
        f->terms[i] = fabs((double)f->want[i]);
        for (int64_t k = 0; k < d->r; ++k) {
            const double a = f->A[d->embedding ? k * d->out + row : k * d->in + col],
                         b = f->B[d->embedding ? col * d->r + k : row * d->r + k];
            f->want[i] += (long double)d->scale * (long double)a * (long double)b;
            f->terms[i] += fabs(d->scale * a * b);
        }
    }
}

/* DoRA: lines are rows, of an embedding columns. */
static void scale_lines(const edge_delta *d, form *f)
{
    const int64_t lines = d->embedding ? d->in : d->out, m = d->embedding ? d->out : d->in;
    for (int64_t line = 0; line < lines; ++line) {
        long double sum = 0;
        const int64_t first = d->embedding ? line : line * d->in, step = d->embedding ? d->in : 1;
        for (int64_t k = 0; k < m; ++k) sum += f->want[first + k * step] * f->want[first + k * step];
        const long double factor = (long double)f->m[line] / sqrtl(sum);
        for (int64_t k = 0; k < m; ++k) {
            f->want[first + k * step] *= factor;
            f->terms[first + k * step] *= fabs((double)factor);
        }
    }
}

static void form_free(form *f)
{
    free(f->A);
    free(f->B);
    free(f->m);
    free(f->want);
    free(f->terms);
}

static fh1_status form_new(const edge_run *r, const edge_delta *d, const fh1_tensor *w, form *f)
{
    const size_t n = (size_t)(d->out * d->in);
    *f = (form){numbers(r, d, 'A', d->r * (d->embedding ? d->out : d->in)),
                numbers(r, d, 'B', d->r * (d->embedding ? d->in : d->out)),
                numbers(r, d, 'm', d->embedding ? d->in : d->out), malloc(n * sizeof *f->want),
                malloc(n * sizeof *f->terms)};
    if (!f->A || !f->B || !f->m || !f->want || !f->terms) {
        form_free(f);
        return fh1_no_memory(n * 24, "a closed form");
    }
    add_products(d, w, f);
    if (d->dora) scale_lines(d, f);
    return NULL;
}

/* One rounding to the type, half an ulp at most, and what f64 may be off by: each of fewer than 2^5 operations on an
 * element loses 2^-53 of the terms' sum, a norm over fewer than 2^7 squares as much again. */
static bool near(const fh1_tensor *got, int64_t i, long double want, double terms)
{
    const double err = (double)fabsl((long double)fh1_get(got, i) - want);
    return fh1_within(err, 0.5 * fh1_dtype_ulp(got->dtype, (double)want) + 0x1p-46 * terms);
}

static fh1_status compare_delta(edge_run *r, const edge_delta *d, const fh1_tensor *w, const fh1_tensor *got)
{
    form f;
    int64_t wrong = 0, at = 0;
    FH1_TRY(form_new(r, d, w, &f));
    for (int64_t i = 0; i < d->out * d->in; ++i)
        if (!near(got, i, f.want[i], f.terms[i]) && wrong++ == 0) at = i;
    fh1_status s =
        edge_require(r, wrong == 0, "%s: %d of %d elements are not the closed form's, the first %d: %.9g, not %.9g",
                     d->module, (int)wrong, (int)(d->out * d->in), (int)at, fh1_get(got, at), (double)f.want[at]);
    form_free(&f);
    return s;
}

static fh1_status compare_bias(edge_run *r, const edge_delta *d, const fh1_tensor *b, const fh1_tensor *got)
{
    double *add = numbers(r, d, 'b', d->out);
    int64_t wrong = 0;
    if (!add) return fh1_no_memory((size_t)d->out * sizeof *add, "a closed form");
    for (int64_t i = 0; i < d->out; ++i) {
        const long double delta = (long double)d->scale * (long double)add[i], was = (long double)fh1_get(b, i);
        wrong += !near(got, i, was + delta, (double)(fabsl(was) + fabsl(delta)));
    }
    free(add);
    return edge_require(r, wrong == 0, "%s.bias: %d elements are not b + s·b'", d->module, (int)wrong);
}

static const edge_delta *delta_of(const edge_delta *d, const char *tensor, const char *end)
{
    for (; d->module; ++d) {
        const size_t n = strlen(d->module);
        if (strncmp(d->module, tensor, n) == 0 && strcmp(tensor + n, end) == 0) return d;
    }
    return NULL;
}

/* Of a name that the base may not store: the head of a tied one. */
static const fh1_tensor *tensor_of(const fh1_model *m, const char *name)
{
    for (int64_t i = 0; i < m->n_weights; ++i)
        if (strcmp(m->weights[i].name, name) == 0) return &m->weights[i].t;
    return strcmp(name, "lm_head.weight") == 0 ? &m->lm_head : NULL;
}

fh1_status edge_is_merged(edge_run *r, const fh1_model *base, const fh1_model *merged, const edge_delta *d)
{
    for (const edge_delta *e = d; e->module; ++e) {
        char name[160];
        snprintf(name, sizeof name, "%s.weight", e->module);
        FH1_TRY(edge_require(r, tensor_of(merged, name) != NULL, "%s is missing", name));
    }
    for (int64_t i = 0; i < merged->n_weights; ++i) {
        const char *name = merged->weights[i].name;
        const fh1_tensor *got = &merged->weights[i].t, *was = tensor_of(base, name);
        const edge_delta *w = delta_of(d, name, ".weight"), *b = delta_of(d, name, ".bias");
        if (!was || !fh1_same_shape(was, got)) return edge_require(r, false, "%s is new", name);
        if (w) FH1_TRY(compare_delta(r, w, was, got));
        else if (b && b->bias) FH1_TRY(compare_bias(r, b, was, got));
        else
            FH1_TRY(edge_require(r, memcmp(was->data, got->data, fh1_n_bytes(was)) == 0, "%s is no longer the base's",
                                 name));
    }
    return NULL;
}

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
