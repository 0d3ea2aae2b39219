/* Steps that stay on the device (cuda-host), beside steps of ref-f64: gradients, clipping, AdamW, the values
 * afterwards, all parameters or those of adapters alone. */
#include "cuda/trainer.h"
#include "tests/backward_fixture.h"

static const char *const option[] = {
    "Hkv=2,G=2,K=4,rms_norm=0,attention_bias=1,mlp_bias=1,mamba_proj_bias=1,projectors_bias=1",
    "Hkv=2,G=2,K=3,rms_norm=1,norm_before_gate=1,dt_lo=0.02,dt_hi=0.6,tied=1",
    "Hkv=2,G=2,K=4,rms_norm=1,mamba_proj_bias=1",
    "block=S_A_M,Hkv=2,G=2,K=4,rms_norm=1",
    "family=falcon_mamba,I=18,N=5,R=3,K=4,use_bias=1,weights=trained",
};
enum { N_OPTIONS = sizeof option / sizeof *option, STEPS = 3 };
static const double NEAR = 0x1p-14; /* of a gradient's largest element, as in tests/test_cuda_backward.c */
static const double DECAY = 0.3, MAX_NORM = 0.4;
static const fh1_adamw options = {.lr = 0.02, .beta1 = 0.9, .beta2 = 0.95, .eps = 0.05};

static double factor(void *user, const fh1_param *p)
{
    (void)user;
    return p->value->rank == 2 ? 1 : 0;
}

/* What ref-f64 makes of one step, with masters in f64; values go back to the model, whose type is f32. */
typedef struct {
    fh1_grads *g;
    double *w, *m, *v;
} truth;

static int64_t at_of(const truth *t, int64_t i)
{
    return (const double *)t->g->params[i].grad.data - (const double *)t->g->memory;
}

static void truth_new(fh1_model *m, truth *t)
{
    BWD_OK(fh1_grads_new(m, FH1_F64, NULL, NULL, &t->g));
    double **const part[] = {&t->w, &t->m, &t->v};
    for (int k = 0; k < 3; ++k) ck_assert((*part[k] = calloc(1, t->g->bytes)) != NULL);
    for (int64_t i = 0; i < t->g->n; ++i)
        for (int64_t k = 0; k < fh1_n_elems(t->g->params[i].value); ++k)
            t->w[at_of(t, i) + k] = fh1_get(t->g->params[i].value, k);
}

static void truth_free(truth *t)
{
    fh1_grads_free(t->g);
    free(t->w);
    free(t->m);
    free(t->v);
}

static double truth_step(fh1_engine *e, fh1_model *m, const fh1_batch *b, int64_t step, truth *t, double *norm)
{
    fh1_backward o = {.grads = t->g};
    fh1_adamw a = options;
    fh1_grads_zero(t->g);
    BWD_OK(e->backward(e, m, b, &o));
    BWD_OK(e->bwd_ops->sum_of_squares(e, (int64_t)(t->g->bytes / sizeof(double)), t->g->memory, norm));
    *norm = sqrt(*norm);
    a.t = step;
    a.grad_scale = MAX_NORM / *norm < 1 ? MAX_NORM / (*norm + 1e-6) : 1;
    for (int64_t i = 0; i < t->g->n; ++i) {
        const fh1_param *p = &t->g->params[i];
        const int64_t at = at_of(t, i), n = fh1_n_elems(p->value);
        a.decay = DECAY * factor(NULL, p);
        BWD_OK(e->bwd_ops->adamw(e, n, &a, p->grad.data, t->w + at, t->m + at, t->v + at));
        for (int64_t k = 0; k < n; ++k) fh1_set(p->value, k, t->w[at + k]);
    }
    return o.loss;
}

/* A gradient is off by NEAR of the parameter's largest; a move, which with an eps this large is no steeper than the
 * gradient, by a few NEAR of the largest move, and more in the steps that follow from moved values; and values are
 * rounded to f32 after each step. `before`: where they were, which must not pass. */
static void check_values(cu_trainer *t, const truth *want, const truth *before)
{
    const fh1_grads *g = cu_trainer_parameters(t);
    ck_assert_int_eq(g->n, want->g->n);
    for (int64_t i = 0; i < g->n; ++i) {
        const int64_t n = fh1_n_elems(g->params[i].value), at = at_of(want, i);
        float *v = malloc((size_t)n * sizeof *v);
        ck_assert(v != NULL);
        BWD_OK(cu_trainer_read(t, i, v));
        double most = 0;
        for (int64_t k = 0; k < n; ++k) most = fmax(most, fabs(want->w[at + k] - before->w[at + k]));
        bool differs = false;
        for (int64_t k = 0; k < n; ++k) {
            const double off = 10 * NEAR * most + STEPS * 4 * 0x1p-24 * fabs(want->w[at + k]);
            ck_assert_msg(fabs((double)v[k] - want->w[at + k]) <= off, "%s[%lld] is %.9g, not %.9g +- %g",
                          g->params[i].name, (long long)k, (double)v[k], want->w[at + k], off);
            differs = differs || fabs((double)v[k] - before->w[at + k]) > off;
        }
        ck_assert_msg(differs, "%s did not move", g->params[i].name);
        free(v);
    }
}

START_TEST(steps)
{
    fh1_model m, same;
    bwd_batch b;
    truth want, before;
    bwd_model(option[_i], &m);
    bwd_model(option[_i], &same);
    bwd_batch_new(&m, &b);
    truth_new(&m, &before);
    truth_new(&m, &want);
    cu_trainer *t;
    BWD_OK(cu_trainer_new(&same, &(cu_trainer_options){.engine = "cuda-host", .decay_factor = factor, .decay = DECAY},
                          &t));
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    double first = 0;
    for (int64_t s = 1; s <= STEPS; ++s) {
        double norm;
        fh1_adamw a = options;
        cu_trainer_result r;
        a.t = s;
        const double loss = truth_step(e, &m, &b.batch, s, &want, &norm);
        BWD_OK(cu_trainer_step(t, &b.batch, &a, MAX_NORM, &r));
        ck_assert_msg(fabs(r.loss - loss) <= 10 * NEAR * loss, "step %d: loss %.9g, not %.9g", (int)s, r.loss, loss);
        ck_assert_msg(fabs(r.norm - norm) <= 100 * NEAR * norm, "step %d: norm %.9g, not %.9g", (int)s, r.norm, norm);
        ck_assert(norm > MAX_NORM && r.bytes > 0 && r.n_labels > 0);
        if (s == 1) first = loss;
        else ck_assert(loss < first);
    }
    check_values(t, &want, &before);
    cu_trainer_free(t);
    e->free(e);
    truth_free(&want);
    truth_free(&before);
    fh1_model_free(&m);
    fh1_model_free(&same);
}
END_TEST

static bool of_mixers(void *user, const fh1_param *p)
{
    (void)user;
    return strstr(p->name, "mamba.A_log") || strstr(p->name, "mamba.D");
}

/* Others stay where they are; a broken batch of weights is told and moves nothing. */
START_TEST(some_parameters)
{
    fh1_model m;
    bwd_batch b;
    bwd_model(option[2], &m);
    bwd_batch_new(&m, &b);
    cu_trainer *t;
    cu_trainer_result r;
    fh1_adamw a = options;
    a.t = 1;
    BWD_OK(cu_trainer_new(&m, &(cu_trainer_options){.engine = "cuda-host", .moves = of_mixers}, &t));
    BWD_OK(cu_trainer_step(t, &b.batch, &a, 0, &r));
    const fh1_grads *g = cu_trainer_parameters(t);
    for (int64_t i = 0; i < g->n; ++i) {
        float v[4096];
        const int64_t n = fh1_n_elems(g->params[i].value);
        ck_assert_int_le(n, 4096);
        BWD_OK(cu_trainer_read(t, i, v));
        bool moved = false;
        for (int64_t k = 0; k < n; ++k) moved = moved || v[k] != (float)fh1_get(g->params[i].value, k);
        ck_assert_msg(moved == of_mixers(NULL, &g->params[i]), "%s", g->params[i].name);
    }
    cu_trainer_free(t);
    fh1_set(&m.layers[0].D, 0, (double)NAN);
    BWD_OK(cu_trainer_new(&m, &(cu_trainer_options){.engine = "cuda-host"}, &t));
    const fh1_status s = cu_trainer_step(t, &b.batch, &a, 1, &r);
    ck_assert(s && s->code == FH1_E_WRONG);
    cu_trainer_free(t);
    ck_assert_int_eq(cu_trainer_new(&m, &(cu_trainer_options){.engine = "none"}, &t)->code, FH1_E_INPUT);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_trainer");
    TCase *tc = tcase_create("steps");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, steps, 0, N_OPTIONS);
    tcase_add_test(tc, some_parameters);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
