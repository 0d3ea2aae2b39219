/* The seeded schedule: the same everywhere for a seed, valid inputs for every geometry, and the cases in it
 * that it is made for (padding, hand-overs between calls, documents of one, two and K tokens). */
#include "golden/record.h"

#include "tests/small_config.h"
#include "tests/trace_fixture.h"

static fh1_model model;

static void begin(void)
{
    model.config = small_config();
}

static bool same_inputs(const gld_trace *a, const gld_trace *b)
{
    for (int64_t j = 0; j < a->n_steps; j++) {
        const fh1_batch *x = &a->steps[j].batch, *y = &b->steps[j].batch;
        if (x->T != y->T || memcmp(x->ids, y->ids, (size_t)(x->B * x->T) * sizeof *x->ids) != 0) return false;
    }
    return a->n_steps == b->n_steps;
}

START_TEST(test_ragged_schedule)
{
    static const int64_t calls[] = {37, 1, 1, 5, 1};
    gld_trace t, again, other;
    OK(gld_schedule_seeded(&model.config, (uint64_t)_i, 0, &t));
    OK(gld_schedule_seeded(&model.config, (uint64_t)_i, 0, &again));
    OK(gld_schedule_seeded(&model.config, (uint64_t)_i + 100, 0, &other));
    OK(gld_trace_check_inputs(&t, &model.config));
    ck_assert(same_inputs(&t, &again));
    ck_assert(!same_inputs(&t, &other));
    ck_assert_int_eq(t.n_steps, N_OF(calls));
    for (int j = 0; j < N_OF(calls); j++) {
        const fh1_batch *b = &t.steps[j].batch;
        ck_assert_int_eq(b->B, 3);
        ck_assert_int_eq(b->T, calls[j]);
        ck_assert_ptr_nonnull(b->mask);
        ck_assert_ptr_nonnull(b->positions);
        for (int64_t row = 0; row < 3; row++) { /* the last position is that of a row without padding */
            int64_t n_real = 0;
            for (int64_t col = 0; col < b->mask_len; col++) n_real += b->mask[row * b->mask_len + col];
            ck_assert_int_eq(b->positions[row * b->T + b->T - 1], n_real - 1);
            if (j == 0)
                ck_assert(row == 0 ? n_real == 37 : row == 1 ? n_real > 3 && n_real < 37 : n_real >= 1 && n_real <= 3);
        }
    }
    /* Planted: a hole in the prefill is found by the check that every schedule passes. */
    ((int64_t *)(uintptr_t)t.steps[0].batch.mask)[20] = 0;
    FAILS(gld_trace_check_inputs(&t, &model.config), FH1_E_INPUT, "step 0: row 0, column 20");
    gld_trace_free(&t);
    gld_trace_free(&again);
    gld_trace_free(&other);
}
END_TEST

START_TEST(test_packed_schedule)
{
    gld_trace t;
    OK(gld_schedule_seeded(&model.config, (uint64_t)_i, 1, &t));
    OK(gld_trace_check_inputs(&t, &model.config));
    ck_assert_int_eq(t.n_steps, 4);
    const fh1_batch *b = &t.steps[0].batch;
    bool lengths[64] = {false};
    for (int64_t row = 0; row < 2; row++) {
        int64_t begin_col = 0;
        for (int64_t col = 0; col < b->T; col++) {
            int64_t i = row * b->T + col;
            if (col > 0 && b->seq_idx[i] != b->seq_idx[i - 1]) {
                ck_assert_int_eq(b->seq_idx[i], b->seq_idx[i - 1] + 1);
                lengths[col - begin_col] = true;
                begin_col = col;
            }
            ck_assert_int_eq(b->positions[i], col - begin_col); /* positions restart with the document */
        }
        ck_assert_int_ge(b->seq_idx[row * b->T + b->T - 1], 1);
        ck_assert_int_le(b->seq_idx[row * b->T + b->T - 1], 3);
        ck_assert_int_eq(t.steps[1].batch.positions[row * 3], b->T - begin_col);
    }
    ck_assert(lengths[1] && lengths[2] && lengths[model.config.K]);
    ck_assert_ptr_null(t.steps[1].batch.seq_idx);
    ck_assert_ptr_nonnull(t.steps[2].batch.seq_idx);
    ck_assert_int_eq(t.steps[2].batch.positions[0], 0); /* new in the first column of row 0 */
    ck_assert_int_ne(t.steps[2].batch.positions[4], 0);
    ck_assert_int_eq(t.steps[2].batch.positions[4 + 1], 0); /* and in the second of row 1 */
    ck_assert_int_eq(t.steps[3].batch.positions[0], 4);
    ck_assert_int_eq(t.steps[3].batch.positions[1], 3);

    ((int64_t *)(uintptr_t)t.steps[2].batch.seq_idx)[0] = 0;
    FAILS(gld_trace_check_inputs(&t, &model.config), FH1_E_INPUT, "step 2: row 0, column 0");
    gld_trace_free(&t);
}
END_TEST

/* The smallest chunk and window, and large ones: no length leaves its bounds. */
START_TEST(test_schedule_geometries)
{
    static const int64_t K[] = {1, 2, 4, 90}, Q[] = {1, 2, 16, 256};
    gld_trace t;
    for (int i = 0; i < N_OF(K) * N_OF(Q) * 2; i++) {
        fh1_config c = model.config;
        c.K = K[i / 2 % N_OF(K)];
        c.Q = Q[i / 2 / N_OF(K)];
        OK(gld_schedule_seeded(&c, 7, i % 2, &t));
        OK(gld_trace_check_inputs(&t, &c));
        gld_trace_free(&t);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("schedule");
    TCase *tc = tcase_create("schedule");
    tcase_add_checked_fixture(tc, begin, NULL);
    tcase_add_loop_test(tc, test_ragged_schedule, 0, 8);
    tcase_add_loop_test(tc, test_packed_schedule, 0, 8);
    tcase_add_test(tc, test_schedule_geometries);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
