/* D-103, D-104, D-112: what a config says in two forms, what loading a model does to its multipliers, what a new model
 * is made of. */
#include "tests/edge/edge_file_cases.h"

#include "convert/hf_config.h"
#include "convert/hf_folder.h"
#include "convert/model_open.h"
#include "golden/calls.h"
#include "golden/judge.h"
#include "golden/record.h"
#include "oracle/compare.h"
#include "reference/engine.h"

#include <math.h>
#include <string.h>

/* ---- D-103 ---- */

static fh1_status edited(edge_run *r, const fh1_model *m, edge_form form, const char *from, const char *to)
{
    char *text, out[4096];
    FH1_TRY(edge_config_text(&m->config, m->embed.dtype, form, "", &text));
    const char *at = strstr(text, from);
    if (at) snprintf(out, sizeof out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    free(text);
    return at ? edge_text(r, "form/config.json", out) : fh1_fail(FH1_E_INTERNAL, "no %s in the config", from);
}

static fh1_status refused(edge_run *r, const fh1_model *m, edge_form form, const char *from, const char *to,
                          const char *word)
{
    char path[EDGE_PATH];
    fh1_model back;
    FH1_TRY(edited(r, m, form, from, to));
    fh1_status s = cvt_model_open(edge_path(r, "form", path), &back);
    if (!s) fh1_model_free(&back);
    return edge_refused(r, s, word, to);
}

#define THETA4 "\"rope_theta\":100000000000"
#define ROPE5 "\"rope_parameters\":{\"rope_theta\":100000000000,\"rope_type\":\"default\"},"

/* Who asks for the type of the weights is told; a model that is opened has it from its tensors. */
static fh1_status two_types(edge_run *r, const fh1_model *m)
{
    char path[EDGE_PATH];
    fh1_dtype dtype;
    FH1_TRY(edited(r, m, EDGE_FORM_5, "\"dtype\":\"float32\"", "\"dtype\":\"float32\",\"torch_dtype\":\"bfloat16\""));
    return edge_refused(r, cvt_hf_config_dtype(edge_path(r, "form/config.json", path), &dtype),
                        "contradicts torch_dtype", "two types");
}

static fh1_status contradictions(edge_run *r, const fh1_model *m)
{
    FH1_TRY(refused(r, m, EDGE_FORM_BOTH, THETA4, "\"rope_theta\":10000000000", "contradicts"));
    FH1_TRY(refused(r, m, EDGE_FORM_BOTH, "\"rope_scaling\":null",
                    "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2}", "contradicts"));
    FH1_TRY(refused(r, m, EDGE_FORM_5, "\"rope_type\":\"default\"", "\"rope_type\":\"default\",\"type\":\"linear\"",
                    "contradicts"));
    FH1_TRY(two_types(r, m));
    FH1_TRY(refused(r, m, EDGE_FORM_4, THETA4 ",", "", "rope_theta"));
    return refused(r, m, EDGE_FORM_5, ROPE5, "", "rope_theta");
}

static fh1_status same_in_form(edge_run *r, const fh1_model *m, edge_form form)
{
    static const char *const names[] = {"the form of 5.x", "the form of 4.5x", "both forms"};
    char path[EDGE_PATH];
    fh1_model back;
    FH1_TRY(edge_save(r, m, "form", form));
    FH1_TRY(edge_accepted(r, cvt_model_open(edge_path(r, "form", path), &back), names[form]));
    fh1_status s = edge_same_model(r, m, &back, names[form]);
    fh1_model_free(&back);
    return s ? s : edge_check_file(r, path, m, 0);
}

fh1_status edge_config_forms(edge_run *r)
{
    char spec[1024];
    fh1_model m;
    snprintf(spec, sizeof spec, "%s,theta=1e11", edge_model_text(0));
    FH1_TRY(edge_model(r, spec, &m));
    fh1_status s = NULL;
    for (int form = 0; form < 3 && !s; ++form) s = same_in_form(r, &m, (edge_form)form);
    if (!s && r->bit == EDGE_F64) s = contradictions(r, &m);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}

/* ---- D-104 ---- */

/* None of the multipliers of the segments is a number of bf16. */
#define SPEC                                                                                     \
    "layers=2,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,G=2,K=4,Q=8,conv_bias=1,rms_norm=1,"     \
    "m_emb=2.718281,m_lm=0.404321,m_key=0.590123,m_gate=0.901234,m_down=0.531313,m_ssm_in=1.25," \
    "m_ssm_out=0.71875,m_z=0.353553,m_x=0.707107,m_B=0.770001,m_C=1.170003,m_dt=0.471234"

/* Whether the trace passes as one of this contract. */
static fh1_status judge_as(edge_run *r, const gld_trace *t, const fh1_model *m, const fh1_profile *p, unsigned variants,
                           bool *passes)
{
    fh1_report *report = NULL;
    FILE *out = fopen("/dev/null", "w");
    const gld_judge_options o = {
        .model = m, .profile = p, .variants = variants, .subject = r->engine, .make_engine = ref_engine_new};
    if (!out) return fh1_fail(FH1_E_INTERNAL, "/dev/null cannot be opened");
    fh1_status s = fh1_report_new(FH1_REPORT_TABLE, false, out, &report);
    if (!s) s = gld_judge(t, &o, report);
    int code = FH1_E_INTERNAL;
    if (!s) {
        fh1_report_end_subject(report, r->engine, NULL, 0);
        code = fh1_report_finish(report, "", "");
    }
    fh1_report_free(report);
    fclose(out);
    *passes = code == 0;
    return s;
}

/* The engine's trace: of the model as it is, or as it is once its bf16 buffer of multipliers was moved to f32. */
static fh1_status recorded(edge_run *r, fh1_model *m, bool moved, gld_trace *out, const fh1_profile **contract)
{
    gld_calls *calls = malloc(sizeof *calls);
    gld_trace inputs = {0};
    fh1_engine *e;
    double was[5];
    if (!calls) return fh1_no_memory(sizeof *calls, "a schedule");
    memcpy(was, m->config.m_ssm, sizeof was);
    for (int k = 0; k < 5 && moved; ++k) {
        uint16_t narrow;
        fh1_from_f64(&narrow, FH1_BF16, &was[k], 1);
        fh1_to_f64(&m->config.m_ssm[k], &narrow, FH1_BF16, 1);
    }
    edge_contract(r, r->profile); /* another model */
    fh1_status s = gld_calls_parse("p7x2l:0,2;d1", calls);
    if (!s) s = gld_calls_trace(calls, m->config.V, r->seed, &inputs);
    if (!s) s = edge_engine(r, m, &e);
    if (!s) s = gld_record_like(e, m, &inputs, NULL, out);
    if (!s) *contract = e->profile;
    gld_trace_free(&inputs);
    free(calls);
    memcpy(m->config.m_ssm, was, sizeof was);
    return s;
}

static fh1_status loaded(edge_run *r, fh1_model *m, bool moved)
{
    gld_trace t = {0};
    const fh1_profile *p = NULL;
    bool as_moved = false, as_loaded = false;
    fh1_status s = recorded(r, m, moved, &t, &p);
    if (!s) s = judge_as(r, &t, m, p, FH1_VAR_MUP_ROUNDED, &as_moved);
    if (!s) s = judge_as(r, &t, m, p, 0, &as_loaded);
    gld_trace_free(&t);
    if (s) return s;
    FH1_TRY(edge_require(r, as_moved == moved, "%s, it %s as %s+mup_rounded",
                         moved ? "moved from bf16" : "loaded as f32", as_moved ? "passes" : "fails", p->name));
    return edge_require(r, as_loaded != moved, "%s, it %s as %s", moved ? "moved from bf16" : "loaded as f32",
                        as_loaded ? "passes" : "fails", p->name);
}

fh1_status edge_loaded_types(edge_run *r)
{
    fh1_model m;
    FH1_TRY(edge_model(r, SPEC, &m));
    fh1_status s = loaded(r, &m, true);
    if (!s) s = loaded(r, &m, false);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}

/* ---- D-112 ---- */

typedef struct {
    double least, most, sum;
    int64_t n;
} range;

static void see(range *x, double v)
{
    if (x->n == 0 || v < x->least) x->least = v;
    if (x->n == 0 || v > x->most) x->most = v;
    x->sum += v;
    x->n++;
}

/* Mamba's: -A uniform in [1, 16]; dt = softplus(dt_bias) log-uniform in [0.001, 0.1], but for the first head of a
 * layer, which forgets in three tokens, and the last, in a thousand; D about 1. With n draws the extremes come near
 * both ends: that none of n is in an eighth of the range has the chance (7/8)^n, 1e-10 for the 174 of three layers of
 * 60 and less two. Stored as f32: 2^-22 of the value is allowed. */
static fh1_status statistics(edge_run *r, const fh1_model *m)
{
    range A = {0}, dt = {0}, D = {0};
    const double slack = 1 + 0x1p-20;
    for (int64_t i = 0; i < m->config.n_layers; ++i) {
        const fh1_layer *l = &m->layers[i];
        for (int64_t h = 0; h < m->config.H; ++h) {
            const double a = exp(fh1_get(&l->A_log, h)), t = log1p(exp(fh1_get(&l->dt_bias, h)));
            see(&A, a);
            see(&D, fh1_get(&l->D, h));
            if (h > 0 && h < m->config.H - 1) see(&dt, t);
            const double forgets = h == 0 ? 3 : 1000;
            if (h == 0 || h == m->config.H - 1)
                FH1_TRY(edge_require(r, fabs(a * t * forgets - 1) < 1e-3,
                                     "layer %d, head %d forgets in %g tokens, not %g", (int)i, (int)h, 1 / (a * t),
                                     forgets));
        }
    }
    FH1_TRY(edge_require(r, A.least >= 1 / slack && A.most <= 16 * slack, "-A is in [%g, %g], not [1, 16]", A.least,
                         A.most));
    FH1_TRY(
        edge_require(r, A.least < 1 + 15.0 / 8 && A.most > 16 - 15.0 / 8, "-A covers [%g, %g] only", A.least, A.most));
    FH1_TRY(edge_require(r, dt.least >= 0.001 / slack && dt.most <= 0.1 * slack, "dt is in [%g, %g], not [0.001, 0.1]",
                         dt.least, dt.most));
    FH1_TRY(edge_require(r, dt.least < 0.001 * pow(100, 0.125) && dt.most > 0.1 * pow(100, -0.125),
                         "dt covers [%g, %g] only", dt.least, dt.most));
    /* standard deviation 0.1: the mean of n is within 6 of 0.1/√n */
    const double mean = D.sum / (double)D.n;
    return edge_require(r, fabs(mean - 1) < 0.6 / sqrt((double)D.n), "D is %g on average, not 1", mean);
}

fh1_status edge_init_statistics(edge_run *r)
{
    fh1_model shape, made;
    char path[EDGE_PATH], config[EDGE_PATH], *text;
    FH1_TRY(edge_model(r, "layers=3,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=60,P=2,N=8,K=4,Q=8,G=1,conv_bias=1", &shape));
    fh1_status s = edge_config_text(&shape.config, FH1_F32, EDGE_FORM_5, "", &text);
    fh1_model_free(&shape);
    if (s) return s;
    s = edge_text(r, "config.json", text);
    free(text);
    if (!s)
        s = edge_accepted(
            r,
            cvt_hf_folder_init(edge_path(r, "config.json", config), edge_path(r, "new", path), r->seed, FH1_F32, false),
            "a new model");
    if (!s) s = edge_accepted(r, cvt_model_open(path, &made), "the new model");
    if (s) return s;
    s = statistics(r, &made);
    if (!s) s = edge_check_short(r, &made);
    edge_contract(r, r->profile);
    fh1_model_free(&made);
    return s;
}
