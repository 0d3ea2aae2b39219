/* The judge of gradients: labels, rules, places, suspects; and the checks of a backward pass. Each with something that
 * it must reject. */
#include "cli/gradcheck.h"
#include "golden/grad_rules.h"
#include "golden/record.h"
#include "tests/trace_fixture.h"

#include "convert/model_open.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- labels ---- */

START_TEST(a_label_predicted_from_padding_is_refused)
{
    const int64_t ids[2 * 4] = {1, 2, 3, 4, 5, 6, 7, 8};
    const int64_t left[2 * 4] = {1, 1, 1, 1, 0, 0, 1, 1}, right[2 * 4] = {1, 1, 1, 1, 1, 1, 0, 0};
    int64_t labels[2 * 4] = {-100, 2, 3, 4, -100, -100, -100, 8};
    fh1_batch b = {.B = 2, .T = 4, .ids = ids, .mask = left, .mask_len = 4, .labels = labels};
    OK(gld_grad_check_labels(&b, 10));
    labels[6] = 7; /* the first real token of row 1 */
    FAILS(gld_grad_check_labels(&b, 10), FH1_E_INPUT, "row 1, column 2: a label that is predicted from padding");
    b.mask = right;
    labels[5] = 6;
    labels[6] = labels[7] = -100;
    OK(gld_grad_check_labels(&b, 10));
    labels[7] = 8;
    FAILS(gld_grad_check_labels(&b, 10), FH1_E_INPUT, "row 1, column 3");
    for (int i = 0; i < 8; i++) labels[i] = -100;
    labels[0] = 1; /* nobody predicts it */
    FAILS(gld_grad_check_labels(&b, 10), FH1_E_INPUT, "no label counts");
    b.labels = NULL;
    FAILS(gld_grad_check_labels(&b, 10), FH1_E_INPUT, "gradients without labels");
}
END_TEST

/* ---- rules ---- */

enum { ROWS = 8, WIDTH = 64, N = ROWS * WIDTH };

typedef struct {
    double judged[N], truth[N], spread2[N];
    gld_grad_errors t;
    fh1_tap_result r;
    int64_t where;
} rule;

/* An honest tensor: errors of one sigma of the spread, alternating. */
static rule *honest(void)
{
    rule *x = calloc(1, sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (int i = 0; i < N; i++) {
        x->truth[i] = 1 + (double)(i % 7);
        x->spread2[i] = 1e-12;
        x->judged[i] = x->truth[i] + (i % 2 ? 1e-6 : -1e-6);
    }
    x->t = (gld_grad_errors){.profile = fh1_profile_find("fp32"),
                             .stored = FH1_F32,
                             .rows = ROWS,
                             .width = WIDTH,
                             .judged = x->judged,
                             .truth = x->truth,
                             .spread2 = x->spread2,
                             .samples = 400};
    return x;
}

static fh1_verdict verdict(rule *x)
{
    memset(&x->r, 0, sizeof x->r);
    gld_grad_rule(&x->t, &x->r, &x->where);
    return x->r.verdict;
}

START_TEST(rules_take_what_the_spread_allows)
{
    rule *x = honest();
    ck_assert_int_eq(verdict(x), FH1_PASS);
    ck_assert(x->r.margin < 1 && fabs(x->r.rms_ratio - 1) < 1e-6);

    for (int i = 0; i < N; i++) x->judged[i] = x->truth[i] * (1 + 4e-6); /* all of it, 4 sigma and more */
    ck_assert_int_eq(verdict(x), FH1_FAIL);
    ck_assert_ptr_nonnull(strstr(x->r.reason, "RMS of the tensor"));

    memcpy(x->judged, x->truth, sizeof x->truth);
    for (int i = 3 * WIDTH; i < 4 * WIDTH; i++) x->judged[i] += 6e-6; /* one row: 2 sigma of the whole tensor */
    ck_assert_int_eq(verdict(x), FH1_FAIL);
    ck_assert_ptr_nonnull(strstr(x->r.reason, "RMS of one row"));
    ck_assert(x->where >= 3 * WIDTH && x->where < 4 * WIDTH);

    memcpy(x->judged, x->truth, sizeof x->truth);
    x->judged[200] += 40e-6; /* one element: 1.8 sigma of the tensor, 5 of its row by RMS */
    ck_assert_int_eq(verdict(x), FH1_FAIL);
    ck_assert_int_eq(x->where, 200);

    memcpy(x->judged, x->truth, sizeof x->truth);
    x->judged[77] = (double)NAN;
    ck_assert_int_eq(verdict(x), FH1_FAIL);
    ck_assert_int_eq(x->where, 77);
    free(x);
}
END_TEST

/* A row of the embedding whose id is nowhere in the batch: whatever stands there came from elsewhere. */
START_TEST(rows_that_nothing_reads_are_zero)
{
    rule *x = honest();
    for (int i = 2 * WIDTH; i < 3 * WIDTH; i++) x->truth[i] = x->judged[i] = x->spread2[i] = 0;
    x->t.lookup = true;
    ck_assert_int_eq(verdict(x), FH1_PASS);
    x->judged[2 * WIDTH + 5] = -1e-9;
    ck_assert_int_eq(verdict(x), FH1_FAIL);
    ck_assert_int_eq(x->where, 2 * WIDTH + 5);
    ck_assert(strstr(x->r.reason, "no token reads") && x->r.max_err == 1e-9);
    x->t.lookup = false; /* elsewhere it is as good as zero */
    ck_assert_int_eq(verdict(x), FH1_PASS);
    free(x);
}
END_TEST

START_TEST(what_could_not_show_a_fault_is_mistrusted)
{
    rule *x = honest();
    for (int i = 0; i < N; i++) x->truth[i] = x->judged[i] = x->spread2[i] = 0;
    ck_assert_int_eq(verdict(x), FH1_MISTRUSTED);
    x->judged[5] = 1e-3; /* a gradient where there is none */
    ck_assert_int_eq(verdict(x), FH1_FAIL);
    for (int i = 0; i < N; i++) {
        x->truth[i] = i % 2 ? 1e-9 : -1e-9;
        x->spread2[i] = 1e-18;
        x->judged[i] = 0;
    }
    ck_assert_int_eq(verdict(x), FH1_MISTRUSTED);
    free(x);
}
END_TEST

/* ---- an engine ---- */

static fh1_model m;
static gradcheck_batch batch;

static void open_model(void)
{
    OK(cvt_model_open("golden/models/odd", &m));
    OK(gradcheck_batch_new(&m.config, 1, 7, &batch));
    ck_assert_str_eq(batch.name, "packed");
}

static void close_model(void)
{
    gradcheck_batch_free(&batch);
    fh1_model_free(&m);
}

/* What a report of all checks says first: "grad.…" or "backward.…"; empty: PASS. */
static void first_of(const char *engine, fh1_fault f, char *tap, size_t size, bool without_exact)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    fh1_report *report;
    gld_grad_truth truth;
    const gradcheck_options o = {.seed = 1, .elements = 1};
    fh1_engine *e = ref_faulty_engine_new(engine, NULL, 0, f);
    OK(fh1_report_new(FH1_REPORT_JSON, false, out, &report));
    OK(gld_grad_truth_new(&m, &batch.batch, e->profile, 0, 0, ref_engine_new, &truth));
    const gradcheck_case c = {.m = &m, .truth = &truth, .o = &o, .subject = "engine", .report = report};
    if (without_exact) OK(gradcheck_adjoint(&c, e));
    else OK(gradcheck_engine(&c, e));
    fh1_report_end_subject(report, "engine", NULL, 0);
    fh1_report_finish(report, "0", "none");
    fh1_report_free(report);
    fclose(out);
    tap[0] = 0;
    const char *first = strstr(text, "\"first_divergence\":{\"tap\":\"");
    if (first) sscanf(first + strlen("\"first_divergence\":{\"tap\":\""), "%95[^\"]", tap);
    ck_assert(size >= 96);
    free(text);
    gld_grad_truth_free(&truth);
    e->free(e);
}

START_TEST(honest_engines_pass_every_check)
{
    static const char *const engines[] = {"ref-f64", "ref-f32", "ref-bf16"};
    for (int i = 0; i < N_OF(engines); i++) {
        char tap[96];
        first_of(engines[i], FH1_FAULT_NONE, tap, sizeof tap, false);
        ck_assert_msg(!*tap, "%s: %s", engines[i], tap);
    }
}
END_TEST

START_TEST(each_check_sees_the_fault_that_is_its_own)
{
    static const struct {
        const char *engine, *fault, *tap;
        bool adjoint;
    } cases[] = {
        /* the complex step, at the parameter that is wrong first */
        {"ref-f64", "grad_key_multiplier_dropped", "grad.model.layers.2.self_attn.k_proj.weight", false},
        {"ref-f64", "grad_carry_crosses_documents", "grad.model.layers.2.mamba.A_log", false},
        {"ref-f64", "grad_embed_padding_row_kept", "grad.model.embed_tokens.weight", false},
        /* the gauge */
        {"ref-f32", "grad_mup_of_dt_dropped", "grad.model.layers.2.mamba.in_proj.weight", false},
        {"ref-bf16", "grad_residual_not_passed", "grad.model.layers.2.self_attn.o_proj.weight", false},
        /* <Jv,w> = <v,Jtw> knows neither labels nor gradients of a loss */
        {"ref-f64", "grad_head_multiplier_dropped", "backward.adjoint", true},
        {"ref-f32", "grad_norm_constant", "backward.adjoint", true},
        /* a pass that adds */
        {"ref-f64", "grad_weight_overwritten", "backward.accumulate", false},
    };
    for (int i = 0; i < N_OF(cases); i++) {
        char tap[96];
        first_of(cases[i].engine, fh1_fault_find(cases[i].fault), tap, sizeof tap, cases[i].adjoint);
        ck_assert_msg(strcmp(tap, cases[i].tap) == 0, "%s %s: %s", cases[i].engine, cases[i].fault, tap);
    }
}
END_TEST

/* A report that nobody reads. */
static fh1_report *no_report(FILE **out)
{
    fh1_report *report;
    *out = fopen("/dev/null", "w");
    OK(fh1_report_new(FH1_REPORT_JSON, false, *out, &report));
    return report;
}

START_TEST(a_constant_factor_is_told_with_its_meaning)
{
    gld_grad_truth truth;
    gld_grad_first first;
    FILE *out;
    fh1_report *report = no_report(&out);
    OK(gld_grad_truth_new(&m, &batch.batch, fh1_profile_find("fp32"), 0, 0, ref_engine_new, &truth));
    fh1_tensor *grads = calloc((size_t)truth.grads->n, sizeof *grads);
    fh1_grads *judged;
    OK(gld_grads_new(&m, FH1_F64, &judged));
    for (int64_t k = 0; k < judged->n; k++) {
        const fh1_tensor *from = &truth.grads->params[k].grad;
        for (int64_t i = 0; i < fh1_n_elems(from); i++)
            fh1_set(&judged->params[k].grad, i, fh1_get(from, i) * (double)truth.n_labels);
        grads[k] = judged->params[k].grad;
    }
    const gld_grad_judged j = {.subject = "sum", .grads = grads, .make_faulty = ref_faulty_engine_new};
    OK(gld_grad_judge(&truth, &j, report, &first));
    ck_assert(first.failed && first.param == 0 && first.n_suspects > 0);
    ck_assert_str_eq(first.suspect[0].fault, "constant_factor");
    ck_assert_msg(strstr(first.suspect[0].evidence, "number of labels") != NULL, "%s", first.suspect[0].evidence);
    fh1_report_free(report);
    fclose(out);
    fh1_grads_free(judged);
    free(grads);
    gld_grad_truth_free(&truth);
}
END_TEST

/* How often each fault was planted in the search for causes. */
static int planted[FH1_FAULT_COUNT];

static fh1_engine *counting(const char *name, const fh1_profile *p, unsigned variants, fh1_fault f)
{
    planted[f]++;
    return ref_faulty_engine_new(name, p, variants, f);
}

/* Gradients that no known fault explains: each that the model can have is tried, and none else. */
static void search_for_causes(const char *path)
{
    fh1_model model;
    gradcheck_batch b;
    gld_grad_truth truth;
    gld_grad_first first;
    FILE *out;
    fh1_report *report = no_report(&out);
    OK(cvt_model_open(path, &model));
    OK(gradcheck_batch_new(&model.config, 1, 0, &b));
    OK(gld_grad_truth_new(&model, &b.batch, fh1_profile_find("fp32"), 0, 0, ref_engine_new, &truth));
    fh1_tensor *grads = calloc((size_t)truth.grads->n, sizeof *grads);
    fh1_grads *judged;
    OK(gld_grads_new(&model, FH1_F64, &judged));
    for (int64_t k = 0; k < judged->n; k++) {
        const fh1_tensor *from = &truth.grads->params[k].grad;
        for (int64_t i = 0; i < fh1_n_elems(from); i++)
            fh1_set(&judged->params[k].grad, i, fh1_get(from, i) * (i % 2 ? -3 : 5));
        grads[k] = judged->params[k].grad;
    }
    memset(planted, 0, sizeof planted);
    const gld_grad_judged j = {.subject = "noise", .grads = grads, .make_faulty = counting};
    OK(gld_grad_judge(&truth, &j, report, &first));
    ck_assert(first.failed && first.param == 0);
    for (int f = 1; f < FH1_FAULT_COUNT; f++)
        ck_assert_msg(planted[f] ==
                          (fh1_fault_is_gradient((fh1_fault)f) && fh1_fault_acts_on((fh1_fault)f, model.config.family)),
                      "%s, %s: %d times", path, fh1_fault_get((fh1_fault)f)->name, planted[f]);
    fh1_report_free(report);
    fclose(out);
    fh1_grads_free(judged);
    free(grads);
    gld_grad_truth_free(&truth);
    gradcheck_batch_free(&b);
    fh1_model_free(&model);
}

START_TEST(only_faults_of_the_family_are_suspects)
{
    search_for_causes("golden/models/odd");
    search_for_causes("golden/models/mamba-tied");
}
END_TEST

/* ---- traces ---- */

START_TEST(gradients_travel_in_a_trace)
{
    char path[] = "/tmp/fh1-gradcheck-XXXXXX";
    close(mkstemp(path));
    gld_trace t, again;
    fh1_engine *e = ref_engine_new("ref-f32", NULL, 0);
    OK(gld_record_backward(e, &m, &batch.batch, NULL, &t));
    OK(gld_trace_write(&t, path, true, NULL));
    OK(gld_trace_open(path, &m, NULL, &again));
    ck_assert_int_eq(gld_trace_n_grads(&again), gld_trace_n_grads(&t));
    ck_assert_int_eq(gld_trace_n_taps(&again), 1); /* the loss */
    for (int64_t k = 0; k < again.steps[0].n_grads; k++) {
        const gld_grad *a = &t.steps[0].grads[k], *b = &again.steps[0].grads[k];
        ck_assert_str_eq(a->name, b->name);
        ck_assert_int_eq(b->param, k);
        ck_assert_mem_eq(a->t.data, b->t.data, fh1_n_bytes(&a->t));
    }
    FILE *out;
    fh1_report *report = no_report(&out);
    gld_grad_first first;
    const gld_gradcheck_options o = {
        .model = &m, .profile = fh1_profile_find("fp32"), .subject = "trace", .make_engine = ref_engine_new};
    OK(gld_gradcheck_trace(&again, &o, report, &first));
    ck_assert(!first.failed && first.n_passed == again.steps[0].n_grads + 1);
    /* the same under a contract that an f32 engine does not keep */
    const gld_gradcheck_options exact = {
        .model = &m, .profile = fh1_profile_find("exact"), .subject = "trace", .make_engine = ref_engine_new};
    OK(gld_gradcheck_trace(&again, &exact, report, &first));
    ck_assert(first.failed);
    again.steps[0].batch.labels = NULL;
    FAILS(gld_gradcheck_trace(&again, &o, report, &first), FH1_E_INPUT, "gradients without labels");
    fh1_report_free(report);
    fclose(out);
    gld_trace_free(&t);
    gld_trace_free(&again);
    e->free(e);
    unlink(path);
}
END_TEST

/* ---- places ---- */

START_TEST(a_wrong_gradient_points_to_an_op)
{
    ck_assert_ptr_nonnull(strstr(gld_grad_points_to("model.layers.2.mamba.A_log"), "ssd_scan (dA_log)"));
    ck_assert_ptr_nonnull(strstr(gld_grad_points_to("model.embed_tokens.weight"), "embed"));
    fh1_grads *g;
    OK(gld_grads_new(&m, FH1_F32, &g));
    const struct {
        fh1_tap_id tap;
        const char *param;
    } places[] = {{FH1_TAP_SSD, "model.layers.2.mamba.D"},
                  {FH1_TAP_K_ROPE, "model.layers.2.self_attn.k_proj.weight"},
                  {FH1_TAP_EMBED, "model.embed_tokens.weight"},
                  {FH1_TAP_DT, "model.layers.2.mamba.dt_bias"}};
    for (int i = 0; i < N_OF(places); i++)
        ck_assert_str_eq(g->params[gld_grad_first_of(g, places[i].tap, 2)].name, places[i].param);
    fh1_grads_free(g);
}
END_TEST

/* ---- ops ---- */

START_TEST(ops_are_checked_where_no_model_reaches)
{
    static const char *const faults[] = {"grad_dt_clamp_zero_at_limit", "grad_past_keys_dropped",
                                         "grad_initial_state_lost",     "grad_weight_transposed",
                                         "grad_conv_window_dropped",    "adamw_eps_inside_root"};
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0);
    for (int k = -1; k < N_OF(faults); k++) {
        const fh1_fault f = k < 0 ? FH1_FAULT_NONE : fh1_fault_find(faults[k]);
        fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, f);
        int red = 0, both = 0, all = 0;
        for (int i = 0; gradcheck_op_name(i); i++) {
            fh1_tap_result r = {.verdict = FH1_SKIP};
            OK(gradcheck_op(i, e, truth, &m, &r));
            ck_assert(r.verdict == FH1_PASS || r.verdict == FH1_FAIL);
            if (r.verdict != FH1_FAIL) continue;
            all++;
            const char *op = fh1_fault_get(f)->op;
            both += strcmp(op, "ssd_scan") == 0 && strcmp(gradcheck_op_name(i), "selective_scan") == 0; /* one switch */
            red += strcmp(gradcheck_op_name(i), op) == 0;
        }
        ck_assert_int_eq(red, k < 0 ? 0 : 1);
        ck_assert_int_eq(all, red + both);
        e->free(e);
    }
    truth->free(truth);
}
END_TEST

int main(void)
{
    TCase *rules = tcase_create("rules"), *engines = tcase_create("engines");
    tcase_add_test(rules, a_label_predicted_from_padding_is_refused);
    tcase_add_test(rules, rules_take_what_the_spread_allows);
    tcase_add_test(rules, rows_that_nothing_reads_are_zero);
    tcase_add_test(rules, what_could_not_show_a_fault_is_mistrusted);
    tcase_set_timeout(engines, 250);
    tcase_add_checked_fixture(engines, open_model, close_model);
    tcase_add_test(engines, honest_engines_pass_every_check);
    tcase_add_test(engines, each_check_sees_the_fault_that_is_its_own);
    tcase_add_test(engines, a_constant_factor_is_told_with_its_meaning);
    tcase_add_test(engines, only_faults_of_the_family_are_suspects);
    tcase_add_test(engines, gradients_travel_in_a_trace);
    tcase_add_test(engines, a_wrong_gradient_points_to_an_op);
    tcase_add_test(engines, ops_are_checked_where_no_model_reaches);
    Suite *suite = suite_create("gradcheck");
    suite_add_tcase(suite, rules);
    suite_add_tcase(suite, engines);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner), ran = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed || !ran;
}
