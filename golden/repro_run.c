#include "golden/repro.h"

#include "convert/model_open.h"
#include "golden/judge.h"
#include "golden/record.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* -- an op --------------------------------------------------------------------------------------- */

static fh1_status make_judged(const gld_repro_env *env, const char *name, const fh1_profile *p, unsigned variants,
                              const char *fault, fh1_engine **out)
{
    char shown[64];
    errno = 0;
    *out = env->make(name, p, variants, *fault ? fh1_fault_find(fault) : FH1_FAULT_NONE);
    if (*out) return NULL;
    if (errno == ENOMEM) return fh1_no_memory(sizeof **out, "an engine");
    fh1_status s = fh1_where(FH1_BAD("no such engine"), "--engine=%s", fh1_printable(name, shown, sizeof shown));
    return *fault ? fh1_hint(s, "--fault is planted in ref-f64, ref-f32 and ref-bf16") : s;
}

static fh1_status run_op(const gld_op_case *c, const gld_repro_env *env, gld_op_result *result)
{
    const fh1_profile *profile = NULL;
    unsigned variants = 0;
    fh1_engine *judged = NULL, *truth = env->make_truth("ref-f64", NULL, 0);
    if (!truth) return fh1_no_memory(sizeof *truth, "the truth");
    fh1_status s = *c->contract ? fh1_contract_parse(c->contract, &profile, &variants) : NULL;
    if (!s) s = make_judged(env, c->engine, profile, variants, c->fault, &judged);
    if (!s) s = gld_op_case_run(c, truth, judged, result);
    if (judged) judged->free(judged);
    truth->free(truth);
    return s;
}

/* "y[3, 1, 0]" */
static void read_place(const char *where, fh1_tap_result *t)
{
    const char *p = strchr(where, '[');
    for (; p && *p && *p != ']' && t->rank < FH1_MAX_RANK; p++) {
        char *end;
        t->where[t->rank++] = strtoll(p + 1, &end, 10);
        p = end - 1;
        if (end[0] != ',') break;
    }
}

static fh1_status report_op(const gld_op_case *c, const gld_repro_env *env, fh1_report *report)
{
    gld_op_result result = {.verdict = FH1_SKIP};
    FH1_TRY(run_op(c, env, &result));
    fh1_tap_result t = {.subject = c->engine,
                        .verdict = result.verdict,
                        .margin = result.margin,
                        .rms_ratio = result.rms_ratio > 0 ? result.rms_ratio : (double)NAN,
                        .max_err = result.max_err,
                        .allowed = result.allowed,
                        .rel_rms = (double)NAN,
                        .free_rms = (double)NAN,
                        .id = FH1_TAP_COUNT,
                        .layer = -1};
    snprintf(t.tap, sizeof t.tap, "%s", gld_op_name(c->op));
    snprintf(t.reason, sizeof t.reason, "%.150s", result.reason);
    read_place(result.where, &t);
    char label[96];
    snprintf(label, sizeof label, "%s %s", c->engine, gld_op_name(c->op));
    FH1_TRY(fh1_report_add(report, &t));
    fh1_report_end_subject(report, label, NULL, 0);
    return NULL;
}

/* -- traffic ------------------------------------------------------------------------------------- */

/* An engine under another contract than its own: it computes what it computes. */
static fh1_status forward_inner(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache,
                                int64_t n_logits, void *logits, const fh1_tap_sink *sink)
{
    fh1_engine *inner = e->ctx;
    return inner->forward(inner, m, b, cache, n_logits, logits, sink);
}

/* Contract and variants are those of the judged engine; switches of the contract are the truth's, too. */
static fh1_status judge_traffic(const gld_repro *r, const gld_repro_env *env, const fh1_model *m,
                                gld_traffic_result *result)
{
    const fh1_profile *declared = NULL;
    unsigned switches = 0, variants = 0;
    fh1_engine *e;
    if (*r->contract) FH1_TRY(fh1_contract_parse(r->contract, &declared, &switches));
    FH1_TRY(fh1_variants_parse(r->variant, &variants));
    const bool own = strcmp(r->engine, "ref-f64") == 0 || strcmp(r->engine, "ref-f32") == 0;
    FH1_TRY(make_judged(env, r->engine, own ? NULL : declared, variants | switches, r->fault, &e));
    fh1_status s = fh1_engine_open(e, m);
    fh1_engine judged = *e;
    if (declared) {
        judged.profile = declared;
        judged.forward = forward_inner;
        judged.open = NULL;
        judged.ctx = e;
    }
    gld_law_args a = {.engine = &judged, .model = m, .seed = r->seed};
    a.truth = env->make_truth("ref-f64", NULL, switches);
    a.emulated = env->make_truth("ref-bf16", judged.profile, switches);
    if (!s && (!a.truth || !a.emulated)) s = fh1_no_memory(sizeof judged, "the truth");
    if (!s) s = gld_traffic_judge(&r->traffic, &a, result);
    if (a.truth) a.truth->free(a.truth);
    if (a.emulated) a.emulated->free(a.emulated);
    e->free(e);
    return s;
}

static fh1_status run_traffic(const gld_repro *r, const gld_repro_env *env, gld_traffic_result *result)
{
    fh1_model m;
    FH1_TRY(*r->model ? cvt_model_open(r->model, &m) : gld_seeded_model_new(&r->make, r->seed, &m));
    fh1_status s = judge_traffic(r, env, &m, result);
    fh1_model_free(&m);
    return s;
}

/* Where: row, token of its document, channel. At the end is the last move. */
static fh1_status report_traffic(const gld_repro *r, const gld_repro_env *env, fh1_report *report)
{
    gld_traffic_result result;
    FH1_TRY(run_traffic(r, env, &result));
    fh1_tap_result t = {.subject = r->engine,
                        .step = result.move >= 0 ? result.move : r->traffic.n - 1,
                        .verdict = result.verdict,
                        .margin = result.margin,
                        .rms_ratio = (double)NAN,
                        .max_err = fabs(result.value - result.truth), /* of one number; the margin may be of many */
                        .allowed = result.allowed,
                        .rel_rms = (double)NAN,
                        .free_rms = (double)NAN,
                        .id = FH1_TAP_COUNT,
                        .layer = -1};
    if (result.verdict == FH1_PASS) t.max_err = result.margin * result.allowed;
    snprintf(t.tap, sizeof t.tap, "%s", *result.tap ? result.tap : "traffic");
    if (result.verdict != FH1_PASS) snprintf(t.reason, sizeof t.reason, "%.159s", result.sentence);
    const int64_t where[] = {result.row, result.token, result.channel};
    for (int i = 0; i < 3; i++)
        if (where[i] >= 0) t.where[t.rank++] = where[i];
    FH1_TRY(fh1_report_add(report, &t));
    char label[96];
    snprintf(label, sizeof label, "%s traffic", r->engine);
    fh1_report_end_subject(report, label, NULL, 0);
    return NULL;
}

/* -- a model ------------------------------------------------------------------------------------- */

static fh1_status judge_trace(const gld_repro *r, const gld_repro_env *env, const fh1_model *m, const gld_trace *inputs,
                              fh1_report *report)
{
    static const gld_record_options all = {.store = FH1_DTYPE_COUNT};
    gld_judge_options o = {.model = m,
                           .taps = *r->taps ? r->taps : NULL,
                           .subject = r->engine,
                           .make_engine = env->make_truth,
                           .make_faulty = env->make_faulty};
    const fh1_profile *declared = NULL;
    unsigned switches = 0;
    fh1_engine *e;
    gld_trace recorded;
    if (*r->contract) FH1_TRY(fh1_contract_parse(r->contract, &declared, &switches));
    FH1_TRY(fh1_variants_parse(r->variant, &o.variants));
    o.variants |= switches;
    /* These two run no profile but their own and are judged under the one declared; of the rest `make` knows. */
    const bool own = strcmp(r->engine, "ref-f64") == 0 || strcmp(r->engine, "ref-f32") == 0;
    FH1_TRY(make_judged(env, r->engine, own ? NULL : declared, o.variants, r->fault, &e));
    fh1_status s = gld_record_like(e, m, inputs, &all, &recorded);
    o.profile = declared ? declared : e->profile;
    if (!s) {
        s = gld_judge(&recorded, &o, report);
        gld_trace_free(&recorded);
    }
    e->free(e);
    return s;
}

/* A fault that this model cannot have would leave an honest engine, and its PASS would say nothing. */
static fh1_status check_family(const char *fault, const fh1_config *c)
{
    const fh1_fault f = *fault ? fh1_fault_find(fault) : FH1_FAULT_NONE;
    if (f == FH1_FAULT_NONE || fh1_fault_acts_on(f, c->family)) return NULL;
    fh1_status s = FH1_BAD("the fault %s does nothing in a %s model", fault, fh1_family_name(c->family));
    return fh1_hint(s, "fh1 faults --family %s lists those that do", fh1_family_name(c->family));
}

static fh1_status run_model(const gld_repro *r, const gld_repro_env *env, fh1_report *report)
{
    fh1_model m;
    gld_trace inputs = {0};
    FH1_TRY(*r->model ? cvt_model_open(r->model, &m) : gld_seeded_model_new(&r->make, r->seed, &m));
    gld_calls *calls = malloc(sizeof *calls);
    fh1_status s =
        calls ? gld_taps_check(*r->taps ? r->taps : NULL, &m.config) : fh1_no_memory(sizeof *calls, "a schedule");
    if (!s) s = check_family(r->fault, &m.config);
    if (!s) {
        *calls = r->calls;
        if (r->step >= 0) gld_calls_end_at(calls, r->step);
        s = gld_calls_trace(calls, m.config.V, r->seed, &inputs);
    }
    if (!s) s = judge_trace(r, env, &m, &inputs, report);
    gld_trace_free(&inputs);
    free(calls);
    fh1_model_free(&m);
    return s;
}

fh1_status gld_repro_run(const gld_repro *r, const gld_repro_env *env, fh1_report *report)
{
    char label[96];
    if (r->is_op) return report_op(&r->op, env, report);
    if (r->is_traffic) return report_traffic(r, env, report);
    FH1_TRY(run_model(r, env, report));
    snprintf(label, sizeof label, "%s repro", r->engine);
    fh1_report_end_subject(report, label, NULL, 0);
    return NULL;
}

/* -- quietly ------------------------------------------------------------------------------------- */

static fh1_verdict verdict_of(const cJSON *summary)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(summary, "verdict"));
    for (int v = FH1_PASS; text && v <= FH1_SKIP; v++)
        if (strcmp(text, fh1_verdict_name((fh1_verdict)v)) == 0) return (fh1_verdict)v;
    return FH1_SKIP;
}

/* The summary is the last line. */
static fh1_status read_summary(const char *lines, gld_repro_outcome *out)
{
    const char *last = lines, *p;
    while ((p = strchr(last, '\n')) && p[1]) last = p + 1;
    cJSON *summary = cJSON_Parse(last);
    if (!summary) return fh1_fail(FH1_E_INTERNAL, "the report has no summary");
    out->verdict = verdict_of(summary);
    const cJSON *first = cJSON_GetObjectItemCaseSensitive(summary, "first_divergence");
    const char *tap = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(first, "tap"));
    int64_t layer;
    if (tap) {
        snprintf(out->tap, sizeof out->tap, "%s", tap);
        out->step = (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(first, "step"));
        if (!fh1_tap_parse_any(tap, INT64_MAX, &out->id, &layer)) out->id = FH1_TAP_COUNT;
    }
    cJSON_Delete(summary);
    return NULL;
}

fh1_status gld_repro_try(const gld_repro *r, const gld_repro_env *env, gld_repro_outcome *out)
{
    *out = (gld_repro_outcome){.verdict = FH1_SKIP, .id = FH1_TAP_COUNT};
    if (r->is_op) {
        gld_op_result result = {.verdict = FH1_SKIP};
        FH1_TRY(run_op(&r->op, env, &result));
        out->verdict = result.verdict;
        if (result.verdict == FH1_FAIL) snprintf(out->tap, sizeof out->tap, "%s", gld_op_name(r->op.op));
        return NULL;
    }
    if (r->is_traffic) {
        gld_traffic_result result;
        int64_t layer;
        FH1_TRY(run_traffic(r, env, &result));
        out->verdict = result.verdict;
        out->step = result.move >= 0 ? result.move : r->traffic.n - 1;
        if (result.verdict == FH1_FAIL) snprintf(out->tap, sizeof out->tap, "%s", *result.tap ? result.tap : "traffic");
        if (!fh1_tap_parse_any(out->tap, INT64_MAX, &out->id, &layer)) out->id = FH1_TAP_COUNT;
        return NULL;
    }
    gld_repro_env quiet = *env;
    quiet.make_faulty = NULL; /* a verdict is all that is wanted */
    char *text = NULL;
    size_t size = 0;
    fh1_report *report = NULL;
    FILE *lines = open_memstream(&text, &size);
    if (!lines) return fh1_no_memory(0, "a report");
    fh1_status s = fh1_report_new(FH1_REPORT_JSON, false, lines, &report);
    if (!s) s = gld_repro_run(r, &quiet, report);
    if (!s) fh1_report_finish(report, "", "");
    fh1_report_free(report);
    if (fclose(lines) != 0 && !s) s = fh1_no_memory(size, "a report");
    if (!s) s = read_summary(text, out);
    free(text);
    return s;
}
