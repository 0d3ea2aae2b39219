/* Trace files: what is written comes back, and every kind of malformed trace is named. */
#include "golden/trace.h"

#include "tests/small_config.h"
#include "tests/trace_fixture.h"

static fh1_model model; /* only its config is read */

static void begin(void)
{
    fixture_begin();
    model.config = small_config();
}

static double value_of(const gld_tap *tap, int64_t k)
{
    return (double)(1 + tap->id) + 0.125 * (double)tap->layer + 0.001 * (double)k;
}

/* Every tap of a two-call schedule with every input. */
static void full_trace(gld_trace *t, fh1_dtype dtype)
{
    static const int64_t ids0[] = {0, 3, 4, 5, 6, 7}, mask0[] = {0, 1, 1, 1, 1, 1}, pos0[] = {0, 0, 1, 0, 1, 2};
    static const int64_t ids1[] = {8, 9}, mask1[] = {0, 1, 1, 1, 1, 1, 1, 1}, doc1[] = {0, 1}, labels1[] = {-100, 3};
    const fh1_batch calls[] = {
        {.B = 2, .T = 3, .ids = ids0, .mask = mask0, .mask_len = 3, .positions = pos0},
        {.B = 2, .T = 1, .ids = ids1, .mask = mask1, .mask_len = 4, .seq_idx = doc1, .labels = labels1},
    };
    OK(gld_trace_new(t));
    strcpy(t->contract, "fp32");
    strcpy(t->producer, "a test");
    for (int j = 0; j < 2; j++) {
        OK(gld_trace_add_step(t, &calls[j]));
        for (int id = FH1_TAP_COUNT - 1; id >= 0; id--) { /* the last first: sorting is the trace's work */
            if (!fh1_tap_exists(&model.config, (fh1_tap_id)id)) continue;
            for (int64_t layer = 0; layer < (fh1_tap_is_per_layer((fh1_tap_id)id) ? model.config.n_layers : 1);
                 layer++) {
                fh1_tensor shape = fh1_tap_shape(&model.config, (fh1_tap_id)id, 2, calls[j].T, 1, j ? 4 : 3), view;
                OK(gld_trace_add_tap(t, (fh1_tap_id)id, layer, dtype, &shape, &view));
                const gld_tap *tap = gld_trace_find(t, j, (fh1_tap_id)id, layer);
                for (int64_t k = 0; k < fh1_n_elems(&view); k++) fh1_set(&view, k, value_of(tap, k));
            }
        }
    }
}

static bool same_ids(const int64_t *a, const int64_t *b, int64_t n)
{
    if (!a || !b) return a == b;
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

/* Differences between two traces; 0 when everything but the path is equal. */
static int differences(const gld_trace *a, const gld_trace *b)
{
    int n = strcmp(a->contract, b->contract) != 0;
    n += strcmp(a->variant, b->variant) != 0;
    n += strcmp(a->producer, b->producer) != 0;
    n += a->dtype != b->dtype;
    if (a->n_steps != b->n_steps) return n + 1;
    for (int64_t j = 0; j < a->n_steps; j++) {
        const gld_step *s = &a->steps[j], *u = &b->steps[j];
        const fh1_batch *x = &s->batch, *y = &u->batch;
        n += x->B != y->B || x->T != y->T || x->mask_len != y->mask_len || s->n_logits != u->n_logits;
        n += !same_ids(x->ids, y->ids, x->B * x->T) + !same_ids(x->mask, y->mask, x->B * x->mask_len) +
             !same_ids(x->positions, y->positions, x->B * x->T) + !same_ids(x->seq_idx, y->seq_idx, x->B * x->T) +
             !same_ids(x->labels, y->labels, x->B * x->T);
        if (s->n_taps != u->n_taps) return n + 1;
        for (int64_t i = 0; i < s->n_taps; i++) {
            const gld_tap *p = &s->taps[i], *q = &u->taps[i];
            n += p->id != q->id || p->layer != q->layer || p->t.dtype != q->t.dtype;
            if (!fh1_same_shape(&p->t, &q->t)) return n + 1;
            for (int64_t k = 0; k < fh1_n_elems(&p->t); k++)
                n += !fh1_within(fh1_error_of(fh1_get(&p->t, k), fh1_get(&q->t, k)), 0);
        }
    }
    return n;
}

START_TEST(test_round_trip)
{
    static const fh1_dtype types[] = {FH1_F64, FH1_F32, FH1_BF16, FH1_F16};
    char path[256];
    gld_trace t, back;
    full_trace(&t, types[_i]);
    strcpy(t.variant, "mup_rounded");
    OK(gld_trace_write(&t, fixture_path("t.safetensors", path), false,
                       (const char *const[]){"fh1.command", "x", NULL}));
    OK(gld_trace_open(path, &model, NULL, &back));
    ck_assert_int_eq(differences(&t, &back), 0);
    ck_assert_int_eq(back.dtype, types[_i]);
    ck_assert_str_eq(back.path, path);
    for (int64_t i = 1; i < back.steps[1].n_taps; i++)
        ck_assert_int_lt(fh1_tap_order(NULL, back.steps[1].taps[i - 1].id, back.steps[1].taps[i - 1].layer, 2),
                         fh1_tap_order(NULL, back.steps[1].taps[i].id, back.steps[1].taps[i].layer, 2));

    /* Planted: the comparison sees one element, one id, and one word of metadata. */
    const gld_tap *ssd = gld_trace_find(&t, 1, FH1_TAP_SSD, 1);
    fh1_set(&ssd->t, 5, 77);
    ck_assert_int_eq(differences(&t, &back), 1);
    ((int64_t *)(uintptr_t)back.steps[0].batch.ids)[4] = 1;
    ck_assert_int_eq(differences(&t, &back), 2);
    back.contract[0] = 'F';
    ck_assert_int_eq(differences(&t, &back), 3);

    FAILS(gld_trace_write(&t, path, false, NULL), FH1_E_INPUT, path);
    OK(gld_trace_write(&t, path, true, NULL));
    ck_assert_int_eq(fixture_count(), 1);
    ck_assert_ptr_null(gld_trace_find(&t, 2, FH1_TAP_SSD, 1));
    ck_assert_ptr_null(gld_trace_find(&t, 1, FH1_TAP_SSD, 2));
    gld_trace_free(&t);
    gld_trace_free(&back);
}
END_TEST

/* The smallest good trace, as raw tensors that the tests below spoil. */
enum { IDS0, IDS1, MASK1, SSD0, LOGITS0, KEY1, N_RAW };
static const fixture_tensor good[N_RAW] = {
    [IDS0] = {"step0/input_ids", FH1_I64, 2, {2, 5}, 0},
    [IDS1] = {"step1/input_ids", FH1_I64, 2, {2, 1}, 3},
    [MASK1] = {"step1/attention_mask", FH1_I64, 2, {2, 6}, 1}, /* made all ones by `opens` */
    [SSD0] = {"step0/model.layers.1.mamba.ssd", FH1_F32, 3, {2, 5, 12}, 0},
    [LOGITS0] = {"step0/logits", FH1_F32, 3, {2, 2, 23}, 0},
    [KEY1] = {"step1/cache.0.key", FH1_F32, 4, {2, 2, 6, 8}, 0},
};

static fh1_status opens_as(const fixture_tensor *raw, int n, const char *version, const char *key, const char *value)
{
    char path[256];
    gld_trace t;
    fixture_tensors("raw.safetensors", raw, n, version, key, value);
    fh1_status s = gld_trace_open(fixture_path("raw.safetensors", path), &model, NULL, &t);
    gld_trace_free(&t);
    return s;
}

/* The good file with one tensor replaced, and no mask unless that is the one. */
static fh1_status opens(int which, fixture_tensor with)
{
    fixture_tensor raw[N_RAW];
    int n = 0;
    for (int i = 0; i < N_RAW; i++) {
        if (i == which) raw[n++] = with;
        else if (i != MASK1) raw[n++] = good[i];
    }
    return opens_as(raw, n, "1", NULL, NULL);
}

START_TEST(test_metadata)
{
    char longer[400];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    OK(opens_as(good, 2, "1", "fh1.producer", "someone"));
    FAILS(opens_as(good, 2, NULL, NULL, NULL), FH1_E_INPUT, "metadata fh1.trace is missing");
    FAILS(opens_as(good, 2, "2", NULL, NULL), FH1_E_INPUT, "expected \"1\", found \"2\"");
    FAILS(opens_as(good, 2, "1", "fh1.contract", longer), FH1_E_INPUT, "fh1.contract is too long");
    FAILS(opens_as(good, 2, "1", "fh1.variant", longer), FH1_E_INPUT, "fh1.variant is too long");
}
END_TEST

START_TEST(test_missing_ids_come_first)
{
    OK(opens(IDS0, good[IDS0]));
    /* before a name that is unknown, a shape that is wrong and a type that is wrong */
    const fixture_tensor spoilt[] = {{"nonsense", FH1_I32, 1, {3}, 0}, {"step0/logits", FH1_I64, 1, {3}, 0}};
    FAILS(opens_as(spoilt, 2, "1", NULL, NULL), FH1_E_INPUT, "step0/input_ids is missing");
    FAILS(opens_as(NULL, 0, "1", NULL, NULL), FH1_E_INPUT, "step0/input_ids is missing");
    FAILS(opens(IDS0, (fixture_tensor){"input_ids", FH1_I64, 2, {2, 5}, 0}), FH1_E_INPUT, "step0/input_ids is missing");
    FAILS(opens(IDS1, (fixture_tensor){"step2/input_ids", FH1_I64, 2, {2, 1}, 3}), FH1_E_INPUT,
          "step1/input_ids is missing");
    FAILS(opens(SSD0, (fixture_tensor){"step999999999/logits", FH1_F32, 3, {2, 5, 12}, 0}), FH1_E_INPUT,
          "step2/input_ids is missing");
    FAILS(opens(SSD0, (fixture_tensor){"step999999999/logits", FH1_F32, 3, {2, 5, 12}, 0}), FH1_E_INPUT,
          "without gaps");
}
END_TEST

static const struct {
    const char *name, *says;
} bad_names[] = {
    {"step0/model.layers.1.mamba.sdd", "perhaps step0/model.layers.1.mamba.ssd"},
    {"model.layers.1.mamba.ssd", "perhaps step0/model.layers.1.mamba.ssd"},
    {"step1/attention_masks", "perhaps step1/attention_mask"},
    {"step0/model.layers.2.mamba.ssd", "neither an input nor a tap of this model"},
    {"step00/logits", "neither an input nor a tap of this model"},
    {"step-1/logits", "neither an input nor a tap of this model"},
    {"step99999999999999999999/logits", "neither an input nor a tap of this model"},
    {"step0/grad.lm_head.weight", "is a gradient"},
    {"", "neither an input nor a tap of this model"},
    {"step0/", "neither an input nor a tap of this model"},
    {"\x1b[2J", "\\x1b[2J"},
};

START_TEST(test_names)
{
    fixture_tensor t = good[SSD0];
    t.name = bad_names[_i].name;
    FAILS(opens(SSD0, t), FH1_E_INPUT, bad_names[_i].says);
}
END_TEST

static const struct {
    int which;
    fixture_tensor with;
    const char *says;
} bad_inputs[] = {
    {IDS0, {"step0/input_ids", FH1_I32, 2, {2, 5}, 0}, "expected I64, found I32"},
    {IDS0, {"step0/input_ids", FH1_I64, 1, {5}, 0}, "expected [B, T]"},
    {IDS0, {"step0/input_ids", FH1_I64, 2, {2, 0}, 0}, "T >= 1"},
    {IDS0, {"step0/input_ids", FH1_I64, 2, {0, 5}, 0}, "B >= 1"},
    {IDS0, {"step0/input_ids", FH1_I64, 2, {2, 5}, 20}, "step 0: row 0, column 3"},
    {IDS1, {"step1/input_ids", FH1_I64, 2, {3, 1}, 0}, "expected [2, T]"},
    {IDS1, {"step1/input_ids", FH1_I64, 2, {2, 1}, -1}, "step 1: row 0, column 0"},
    {MASK1, {"step1/attention_mask", FH1_I64, 2, {2, 1}, 1}, "expected [2, 6], found [2, 1]"},
    {MASK1, {"step1/attention_mask", FH1_BOOL, 2, {2, 6}, 1}, "expected I64, found BOOL"},
    {MASK1, {"step1/attention_mask", FH1_I64, 2, {2, 6}, 1}, "step 1: row 0, column 1"}, /* 1, 2, … */
    {MASK1, {"step1/labels", FH1_I64, 2, {0, 1}, 1}, "expected [2, 1], found [0, 1]"},
    {MASK1, {"step1/labels", FH1_I64, 2, {2, 1}, 22}, "step 1: row 1, column 0"},
    {MASK1, {"step1/seq_idx", FH1_I64, 2, {1, 2}, 1}, "transpose 1,0"},
    {MASK1, {"step1/position_ids", FH1_I64, 2, {2, 1}, -1}, "step 1: row 0, column 0"},
};

START_TEST(test_inputs)
{
    OK(opens(MASK1, (fixture_tensor){"step1/position_ids", FH1_I64, 2, {2, 1}, 7}));
    FAILS(opens(bad_inputs[_i].which, bad_inputs[_i].with), FH1_E_INPUT, bad_inputs[_i].says);
}
END_TEST

static const struct {
    int which;
    fixture_tensor with;
    const char *says;
} bad_layouts[] = {
    {SSD0, {"step0/model.layers.1.mamba.ssd", FH1_I64, 3, {2, 5, 12}, 0}, "expected F64, F32, BF16 or F16, found I64"},
    {SSD0, {"step0/model.layers.1.mamba.ssd", FH1_F32, 3, {2, 12, 5}, 0}, "transpose 0,2,1"},
    {SSD0, {"step0/model.layers.1.mamba.ssd", FH1_F32, 3, {2, 12, 5}, 0}, "expected [2, 5, 12], found [2, 12, 5]"},
    {SSD0, {"step0/model.layers.1.mamba.ssd", FH1_F32, 4, {2, 5, 4, 3}, 0}, "a reshape in a map file"},
    {SSD0, {"step0/model.layers.1.mamba.ssd", FH1_F32, 2, {10, 12}, 0}, "a reshape in a map file"},
    {SSD0, {"step0/model.layers.1.mamba.ssd", FH1_F32, 3, {2, 5, 11}, 0}, "found [2, 5, 11]"},
    {LOGITS0, {"step0/logits", FH1_F32, 3, {2, 6, 23}, 0}, "1 <= T' <= 5"},
    {LOGITS0, {"step0/logits", FH1_F32, 3, {2, 0, 23}, 0}, "1 <= T' <= 5"},
    {LOGITS0, {"step0/logits", FH1_F32, 2, {2, 23}, 0}, "expected [2, 5, 23], found [2, 23]"},
    {KEY1, {"step1/cache.0.key", FH1_F32, 4, {2, 2, 1, 8}, 0}, "padding included: 6 after step 1"},
    {KEY1, {"step1/cache.0.key", FH1_F32, 4, {2, 6, 2, 8}, 0}, "transpose 0,2,1,3"},
    {KEY1, {"step1/cache.1.conv", FH1_F32, 3, {2, 32, 4}, 0}, "keep the last 3 columns"},
    {KEY1, {"step1/loss", FH1_F32, 1, {1}, 0}, "expected [], found [1]"},
};

START_TEST(test_tap_layouts)
{
    OK(opens(LOGITS0, (fixture_tensor){"step0/logits", FH1_F32, 3, {2, 5, 23}, 0}));
    OK(opens(KEY1, (fixture_tensor){"step1/loss", FH1_F32, 0, {0}, 0}));
    FAILS(opens(bad_layouts[_i].which, bad_layouts[_i].with), FH1_E_INPUT, bad_layouts[_i].says);
}
END_TEST

START_TEST(test_dtype_of_a_trace)
{
    static const struct {
        fh1_dtype ssd, logits, expected;
    } cases[] = {{FH1_F64, FH1_F64, FH1_F64},
                 {FH1_F64, FH1_F32, FH1_F32},
                 {FH1_F32, FH1_F64, FH1_F32},
                 {FH1_F32, FH1_BF16, FH1_BF16},
                 {FH1_F16, FH1_F32, FH1_F16}};
    char path[256];
    gld_trace t;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture_tensor raw[] = {good[IDS0], good[SSD0], good[LOGITS0]};
        raw[1].dtype = cases[i].ssd;
        raw[2].dtype = cases[i].logits;
        fixture_tensors("d.safetensors", raw, 3, "1", NULL, NULL);
        OK(gld_trace_open(fixture_path("d.safetensors", path), &model, NULL, &t));
        ck_assert_int_eq(t.dtype, cases[i].expected);
        ck_assert_int_eq(t.steps[0].n_logits, 2);
        gld_trace_free(&t);
    }
    fixture_tensors("d.safetensors", good, 1, "1", NULL, NULL);
    OK(gld_trace_open(path, &model, NULL, &t));
    ck_assert_int_eq(t.dtype, FH1_F64); /* inputs do not count */
    gld_trace_free(&t);
}
END_TEST

/* A foreign writer may start the data at any byte. */
START_TEST(test_misaligned_data)
{
    static const char header[] =
        "{\"__metadata__\":{\"fh1.trace\":\"1\"},"
        "\"step0/input_ids\":{\"dtype\":\"I64\",\"shape\":[1,2],\"data_offsets\":[0,16]},"
        "\"step0/model.layers.0.mamba.dt\":{\"dtype\":\"F64\",\"shape\":[1,2,4],\"data_offsets\":[16,80]}}";
    const uint64_t n = sizeof header - 1 + (sizeof header % 2 == 1); /* odd */
    const int64_t ids[2] = {4, 22};
    const double dt[8] = {0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4};
    char path[256];
    FILE *f = fopen(fixture_path("odd.safetensors", path), "wb");
    ck_assert_ptr_nonnull(f);
    fwrite(&n, sizeof n, 1, f);
    fprintf(f, "%-*s", (int)n, header);
    fwrite(ids, sizeof ids, 1, f);
    fwrite(dt, sizeof dt, 1, f);
    ck_assert_int_eq(fclose(f), 0);
    ck_assert_uint_eq(n % 2, 1);

    gld_trace t;
    OK(gld_trace_open(path, &model, NULL, &t));
    const gld_tap *tap = gld_trace_find(&t, 0, FH1_TAP_DT, 0);
    ck_assert_ptr_nonnull(tap);
    ck_assert_uint_ne((uintptr_t)tap->t.data % 8, 0);
    for (int64_t k = 0; k < 8; k++) ck_assert(fh1_within(fh1_error_of(fh1_get(&tap->t, k), dt[k]), 0));
    ck_assert_int_eq(t.steps[0].batch.ids[1], 22);
    ck_assert_uint_eq((uintptr_t)t.steps[0].batch.ids % sizeof(int64_t), 0);
    gld_trace_free(&t);
}
END_TEST

START_TEST(test_in_memory)
{
    gld_trace t;
    fh1_tensor view, shape = fh1_tap_shape(&model.config, FH1_TAP_MID, 2, 3, 3, 3);
    full_trace(&t, FH1_F32);
    OK(gld_trace_check_inputs(&t, &model.config));
    FAILS(gld_trace_add_tap(&t, FH1_TAP_MID, 1, FH1_F32, &shape, &view), FH1_E_INTERNAL, "came twice");
    const int64_t ids[3] = {1, 2, 3};
    FAILS(gld_trace_add_step(&t, &(fh1_batch){.B = 3, .T = 1, .ids = ids}), FH1_E_INPUT, "expected 2, found 3");
    ck_assert_int_eq(t.n_steps, 2);

    /* the mask of step 1 says that the padding of step 0 was a token */
    ((int64_t *)(uintptr_t)t.steps[1].batch.mask)[0] = 1;
    FAILS(gld_trace_check_inputs(&t, &model.config), FH1_E_INPUT, "step 1: row 0, column 0");
    gld_trace_free(&t);
    gld_trace_free(&t); /* an empty one */

    OK(gld_trace_new(&t));
    OK(gld_trace_add_step(&t, &(fh1_batch){.B = 3, .T = 1, .ids = ids}));
    OK(gld_trace_add_tap(&t, FH1_TAP_MID, 0, FH1_F64, &shape, &view));
    for (int64_t k = 0; k < fh1_n_elems(&view); k++) ck_assert(fh1_within(fh1_error_of(fh1_get(&view, k), 0), 0));
    gld_trace_free(&t);
}
END_TEST

START_TEST(test_choosing_taps)
{
    const fh1_config two_layers = {.n_layers = 2};
    ck_assert(gld_taps_match(FH1_FALCON_H1, NULL, FH1_TAP_SSD, 1));
    ck_assert(gld_taps_match(FH1_FALCON_H1, "*.mid,logits", FH1_TAP_LOGITS, 0));
    ck_assert(gld_taps_match(FH1_FALCON_H1, "*.mid,logits", FH1_TAP_MID, 1));
    ck_assert(!gld_taps_match(FH1_FALCON_H1, "*.mid,logits", FH1_TAP_SSD, 1));
    ck_assert(gld_taps_match(FH1_FALCON_H1, "model.layers.[1].mamba.ssd", FH1_TAP_SSD, 1));
    ck_assert(!gld_taps_match(FH1_FALCON_H1, "model.layers.[1].mamba.ssd", FH1_TAP_SSD, 0));
    OK(gld_taps_check(NULL, &two_layers));
    OK(gld_taps_check("*.mid,logits,cache.1.*", &two_layers));
    FAILS(gld_taps_check("*.mid,logit", &two_layers), FH1_E_INPUT, "'logit' matches no tap");
    FAILS(gld_taps_check("cache.2.*", &two_layers), FH1_E_INPUT, "matches no tap");
    FAILS(gld_taps_check("logits,", &two_layers), FH1_E_INPUT, "matches no tap");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trace");
    TCase *tc = tcase_create("trace");
    tcase_add_checked_fixture(tc, begin, fixture_end);
    tcase_add_loop_test(tc, test_round_trip, 0, 4);
    tcase_add_test(tc, test_metadata);
    tcase_add_test(tc, test_missing_ids_come_first);
    tcase_add_loop_test(tc, test_names, 0, N_OF(bad_names));
    tcase_add_loop_test(tc, test_inputs, 0, N_OF(bad_inputs));
    tcase_add_loop_test(tc, test_tap_layouts, 0, N_OF(bad_layouts));
    tcase_add_test(tc, test_dtype_of_a_trace);
    tcase_add_test(tc, test_misaligned_data);
    tcase_add_test(tc, test_in_memory);
    tcase_add_test(tc, test_choosing_taps);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
