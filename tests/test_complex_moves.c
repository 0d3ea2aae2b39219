/* What moves in a complex model and what is held: directions and elements, the layers that are not run again, the
 * padding row of a tied table, adapters; reductions of the loss, refusals. */
#include "tests/complex_fixture.h"

/* A direction is the sum of its elements; one element set after another joins the direction; clear forgets. Sums of 4
 * to 40 terms, each good to a few roundings of the pass: 1e-14 of Σ|terms|. */
START_TEST(elements_make_a_direction)
{
    example x;
    open_example(&x, 2);
    ref_complex_model *z;
    GRAD_FINE(ref_complex_model_new(&x.m, 0, -1, &z));
    GRAD_FINE(ref_complex_function(z, &x.packed, 0, x.w));
    fh1_tensor *const at[] = {&x.m.layers[0].A_log, &x.m.layers[1].dt_bias, &x.m.final_layernorm};
    for (int k = 0; k < 3; ++k) {
        double v[64], sum = 0, terms = 0;
        const int64_t n = fh1_n_elems(at[k]);
        for (int64_t i = 0; i < n; ++i) {
            v[i] = 0.5 * (double)(i % 5) - 0.75;
            GRAD_FINE(ref_complex_direct_element(z, at[k], i, v[i]));
            const double term = derivative_of(z);
            ref_complex_clear(z);
            sum += term;
            terms += fabs(term);
        }
        ck_assert_double_eq(derivative_of(z), 0);
        GRAD_FINE(ref_complex_direct(z, at[k], v));
        const double whole = derivative_of(z);
        ck_assert_msg(fh1_within(fabs(whole - sum), 1e-14 * terms), "%d: %a %a", k, whole, sum);
        ref_complex_clear(z);
        for (int64_t i = 0; i < n; ++i) GRAD_FINE(ref_complex_direct_element(z, at[k], i, v[i]));
        ck_assert_double_eq(derivative_of(z), whole);
        GRAD_FINE(ref_complex_direct_element(z, at[k], 1, v[1] + 1));
        ck_assert(!fh1_within(fabs(derivative_of(z) - whole), 1e-9 * terms));
        GRAD_FINE(ref_complex_direct(z, at[k], NULL));
        ck_assert_double_eq(derivative_of(z), 0);
    }
    ref_complex_model_free(z);
    close_example(&x);
}
END_TEST

/* Layers below the first that moves are taken from the recorded stream: the same bits as when all layers run, because
 * the embedding moves too, by zero. */
START_TEST(shortcut)
{
    for (int g = 1; g < 3; ++g) {
        example x;
        open_example(&x, g);
        ref_complex_model *z;
        GRAD_FINE(ref_complex_model_new(&x.m, 0, -1, &z));
        GRAD_FINE(ref_complex_function(z, &x.padded, 0, x.w));
        fh1_tensor *const at[] = {&x.m.layers[0].q_w, &x.m.layers[1].conv_w, &x.m.layers[2].down_w,
                                  &x.m.final_layernorm};
        for (int k = 0; k < 4; ++k) {
            double short_value, short_derivative, value, derivative;
            ref_complex_clear(z);
            GRAD_FINE(ref_complex_direct_element(z, at[k], 3, 1));
            GRAD_FINE(ref_complex_value(z, &short_value, &short_derivative));
            GRAD_FINE(ref_complex_direct_element(z, &x.m.embed, 0, 0));
            GRAD_FINE(ref_complex_value(z, &value, &derivative));
            ck_assert_double_eq(short_value, value);
            ck_assert_double_eq(short_derivative, derivative);
            ck_assert(derivative != 0);
        }
        ref_complex_model_free(z);
        close_example(&x);
    }
}
END_TEST

/* The derivative by element `i` of `value` with row `pad` of the lookup held. */
static double one_element(example *x, const fh1_tensor *value, int64_t pad, int64_t i)
{
    ref_complex_model *z;
    GRAD_FINE(ref_complex_model_new(&x->m, 0, pad, &z));
    GRAD_FINE(ref_complex_function(z, &x->plain, 0, NULL));
    GRAD_FINE(ref_complex_direct_element(z, value, i, 1));
    const double d = derivative_of(z);
    ref_complex_model_free(z);
    return d;
}

/* padding_idx: the lookup's share of a row is held, the tied head's is not. The shares stand alone where the same model
 * has a head of its own with equal weights. */
START_TEST(held_row_of_a_tied_model)
{
    example x;
    open_example(&x, 2);
    ck_assert(x.m.config.tied);
    const int64_t pad = x.ids[4], other = x.ids[9], D = x.m.config.D;
    ck_assert_int_ne(pad, other);
    const double both = one_element(&x, &x.m.embed, -1, pad * D + 2);
    const double head = one_element(&x, &x.m.embed, pad, pad * D + 2);
    const double free_row = one_element(&x, &x.m.lm_head, pad, other * D + 2);
    ck_assert_double_eq(free_row, one_element(&x, &x.m.embed, -1, other * D + 2));

    const fh1_tensor tied = x.m.lm_head;
    void *copy = malloc(fh1_n_bytes(&tied));
    memcpy(copy, tied.data, fh1_n_bytes(&tied));
    x.m.lm_head.data = copy;
    const double lookup_alone = one_element(&x, &x.m.embed, -1, pad * D + 2);
    const double head_alone = one_element(&x, &x.m.lm_head, -1, pad * D + 2);
    ck_assert_double_eq(one_element(&x, &x.m.embed, pad, pad * D + 2), 0);
    ck_assert_double_eq(one_element(&x, &x.m.lm_head, pad, pad * D + 2), head_alone);
    const double terms = fabs(lookup_alone) + fabs(head_alone);
    ck_assert_msg(fh1_within(fabs(both - (lookup_alone + head_alone)), 1e-13 * terms), "%a", both);
    ck_assert_msg(fh1_within(fabs(head - head_alone), 1e-13 * terms), "%a", head);
    ck_assert(fabs(lookup_alone) > 1e-6 && fabs(head_alone) > 1e-6);
    x.m.lm_head = tied;
    free(copy);
    close_example(&x);
}
END_TEST

/* -- adapters -- */

typedef struct {
    fh1_lora l;
    double A[4 * 128], B[512 * 4], bias[512];
} adapter;

static void attach(adapter *a, fh1_lora **to, int64_t in, int64_t out, bool bias, uint64_t seed)
{
    enum { R = 3 };
    ck_assert(R * in <= 4 * 128 && out <= 512);
    const fh1_stream s = fh1_stream_open(seed, "adapter");
    for (int64_t i = 0; i < R * in; ++i) a->A[i] = 0.1 * fh1_random_normal(s, (uint64_t)i);
    for (int64_t i = 0; i < R * out; ++i) a->B[i] = 0.1 * fh1_random_normal(s, (uint64_t)(i + 5000));
    for (int64_t i = 0; i < out; ++i) a->bias[i] = 0.1 * fh1_random_normal(s, (uint64_t)(i + 9000));
    a->l = (fh1_lora){.A = fh1_view2(a->A, FH1_F64, R, in), .B = fh1_view2(a->B, FH1_F64, out, R), .scale = 2};
    if (bias) a->l.bias = fh1_view1(a->bias, FH1_F64, out);
    *to = &a->l;
}

/* A, B and bias of adapters move as weights do; a held row is a column of the embedding's A. */
START_TEST(adapters)
{
    static adapter in_proj, query, table, head;
    example x;
    open_example(&x, 2);
    const fh1_config *c = &x.m.config;
    attach(&in_proj, &x.m.layers[1].lora[FH1_TAP_IN_PROJ], c->D, fh1_in_proj_dim(c), true, 1);
    attach(&query, &x.m.layers[2].lora[FH1_TAP_Q_PROJ], c->D, c->Hq * c->A, false, 2);
    attach(&table, &x.m.embed_lora, c->V, c->D, false, 3);
    attach(&head, &x.m.head_lora, c->D, c->V, false, 4);
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0);
    double worst = 0;
    int64_t of;
    const int64_t counted = compare_with_differences(&x, truth, &x.plain, &worst, &of);
    ck_assert_msg(fh1_within(worst, 1), "%g", worst);
    ck_assert_int_eq(counted, of);
    const int64_t id = x.ids[4];
    ck_assert(fabs(one_element(&x, &table.l.A, -1, c->V + id)) > 1e-6);
    ck_assert_double_eq(one_element(&x, &table.l.A, id, c->V + id), 0);
    ck_assert(fabs(one_element(&x, &table.l.A, id, c->V + x.ids[9])) > 1e-6);
    truth->free(truth);
    x.m.embed_lora = x.m.head_lora = x.m.layers[1].lora[FH1_TAP_IN_PROJ] = x.m.layers[2].lora[FH1_TAP_Q_PROJ] = NULL;
    close_example(&x);
}
END_TEST

/* -- the loss, and refusals -- */

START_TEST(reductions)
{
    example x;
    open_example(&x, 0);
    ref_complex_model *z;
    GRAD_FINE(ref_complex_model_new(&x.m, 0, -1, &z));
    GRAD_FINE(ref_complex_direct_element(z, &x.m.layers[0].in_w, 3, 1));
    int64_t n = 0;
    for (int64_t t = 0; t + 1 < T; ++t) n += x.labels[t + 1] != -100;
    double mean[2], sum[2], halves[2];
    GRAD_FINE(ref_complex_function(z, &x.plain, 0, NULL));
    GRAD_FINE(ref_complex_value(z, &mean[0], &mean[1]));
    GRAD_FINE(ref_complex_function(z, &x.plain, 1, NULL));
    GRAD_FINE(ref_complex_value(z, &sum[0], &sum[1]));
    GRAD_FINE(ref_complex_function(z, &x.plain, 2, NULL));
    GRAD_FINE(ref_complex_value(z, &halves[0], &halves[1]));
    for (int i = 0; i < 2; ++i) {
        ck_assert_double_eq(sum[i], mean[i] * (double)n);
        ck_assert_double_eq(halves[i], mean[i] * ((double)n / 2));
    }
    for (int64_t i = 0; i < T; ++i) x.labels[i] = -100;
    GRAD_FINE(ref_complex_function(z, &x.plain, 0, NULL));
    GRAD_FINE(ref_complex_value(z, &mean[0], &mean[1]));
    ck_assert(isnan(mean[0]) && isnan(mean[1]));
    GRAD_FINE(ref_complex_function(z, &x.plain, 1, NULL));
    GRAD_FINE(ref_complex_value(z, &sum[0], &sum[1]));
    ck_assert(sum[0] == 0 && sum[1] == 0);
    ref_complex_model_free(z);
    close_example(&x);
}
END_TEST

static fh1_round always_bf16(void *user, fh1_tap_id id, int64_t layer)
{
    (void)user, (void)id, (void)layer;
    return FH1_ROUND_BF16;
}

static void refused(fh1_status s, fh1_code code)
{
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(s->code, code);
}

START_TEST(refusals)
{
    example x;
    open_example(&x, 0);
    ref_complex_model *z;
    double value, derivative, number = 0;
    GRAD_FINE(ref_complex_model_new(&x.m, 0, -1, &z));
    refused(ref_complex_value(z, &value, &derivative), FH1_E_INTERNAL);
    fh1_batch b = x.plain;
    b.labels = NULL;
    refused(ref_complex_function(z, &b, 0, NULL), FH1_E_INTERNAL);
    const fh1_tensor stranger = fh1_view1(&number, FH1_F64, 1);
    refused(ref_complex_direct(z, &stranger, &number), FH1_E_INTERNAL);
    refused(ref_complex_direct_element(z, &x.m.final_layernorm, x.m.config.D, 1), FH1_E_INTERNAL);
    x.ids[3] = x.m.config.V;
    refused(ref_complex_function(z, &x.plain, 0, NULL), FH1_E_INPUT);
    refused(ref_complex_value(z, &value, &derivative), FH1_E_INTERNAL);
    x.ids[3] = 0;
    ref_complex_model_free(z);

    fh1_engine *e = ref_complex_engine_new(0);
    fh1_cache *cache;
    GRAD_FINE(fh1_cache_new(&x.m.config, FH1_C128, 1, &cache));
    const fh1_tap_sink rounds = {.input_round = always_bf16};
    refused(e->forward(e, &x.m, &x.plain, cache, T, NULL, &rounds), FH1_E_INTERNAL);
    GRAD_FINE(e->forward(e, &x.m, &x.plain, cache, T, NULL, NULL));
    fh1_tensor state = fh1_cache_shape(cache, FH1_CACHE_SSM);
    state.dtype = FH1_F64;
    state.data = malloc(fh1_n_bytes(&state));
    refused(fh1_cache_export(cache, 0, FH1_CACHE_SSM, &state), FH1_E_INPUT);
    refused(fh1_cache_import(cache, 0, FH1_CACHE_SSM, &state), FH1_E_INPUT);
    free(state.data);
    fh1_cache_free(cache);
    e->free(e);
    close_example(&x);
}
END_TEST

int main(void)
{
    fh1_set_threads(1); /* the loops are short: waking a pool costs more */
    Suite *suite = suite_create("complex_moves");
    TCase *tc = tcase_create("complex_moves");
    tcase_add_test(tc, elements_make_a_direction);
    tcase_add_test(tc, shortcut);
    tcase_add_test(tc, held_row_of_a_tied_model);
    tcase_add_test(tc, adapters);
    tcase_add_test(tc, reductions);
    tcase_add_test(tc, refusals);
    tcase_set_timeout(tc, 200);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
