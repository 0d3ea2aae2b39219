/* How sharp the judge is on the real thing: traces of transformers, f32 and bf16, against a model in which one row of
 * one weight is 1 / 1.01 of what the library had. To the judge that is a library whose row is scaled by 1.01: every
 * matrix of every layer must fail first at its own tap, and the row must be named. */
#include "tests/faults_fixture.h"

#include "convert/hf_folder.h"

typedef struct {
    const char *name; /* in the layer, as suspects name it */
    fh1_tap_id tap;
    size_t at; /* of the weight in fh1_layer */
} matrix;

static const matrix matrices[] = {
    {"q_proj", FH1_TAP_Q_PROJ, offsetof(fh1_layer, q_w)},
    {"k_proj", FH1_TAP_K_PROJ, offsetof(fh1_layer, k_w)},
    {"v_proj", FH1_TAP_V_PROJ, offsetof(fh1_layer, v_w)},
    {"o_proj", FH1_TAP_O_PROJ, offsetof(fh1_layer, o_w)},
    {"in_proj", FH1_TAP_IN_PROJ, offsetof(fh1_layer, in_w)},
    {"out_proj", FH1_TAP_OUT_PROJ, offsetof(fh1_layer, out_w)},
    {"gate_proj", FH1_TAP_GATE_PROJ, offsetof(fh1_layer, gate_w)},
    {"up_proj", FH1_TAP_UP_PROJ, offsetof(fh1_layer, up_w)},
    {"down_proj", FH1_TAP_DOWN_PROJ, offsetof(fh1_layer, down_w)},
};
enum { N_MATRICES = sizeof matrices / sizeof *matrices };

static const char *const subjects[][2] = {
    {"golden/models/mini-0.5b", "golden/traces/mini-0.5b/t37.safetensors"},
    {"golden/models/mini-34b", "golden/traces/mini-34b/t37.safetensors"},
    {"golden/models/mini-0.5b-bf16", "golden/traces/mini-0.5b-bf16/t37.safetensors"},
    {"golden/models/mini-34b-bf16", "golden/traces/mini-34b-bf16/t37.safetensors"},
};

/* The weight in f64, row `row` divided by `by`; the view is put into `w`, the buffer is returned. */
static double *scale_row(fh1_tensor *w, int64_t row, double by)
{
    const int64_t n = fh1_n_elems(w), width = n / w->shape[0];
    double *v = malloc((size_t)n * sizeof *v);
    ck_assert_ptr_nonnull(v);
    fh1_to_f64(v, w->data, w->dtype, n);
    for (int64_t i = 0; i < width; ++i) v[row * width + i] /= by;
    w->data = v;
    w->dtype = FH1_F64;
    return v;
}

/* The summary object of the judgement; the caller deletes it. */
static cJSON *judged(const fh1_model *m, const gld_trace *t)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    fh1_report *report;
    const gld_judge_options o = {.model = m,
                                 .profile = fh1_profile_find(t->contract),
                                 .subject = "t",
                                 .make_engine = ref_engine_new,
                                 .make_faulty = ref_faulty_engine_new};
    OK(fh1_report_new(FH1_REPORT_JSON, false, out, &report));
    OK(gld_judge(t, &o, report));
    fh1_report_end_subject(report, "t", NULL, 0);
    fh1_report_finish(report, "", "");
    fh1_report_free(report);
    fclose(out);
    char *last = strstr(text, "{\"summary\"");
    ck_assert_ptr_nonnull(last);
    cJSON *summary = cJSON_Parse(last);
    free(text);
    return summary;
}

static const char *text_of(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItem(o, key);
    return cJSON_IsString(v) ? v->valuestring : "";
}

/* The row is the first suspect: "scale of q_proj.weight row[3]". */
static bool names_the_row(const cJSON *summary, const matrix *x, int64_t row)
{
    char wanted[64];
    snprintf(wanted, sizeof wanted, "scale of %s.weight row[%lld]", x->name, (long long)row);
    return strcmp(text_of(cJSON_GetArrayItem(cJSON_GetObjectItem(summary, "suspects"), 0), "fault"), wanted) == 0;
}

START_TEST(one_row_scaled_by_one_percent)
{
    fh1_model m;
    gld_trace t;
    int named = 0, total = 0;
    OK(cvt_hf_folder_open(subjects[_i][0], &m));
    OK(gld_trace_open(subjects[_i][1], &m, NULL, &t));
    for (int k = 0; k < N_MATRICES; ++k)
        for (int64_t layer = 0; layer < m.config.n_layers; ++layer) {
            fh1_tensor *w = (fh1_tensor *)(void *)((char *)&m.layers[layer] + matrices[k].at);
            const fh1_tensor kept = *w;
            const int64_t row = (7 * k + layer) % kept.shape[0];
            char tap[FH1_TAP_NAME_SIZE];
            fh1_tap_name(FH1_FALCON_H1, matrices[k].tap, layer, tap);
            double *v = scale_row(w, row, 1.01);
            cJSON *summary = judged(&m, &t);
            free(v);
            const cJSON *first = cJSON_GetObjectItem(summary, "first_divergence");
            ck_assert_msg(strcmp(text_of(summary, "verdict"), "FAIL") == 0, "%s %s row %lld is not seen",
                          subjects[_i][0], tap, (long long)row);
            ck_assert_str_eq(text_of(first, "tap"), tap);
            named += names_the_row(summary, &matrices[k], row);
            ++total;
            cJSON_Delete(summary);

            *w = kept;
            v = scale_row(w, row, 1); /* the same numbers in f64: nothing to see */
            summary = judged(&m, &t);
            free(v);
            *w = kept;
            ck_assert_msg(strcmp(text_of(summary, "verdict"), "PASS") == 0, "%s %s: widening is a fault",
                          subjects[_i][0], tap);
            cJSON_Delete(summary);
        }
    printf("%s: a row of %d weights scaled by 1.01: all fail at their tap, %d are named\n", subjects[_i][0], total,
           named);
    ck_assert_int_eq(named, total);
    gld_trace_free(&t);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scaled_row");
    TCase *tc = tcase_create("real traces");
    tcase_set_timeout(tc, 200);
    tcase_add_loop_test(tc, one_row_scaled_by_one_percent, 0, sizeof subjects / sizeof *subjects);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
