/* The whole model's backward pass against autograd of transformers and PEFT (golden/gradients). Real f64 there, so
 * every gradient of every parameter has to agree at 1e-9 of its root mean square; and each golden wrong gradient
 * differs where its file says. */
#include "convert/model_attach.h"
#include "convert/safetensors.h"
#include "cuda/engine.h"
#include "reference/engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(expr)                                                                      \
    do {                                                                              \
        fh1_status s_ = (expr);                                                       \
        char line_[512];                                                              \
        ck_assert_msg(!s_, "%s", s_ ? fh1_status_line(s_, line_, sizeof line_) : ""); \
    } while (0)

#define FOLDER "golden/gradients/"

typedef struct {
    const char *trace, *model, *adapter, *wrong_at; /* the first gradient in backward order that is wrong */
} golden;

#define L2 "model.layers.2."
#define MIXER "backbone.layers."
#define ADAPTER "base_model.model.model.layers."

static const golden right[] = {
    {"mini-0.5b/left3-f64", "mini-0.5b", NULL, NULL},
    {"mini-0.5b/packed-f64", "mini-0.5b", NULL, NULL},
    {"mini-0.5b/chunks2-f64", "mini-0.5b", NULL, NULL},
    {"mini-34b/left3-f64", "mini-34b", NULL, NULL},
    {"mini-34b/packed-f64", "mini-34b", NULL, NULL},
    {"mini-34b/chunks2-f64", "mini-34b", NULL, NULL},
    {"odd/right3-f64", "odd", NULL, NULL},
    {"odd/packed-f64", "odd", NULL, NULL},
    {"odd/chunks2-f64", "odd", NULL, NULL},
    {"linear/left3-f64", "mini-34b", "linear", NULL},
    {"linear/packed-f64", "mini-34b", "linear", NULL},
    {"ends/packed-f64", "mini-0.5b", "ends", NULL},
    {"ends/chunks2-f64", "mini-0.5b", "ends", NULL},
    {"bias/right3-f64", "odd", "bias", NULL},
    {"bias/packed-f64", "odd", "bias", NULL},
    {"tied-ends/packed-f64", "odd", "tied-ends", NULL},
    {"mamba-untied/left3-f64", "mamba-untied", NULL, NULL},
    {"mamba-untied/packed-f64", "mamba-untied", NULL, NULL},
    {"mamba-untied/long-f64", "mamba-untied", NULL, NULL},
    {"mamba-tied/right3-f64", "mamba-tied", NULL, NULL},
    {"mamba-tied/packed-f64", "mamba-tied", NULL, NULL},
    {"mamba-linear/left3-f64", "mamba-untied", "mamba-linear", NULL},
    {"mamba-linear/packed-f64", "mamba-untied", "mamba-linear", NULL},
    {"mamba-tied-ends/packed-f64", "mamba-tied", "mamba-tied-ends", NULL},
};

static const golden wrong[] = {
    {"wrong/norm-constant", "mini-34b", NULL, L2 "feed_forward.down_proj.weight"},
    {"wrong/group-mean", "mini-34b", NULL, L2 "mamba.D"},
    {"wrong/one-head", "mini-34b", NULL, L2 "mamba.conv1d.weight"},
    {"wrong/one-head-odd", "odd", NULL, L2 "mamba.conv1d.weight"},
    {"wrong/half-head", "mini-34b", NULL, L2 "mamba.D"},
    {"wrong/decay-constant", "mini-0.5b", NULL, L2 "mamba.dt_bias"},
    {"wrong/clamp-passes", "odd", NULL, L2 "mamba.dt_bias"},
    {"wrong/head-multiplier", "mini-34b", NULL, "lm_head.weight"},
    {"wrong/gate-multiplier", "mini-34b", NULL, L2 "feed_forward.gate_proj.weight"},
    {"wrong/one-query", "mini-34b", NULL, L2 "self_attn.v_proj.weight"},
    {"wrong/padding-row", "mini-0.5b", NULL, "model.embed_tokens.weight"},
    {"wrong/adapter-input", "mini-34b", "linear", ADAPTER "1.feed_forward.down_proj.lora_A.weight"},
    {"wrong/adapter-scale", "mini-34b", "linear", ADAPTER "2.feed_forward.down_proj.lora_A.weight"},
    {"wrong/mean-of-means", "mini-0.5b", NULL, "lm_head.weight"},
    {"wrong/leaking-bias", "odd", NULL, "model.final_layernorm.weight"},
    {"wrong/leaking-documents", "mini-34b", NULL, "lm_head.weight"},
    {"wrong/only-double", "mini-34b", NULL, "lm_head.weight"},
    {"wrong/mamba-inner-norms", "mamba-untied", NULL, MIXER "2.mixer.x_proj.weight"},
    {"wrong/mamba-norm-constant", "mamba-tied", NULL, MIXER "1.mixer.x_proj.weight"},
    {"wrong/mamba-decay-constant", "mamba-untied", NULL, MIXER "2.mixer.dt_proj.weight"},
    {"wrong/mamba-one-state", "mamba-untied", NULL, MIXER "2.mixer.A_log"},
    {"wrong/mamba-leaking-bias", "mamba-tied", NULL, "backbone.norm_f.weight"},
    {"wrong/mamba-leaking-documents", "mamba-untied", NULL, "lm_head.weight"},
    {"wrong/mamba-only-double", "mamba-untied", NULL, "lm_head.weight"},
};

typedef struct {
    cvt_st *file;
    fh1_model model;
    fh1_batch batch;
    fh1_engine *engine;
    fh1_backward pass;
    int64_t *inputs[5];
} judged;

/* An input of the call; the file's data need not be aligned. */
static const int64_t *input(judged *j, int i, const char *name, int64_t *rows, int64_t *columns)
{
    char full[64];
    snprintf(full, sizeof full, "step0/%s", name);
    const cvt_st_entry *e = cvt_st_find(j->file, full);
    if (!e) return NULL;
    const size_t bytes = (size_t)fh1_n_elems(&e->t) * sizeof(int64_t);
    j->inputs[i] = malloc(bytes);
    ck_assert_ptr_nonnull(j->inputs[i]);
    memcpy(j->inputs[i], e->t.data, bytes);
    *rows = e->t.shape[0];
    *columns = e->t.shape[1];
    return j->inputs[i];
}

static bool adapters_alone(void *user, const fh1_param *p)
{
    return p->adapter || !*(const char *const *)user;
}

static void differentiate(const golden *g, fh1_engine *engine, judged *j)
{
    char path[256], adapter[256];
    int64_t B, T;
    memset(j, 0, sizeof *j);
    snprintf(path, sizeof path, FOLDER "%s.safetensors", g->trace);
    OK(cvt_st_open(path, &j->file));
    snprintf(path, sizeof path, "golden/models/%s", g->model);
    snprintf(adapter, sizeof adapter, FOLDER "adapters/%s", g->adapter ? g->adapter : "");
    const char *const folders[] = {adapter};
    const cvt_attach attach = {.adapters = folders, .n = g->adapter != NULL};
    OK(cvt_model_open_attached(path, &attach, &j->model));
    j->batch.ids = input(j, 0, "input_ids", &j->batch.B, &j->batch.T);
    j->batch.mask = input(j, 1, "attention_mask", &B, &j->batch.mask_len);
    j->batch.positions = input(j, 2, "position_ids", &B, &T);
    j->batch.seq_idx = input(j, 3, "seq_idx", &B, &T);
    j->batch.labels = input(j, 4, "labels", &B, &T);
    j->engine = engine;
    OK(fh1_grads_new(&j->model, engine->dtype, adapters_alone, (void *)&g->adapter, &j->pass.grads));
    OK(j->engine->backward(j->engine, &j->model, &j->batch, &j->pass));
}

static void done(judged *j)
{
    fh1_grads_free(j->pass.grads);
    j->engine->free(j->engine);
    fh1_model_free(&j->model);
    cvt_st_close(j->file);
    for (int i = 0; i < 5; ++i) free(j->inputs[i]);
}

/* Root mean square of the difference over that of the gradient, which is `scale` times ours; -1: not in the file. */
static double error(const judged *j, const fh1_param *p, double scale)
{
    char name[FH1_PARAM_NAME + 16];
    snprintf(name, sizeof name, "step0/grad.%s", p->name);
    const cvt_st_entry *e = cvt_st_find(j->file, name);
    if (!e || !p->grad.data) return -1;
    ck_assert_int_eq(fh1_n_elems(&e->t), fh1_n_elems(&p->grad));
    double off = 0, size = 0;
    for (int64_t k = 0; k < fh1_n_elems(&e->t); ++k) {
        const double ours = scale * fh1_get(&p->grad, k), d = fh1_get(&e->t, k) - ours;
        off += d * d;
        size += ours * ours;
    }
    return size > 0 ? sqrt(off / size) : sqrt(off);
}

START_TEST(every_gradient_is_the_library_s)
{
    judged j;
    differentiate(&right[_i], ref_engine_new("ref-f64", NULL, 0), &j);
    const cvt_st_entry *loss = cvt_st_find(j.file, "step0/loss");
    ck_assert_msg(fabs(fh1_get(&loss->t, 0) - j.pass.loss) <= 1e-12 * j.pass.loss, "loss %.17g against %.17g",
                  j.pass.loss, fh1_get(&loss->t, 0));
    int64_t n = 0, in_file = 0;
    double worst = 0;
    for (int64_t i = 0; i < j.pass.grads->n; ++i) {
        const fh1_param *p = &j.pass.grads->params[i];
        if (!p->grad.data) continue;
        const double e = error(&j, p, 1);
        ck_assert_msg(e >= 0 && e <= 1e-12, "%s: %s is off by %g", right[_i].trace, p->name, e);
        ck_assert_msg(error(&j, p, 1 + 1e-11) > 1e-12, "%s: an error of 1e-11 in %s does not show", right[_i].trace,
                      p->name);
        worst = fmax(worst, e);
        ++n;
    }
    for (int64_t k = 0; k < cvt_st_count(j.file); ++k)
        in_file += strncmp(cvt_st_at(j.file, k)->name, "step0/grad.", 11) == 0;
    ck_assert_int_eq(n, in_file);
    printf("%s: %lld gradients, worst %.2g\n", right[_i].trace, (long long)n, worst);
    done(&j);
}
END_TEST

/* The CUDA engine, on the CPU: f32, so that 2e-5 is what an honest one may be off by (below). Every third file; the
 * slowest takes a second. */
START_TEST(every_gradient_on_the_device)
{
    judged j;
    fh1_engine *e;
    OK(cu_engine_new("cuda-host", fh1_profile_find("fp32"), 0, &e));
    differentiate(&right[3 * _i], e, &j);
    double worst = 0;
    for (int64_t i = 0; i < j.pass.grads->n; ++i) {
        const fh1_param *p = &j.pass.grads->params[i];
        if (!p->grad.data) continue;
        const double off = error(&j, p, 1);
        ck_assert_msg(off >= 0 && off <= 2e-5, "%s: %s is off by %g", right[3 * _i].trace, p->name, off);
        ck_assert_msg(error(&j, p, 1.0001) > 2e-5, "%s: an error of 1e-4 in %s does not show", right[3 * _i].trace,
                      p->name);
        worst = fmax(worst, off);
    }
    printf("%s: worst %.2g on %s\n", right[3 * _i].trace, worst, e->name);
    done(&j);
}
END_TEST

/* What is right in these files is right within f32's rounding (2e-5 is the worst that honest f32 gave in
 * gradients of these models), and what is wrong is wrong by 1 % or more. */
START_TEST(wrong_gradients_are_wrong_where_they_say)
{
    judged j;
    differentiate(&wrong[_i], ref_engine_new("ref-f64", NULL, 0), &j);
    const bool f64 = strstr(wrong[_i].trace, "only-double") != NULL;
    bool found = false;
    for (int64_t i = 0; i < j.pass.grads->n && !found; ++i) {
        const fh1_param *p = &j.pass.grads->params[i];
        const double e = error(&j, p, 1);
        if (e < 0) continue;
        found = strcmp(p->name, wrong[_i].wrong_at) == 0;
        if (found) ck_assert_msg(e > (f64 ? 1e-9 : 5e-3), "%s: %s is off by %g only", wrong[_i].trace, p->name, e);
        else ck_assert_msg(e <= (f64 ? 1e-9 : 2e-5), "%s: %s is off by %g already", wrong[_i].trace, p->name, e);
    }
    ck_assert_msg(found, "%s is not in %s", wrong[_i].wrong_at, wrong[_i].trace);
    done(&j);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("torch_gradients");
    TCase *c = tcase_create("autograd");
    tcase_add_loop_test(c, every_gradient_is_the_library_s, 0, (int)(sizeof right / sizeof *right));
    tcase_add_loop_test(c, every_gradient_on_the_device, 0, (int)(sizeof right / sizeof *right + 2) / 3);
    tcase_add_loop_test(c, wrong_gradients_are_wrong_where_they_say, 0, (int)(sizeof wrong / sizeof *wrong));
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
