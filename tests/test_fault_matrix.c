/* The matrix of faults and rules must be able to fail itself: an entry of the registry that points to a wrong tap or
 * names a rule that does not see the fault, and an honest engine that is none. */
#include "cli/fault_bench.h"
#include "cli/fault_matrix.h"
#include "reference/faulty.h"
#include "tests/trace_fixture.h"

#include <unistd.h>

static fault_bench *bench;

static void open_bench(void)
{
    OK(fault_bench_new("golden/models", false, &bench));
}

static void close_bench(void)
{
    fault_bench_free(bench);
}

static fault_row row_on(fh1_family family, const char *name, fh1_tap_id tap, const char *caught_by)
{
    const fh1_fault f = fh1_fault_find(name);
    ck_assert_msg(f != FH1_FAULT_NONE, "%s", name);
    fh1_fault_info info = fault_info_of(f, family);
    if (tap != FH1_TAP_COUNT) info.tap = tap;
    if (caught_by) info.caught_by = caught_by;
    fault_row row;
    OK(fault_row_run(bench, f, family, &info, &row));
    return row;
}

static fault_row row_of(const char *name, fh1_tap_id tap, const char *caught_by)
{
    return row_on(gld_fault_family(fh1_fault_find(name)), name, tap, caught_by);
}

START_TEST(a_true_entry_is_proven)
{
    const fault_row k = row_of("key_multiplier_dropped", FH1_TAP_COUNT, NULL);
    ck_assert(k.killed && k.right_tap && k.right_step && k.judged && k.acts && !k.late);
    ck_assert_int_eq(k.rank, 1);
    ck_assert_str_eq(k.found, "step 0 self_attn.k_rope");
    ck_assert_str_eq(k.changed, k.found);

    const fault_row r = row_of("reorder_keys_only", FH1_TAP_COUNT, NULL);
    ck_assert(r.killed && !r.judged && r.red[FAULT_RULE_LAW] == 1 && r.runs[FAULT_RULE_LAW] > 20);

    const fault_row c = row_of("carry_lost_at_50000", FH1_TAP_COUNT, NULL);
    ck_assert(c.killed && c.red[FAULT_RULE_HORIZON] == 1 && c.red[FAULT_RULE_TRAINED] == 0);

    const fault_row d = row_of("d_on_scaled_input", FH1_TAP_COUNT, NULL);
    ck_assert(d.killed && d.red[FAULT_RULE_LATTICE] == 1 && d.red[FAULT_RULE_HORIZON] == 1);
}
END_TEST

START_TEST(a_wrong_tap_is_red)
{
    const fault_row row = row_of("key_multiplier_dropped", FH1_TAP_CONTEXT, NULL);
    ck_assert(row.killed && !row.right_tap && row.right_step);
    ck_assert_str_eq(row.wanted, "self_attn.context");
}
END_TEST

START_TEST(a_rule_that_sees_nothing_is_red)
{
    static const struct {
        const char *fault, *caught_by;
        fault_rule owes;
    } cases[] = {{"key_multiplier_dropped", "check law.run_to_run", FAULT_RULE_LAW},
                 {"key_multiplier_dropped", "check lattice", FAULT_RULE_LATTICE},
                 {"reorder_keys_only", "check law.reorder", FAULT_RULE_CHECK},
                 {"reorder_keys_only", "law.reorder horizon", FAULT_RULE_HORIZON}};
    for (int i = 0; i < N_OF(cases); i++) {
        const fault_row row = row_of(cases[i].fault, FH1_TAP_COUNT, cases[i].caught_by);
        ck_assert_msg(!row.killed, "%s: %s", cases[i].fault, cases[i].caught_by);
        for (int r = 0; r < FAULT_RULES; r++) ck_assert_int_eq(row.owes[r], r == (int)cases[i].owes);
    }
}
END_TEST

START_TEST(a_dishonest_engine_is_rejected_by_every_rule)
{
    fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, fh1_fault_find("dt_stale_at_one_token"));
    fault_row row;
    OK(fault_engine_run(bench, e, &row));
    e->free(e);
    for (int r = 0; r < FAULT_RULE_GRADIENT; r++)
        ck_assert_msg(row.red[r] > 0 && row.red[r] <= row.runs[r], "%s accepts it", fault_rule_name(r));
    ck_assert(*row.rejected);
}
END_TEST

START_TEST(gradients_have_a_rule_of_their_own)
{
    const fault_row model = row_of("grad_key_multiplier_dropped", FH1_TAP_COUNT, "gradient");
    ck_assert(model.killed && model.right_tap && model.right_step && model.rank == 1);
    ck_assert_str_eq(model.found, "layers.2.self_attn.k_proj.weight");
    for (int r = 0; r < FAULT_RULE_GRADIENT; r++) ck_assert_int_eq(model.runs[r], 0);
    /* the op alone sees what no pass of a whole model reaches */
    const fault_row op = row_of("grad_past_keys_dropped", FH1_TAP_COUNT, "gradient");
    ck_assert(op.killed && !op.judged);
    ck_assert_str_eq(op.found, "backward.attention");
    /* an entry that points behind where it shows first */
    const fault_row wrong = row_of("grad_key_multiplier_dropped", FH1_TAP_EMBED, "gradient");
    ck_assert(wrong.killed && !wrong.right_tap);
    /* a dishonest engine is rejected */
    fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, fh1_fault_find("grad_norm_constant"));
    fault_row row = {0};
    OK(fault_gradient_honest(bench, e, &row, row.rejected, sizeof row.rejected));
    e->free(e);
    ck_assert(row.red[FAULT_RULE_GRADIENT] > 1 && strstr(row.rejected, "grad.model.layers.2"));
}
END_TEST

/* A fault that both families can have: on models of Falcon-Mamba, with the tap that it has there. */
START_TEST(gradients_of_falcon_mamba_are_held_too)
{
    const fault_row scan = row_on(FH1_FALCON_MAMBA, "grad_dt_decay_dropped", FH1_TAP_COUNT, NULL);
    ck_assert(scan.killed && scan.judged && scan.right_tap && scan.right_step && scan.rank == 1);
    ck_assert_str_eq(scan.found, "layers.2.mixer.dt_proj.weight");
    const fault_row adapter = row_on(FH1_FALCON_MAMBA, "grad_out_proj_adapter_not_seen", FH1_TAP_COUNT, NULL);
    ck_assert(adapter.killed && adapter.right_tap && adapter.rank == 1);
    /* the scan alone is that of the family */
    const fault_row op = row_on(FH1_FALCON_MAMBA, "grad_initial_state_lost", FH1_TAP_COUNT, NULL);
    ck_assert(op.killed && !op.judged);
    ck_assert_str_eq(op.found, "backward.selective_scan");
    /* an entry that points behind where it shows first, and one of what it cannot have */
    const fault_row wrong = row_on(FH1_FALCON_MAMBA, "grad_dt_decay_dropped", FH1_TAP_CONV_ACT, NULL);
    ck_assert(wrong.killed && !wrong.right_tap);
    ck_assert(!row_on(FH1_FALCON_MAMBA, "grad_groups_tiled", FH1_TAP_COUNT, NULL).killed);
}
END_TEST

START_TEST(what_catches_a_fault_is_told)
{
    char buf[256], cut[12];
    const fh1_fault key = fh1_fault_find("key_multiplier_dropped"), beams = fh1_fault_find("reorder_keys_only");
    ck_assert_str_eq(fault_caught_by(key, FH1_FALCON_H1, fh1_fault_get(key), buf, sizeof buf),
                     "check mini-0.5b mixed_padding self_attn.k_rope");
    ck_assert_str_eq(fault_caught_by(beams, FH1_FALCON_H1, fh1_fault_get(beams), buf, sizeof buf), "law.reorder");
    ck_assert_str_eq(fault_caught_by(key, FH1_FALCON_H1, fh1_fault_get(key), cut, sizeof cut), "check mini-");
    for (int f = 1; f < FH1_FAULT_COUNT; f++)
        ck_assert_int_lt((int)strlen(fault_caught_by((fh1_fault)f, gld_fault_family((fh1_fault)f),
                                                     fh1_fault_get((fh1_fault)f), buf, sizeof buf)),
                         255);
}
END_TEST

typedef struct {
    int n, job[8];
    bool error;
} seen;

static void note(void *user, const fault_row *row)
{
    seen *s = user;
    s->job[s->n++] = row->job;
    s->error |= *row->error != 0;
}

START_TEST(rows_come_in_order)
{
    int jobs[3] = {(int)fh1_fault_find("gate_and_up_swapped"), (int)fh1_fault_find("sample_passes_nan"),
                   (int)fh1_fault_find("key_multiplier_dropped")};
    for (int n = 1; n <= 4; n += 3) {
        seen s = {0};
        const fault_jobs j = {
            .folder = "golden/models", .jobs = jobs, .n_jobs = 3, .n_processes = n, .done = note, .user = &s};
        OK(fault_jobs_run(&j));
        ck_assert(s.n == 3 && !s.error && memcmp(s.job, jobs, sizeof jobs) == 0);
    }
    seen s = {0};
    const fault_jobs nowhere = {
        .folder = "/nowhere", .jobs = jobs, .n_jobs = 3, .n_processes = 2, .done = note, .user = &s};
    OK(fault_jobs_run(&nowhere));
    ck_assert(s.n == 3 && s.error);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_true_entry_is_proven,
                                  a_wrong_tap_is_red,
                                  a_rule_that_sees_nothing_is_red,
                                  a_dishonest_engine_is_rejected_by_every_rule,
                                  gradients_have_a_rule_of_their_own,
                                  gradients_of_falcon_mamba_are_held_too,
                                  what_catches_a_fault_is_told,
                                  rows_come_in_order};
    Suite *suite = suite_create("fault_matrix");
    TCase *tc = tcase_create("fault_matrix");
    tcase_add_checked_fixture(tc, open_bench, close_bench);
    tcase_set_timeout(tc, 250);
    for (int i = 0; i < N_OF(tests); i++) tcase_add_test(tc, tests[i]);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner), ran = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed || !ran;
}
