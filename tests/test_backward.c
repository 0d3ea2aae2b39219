/* The whole model's backward pass: against central differences of the loss, by what must hold between batches, and that
 * every planted fault of it shows. The complex step over real models: tests/test_gradcheck.c. */
#include "tests/backward_fixture.h"

static const char *const option[] = {
    "Hkv=2,G=2,K=4,rms_norm=1",
    "Hkv=1,G=4,K=2,rms_norm=1,tied=1",
    "Hkv=2,G=2,K=4,rms_norm=0,attention_bias=1,mlp_bias=1,mamba_proj_bias=1,projectors_bias=1",
    "Hkv=2,G=2,K=3,rms_norm=1,norm_before_gate=1,dt_lo=0.02,dt_hi=0.6,tied=1",
    "Hkv=4,G=1,K=1,rms_norm=1,conv_bias=0",
};
enum { N_OPTIONS = sizeof option / sizeof *option };

/* The loss tap of the forward engine. */
static fh1_status keep_loss(void *user, const fh1_tap_event *ev)
{
    if (ev->id == FH1_TAP_LOSS) *(double *)user = fh1_get(&ev->value, 0);
    return NULL;
}

static double loss_of(fh1_engine *e, const fh1_model *m, const fh1_batch *b)
{
    double loss = (double)NAN;
    fh1_cache *cache;
    const fh1_tap_sink sink = {.user = &loss, .tap = keep_loss};
    BWD_OK(fh1_cache_new(&m->config, e->dtype, b->B, &cache));
    BWD_OK(e->forward(e, m, b, cache, -1, NULL, &sink));
    fh1_cache_free(cache);
    return loss;
}

/* A central difference of the loss by one weight (f32 in memory, so the step is what the weight makes of it). The error
 * is that of the third derivative, h²/6, and the rounding of the loss over h: 1e-6 of what gradients are here. */
static double difference(fh1_engine *e, const fh1_model *m, const fh1_batch *b, const fh1_tensor *w, int64_t k)
{
    const double at = fh1_get(w, k), h = 0x1p-17 * fmax(fabs(at), 0x1p-4);
    fh1_set(w, k, at + h);
    const double hi_at = fh1_get(w, k), hi = loss_of(e, m, b);
    fh1_set(w, k, at - h);
    const double lo_at = fh1_get(w, k), lo = loss_of(e, m, b);
    fh1_set(w, k, at);
    return (hi - lo) / (hi_at - lo_at);
}

/* Central differences do not know padding_idx: what the lookup adds to that row is not in the gradient. */
static bool is_pad_row(const fh1_model *m, const fh1_param *p, int64_t k)
{
    return p->value == &m->embed && k / m->config.D == m->config.pad;
}

START_TEST(gradients_are_slopes)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[_i], &m);
    bwd_batch_new(&m, &b);
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    fh1_backward o = {0};
    fh1_grads *g = bwd_run(e, &m, &b.batch, &o);
    ck_assert_msg(fabs(o.loss - loss_of(e, &m, &b.batch)) <= 1e-13 * o.loss, "loss %g", o.loss);
    const fh1_stream s = fh1_stream_open(1, "elements");
    for (int64_t i = 0; i < g->n; ++i) {
        const fh1_param *p = &g->params[i];
        const int64_t n = fh1_n_elems(p->value);
        double most = 0;
        for (int64_t k = 0; k < n; ++k) most = fmax(most, fabs(fh1_get(&p->grad, k)));
        ck_assert_msg(most > 0, "%s has no gradient", p->name);
        for (int64_t j = 0; j < 3; ++j) {
            const int64_t k = fh1_random_below(s, (uint64_t)(8 * i + j), n);
            if (is_pad_row(&m, p, k)) continue;
            const double got = fh1_get(&p->grad, k), want = difference(e, &m, &b.batch, p->value, k);
            ck_assert_msg(fabs(got - want) <= 1e-5 * most, "%s[%lld]: %.10g, slope %.10g", p->name, (long long)k, got,
                          want);
        }
    }
    fh1_grads_free(g);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

/* Recomputed layers, one thread or two: not a bit differs. */
START_TEST(recompute_and_threads_change_nothing)
{
    static const char *const engine[] = {"ref-f64", "ref-f32", "ref-bf16"};
    fh1_model m;
    bwd_batch b;
    bwd_model(option[_i], &m);
    bwd_batch_new(&m, &b);
    for (int k = 0; k < 3; ++k) {
        fh1_engine *e = ref_engine_new(engine[k], NULL, 0);
        fh1_backward o = {0}, kept = {.keep = true}, alone = {0};
        fh1_set_threads(2);
        fh1_grads *g = bwd_run(e, &m, &b.batch, &o), *h = bwd_run(e, &m, &b.batch, &kept);
        fh1_set_threads(1);
        fh1_grads *one = bwd_run(e, &m, &b.batch, &alone);
        fh1_set_threads(0);
        ck_assert(o.loss == kept.loss && o.loss == alone.loss && o.peak < kept.peak);
        ck_assert(memcmp(g->memory, h->memory, g->bytes) == 0 && memcmp(g->memory, one->memory, g->bytes) == 0);
        *(char *)g->params[0].grad.data ^= 1;
        ck_assert(memcmp(g->memory, h->memory, g->bytes) != 0); /* the comparison looks there */
        fh1_grads_free(g);
        fh1_grads_free(h);
        fh1_grads_free(one);
        e->free(e);
    }
    fh1_model_free(&m);
}
END_TEST

/* Rows with their documents, each alone, add up to the batch; so padding and neighbours leave nothing behind. */
START_TEST(documents_add_up)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[_i], &m);
    bwd_batch_new(&m, &b);
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    b.labels[5] = -100; /* of the first token of row 0's second document: alone, nobody predicts it */
    fh1_backward whole = {0}, part = {0};
    fh1_grads *g = bwd_run(e, &m, &b.batch, &whole), *sum;
    BWD_OK(fh1_grads_new(&m, e->dtype, NULL, NULL, &sum));
    const int64_t piece[4][2] = {{0, 5}, {5, 9}, {BWD_T + 3, 2 * BWD_T}, {2 * BWD_T, 3 * BWD_T - 2}};
    double loss = 0;
    int64_t n = 0;
    for (int i = 0; i < 4; ++i) {
        const int64_t at = piece[i][0];
        const fh1_batch alone = {
            .B = 1, .T = piece[i][1] - at, .ids = b.ids + at, .positions = b.pos + at, .labels = b.labels + at};
        part = (fh1_backward){.grads = sum, .divisor = (double)whole.n_labels};
        BWD_OK(e->backward(e, &m, &alone, &part));
        loss += part.loss;
        n += part.n_labels;
    }
    const char *name;
    const double gap = bwd_worst_gap(g, sum, &name);
    ck_assert_int_eq(n, whole.n_labels);
    ck_assert_msg(fabs(loss - whole.loss) <= 1e-13 * loss, "%.17g and %.17g", loss, whole.loss);
    ck_assert_msg(gap <= 1e-12, "%s: %g", name, gap); /* sums of at most 27 tokens in another order */
    fh1_grads_zero(sum);
    ck_assert(bwd_worst_gap(g, sum, &name) > 1e-12);
    fh1_grads_free(g);
    fh1_grads_free(sum);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

/* f32 is f64 but for its roundings: some 1e3 operations in a row on each way, 2^-24 each. */
START_TEST(f32_is_near)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[_i], &m);
    bwd_batch_new(&m, &b);
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0), *f = ref_engine_new("ref-f32", NULL, 0);
    fh1_backward o = {0}, p = {0};
    fh1_grads *g = bwd_run(e, &m, &b.batch, &o), *h = bwd_run(f, &m, &b.batch, &p);
    const char *name;
    const double gap = bwd_worst_gap(g, h, &name);
    ck_assert_msg(gap <= 0x1p-14, "%s: %g", name, gap);
    ck_assert(gap > 0);
    fh1_grads_free(g);
    fh1_grads_free(h);
    e->free(e);
    f->free(f);
    fh1_model_free(&m);
}
END_TEST

/* -Σ w·logits as the loss: its derivative by the logits is what is given. */
START_TEST(cotangents_of_logits)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[0], &m);
    bwd_batch_new(&m, &b);
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    const int64_t V = m.config.V, n = BWD_B * BWD_T * V;
    double *logits = malloc((size_t)n * sizeof *logits), *w = malloc((size_t)n * sizeof *w);
    fh1_cache *cache;
    const fh1_stream s = fh1_stream_open(3, "w");
    for (int64_t i = 0; i < n; ++i) w[i] = b.mask[i / V] ? fh1_random_normal(s, (uint64_t)i) : (double)NAN;
    fh1_backward o = {.dlogits = w};
    b.batch.labels = NULL;
    fh1_grads *g = bwd_run(e, &m, &b.batch, &o);
    const int64_t at = fh1_grads_find(g, "model.layers.1.mamba.A_log");
    const fh1_param *p = &g->params[at];
    double f[2];
    for (int k = 0; k < 2; ++k) {
        const double old = fh1_get(p->value, 1);
        fh1_set(p->value, 1, old + (k ? -0x1p-12 : 0x1p-12));
        f[k] = 0;
        BWD_OK(fh1_cache_new(&m.config, FH1_F64, BWD_B, &cache));
        BWD_OK(e->forward(e, &m, &b.batch, cache, -1, logits, NULL));
        for (int64_t i = 0; i < n; ++i) f[k] += b.mask[i / V] ? w[i] * logits[i] : 0;
        fh1_cache_free(cache);
        fh1_set(p->value, 1, old);
    }
    const double slope = (f[0] - f[1]) / 0x1p-11, got = fh1_get(&p->grad, 1);
    ck_assert_msg(fabs(got - slope) <= 1e-5 * fabs(slope), "%.10g, slope %.10g", got, slope);
    ck_assert(isnan(o.loss));
    fh1_grads_free(g);
    free(logits);
    free(w);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

START_TEST(refusals)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[0], &m);
    bwd_batch_new(&m, &b);
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    fh1_backward o = {0};
    fh1_grads *g = bwd_run(e, &m, &b.batch, &o);
    b.batch.labels = NULL;
    ck_assert_int_eq(e->backward(e, &m, &b.batch, &o)->code, FH1_E_INPUT);
    b.batch.labels = b.labels;
    e->variants = FH1_VAR_PADS_IN_MIXER;
    ck_assert_int_eq(e->backward(e, &m, &b.batch, &o)->code, FH1_E_INPUT);
    e->variants = 0;
    fh1_grads_zero(g);
    for (int i = 0; i < BWD_B * BWD_T; ++i) b.labels[i] = -100;
    BWD_OK(e->backward(e, &m, &b.batch, &o));
    ck_assert(isnan(o.loss) && o.n_labels == 0);
    for (size_t i = 0; i < g->bytes / sizeof(double); ++i) ck_assert(((double *)g->memory)[i] == 0);
    fh1_grads_free(g);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("backward");
    TCase *tc = tcase_create("model");
    tcase_add_loop_test(tc, gradients_are_slopes, 0, N_OPTIONS);
    tcase_add_loop_test(tc, recompute_and_threads_change_nothing, 0, N_OPTIONS);
    tcase_add_loop_test(tc, documents_add_up, 0, N_OPTIONS);
    tcase_add_loop_test(tc, f32_is_near, 0, N_OPTIONS);
    tcase_add_test(tc, cotangents_of_logits);
    tcase_add_test(tc, refusals);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
