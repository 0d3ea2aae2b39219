/* What the edge cases share: engines with and without a fault, models, comparisons. */
#include "tests/edge/edge_impl.h"
#include "tests/edge/edge_rows.h"

#include "cuda/engine.h"
#include "cuda/faulty.h"
#include "golden/calls.h"
#include "golden/judge.h"
#include "golden/record.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

bool edge_plants(const edge_run *r, const char *name)
{
    return r->plant && strcmp(r->plant, name) == 0;
}

/* ---- engines ---- */

static void drop(fh1_engine **e)
{
    if (*e) (*e)->free(*e);
    *e = NULL;
}

void edge_engines_free(edge_run *r)
{
    drop(&r->judged);
    r->anchored = false;
    r->on_mamba = false;
    drop(&r->truth);
    drop(&r->emulated);
}

static fh1_status make_judged(edge_run *r)
{
    const bool cuda = r->bit & (EDGE_CUDA_HOST | EDGE_CUDA);
    if (cuda && r->fault != FH1_FAULT_NONE) return cu_faulty_engine_new(r->engine, r->profile, 0, r->fault, &r->judged);
    if (cuda) return cu_engine_new(r->engine, r->profile, 0, &r->judged);
    r->judged = r->fault == FH1_FAULT_NONE ? ref_engine_new(r->engine, r->profile, 0)
                                           : ref_faulty_engine_new(r->engine, r->profile, 0, r->fault);
    if (!r->judged) return fh1_no_memory(sizeof *r->judged, "the engine of a case");
    return NULL;
}

fh1_status edge_engine(edge_run *r, const fh1_model *m, fh1_engine **out)
{
    if (!r->judged) FH1_TRY(make_judged(r));
    *out = r->judged;
    r->on_mamba = m->config.family == FH1_FALCON_MAMBA;
    return fh1_engine_open(r->judged, m);
}

void edge_contract(edge_run *r, const fh1_profile *p)
{
    edge_engines_free(r);
    r->profile = p;
}

fh1_status edge_truth(edge_run *r, fh1_engine **out)
{
    if (!r->truth) r->truth = ref_engine_new("ref-f64", NULL, 0);
    *out = r->truth;
    return r->truth ? NULL : fh1_no_memory(sizeof **out, "the truth");
}

/* ---- models ---- */

#define MULTIPLIERS                                                                                                 \
    "m_emb=2.75,m_lm=0.40625,m_key=0.59375,m_attn_in=1.3125,m_attn_out=0.84375,m_ssm_in=1.21875,m_ssm_out=0.71875," \
    "m_gate=0.90625,m_down=0.53125,m_z=0.65625,m_x=1.4375,m_B=0.78125,m_C=1.15625,m_dt=0.46875"
#define SIZES "layers=3,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,K=4,Q=8,conv_bias=1,weights=trained," MULTIPLIERS

const char *edge_model_text(int i)
{
    static const char *const text[] = {
        SIZES ",G=1,rms_norm=0",
        SIZES ",G=2,rms_norm=1,attention_bias=1,mlp_bias=1,mamba_proj_bias=1,projectors_bias=1",
    };
    return i >= 0 && (size_t)i < sizeof text / sizeof *text ? text[i] : NULL;
}

const char *edge_mamba_text(void)
{
    return "family=falcon_mamba,layers=3,D=24,V=29,I=36,N=8,R=5,K=4,conv_bias=1,use_bias=1,mixer_eps=1e-3,weights="
           "trained";
}

fh1_status edge_model(edge_run *r, const char *spec, fh1_model *out)
{
    gld_seeded_spec s;
    FH1_TRY(gld_seeded_parse(spec, &s));
    return gld_seeded_model_new(&s, r->seed, out);
}

/* ---- comparisons ---- */

fh1_status edge_require(edge_run *r, bool holds, const char *what, ...)
{
    r->checks++;
    r->mamba_checks += r->on_mamba;
    if (holds) return NULL;
    r->mamba_failed += r->on_mamba;
    char text[480];
    va_list args;
    va_start(args, what);
    vsnprintf(text, sizeof text, what, args);
    va_end(args);
    return fh1_fail(FH1_E_WRONG, "%s", text);
}

/* What the engine hands back, beside the truth: an engine whose logits are zeros, or somebody else's, is the same on
 * every road. A quarter of their RMS is far above what bf16 is off by in the few layers of these models, and far below
 * what is not the truth at all, which is off by all of it; how far off an engine may be, edge_check holds. */
static fh1_status logits_are_near(edge_run *r, const fh1_model *m)
{
    enum { T = 5 };
    const int64_t n = T * m->config.V;
    fh1_engine *const e[2] = {r->judged, r->truth};
    double *v = calloc((size_t)n, 3 * sizeof *v), err = 0, size = 0;
    fh1_status s = v ? NULL : fh1_no_memory((size_t)n * 3 * sizeof *v, "logits");
    for (int i = 0; i < 2 && !s; ++i) {
        int64_t ids[T];
        fh1_cache *c = NULL;
        for (int64_t t = 0; t < T; ++t) ids[t] = t % m->config.V;
        s = fh1_cache_new(&m->config, e[i]->dtype, 1, &c);
        if (!s) s = e[i]->forward(e[i], m, &(fh1_batch){.B = 1, .T = T, .ids = ids}, c, T, v + 2 * n, NULL);
        if (!s) fh1_to_f64(v + i * n, v + 2 * n, e[i]->dtype, n);
        fh1_cache_free(c);
    }
    if (v && edge_plants(r, "logits_not_returned")) memset(v, 0, (size_t)n * sizeof *v);
    for (int64_t i = 0; i < n && !s; ++i) {
        err += (v[i] - v[n + i]) * (v[i] - v[n + i]);
        size += v[n + i] * v[n + i];
    }
    if (!s) s = edge_require(r, err <= size / 16, "logits of 5 tokens are off by %.3g of their RMS", sqrt(err / size));
    free(v);
    return s;
}

static fh1_status law_args(edge_run *r, const fh1_model *m, int64_t tokens, gld_law_args *a)
{
    *a = (gld_law_args){.model = m, .seed = r->seed, .tokens = tokens};
    FH1_TRY(edge_engine(r, m, &a->engine));
    FH1_TRY(edge_truth(r, &a->truth));
    if (!r->anchored && r->fault == FH1_FAULT_NONE && (!r->plant || edge_plants(r, "logits_not_returned")))
        FH1_TRY(logits_are_near(r, m));
    r->anchored = true;
    drop(&r->emulated); /* the contract may follow the model */
    a->emulated = r->emulated = ref_engine_new("ref-bf16", a->engine->profile, 0);
    return a->emulated ? NULL : fh1_no_memory(sizeof *a->emulated, "an engine");
}

static fh1_status verdict_of(edge_run *r, const gld_law_result *law)
{
    if (law->verdict == FH1_SKIP) return fh1_fail(FH1_E_INTERNAL, "a law was skipped: %s", law->sentence);
    return edge_require(r, law->verdict == FH1_PASS, "%s: %s", fh1_verdict_name(law->verdict), law->sentence);
}

/* gld_law_judge asks that something be noticed only where the case says so. */
fh1_status edge_law(edge_run *r, const fh1_model *m, int64_t tokens, law_walk walk, uint64_t notices, void *data)
{
    gld_law_args a;
    gld_law_result result;
    FH1_TRY(law_args(r, m, tokens, &a));
    FH1_TRY(gld_law_judge(&a, walk, notices, data, &result));
    return verdict_of(r, &result);
}

typedef struct {
    int64_t tokens;
    law_walk walk;
    uint64_t notices;
    void *data;
    const char *law;
} on_model;

static fh1_status run_on(edge_run *r, const fh1_model *m, void *data)
{
    const on_model *o = data;
    if (!o->law) return edge_law(r, m, o->tokens, o->walk, o->notices, o->data);
    const gld_law *law = gld_law_find(o->law);
    gld_law_args a;
    gld_law_result result;
    if (!law) return fh1_fail(FH1_E_INTERNAL, "no law is called %s", o->law);
    FH1_TRY(law_args(r, m, o->tokens, &a));
    FH1_TRY(law->run(&a, &result));
    return verdict_of(r, &result);
}

fh1_status edge_law_all(edge_run *r, int64_t tokens, law_walk walk, uint64_t notices, void *data)
{
    return edge_each_model(r, run_on, &(on_model){tokens, walk, notices, data, NULL});
}

fh1_status edge_named_law(edge_run *r, const char *law, int64_t tokens)
{
    return edge_each_model(r, run_on, &(on_model){.tokens = tokens, .law = law});
}

/* The report tells the first divergence in one line, the one with an arrow. */
static fh1_status judge_recorded(edge_run *r, const fh1_model *m, const gld_trace *t, const fh1_profile *p)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    fh1_report *report = NULL;
    const gld_judge_options o = {.model = m, .profile = p, .subject = r->engine, .make_engine = ref_engine_new};
    if (!out) return fh1_no_memory(4096, "a verdict");
    fh1_status s = fh1_report_new(FH1_REPORT_TABLE, false, out, &report);
    int code = 0;
    if (!s) s = gld_judge(t, &o, report);
    if (!s) fh1_report_end_subject(report, r->engine, NULL, 0);
    if (!s && (code = fh1_report_finish(report, "", "")) == FH1_E_INTERNAL) s = fh1_no_memory(size, "a verdict");
    fh1_report_free(report);
    fclose(out);
    if (!s) {
        const char *first = text ? strstr(text, "first divergence") : NULL;
        while (first && first > text && first[-1] != '\n') --first;
        s = edge_require(r, code == 0, "%.*s", first ? (int)strcspn(first, "\n") : 60, first ? first : "no tap passes");
    }
    free(text);
    return s;
}

fh1_status edge_check(edge_run *r, const fh1_model *m, const char *schedule, uint64_t seed)
{
    return edge_check_as(r, m, m, schedule, seed);
}

fh1_status edge_check_as(edge_run *r, const fh1_model *ran, const fh1_model *m, const char *schedule, uint64_t seed)
{
    gld_calls *calls = malloc(sizeof *calls);
    gld_trace inputs = {0}, recorded = {0};
    fh1_engine *e;
    if (!calls) return fh1_no_memory(sizeof *calls, "a schedule");
    fh1_status s = gld_calls_parse(schedule, calls);
    if (!s) s = gld_calls_trace(calls, m->config.V, seed, &inputs);
    if (!s) s = edge_engine(r, ran, &e);
    if (!s) s = gld_record_like(e, ran, &inputs, NULL, &recorded);
    if (!s) s = judge_recorded(r, m, &recorded, e->profile);
    gld_trace_free(&recorded);
    gld_trace_free(&inputs);
    free(calls);
    return s;
}
