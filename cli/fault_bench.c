#include "cli/fault_bench.h"
#include "cli/fault_cuda.h"

#include "convert/hf_folder.h"
#include "convert/json.h"
#include "golden/judge.h"
#include "golden/record.h"
#include "golden/seeded_model.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

fh1_status fault_bench_new(const char *folder, bool bf16, fault_bench **out)
{
    fault_bench *b = calloc(1, sizeof *b);
    if (!b || !(b->truth = ref_engine_new("ref-f64", NULL, 0))) {
        free(b);
        return fh1_no_memory(sizeof *b, "a matrix of faults");
    }
    b->folder = folder;
    b->bf16 = bf16;
    *out = b;
    return NULL;
}

void fault_bench_take_cuda(fault_bench *b)
{
    b->cuda = true;
}

void fault_bench_free(fault_bench *b)
{
    if (!b) return;
    for (int i = 0; i < b->n_settings; ++i) {
        gld_trace_free(&b->settings[i].in);
        gld_trace_free(&b->settings[i].honest);
    }
    for (int i = 0; i < b->n_models; ++i) fh1_model_free(&b->models[i].m);
    for (int i = 0; i < 2 * FAULT_LAW_MODELS; ++i)
        if (b->has_law_model[i / FAULT_LAW_MODELS][i % FAULT_LAW_MODELS])
            fh1_model_free(&b->law_model[i / FAULT_LAW_MODELS][i % FAULT_LAW_MODELS]);
    fault_gradients_free(b->gradients);
    b->truth->free(b->truth);
    free(b);
}

/* ---- models and inputs ---- */

static bool is_bf16(const char *model)
{
    return strstr(model, "-bf16") != NULL;
}

static fh1_status open_model(fault_bench *b, const char *name, const fh1_model **out)
{
    char full[64];
    const int length = (int)strcspn(name, ":");
    snprintf(full, sizeof full, "%.*s%s%s", length, name, b->bf16 && !is_bf16(name) ? "-bf16" : "", name + length);
    for (int i = 0; i < b->n_models; ++i)
        if (strcmp(b->models[i].name, full) == 0) {
            *out = &b->models[i].m;
            return NULL;
        }
    if (b->n_models == FAULT_MOST_MODELS)
        return fh1_fail(FH1_E_INTERNAL, "more models of faults than there is room for");
    FH1_TRY(gld_fault_model_open(b->folder, full, &b->models[b->n_models].m));
    snprintf(b->models[b->n_models].name, sizeof full, "%s", full);
    *out = &b->models[b->n_models++].m;
    return NULL;
}

/* The faulty copy, with no fault for FH1_FAULT_NONE. */
static fh1_status engine_of(const fault_bench *b, fh1_fault f, bool bf16, fh1_engine **out)
{
    if (b->cuda) return fault_cuda_engine_new(f, out);
    *out = ref_faulty_engine_new(b->bf16 || bf16 ? "ref-bf16" : "ref-f32", NULL, 0, f);
    if (!*out) return fh1_no_memory(sizeof **out, "a faulty engine");
    (*out)->chunked = false; /* the faults of the scan are planted in the recurrence */
    return NULL;
}

fh1_status fault_engine_of(const fault_bench *b, fh1_fault f, fh1_family family, fh1_engine **out)
{
    return engine_of(b, f, is_bf16(gld_fault_case_of(f, family).model), out);
}

fh1_status fault_setting_of(fault_bench *b, fh1_fault f, fh1_family family, const fault_setting **out)
{
    const gld_fault_case c = gld_fault_case_of(f, family);
    const fh1_model *m = NULL;
    FH1_TRY(open_model(b, c.model, &m));
    for (int i = 0; i < b->n_settings; ++i)
        if (b->settings[i].m == m && b->settings[i].inputs == c.inputs) {
            *out = &b->settings[i];
            return NULL;
        }
    if (b->n_settings == FAULT_MOST_CASES)
        return fh1_fail(FH1_E_INTERNAL, "more cases of faults than there is room for");
    fault_setting *s = &b->settings[b->n_settings];
    *s = (fault_setting){.m = m, .inputs = c.inputs};
    fh1_engine *e;
    FH1_TRY(engine_of(b, FH1_FAULT_NONE, is_bf16(c.model), &e));
    fh1_status st = gld_fault_inputs(&m->config, (int)c.inputs, &s->in);
    if (!st) st = gld_record_like(e, m, &s->in, NULL, &s->honest);
    e->free(e);
    if (st) {
        gld_trace_free(&s->in);
        return st;
    }
    b->n_settings++;
    *out = s;
    return NULL;
}

void fault_place(fh1_family family, int64_t step, fh1_tap_id tap, int64_t layer, char *buf, size_t size)
{
    char name[FH1_TAP_NAME_SIZE];
    const char *model = family == FH1_FALCON_MAMBA ? "backbone." : "model.", first[] = "layers.0.";
    const char *at = fh1_tap_name(family, tap, layer, name);
    if (strncmp(at, model, strlen(model)) == 0) at += strlen(model);
    if (strncmp(at, first, strlen(first)) == 0) at += strlen(first);
    if (step < 0) snprintf(buf, size, "%s", at);
    else snprintf(buf, size, "step %lld %s", (long long)step, at);
}

/* ---- the judge ---- */

/* The summary, the last line of the report: where it fails first and why it may. */
static fh1_status read_summary(const char *text, const fh1_model *m, fh1_fault f, fault_verdict *v)
{
    const char *line = strstr(text, "{\"summary\"");
    cJSON *o;
    if (!line) return fh1_fail(FH1_E_INTERNAL, "the judge gave no summary");
    FH1_TRY(cvt_json_parse(line, strlen(line), 16, "the summary of a verdict", &o));
    const cJSON *first = cJSON_GetObjectItem(o, "first_divergence"), *suspect;
    if (cJSON_IsObject(first)) {
        v->failed = fh1_tap_parse(m->config.family, cJSON_GetObjectItem(first, "tap")->valuestring, m->config.n_layers,
                                  &v->tap, &v->layer);
        v->step = (int64_t)cJSON_GetObjectItem(first, "step")->valuedouble;
        v->order = fh1_tap_order(&m->config, v->tap, v->layer, m->config.n_layers);
    }
    int rank = 0;
    cJSON_ArrayForEach(suspect, cJSON_GetObjectItem(o, "suspects"))
    {
        const char *name = cJSON_GetObjectItem(suspect, "fault")->valuestring;
        const size_t used = strlen(v->suspects);
        ++rank;
        snprintf(v->suspects + used, sizeof v->suspects - used, "%s%s %.3f", rank > 1 ? ", " : "", name,
                 cJSON_GetObjectItem(suspect, "score")->valuedouble);
        if (f != FH1_FAULT_NONE && strcmp(name, fh1_fault_get(f)->name) == 0) v->rank = rank;
    }
    cJSON_Delete(o);
    return NULL;
}

fh1_status fault_judge(const gld_trace *t, const fh1_model *m, fh1_fault f, fault_verdict *v)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    fh1_report *report = NULL;
    const gld_judge_options o = {.model = m,
                                 .profile = fh1_profile_find(t->contract),
                                 .subject = "row",
                                 .make_engine = ref_engine_new,
                                 .make_faulty = f == FH1_FAULT_NONE ? NULL : ref_faulty_engine_new};
    *v = (fault_verdict){.step = -1, .tap = FH1_TAP_COUNT};
    if (!out) return fh1_no_memory(4096, "a verdict");
    fh1_status s = fh1_report_new(FH1_REPORT_JSON, false, out, &report);
    if (!s) s = gld_judge(t, &o, report);
    if (!s) {
        fh1_report_end_subject(report, "row", NULL, 0);
        if (fh1_report_finish(report, "0", "fh1 faults") == FH1_E_INTERNAL) s = fh1_no_memory(size, "a verdict");
    }
    fh1_report_free(report);
    fclose(out);
    if (!s) s = read_summary(text, m, f, v);
    free(text);
    return s;
}

/* ---- laws ---- */

/* Every switch that has a law of its own is on; the other two have what it has not: biases, a finite limit of dt. */
static fh1_status law_model(fault_bench *b, fh1_family family, int which, const fh1_model **out)
{
    static const char *const names[2][FAULT_LAW_MODELS] = {
        [FH1_FALCON_H1] =
            {"layers=2,D=32,F=48,V=64,Hq=4,Hkv=2,A=8,H=4,P=8,N=16,G=2,K=4,Q=16,rms_norm=1,weights=trained", "odd",
             "mini-34b"},
        [FH1_FALCON_MAMBA] = {"family=falcon_mamba,layers=2,D=32,V=64,I=64,N=16,R=4,K=4,weights=trained", "mamba-tied",
                              "mamba-untied"}};
    const char *const *name = names[family];
    fh1_model *m = &b->law_model[family][which];
    if (!b->has_law_model[family][which]) {
        gld_seeded_spec spec;
        if (which == 0) {
            FH1_TRY(gld_seeded_parse(name[0], &spec));
            FH1_TRY(gld_seeded_model_new(&spec, 1, m));
        } else {
            FH1_TRY(gld_fault_model_open(b->folder, name[which], m));
        }
        b->has_law_model[family][which] = true;
    }
    *out = m;
    return NULL;
}

fh1_status fault_law_run(fault_bench *b, const gld_law *law, fh1_family family, int model, fh1_engine *e,
                         gld_law_result *r)
{
    gld_law_args a = {.engine = e, .truth = b->truth, .seed = 1};
    FH1_TRY(law_model(b, family, model, &a.model));
    if (!(a.emulated = ref_engine_new("ref-bf16", e->profile, 0))) return fh1_no_memory(sizeof *e, "an engine");
    fh1_status s = law->run(&a, r);
    a.emulated->free(a.emulated);
    return s;
}

/* ---- ops ---- */

/* A fault of one form of an op may live in what the forms share; a scan's in that of its family. */
static bool touches(const char *fault_op, fh1_family family, gld_op op)
{
    const char *name = gld_op_name(op);
    const bool ssd = strncmp(fault_op, "ssd_", 4) == 0, selective = strncmp(fault_op, "selective_", 10) == 0;
    if (ssd || selective)
        return family == FH1_FALCON_MAMBA ? strncmp(name, "selective_", 10) == 0 : strncmp(name, "ssd_", 4) == 0;
    if (strcmp(fault_op, "linear") == 0) return op == GLD_OP_LINEAR || op == GLD_OP_LM_HEAD;
    return strncmp(name, fault_op, strlen(fault_op)) == 0 || strncmp(fault_op, name, strlen(name)) == 0;
}

/* A device stores matrices of its contract's type: they must be of it. */
static void fit_weights(const fault_bench *b, const fh1_engine *e, gld_op_case *c)
{
    const bool matrix = c->op == GLD_OP_EMBED || c->op == GLD_OP_LINEAR || c->op == GLD_OP_LM_HEAD;
    if (b->cuda && matrix && e->profile->storage == FH1_BF16) c->weights = FH1_BF16;
}

fh1_status fault_regimes_run(fault_bench *b, const char *op, fh1_family family, bool all, fh1_engine *e, fault_row *row,
                             char *first, size_t size)
{
    gld_op_case c;
    for (int i = 0; gld_op_case_standard(i, &c); ++i) {
        const int rule = FAULT_RULE_LATTICE + (int)c.regime;
        gld_op_result r;
        if ((op && !touches(op, family, c.op)) || (!all && row->red[rule])) continue;
        if (b->cuda && op && c.regime != GLD_REGIME_LATTICE) continue; /* the only one that the registry asks for */
        fit_weights(b, e, &c);
        FH1_TRY(gld_op_case_compare(&c, b->truth, e, &r));
        if (r.verdict == FH1_SKIP) continue;
        row->runs[rule]++;
        if (r.verdict != FH1_FAIL) continue;
        row->red[rule]++;
        char line[GLD_OP_LINE];
        if (first && !*first) snprintf(first, size, "%s: %s", gld_op_case_print(&c, line, sizeof line), r.reason);
    }
    return NULL;
}

fh1_status fault_horizon_run(fault_bench *b, fh1_family family, fh1_engine *e, fh1_verdict *v)
{
    gld_op_case c;
    gld_op_result r;
    FH1_TRY(gld_op_case_parse(family == FH1_FALCON_MAMBA
                                  ? "--op=selective_scan --regime=trained --weights=f32 --T=50100 --c=2 --N=8"
                                  : "--op=ssd_scan --regime=trained --weights=f32 --T=50100 --H=1 --P=2 --N=8 --G=1",
                              &c));
    FH1_TRY(gld_op_case_compare(&c, b->truth, e, &r));
    *v = r.verdict;
    return NULL;
}
