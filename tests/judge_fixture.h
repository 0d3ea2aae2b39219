/* What the tests of the judge share: the golden models, recording with and without a planted fault, and verdicts read
 * back from the JSON report. Programs run in the project's root. */
#pragma once

#include "golden/judge.h"

#include "convert/hf_folder.h"
#include "golden/record.h"
#include "oracle/random.h"
#include "reference/engine.h"
#include "tests/trace_fixture.h"

#include <cjson/cJSON.h>
#include <math.h>

/* --- models and engines, opened once per test --- */

enum { M34, M34_BF16, ODD, N_MODELS };
static fh1_model models[N_MODELS];

static inline void open_models(void)
{
    static const char *const folder[] = {"mini-34b", "mini-34b-bf16", "odd"};
    char path[256];
    for (int i = 0; i < N_MODELS; i++) {
        snprintf(path, sizeof path, "golden/models/%s", folder[i]);
        OK(cvt_hf_folder_open(path, &models[i]));
    }
}

static inline void close_models(void)
{
    for (int i = 0; i < N_MODELS; i++) fh1_model_free(&models[i]);
}

/* The kinds of trace: what computes it, and on which model. */
typedef struct {
    int model;
    const char *engine;
} kind;
enum { EXACT, F32, BF16, N_KINDS };
static const kind kinds[N_KINDS] = {{M34, "ref-f64"}, {M34, "ref-f32"}, {M34_BF16, "ref-bf16"}};

/* --- an engine with a fault --- */

typedef struct {
    fh1_engine *right;
    const fh1_tap_sink *sink;
    int step;
    /* the fault: at this step, `edit` changes the values of one tap, [n, width] in the engine's type, or the cache */
    int bad_step;
    fh1_tap_id id;
    int64_t layer;
    void (*edit)(fh1_tensor *value);
    void (*edit_cache)(fh1_cache *cache);
} saboteur;

static inline fh1_status pass_on(void *user, const fh1_tap_event *e)
{
    saboteur *s = user;
    fh1_tensor value = e->value;
    if (s->edit && s->step == s->bad_step && e->id == s->id && e->layer == s->layer) s->edit(&value);
    return s->sink->tap(s->sink->user, e);
}

static inline fh1_status forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache,
                                 int64_t n_logits, void *logits, const fh1_tap_sink *sink)
{
    saboteur *s = e->ctx;
    s->sink = sink;
    const fh1_tap_sink between = {.user = s, .tap = pass_on};
    FH1_TRY(s->right->forward(s->right, m, b, cache, n_logits, logits, sink ? &between : NULL));
    if (s->edit_cache && s->step == s->bad_step) s->edit_cache(cache);
    s->step++;
    return NULL;
}

/* --- inputs and recording --- */

enum { B = 2, T = 12 };

/* Row 0 is padded by three columns on the left. A prefill of 12, a step, three tokens more. */
static inline void inputs(gld_trace *t)
{
    int64_t ids[B * T], mask[B * (T + 4)];
    const fh1_stream s = fh1_stream_open(7, "ids");
    static const int64_t length[] = {T, 1, 3};
    OK(gld_trace_new(t));
    for (int64_t j = 0, past = 0; j < 3; past += length[j++]) {
        for (int64_t i = 0; i < B * length[j]; i++) ids[i] = 2 + fh1_random_below(s, (uint64_t)(100 * j + i), 90);
        for (int64_t i = 0; i < B * (past + length[j]); i++) mask[i] = i >= 3;
        OK(gld_trace_add_step(
            t, &(fh1_batch){.B = B, .T = length[j], .ids = ids, .mask = mask, .mask_len = past + length[j]}));
    }
}

/* `fault` NULL: an honest trace. `like` NULL: the inputs above. */
static inline gld_trace record_like(kind k, const gld_trace *like, const char *taps, bool no_cache,
                                    const saboteur *fault)
{
    gld_trace in = {0}, out;
    if (!like) inputs(&in);
    saboteur s = fault ? *fault : (saboteur){.bad_step = -1};
    s.right = ref_engine_new(k.engine, NULL, 0);
    fh1_engine e = *s.right;
    e.forward = forward;
    e.ctx = &s;
    const gld_record_options o = {taps, no_cache, FH1_DTYPE_COUNT};
    OK(gld_record_like(&e, &models[k.model], like ? like : &in, &o, &out));
    s.right->free(s.right);
    gld_trace_free(&in);
    return out;
}

static inline gld_trace record(kind k)
{
    return record_like(k, NULL, NULL, false, NULL);
}

static inline fh1_tensor *tensor(gld_trace *t, int64_t step, fh1_tap_id id, int64_t layer)
{
    gld_tap *tap = (gld_tap *)(uintptr_t)gld_trace_find(t, step, id, layer);
    ck_assert_ptr_nonnull(tap);
    return &tap->t;
}

/* Drops the taps that `keep` does not let through; their memory stays with the trace. */
static inline void keep_only(gld_trace *t, bool (*keep)(int64_t i, const gld_tap *tap))
{
    for (int64_t j = 0; j < t->n_steps; j++) {
        gld_step *s = &t->steps[j];
        int64_t n = 0;
        for (int64_t i = 0; i < s->n_taps; i++)
            if (keep(i, &s->taps[i])) s->taps[n++] = s->taps[i];
        s->n_taps = n;
        if (!gld_trace_find(t, j, FH1_TAP_LOGITS, 0)) s->n_logits = 0;
    }
}

/* --- judging --- */

typedef struct {
    cJSON *lines; /* an array; the last one is the summary */
    int n_taps, n_fail;
} verdict;

static inline verdict judge_as(const gld_trace *t, const fh1_model *m, const fh1_profile *p, unsigned variants,
                               const char *taps)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    fh1_report *report;
    ck_assert_ptr_nonnull(p);
    OK(fh1_report_new(FH1_REPORT_JSON, true, out, &report));
    const gld_judge_options o = {
        .model = m, .profile = p, .variants = variants, .taps = taps, .subject = "t", .make_engine = ref_engine_new};
    OK(gld_judge(t, &o, report));
    fh1_report_end_subject(report, "t", NULL, 0);
    const int code = fh1_report_finish(report, "0", "fh1 check");
    fh1_report_free(report);
    fclose(out);
    verdict v = {.lines = cJSON_CreateArray()};
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *o_line = cJSON_Parse(line);
        ck_assert_msg(o_line != NULL, "no JSON: %s", line);
        cJSON_AddItemToArray(v.lines, o_line);
        if (cJSON_GetObjectItem(o_line, "summary")) continue;
        v.n_taps++;
        v.n_fail += strcmp(cJSON_GetObjectItem(o_line, "verdict")->valuestring, "FAIL") == 0;
    }
    free(text);
    ck_assert_int_eq(code != 0, v.n_fail > 0);
    return v;
}

static inline verdict judge(const gld_trace *t, kind k)
{
    const fh1_profile *p;
    unsigned variants;
    OK(fh1_contract_parse(t->contract, &p, &variants));
    return judge_as(t, &models[k.model], p, variants, NULL);
}

static inline const cJSON *line_of(const verdict *v, int step, const char *tap)
{
    const cJSON *l;
    cJSON_ArrayForEach(l, v->lines) if (!cJSON_GetObjectItem(l, "summary") &&
                                        cJSON_GetObjectItem(l, "step")->valueint == step &&
                                        strcmp(cJSON_GetObjectItem(l, "tap")->valuestring, tap) == 0) return l;
    ck_abort_msg("step %d has no %s", step, tap);
    return NULL;
}

static inline double figure(const verdict *v, int step, const char *tap, const char *key)
{
    return cJSON_GetObjectItem(line_of(v, step, tap), key)->valuedouble;
}

static inline const cJSON *first_of(const verdict *v)
{
    return cJSON_GetObjectItem(cJSON_GetArrayItem(v->lines, cJSON_GetArraySize(v->lines) - 1), "first_divergence");
}

static inline void expect_pass(verdict v, const char *what)
{
    char *first = cJSON_PrintUnformatted(first_of(&v));
    ck_assert_msg(v.n_fail == 0, "%s: %d of %d taps fail, first %s", what, v.n_fail, v.n_taps, first);
    ck_assert_msg(v.n_taps > 0, "%s: nothing was judged", what);
    free(first);
    cJSON_Delete(v.lines);
}

/* The first divergence; where[i] < 0 is not compared. `alone`: no other tap fails. */
static inline void expect_fail(verdict v, int step, const char *tap, const int64_t where[4], bool alone)
{
    const cJSON *f = first_of(&v), *at;
    char *text = cJSON_PrintUnformatted(f);
    ck_assert_msg(cJSON_IsObject(f), "step %d, %s: not noticed", step, tap);
    ck_assert_msg(cJSON_GetObjectItem(f, "step")->valueint == step &&
                      strcmp(cJSON_GetObjectItem(f, "tap")->valuestring, tap) == 0,
                  "step %d, %s: found %s", step, tap, text);
    at = cJSON_GetObjectItem(f, "where");
    for (int i = 0; where && i < cJSON_GetArraySize(at); i++)
        ck_assert_msg(where[i] < 0 || cJSON_GetArrayItem(at, i)->valueint == (int)where[i], "%s: found %s", tap, text);
    ck_assert_msg(!alone || v.n_fail == 1, "%s: %d taps fail", tap, v.n_fail);
    free(text);
    cJSON_Delete(v.lines);
}

/* Runs the tests, a NULL-ended list; the exit status of main. */
static inline int judge_main(const char *name, const TTest *const *tests)
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    tcase_add_checked_fixture(tc, open_models, close_models);
    tcase_set_timeout(tc, 250);
    for (; *tests; tests++) tcase_add_test(tc, *tests);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner), ran = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed || !ran;
}
