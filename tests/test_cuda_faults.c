/* Planted faults in cuda-host: without one the copy is the engine bit for bit, one of each kind is caught where the
 * registry says, and a fault that the engine cannot have is refused. The whole matrix is ci/faults. */
#include "cli/fault_cuda.h"
#include "cli/fault_matrix.h"
#include "cuda/engine.h"
#include "cuda/faulty.h"
#include "golden/fault_inputs.h"
#include "golden/record.h"
#include "tests/trace_fixture.h"

static fault_bench *bench;

static void open_bench(void)
{
    OK(fault_bench_new("golden/models", false, &bench));
    fault_bench_take_cuda(bench);
}

static void close_bench(void)
{
    fault_bench_free(bench);
}

static fault_row row_of(const char *name)
{
    const fh1_fault f = fh1_fault_find(name);
    ck_assert_msg(f != FH1_FAULT_NONE, "%s", name);
    fault_row row;
    OK(fault_row_run(bench, f, gld_fault_family(f), fh1_fault_get(f), &row));
    return row;
}

static void must_be_caught(const char *name, const char *where)
{
    const fault_row r = row_of(name);
    ck_assert_msg(r.killed && r.acts && r.right_tap && r.right_step, "%s: %s, wanted %s", name, r.found, r.wanted);
    ck_assert_str_eq(r.found, where);
}

START_TEST(faults_of_launches_are_caught)
{
    must_be_caught("mup_after_conv", "step 0 mamba.conv_act");
    must_be_caught("key_multiplier_dropped", "step 0 self_attn.k_rope");
    must_be_caught("first_key_not_seen", "step 0 self_attn.context");
    must_be_caught("gated_norm_twice", "step 0 mamba.gated");
}
END_TEST

START_TEST(edits_of_model_and_inputs_are_caught)
{
    must_be_caught("down_multiplier_twice", "step 0 layers.0");
    must_be_caught("positions_of_row_0", "step 0 self_attn.q_rope");
}
END_TEST

START_TEST(op_cases_catch_what_the_registry_says)
{
    const fault_row r = row_of("input_without_dt");
    ck_assert(r.killed && r.red[FAULT_RULE_LATTICE] == 1 && r.red[FAULT_RULE_CHECK] == 1);
    ck_assert_int_eq(r.runs[FAULT_RULE_LAW], 0);
}
END_TEST

static void record(fh1_engine *e, const fh1_model *m, const gld_trace *in, gld_trace *out)
{
    OK(gld_record_like(e, m, in, NULL, out));
    e->free(e);
}

static const char *const families[] = {"odd", "mamba-untied", "block-sam", "block-sequential"};

START_TEST(without_a_fault_nothing_changes)
{
    fh1_model m;
    fh1_engine *e;
    gld_trace in, a, b;
    OK(gld_fault_model_open("golden/models", families[_i], &m));
    OK(gld_fault_inputs(&m.config, GLD_RAGGED, &in));
    OK(cu_engine_new("cuda-host", NULL, 0, &e));
    record(e, &m, &in, &a);
    OK(cu_faulty_engine_new("cuda-host", NULL, 0, FH1_FAULT_NONE, &e));
    record(e, &m, &in, &b);
    ck_assert_int_eq(a.n_steps, b.n_steps);
    for (int64_t s = 0; s < a.n_steps; ++s) {
        ck_assert_int_eq(a.steps[s].n_taps, b.steps[s].n_taps);
        for (int64_t i = 0; i < a.steps[s].n_taps; ++i) {
            const fh1_tensor *x = &a.steps[s].taps[i].t, *y = &b.steps[s].taps[i].t;
            const size_t bytes = (size_t)(fh1_n_elems(x) * (fh1_dtype_bits(x->dtype) / 8));
            ck_assert_mem_eq(x->data, y->data, bytes);
        }
    }
    gld_trace_free(&a);
    gld_trace_free(&b);
    gld_trace_free(&in);
    fh1_model_free(&m);
}
END_TEST

START_TEST(what_has_no_meaning_is_refused)
{
    fh1_engine *e;
    int has = 0, lacks = 0;
    for (int f = 1; f < FH1_FAULT_COUNT; ++f) {
        has += fault_cuda_has((fh1_fault)f);
        lacks += fault_cuda_lacks((fh1_fault)f) != NULL;
        ck_assert(!cu_faulty_plants((fh1_fault)f) || fault_cuda_has((fh1_fault)f));
    }
    ck_assert_int_ge(has, 200);
    ck_assert_int_eq(lacks, 7);
    fh1_status s = fault_cuda_engine_new(FH1_FAULT_EMPTY_ROW_IS_NAN, &e);
    ck_assert(s && s->code == FH1_E_INPUT);
    s = cu_faulty_engine_new("cuda-host", NULL, 0, FH1_FAULT_DT_BIAS_DROPPED, &e);
    ck_assert(s && s->code == FH1_E_INPUT);
    s = cu_faulty_engine_new("cuda", NULL, 0, FH1_FAULT_NONE, &e);
    ck_assert(s && s->code == FH1_E_INPUT);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {faults_of_launches_are_caught, edits_of_model_and_inputs_are_caught,
                                  op_cases_catch_what_the_registry_says, what_has_no_meaning_is_refused};
    Suite *suite = suite_create("cuda_faults");
    TCase *tc = tcase_create("cuda_faults");
    tcase_add_checked_fixture(tc, open_bench, close_bench);
    tcase_set_timeout(tc, 250);
    for (int i = 0; i < N_OF(tests); i++) tcase_add_test(tc, tests[i]);
    tcase_add_loop_test(tc, without_a_fault_nothing_changes, 0, N_OF(families));
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner), ran = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed || !ran;
}
