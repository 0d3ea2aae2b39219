/* Recording and greedy decoding. Every expected number comes from the formulas of the fake engine, placed here
 * by other code than the recorder's. */
#include "golden/record.h"

#include "tests/fake_engine.h"
#include "tests/small_config.h"

#include <math.h>

static fh1_model model;

static void begin(void)
{
    model.config = small_config();
}

/* -- what a right trace holds ------------------------------------------------------------------- */

static double rounded(double v, fh1_dtype compute, fh1_dtype store)
{
    double out;
    fh1_tensor t = fh1_view1(&out, compute, 1);
    fh1_set(&t, 0, v);
    v = fh1_get(&t, 0);
    t.dtype = store;
    fh1_set(&t, 0, v);
    return fh1_get(&t, 0);
}

/* Elements of one token's tap that are not what they should be. */
static int wrong_in_token(const fake *f, const fh1_engine *e, const gld_tap *tap, int64_t at, int64_t width,
                          const fh1_tokens *t, int64_t m)
{
    int n = 0;
    for (int64_t k = 0; k < width; k++) {
        double want = 0; /* padding */
        if (m >= 0)
            want = tap->id == FH1_TAP_LOGITS ? logit(f, t->id[m], t->position[m], k)
                                             : tap_value((int)tap->id, tap->layer, t->id[m], t->position[m], k);
        n += !fh1_within(fh1_error_of(fh1_get(&tap->t, at * width + k), rounded(want, e->dtype, tap->t.dtype)), 0);
    }
    return n;
}

static int64_t token_at(const fh1_tokens *t, int64_t row, int64_t col)
{
    for (int64_t m = t->row_begin[row]; m < t->row_begin[row + 1]; m++)
        if (t->col[m] == col) return m;
    return -1;
}

static int wrong_in_cache(const fh1_engine *e, const gld_tap *tap, const fh1_cache *cache, const int64_t *ids)
{
    const fh1_config *c = &model.config;
    int part = (int)tap->id - FH1_TAP_CACHE_KEY, n = 0;
    int64_t S = cache->n_cols, per_row = fh1_n_elems(&tap->t) / cache->B;
    for (int64_t i = 0; i < fh1_n_elems(&tap->t); i++) {
        int64_t b = i / per_row, k = i % per_row, col = -1;
        const fh1_cache_row *r = &cache->rows[b];
        if (part < 2) {
            col = k / c->A % S;
            k = k / (S * c->A) * c->A + k % c->A;
        } else if (r->n > 0) {
            col = r->col[r->n - 1];
        }
        bool real = false;
        for (int64_t s = 0; s < r->n; s++) real |= r->col[s] == col;
        double want = real ? cache_value(part, tap->layer, ids[b * 256 + col], k) : 0;
        n += !fh1_within(fh1_error_of(fh1_get(&tap->t, i), rounded(want, e->dtype, tap->t.dtype)), 0);
    }
    return n;
}

/* Walks a trace of the fake engine from its own inputs; counts what is wrong or missing. */
static int wrong_values(const fake *f, const fh1_engine *e, const gld_trace *trace, int64_t n_taps)
{
    int64_t ids[8 * 256]; /* [B, columns] of all steps */
    int n = 0;
    fh1_cache *cache;
    OK(fh1_cache_new(&model.config, FH1_F32, trace->steps[0].batch.B, &cache));
    for (int64_t j = 0; j < trace->n_steps; j++) {
        const gld_step *s = &trace->steps[j];
        fh1_tokens t;
        OK(fh1_tokens_pack(&s->batch, model.config.V, cache, &t));
        for (int64_t m = 0; m < t.M; m++) ids[t.row[m] * 256 + t.past + t.col[m]] = t.id[m];
        OK(fh1_cache_prepare(cache, &t));
        fh1_cache_commit(cache, &t);
        n += s->n_taps != n_taps + (s->batch.labels ? 1 : 0);
        for (int64_t i = 0; i < s->n_taps; i++) {
            const gld_tap *tap = &s->taps[i];
            int64_t columns = tap->t.rank > 1 ? tap->t.shape[1] : 1;
            if (tap->id == FH1_TAP_LOSS) n += !fh1_within(fh1_error_of(fh1_get(&tap->t, 0), 2.5), 0);
            else if (fh1_tap_is_cache(tap->id)) n += wrong_in_cache(e, tap, cache, ids);
            else
                for (int64_t at = 0; at < t.B * columns; at++)
                    n += wrong_in_token(f, e, tap, at, fh1_n_elems(&tap->t) / (t.B * columns), &t,
                                        token_at(&t, at / columns, at % columns + t.T - columns));
        }
        fh1_tokens_free(&t);
    }
    fh1_cache_free(cache);
    return n;
}

enum { ALL_TAPS = 2 + 2 * 21 + 2 + 2 * 4 }; /* of two layers; the loss comes with labels */

/* Ragged both ways, then a step, then several tokens with labels. */
static void ragged_inputs(gld_trace *t)
{
    static const int64_t ids0[] = {9, 9, 1, 2, 3, 4, 5, 9, 6, 7, 8, 10}, mask0[] = {0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1};
    static const int64_t ids1[] = {11, 12, 13}, mask1[] = {0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1};
    static const int64_t ids2[] = {14, 15, 16, 17, 18, 19}, labels2[] = {14, 15, -100, 17, 18, 19};
    OK(gld_trace_new(t));
    OK(gld_trace_add_step(t, &(fh1_batch){.B = 3, .T = 4, .ids = ids0, .mask = mask0, .mask_len = 4}));
    OK(gld_trace_add_step(t, &(fh1_batch){.B = 3, .T = 1, .ids = ids1, .mask = mask1, .mask_len = 5}));
    OK(gld_trace_add_step(t, &(fh1_batch){.B = 3, .T = 2, .ids = ids2, .labels = labels2}));
}

START_TEST(test_record_like)
{
    static const struct {
        fh1_dtype dtype;
        const char *profile;
        fh1_dtype store, stored;
    } cases[] = {
        {FH1_F64, "exact", FH1_DTYPE_COUNT, FH1_F64},
        {FH1_F32, "fp32", FH1_DTYPE_COUNT, FH1_F32},
        {FH1_F64, "exact", FH1_BF16, FH1_BF16},
        {FH1_F32, "fp32", FH1_F64, FH1_F64},
    };
    for (int i = 0; i < N_OF(cases); i++) {
        fake f = {.fault = NO_FAULT};
        fh1_engine e = engine_of(&f, cases[i].dtype, cases[i].profile);
        gld_record_options opt = {.store = cases[i].store};
        gld_trace like, out;
        ragged_inputs(&like);
        e.variants = FH1_VAR_MUP_ROUNDED | FH1_VAR_RIGHT_PAD_CACHE;
        OK(gld_record_like(&e, &model, &like, &opt, &out));
        ck_assert_int_eq(wrong_values(&f, &e, &out, ALL_TAPS), 0);
        ck_assert_int_eq(out.dtype, cases[i].stored);
        ck_assert_str_eq(out.contract, cases[i].profile);
        ck_assert_str_eq(out.variant, "mup_rounded,right_pad_cache");
        ck_assert_int_eq(f.n_calls, 3);
        gld_trace_free(&out);

        /* Planted: the engine hands out its neighbours' rows. */
        f.fault = SHIFTED;
        OK(gld_record_like(&e, &model, &like, &opt, &out));
        ck_assert_int_gt(wrong_values(&f, &e, &out, ALL_TAPS), 100);
        gld_trace_free(&out);
        gld_trace_free(&like);
    }
}
END_TEST

START_TEST(test_stored_types_follow_the_profile)
{
    fake f = {.fault = NO_FAULT};
    fh1_engine e = engine_of(&f, FH1_F32, "hf-eager-bf16");
    gld_trace like, out;
    ragged_inputs(&like);
    OK(gld_record_like(&e, &model, &like, NULL, &out));
    ck_assert_int_eq(wrong_values(&f, &e, &out, ALL_TAPS), 0);
    for (int64_t j = 0; j < out.n_steps; j++)
        for (int64_t i = 0; i < out.steps[j].n_taps; i++) {
            const gld_tap *tap = &out.steps[j].taps[i];
            ck_assert_int_eq(tap->t.dtype, fh1_profile_tap_dtype(e.profile, tap->id, j == 1, &model.config));
        }
    /* the scan's output is where a step and a prefill differ */
    ck_assert_int_ne(gld_trace_find(&out, 0, FH1_TAP_SSD, 0)->t.dtype,
                     gld_trace_find(&out, 1, FH1_TAP_SSD, 0)->t.dtype);
    gld_trace_free(&out);
    gld_trace_free(&like);
}
END_TEST

START_TEST(test_chosen_taps)
{
    fake f = {.fault = NO_FAULT};
    fh1_engine e = engine_of(&f, FH1_F64, "exact");
    fh1_tensor view, shape = fh1_tap_shape(&model.config, FH1_TAP_LOGITS, 3, 2, 1, 0);
    gld_trace like, out;
    ragged_inputs(&like);
    OK(gld_trace_add_tap(&like, FH1_TAP_LOGITS, 0, FH1_F32, &shape, &view)); /* T' = 1 in step 2 */
    OK(gld_record_like(&e, &model, &like, &(gld_record_options){"*.mid,logits,cache.1.*", false, FH1_DTYPE_COUNT},
                       &out));
    ck_assert_int_eq(out.steps[0].n_taps, 2 + 1 + 4);
    ck_assert_int_eq(out.steps[0].n_logits, 4);
    ck_assert_int_eq(out.steps[2].n_logits, 1);
    gld_trace_free(&out);
    OK(gld_record_like(&e, &model, &like, &(gld_record_options){NULL, true, FH1_DTYPE_COUNT}, &out));
    ck_assert_int_eq(out.steps[0].n_taps, ALL_TAPS - 8);
    ck_assert_ptr_null(gld_trace_find(&out, 0, FH1_TAP_CACHE_SSM, 0));
    gld_trace_free(&out);

    const gld_record_options none = {"cache.9.*", false, FH1_DTYPE_COUNT};
    FAILS(gld_record_like(&e, &model, &like, &none, &out), FH1_E_INPUT, "matches no tap");
    ck_assert_ptr_null(out.owner);

    f.n_calls = 0;
    f.fault = TWICE;
    FAILS(gld_record_like(&e, &model, &like, NULL, &out), FH1_E_INTERNAL, "came twice");
    ck_assert_int_eq(out.n_steps, 0);
    f.fault = BAD_SHAPE;
    FAILS(gld_record_like(&e, &model, &like, NULL, &out), FH1_E_INTERNAL, "engine fake hands out");

    f.fault = NO_FAULT;
    ((int64_t *)(uintptr_t)like.steps[1].batch.ids)[2] = 23;
    FAILS(gld_record_like(&e, &model, &like, NULL, &out), FH1_E_INPUT, "step 1: row 2, column 0");
    gld_trace_free(&like);
}
END_TEST

/* -- greedy ------------------------------------------------------------------------------------- */

enum { N_NEW = 5 };

typedef struct {
    const char *what;
    int64_t ids[2 * 4];
    int64_t mask[2 * 4], positions[2 * 4];
    bool has_mask, has_positions;
    int64_t n_real[2], first[2]; /* real tokens and the column of the first */
    int64_t next[2];             /* position of the first new token */
    int64_t n_logits;            /* enough when nothing is recorded */
    bool steps_have_positions;
} prompt;

static const prompt prompts[] = {
    {"no padding", {1, 2, 3, 4, 5, 6, 7, 8}, {0}, {0}, false, false, {4, 4}, {0, 0}, {4, 4}, 1, false},
    {"a mask of ones",
     {1, 2, 3, 4, 5, 6, 7, 8},
     {1, 1, 1, 1, 1, 1, 1, 1},
     {0},
     true,
     false,
     {4, 4},
     {0, 0},
     {4, 4},
     1,
     false},
    {"own positions",
     {1, 2, 3, 4, 5, 6, 7, 8},
     {0},
     {5, 6, 7, 8, 0, 1, 0, 1},
     false,
     true,
     {4, 4},
     {0, 0},
     {9, 2},
     1,
     true},
    {"left", {0, 0, 3, 4, 5, 6, 7, 8}, {0, 0, 1, 1, 1, 1, 1, 1}, {0}, true, false, {2, 4}, {2, 0}, {2, 4}, 1, true},
    {"right", {1, 2, 0, 0, 5, 6, 7, 8}, {1, 1, 0, 0, 1, 1, 1, 1}, {0}, true, false, {2, 4}, {0, 0}, {2, 4}, 3, true},
    {"left, own positions",
     {0, 2, 3, 4, 5, 6, 7, 8},
     {0, 1, 1, 1, 1, 1, 1, 1},
     {1, 0, 1, 2, 0, 1, 2, 3},
     true,
     true,
     {3, 4},
     {1, 0},
     {3, 4},
     1,
     true},
};

/* The tokens that row b must produce: each is a formula of the one before and its position. */
static void expected_tokens(const prompt *p, int64_t b, int64_t out[N_NEW])
{
    int64_t token = p->ids[b * 4 + p->first[b] + p->n_real[b] - 1];
    for (int64_t k = 0; k < N_NEW; k++) out[k] = token = next_id(token, p->next[b] - 1 + k);
}

START_TEST(test_greedy)
{
    const prompt *p = &prompts[_i];
    fake f = {.fault = NO_FAULT};
    fh1_engine e = engine_of(&f, FH1_F32, "fp32");
    fh1_batch b = {.B = 2, .T = 4, .ids = p->ids};
    if (p->has_mask) b.mask = p->mask;
    b.mask_len = p->has_mask ? 4 : 0;
    if (p->has_positions) b.positions = p->positions;
    int64_t tokens[2 * N_NEW], alone[2 * N_NEW], want[N_NEW];
    gld_trace t;

    OK(gld_record_greedy(&e, &model, &b, N_NEW, NULL, tokens, &t));
    ck_assert_int_eq(f.n_calls, 1 + N_NEW);
    ck_assert_int_eq(t.n_steps, 1 + N_NEW);
    ck_assert_int_eq(t.steps[0].n_logits, 4);
    ck_assert_int_eq(wrong_values(&f, &e, &t, ALL_TAPS), 0);
    for (int64_t row = 0; row < 2; row++) {
        expected_tokens(p, row, want);
        for (int64_t k = 0; k < N_NEW; k++) {
            const fh1_batch *s = &t.steps[k + 1].batch;
            ck_assert_msg(tokens[row * N_NEW + k] == want[k], "%s: row %d, token %d", p->what, (int)row, (int)k);
            ck_assert_int_eq(s->ids[row], want[k]);
            ck_assert_int_eq(s->positions != NULL, p->steps_have_positions);
            if (s->positions) ck_assert_int_eq(s->positions[row], p->next[row] + k);
            ck_assert_int_eq(s->mask != NULL, p->has_mask);
            for (int64_t col = 0; p->has_mask && col < 4 + k + 1; col++)
                ck_assert_int_eq(s->mask[row * (4 + k + 1) + col], col < 4 ? p->mask[row * 4 + col] : 1);
        }
        const int64_t *positions = t.steps[0].batch.positions;
        ck_assert_int_eq(positions != NULL, p->steps_have_positions);
        for (int64_t k = 0; positions && k < p->n_real[row]; k++) {
            int64_t at = row * 4 + p->first[row] + k;
            ck_assert_int_eq(positions[at], p->has_positions ? p->positions[at] : k);
        }
    }
    gld_trace_free(&t);

    /* tokens only: the same ones, with no more logits than needed, and without running the last */
    f.n_calls = 0;
    OK(gld_record_greedy(&e, &model, &b, 1, NULL, alone, NULL));
    ck_assert_int_eq(f.n_calls, 1);
    ck_assert_int_eq(f.n_logits, p->n_logits);
    OK(gld_record_greedy(&e, &model, &b, N_NEW, NULL, alone, NULL));
    ck_assert_int_eq(f.n_calls, 1 + N_NEW);
    ck_assert_int_eq(memcmp(tokens, alone, sizeof tokens), 0);
    OK(gld_record_greedy(&e, &model, &b, 0, NULL, NULL, &t));
    ck_assert_int_eq(t.n_steps, 1);
    gld_trace_free(&t);
}
END_TEST

START_TEST(test_greedy_corners)
{
    static const int64_t ids[] = {1, 2, 3, 4}, empty_row[] = {1, 1, 0, 0};
    fake f = {.tied = true};
    fh1_engine e = engine_of(&f, FH1_F64, "exact");
    fh1_batch b = {.B = 1, .T = 4, .ids = ids};
    int64_t tokens[40];
    gld_trace t;

    /* a tie goes to the lowest id: (v + 5) mod 23 lies below v when v > 17 */
    int n_lower = 0;
    OK(gld_record_greedy(&e, &model, &b, 40, NULL, tokens, NULL));
    for (int64_t k = 0, token = 4; k < 40; k++) {
        int64_t one = next_id(token, 3 + k), other = (one + 5) % 23;
        ck_assert_int_eq(tokens[k], one < other ? one : other);
        n_lower += other < one;
        token = tokens[k];
    }
    ck_assert_int_gt(n_lower, 0);

    f = (fake){.fault = NAN_LOGITS, .nan_from = 6};
    b.B = 2;
    b.T = 2;
    FAILS(gld_record_greedy(&e, &model, &b, 8, NULL, tokens, &t), FH1_E_WRONG, "step 5, row 0");
    ck_assert_int_eq(t.n_steps, 0);
    OK(gld_record_greedy(&e, &model, &b, 5, NULL, tokens, NULL)); /* stops before position 6 */

    f = (fake){.fault = NO_FAULT};
    b.mask = empty_row;
    b.mask_len = 2;
    FAILS(gld_record_greedy(&e, &model, &b, 8, NULL, tokens, &t), FH1_E_INPUT, "row 1 of the prompt has no token");
    ck_assert_int_eq(f.n_calls, 0);
    b.mask_len = 3;
    FAILS(gld_record_greedy(&e, &model, &b, 8, NULL, tokens, &t), FH1_E_INPUT, "wrong length");
    b.mask = NULL;
    FAILS(gld_record_greedy(&e, &model, &b, INT64_MAX / 2, NULL, NULL, NULL), FH1_E_INPUT, "too many");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("record");
    TCase *tc = tcase_create("record");
    tcase_add_checked_fixture(tc, begin, NULL);
    tcase_add_test(tc, test_record_like);
    tcase_add_test(tc, test_stored_types_follow_the_profile);
    tcase_add_test(tc, test_chosen_taps);
    tcase_add_loop_test(tc, test_greedy, 0, N_OF(prompts));
    tcase_add_test(tc, test_greedy_corners);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
