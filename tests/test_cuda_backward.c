/* The CUDA engine's loss and gradients, on the CPU (cuda-host), beside those of ref-f64: models with every switch,
 * padded and packed batches, adapters on every module, given derivatives of logits, frozen parameters. */
#include "cuda/engine.h"
#include "tests/backward_fixture.h"

static const char *const option[] = {
    "Hkv=2,G=2,K=4,rms_norm=1",
    "Hkv=1,G=4,K=2,rms_norm=1,tied=1",
    "Hkv=2,G=2,K=4,rms_norm=0,attention_bias=1,mlp_bias=1,mamba_proj_bias=1,projectors_bias=1",
    "Hkv=2,G=2,K=3,rms_norm=1,norm_before_gate=1,dt_lo=0.02,dt_hi=0.6,tied=1",
    "Hkv=4,G=1,K=1,rms_norm=1,conv_bias=0",
    "Hkv=2,G=1,K=4,rms_norm=1,dtype=bf16",
    "block=SAM,Hkv=2,G=2,K=4,rms_norm=1,mlp_bias=1",
    "block=S_A_M,Hkv=2,G=2,K=4,rms_norm=1,attention_bias=1,tied=1",
    "family=falcon_mamba,I=18,N=5,R=3,K=4,weights=trained",
    "family=falcon_mamba,I=24,N=8,R=4,K=3,use_bias=1,conv_bias=0,tied=1,dtype=bf16,weights=trained",
};
enum { N_OPTIONS = sizeof option / sizeof *option };

/* What a parameter's gradient may be off by, of its largest element: as tests/test_backward.c has it for ref-f32, some
 * 1e3 roundings of 2^-24 in a row. */
static const double NEAR = 0x1p-14;

static fh1_engine *engine(void)
{
    fh1_engine *e;
    BWD_OK(cu_engine_new("cuda-host", NULL, 0, &e));
    return e;
}

static bool is_zero(const fh1_tensor *t)
{
    for (int64_t k = 0; k < fh1_n_elems(t); ++k)
        if (fh1_get(t, k) != 0) return false;
    return true;
}

/* `twice`: a second pass gives the same bits. */
static void compare(fh1_model *m, const fh1_batch *b, fh1_backward o, bool twice)
{
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0), *e = engine();
    fh1_backward p = o, q = o;
    fh1_grads *g = bwd_run(truth, m, b, &o), *h = bwd_run(e, m, b, &p);
    const char *name;
    const double gap = bwd_worst_gap(g, h, &name);
    ck_assert_msg(gap <= NEAR, "%s: %g", name, gap);
    ck_assert(gap > 0 && p.n_labels == o.n_labels && p.peak > 0);
    if (b->labels) {
        ck_assert_msg(fabs(p.loss - o.loss) <= NEAR * o.loss, "loss %.9g, not %.9g", p.loss, o.loss);
    } else {
        ck_assert(isnan(p.loss) && isnan(o.loss));
    }
    if (twice) {
        fh1_grads *again = bwd_run(e, m, b, &q);
        ck_assert(memcmp(h->memory, again->memory, h->bytes) == 0 && (!b->labels || p.loss == q.loss));
        fh1_grads_free(again);
    }
    /* every parameter counts: one without a gradient, or with twice of it, is found */
    for (int64_t i = 0; i < g->n; ++i) {
        const int64_t n = fh1_n_elems(&h->params[i].grad);
        for (int64_t k = 0; k < n; ++k) fh1_set(&h->params[i].grad, k, 2 * fh1_get(&h->params[i].grad, k));
        ck_assert_msg(bwd_gap(g, h, i) > NEAR || is_zero(&g->params[i].grad), "%s has no gradient", g->params[i].name);
    }
    fh1_grads_free(g);
    fh1_grads_free(h);
    truth->free(truth);
    e->free(e);
}

START_TEST(models)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[_i], &m);
    bwd_batch_new(&m, &b);
    compare(&m, &b.batch, (fh1_backward){0}, _i == 0);
    fh1_model_free(&m);
}
END_TEST

/* -- adapters -- */

static fh1_tensor drawn(const char *name, int64_t rows, int64_t columns)
{
    const fh1_stream s = fh1_stream_open(9, name);
    const int64_t n = rows * (columns ? columns : 1);
    float *v = malloc((size_t)n * sizeof *v);
    ck_assert(v != NULL);
    /* small adapters: large ones make a model in which roundings grow from layer to layer */
    for (int64_t i = 0; i < n; ++i) v[i] = (float)(0.3 * fh1_random_normal(s, (uint64_t)i));
    return columns ? fh1_view2(v, FH1_F32, rows, columns) : fh1_view1(v, FH1_F32, rows);
}

static fh1_lora *lora_new(const char *name, int64_t out, int64_t in, int64_t r, bool bias)
{
    char text[128];
    fh1_lora *l = calloc(1, sizeof *l);
    ck_assert(l != NULL);
    snprintf(text, sizeof text, "%s.A", name);
    l->A = drawn(text, r, in);
    snprintf(text, sizeof text, "%s.B", name);
    l->B = drawn(text, out, r);
    snprintf(text, sizeof text, "%s.bias", name);
    if (bias) l->bias = drawn(text, out, 0);
    l->scale = 1.7 / (double)r;
    return l;
}

static void lora_free(fh1_lora *l)
{
    if (!l) return;
    free(l->A.data);
    free(l->B.data);
    free(l->bias.data);
    free(l);
}

/* One on every product and on both ends, of different ranks, some with a bias. */
static void attach(fh1_model *m)
{
    char name[FH1_TAP_NAME_SIZE];
    for (int64_t l = 0; l < m->config.n_layers; ++l)
        for (int id = 0; id < FH1_TAP_LAYER; ++id) {
            const fh1_tap_id tap = (fh1_tap_id)id;
            if (!fh1_tap_is_linear(tap) && tap != FH1_TAP_DT) continue; /* dt_proj of Falcon-Mamba */
            const fh1_linear w = fh1_model_linear(m, tap, l);
            if (!w.w || !w.w->data) continue;
            fh1_tap_name(m->config.family, tap, l, name);
            *w.lora = lora_new(name, w.w->shape[0], w.w->shape[1], 1 + id % 3, id % 2 == 0);
        }
    m->head_lora = lora_new("head", m->config.V, m->config.D, 2, true);
    m->embed_lora = lora_new("embed", m->config.D, m->config.V, 3, false);
}

static void detach(fh1_model *m)
{
    for (int64_t l = 0; l < m->config.n_layers; ++l)
        for (int id = 0; id < FH1_TAP_LAYER; ++id) {
            lora_free(m->layers[l].lora[id]);
            m->layers[l].lora[id] = NULL;
        }
    lora_free(m->head_lora);
    lora_free(m->embed_lora);
    m->head_lora = m->embed_lora = NULL;
}

/* Logits of a prompt and of one further token, as doubles. */
static double *logits_of(fh1_engine *e, const fh1_model *m)
{
    enum { T = 6 };
    const int64_t V = m->config.V, ids[T] = {1, 5, 3, 3, 2, 7}, next = 4;
    double *out = calloc((size_t)(2 * V), sizeof *out);
    float *narrow = calloc((size_t)V, sizeof *narrow);
    ck_assert(out && narrow);
    fh1_cache *cache;
    BWD_OK(fh1_cache_new(&m->config, e->dtype, 1, &cache));
    for (int k = 0; k < 2; ++k) {
        const fh1_batch b = {.B = 1, .T = k ? 1 : T, .ids = k ? &next : ids};
        const bool wide = e->dtype == FH1_F64;
        BWD_OK(e->forward(e, m, &b, cache, 1, wide ? (void *)(out + k * V) : (void *)narrow, NULL));
        for (int64_t i = 0; i < V && !wide; ++i) out[k * V + i] = (double)narrow[i];
    }
    fh1_cache_free(cache);
    free(narrow);
    return out;
}

/* Forward, prompt and step: adapters count, and do what those of ref-f64 do. */
static void compare_logits(fh1_model *m, bool adapted)
{
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0), *e = engine();
    double *want = logits_of(truth, m), *got = logits_of(e, m), most = 0, off = 0;
    for (int64_t i = 0; i < 2 * m->config.V; ++i) {
        most = fmax(most, fabs(want[i]));
        off = fmax(off, fabs(got[i] - want[i]));
    }
    ck_assert_msg(most > 0 && off <= NEAR * most, "logits are off by %g of %g", off, most);
    ck_assert_str_eq(e->profile->name, "fp32");
    free(got);
    if (adapted) { /* the same engine, another adapter in the same memory */
        const bool mamba = m->config.family == FH1_FALCON_MAMBA;
        fh1_lora *l = m->layers[1].lora[mamba ? FH1_TAP_DT : FH1_TAP_K_PROJ];
        for (int64_t k = 0; k < fh1_n_elems(&l->B); ++k) fh1_set(&l->B, k, -2 * fh1_get(&l->B, k));
        got = logits_of(e, m);
        off = 0;
        for (int64_t i = 0; i < 2 * m->config.V; ++i) off = fmax(off, fabs(got[i] - want[i]));
        ck_assert(off > NEAR * most);
        free(got);
    }
    free(want);
    truth->free(truth);
    e->free(e);
}

/* A head of its own, a tied one; Falcon-Mamba, where x_proj and dt_proj have one too. */
START_TEST(adapters)
{
    static const int of[] = {0, 1, 8};
    fh1_model m;
    bwd_batch b;
    bwd_model(option[of[_i]], &m);
    bwd_batch_new(&m, &b);
    attach(&m);
    compare(&m, &b.batch, (fh1_backward){0}, _i == 1);
    compare_logits(&m, true);
    detach(&m);
    compare_logits(&m, false);
    fh1_model_free(&m);
}
END_TEST

/* -- batches -- */

/* The derivatives by the logits are given; NaN stands where nothing may be read. */
START_TEST(cotangents_of_logits)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[1], &m);
    bwd_batch_new(&m, &b);
    const fh1_stream s = fh1_stream_open(3, "w");
    const int64_t n = BWD_B * BWD_T * m.config.V;
    double *wide = malloc((size_t)n * sizeof *wide);
    float *narrow = malloc((size_t)n * sizeof *narrow);
    ck_assert(wide && narrow);
    for (int64_t i = 0; i < n; ++i) {
        narrow[i] = b.mask[i / m.config.V] ? (float)fh1_random_normal(s, (uint64_t)i) : NAN;
        wide[i] = (double)narrow[i];
    }
    b.batch.labels = NULL;
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0), *e = engine();
    fh1_backward o = {.dlogits = wide}, p = {.dlogits = narrow};
    fh1_grads *g = bwd_run(truth, &m, &b.batch, &o), *h = bwd_run(e, &m, &b.batch, &p);
    const char *name;
    const double gap = bwd_worst_gap(g, h, &name);
    ck_assert_msg(gap > 0 && gap <= NEAR, "%s: %g", name, gap);
    ck_assert(isnan(p.loss) && p.n_labels == 0);
    narrow[5] *= 2; /* it counts */
    fh1_grads_free(h);
    h = bwd_run(e, &m, &b.batch, &p);
    ck_assert(bwd_worst_gap(g, h, &name) > NEAR);
    fh1_grads_free(g);
    fh1_grads_free(h);
    truth->free(truth);
    e->free(e);
    free(wide);
    free(narrow);
    fh1_model_free(&m);
}
END_TEST

static bool of_layer_1(void *user, const fh1_param *p)
{
    (void)user;
    return p->layer == 1 && strstr(p->name, "_proj") == NULL;
}

/* Frozen parameters change nothing for the others; two calls add up; a weight that moved between them counts. */
START_TEST(some_parameters)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[0], &m);
    bwd_batch_new(&m, &b);
    fh1_engine *e = engine();
    fh1_backward o = {0};
    fh1_grads *g = bwd_run(e, &m, &b.batch, &o), *some;
    BWD_OK(fh1_grads_new(&m, FH1_F32, of_layer_1, NULL, &some));
    o.grads = some;
    BWD_OK(e->backward(e, &m, &b.batch, &o));
    int64_t n = 0;
    for (int64_t i = 0; i < g->n; ++i) {
        if (!some->params[i].grad.data) continue;
        ck_assert(bwd_gap(g, some, i) == 0);
        ++n;
    }
    ck_assert(n > 5 && n < g->n / 2);
    BWD_OK(e->backward(e, &m, &b.batch, &o));
    const int64_t at = fh1_grads_find(g, "model.layers.1.mamba.D");
    ck_assert(fh1_get(&some->params[at].grad, 0) == 2 * fh1_get(&g->params[at].grad, 0));
    fh1_grads_zero(some);
    fh1_set(g->params[at].value, 0, 3);
    BWD_OK(e->backward(e, &m, &b.batch, &o));
    ck_assert(bwd_gap(g, some, at) > NEAR);
    fh1_grads_free(g);
    fh1_grads_free(some);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

START_TEST(labels_and_refusals)
{
    char line[512];
    fh1_model m;
    bwd_batch b;
    bwd_model(option[0], &m);
    bwd_batch_new(&m, &b);
    fh1_engine *e = engine();
    fh1_backward o = {.divisor = 3}, mean = {0};
    fh1_grads *g = bwd_run(e, &m, &b.batch, &o), *h = bwd_run(e, &m, &b.batch, &mean);
    ck_assert(fabs(o.loss * 3 - mean.loss * (double)mean.n_labels) <= 1e-12 * o.loss);
    b.batch.labels = NULL;
    ck_assert_int_eq(e->backward(e, &m, &b.batch, &mean)->code, FH1_E_INPUT);
    b.batch.labels = b.labels;
    const fh1_tap_sink sink = {0};
    mean.sink = &sink;
    ck_assert(strstr(fh1_status_line(e->backward(e, &m, &b.batch, &mean), line, sizeof line), "taps"));
    mean.sink = NULL;
    fh1_grads_zero(h);
    for (int i = 0; i < BWD_B * BWD_T; ++i) b.labels[i] = -100;
    BWD_OK(e->backward(e, &m, &b.batch, &mean));
    ck_assert(isnan(mean.loss) && mean.n_labels == 0);
    for (size_t i = 0; i < h->bytes / sizeof(float); ++i) ck_assert(((float *)h->memory)[i] == 0);
    for (int i = 0; i < BWD_B * BWD_T; ++i) b.mask[i] = 0; /* padding alone */
    BWD_OK(e->backward(e, &m, &b.batch, &mean));
    const double f[64] = {0};
    attach(&m);
    m.layers[1].lora[FH1_TAP_K_PROJ]->f = f;
    ck_assert(strstr(fh1_status_line(e->backward(e, &m, &b.batch, &mean), line, sizeof line), "DoRA"));
    detach(&m);
    fh1_grads_free(g);
    fh1_grads_free(h);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_backward");
    TCase *tc = tcase_create("model");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, models, 0, N_OPTIONS);
    tcase_add_loop_test(tc, adapters, 0, 3);
    tcase_add_test(tc, cotangents_of_logits);
    tcase_add_test(tc, some_parameters);
    tcase_add_test(tc, labels_and_refusals);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
