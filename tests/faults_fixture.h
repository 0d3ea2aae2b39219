/* What the tests of planted faults share: a faulty engine runs the inputs of its case (golden/fault_cases.h) and the
 * judge must find it, at the tap where the registry says that it shows first. Programs run in the project's root. */
#pragma once

#include "golden/fault_inputs.h"
#include "golden/judge.h"
#include "golden/record.h"
#include "reference/engine.h"
#include "reference/faulty.h"
#include "tests/trace_fixture.h"

#include <cjson/cJSON.h>

/* --- models, opened once per program --- */

enum { MAX_FAULT_MODELS = 24 };
static struct {
    const char *name;
    fh1_model m;
} fault_models[MAX_FAULT_MODELS];
static int n_fault_models;

/* The block in which all models of the program are run; a model of another one is put into it. */
static fh1_block fault_block = FH1_BLOCK_SA_M;

/* The same weights in another block: without a norm that it does not have, with that of the next layer for one more. */
static inline void change_block(fh1_model *m, fh1_block block)
{
    const int64_t n = m->config.n_layers;
    m->config.block = block;
    for (int64_t i = 0; i < n && block == FH1_BLOCK_S_A_M; i++)
        m->layers[i].attn_layernorm = m->layers[(i + 1) % n].pre_ff_layernorm;
    for (int64_t i = 0; i < n && block == FH1_BLOCK_SAM; i++) m->layers[i].pre_ff_layernorm.data = NULL;
}

static inline const fh1_model *fault_model(const char *name)
{
    for (int i = 0; i < n_fault_models; i++)
        if (strcmp(fault_models[i].name, name) == 0) return &fault_models[i].m;
    ck_assert_int_lt(n_fault_models, MAX_FAULT_MODELS);
    OK(gld_fault_model_open("golden/models", name, &fault_models[n_fault_models].m));
    if (fault_block != FH1_BLOCK_SA_M) change_block(&fault_models[n_fault_models].m, fault_block);
    fault_models[n_fault_models].name = name;
    return &fault_models[n_fault_models++].m;
}

static inline void close_fault_models(void)
{
    while (n_fault_models > 0) fh1_model_free(&fault_models[--n_fault_models].m);
}

/* --- recording and judging --- */

static inline gld_trace fault_record(fh1_engine *e, const fh1_model *m, const gld_trace *inputs)
{
    gld_trace out;
    ck_assert_ptr_nonnull(e);
    OK(gld_record_like(e, m, inputs, NULL, &out));
    e->free(e);
    return out;
}

/* What the judge says. */
typedef struct {
    int n_fail;
    int64_t step, layer; /* of the first divergence */
    fh1_tap_id tap;
    char text[256]; /* "step 1, model.layers.0.self_attn.q_rope", or "nothing" */
} fault_found;

static inline fault_found fault_judge(const gld_trace *t, const fh1_model *m)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    fh1_report *report;
    const fh1_profile *contract = fh1_profile_find(t->contract);
    ck_assert_ptr_nonnull(contract);
    OK(fh1_report_new(FH1_REPORT_JSON, true, out, &report));
    const gld_judge_options o = {.model = m, .profile = contract, .subject = "t", .make_engine = ref_engine_new};
    OK(gld_judge(t, &o, report));
    fh1_report_end_subject(report, "t", NULL, 0);
    fh1_report_finish(report, "0", "fh1 check");
    fh1_report_free(report);
    fclose(out);

    fault_found f = {.step = -1, .tap = FH1_TAP_COUNT, .text = "nothing"};
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *o_line = cJSON_Parse(line);
        const cJSON *first = cJSON_GetObjectItem(o_line, "first_divergence");
        const cJSON *verdict = cJSON_GetObjectItem(o_line, "verdict");
        if (!cJSON_GetObjectItem(o_line, "summary")) f.n_fail += strcmp(verdict->valuestring, "FAIL") == 0;
        if (cJSON_IsObject(first)) {
            const char *name = cJSON_GetObjectItem(first, "tap")->valuestring;
            ck_assert(fh1_tap_parse(m->config.family, name, m->config.n_layers, &f.tap, &f.layer));
            f.step = cJSON_GetObjectItem(first, "step")->valueint;
            snprintf(f.text, sizeof f.text, "step %d, %s", (int)f.step, name);
        }
        cJSON_Delete(o_line);
    }
    free(text);
    return f;
}

/* `f` on one model and one set of inputs, by ref-f32 and its contract. */
static inline fault_found fault_run(fh1_fault f, const char *model, int inputs)
{
    const fh1_model *m = fault_model(model);
    gld_trace in;
    OK(gld_fault_inputs(&m->config, inputs, &in));
    gld_trace t = fault_record(ref_faulty_engine_new("ref-f32", NULL, 0, f), m, &in);
    const fault_found found = fault_judge(&t, m);
    gld_trace_free(&t);
    gld_trace_free(&in);
    return found;
}

static inline bool fault_has_rule(const fh1_fault_info *info, const char *rule)
{
    const size_t n = strlen(rule);
    for (const char *p = info->caught_by; (p = strstr(p, rule)); p += n)
        if ((p == info->caught_by || p[-1] == ' ') && (p[n] == 0 || p[n] == ' ')) return true;
    return false;
}

/* Those whose op begins with `op`, or the others, into out[n]; returns how many. */
static inline int faults_of_op(const fh1_fault *list, int n, const char *op, bool others, fh1_fault *out)
{
    int kept = 0;
    for (int i = 0; i < n; i++)
        if ((strncmp(fh1_fault_get(list[i])->op, op, strlen(op)) == 0) != others) out[kept++] = list[i];
    ck_assert_int_gt(kept, 0);
    return kept;
}

/* Each fault of the list that names the rule `check` FAILs in its case, first at its tap; all are tried before the
 * test gives up. */
static inline void faults_are_found(const fh1_fault *list, int n)
{
    char missed[16384] = "";
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        const fh1_fault_info *info = fh1_fault_get(list[i]);
        const gld_fault_case c = gld_fault_case_of(list[i], gld_fault_family(list[i]));
        if (!fault_has_rule(info, "check")) continue;
        const fault_found found = fault_run(list[i], c.model, (int)c.inputs);
        if (found.n_fail > 0 && found.tap == info->tap) continue;
        char want[FH1_TAP_NAME_SIZE];
        used += (size_t)snprintf(missed + used, sizeof missed - used, "\n  %s on %s %s: %s instead of %s", info->name,
                                 c.model, gld_fault_input_name((int)c.inputs), found.text,
                                 fh1_tap_name(FH1_FALCON_H1, info->tap, 0, want));
        if (used >= sizeof missed) break;
    }
    ck_assert_msg(used == 0, "%s", missed);
}

/* Without a fault the second copy is the first, bit for bit, and the judge passes it: on every model and inputs that
 * the faults of the list use. */
static inline void no_fault_is_no_change(const fh1_fault *list, int n)
{
    for (int i = 0; i < n; i++) {
        const gld_fault_case c = gld_fault_case_of(list[i], gld_fault_family(list[i]));
        bool seen = false;
        for (int k = 0; k < i && !seen; k++) {
            const gld_fault_case d = gld_fault_case_of(list[k], gld_fault_family(list[k]));
            seen = strcmp(c.model, d.model) == 0 && c.inputs == d.inputs;
        }
        if (seen) continue;
        const fh1_model *m = fault_model(c.model);
        gld_trace in;
        OK(gld_fault_inputs(&m->config, (int)c.inputs, &in));
        gld_trace right = fault_record(ref_engine_new("ref-f32", NULL, 0), m, &in);
        gld_trace same = fault_record(ref_faulty_engine_new("ref-f32", NULL, 0, FH1_FAULT_NONE), m, &in);
        for (int64_t j = 0; j < right.n_steps; j++) {
            ck_assert_int_eq(right.steps[j].n_taps, same.steps[j].n_taps);
            for (int64_t k = 0; k < right.steps[j].n_taps; k++) {
                const fh1_tensor *a = &right.steps[j].taps[k].t, *b = &same.steps[j].taps[k].t;
                const size_t bytes = (size_t)(fh1_n_elems(a) * (fh1_dtype_bits(a->dtype) / 8));
                char name[FH1_TAP_NAME_SIZE];
                ck_assert_msg(
                    memcmp(a->data, b->data, bytes) == 0, "%s %s, step %d: %s differs", c.model,
                    gld_fault_input_name((int)c.inputs), (int)j,
                    fh1_tap_name(FH1_FALCON_H1, right.steps[j].taps[k].id, right.steps[j].taps[k].layer, name));
            }
        }
        const fault_found found = fault_judge(&same, m);
        ck_assert_msg(found.n_fail == 0, "%s %s: an honest engine fails at %s", c.model,
                      gld_fault_input_name((int)c.inputs), found.text);
        gld_trace_free(&right);
        gld_trace_free(&same);
        gld_trace_free(&in);
    }
}

/* Runs the tests, a NULL-ended list; the exit status of main. */
static inline int faults_main(const char *name, const TTest *const *tests)
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    tcase_add_checked_fixture(tc, NULL, close_fault_models);
    tcase_set_timeout(tc, 250);
    for (; *tests; tests++) tcase_add_test(tc, *tests);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner), ran = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed || !ran;
}
