/* A training run of the library on file (golden/gradients, make_training.py), the same run here, and how far the two
 * are apart. */
#pragma once

#include "cli/train_loop.h"
#include "convert/adapter.h"
#include "convert/fields.h"
#include "convert/model_attach.h"
#include "convert/model_open.h"
#include "convert/safetensors.h"
#include "reference/faulty.h"
#include "tests/tiny_model.h"

#define FOLDER "golden/gradients/"

/* ---- a run of the library, on file ---- */

typedef struct {
    const char *name; /* folder */
    fh1_dtype dtype;
    cJSON *json;
    cvt_st *file;
    cli_train_options o;
    char base[256], data[256], adapter[256];
} golden;

static double number(const golden *g, const char *key)
{
    double v = 0;
    const cvt_fields f = {g->json, g->name, ""};
    TINY_OK(cvt_need_number(&f, key, &v));
    return v;
}

static int64_t whole(const golden *g, const char *key)
{
    return (int64_t)number(g, key);
}

static inline void open_golden(golden *g, const char *name, fh1_dtype dtype)
{
    char path[256];
    const char *text;
    double betas[2];
    *g = (golden){.name = name, .dtype = dtype};
    snprintf(path, sizeof path, FOLDER "%s/train.json", name);
    TINY_OK(cvt_json_read(path, 1 << 16, 4, &g->json));
    snprintf(path, sizeof path, FOLDER "%s/train-%s.safetensors", name, dtype == FH1_F64 ? "f64" : "f32");
    TINY_OK(cvt_st_open(path, &g->file));
    const cvt_fields f = {g->json, name, ""};
    TINY_OK(cvt_need_string(&f, "base", &text));
    snprintf(g->base, sizeof g->base, FOLDER "%s/%s", name, text);
    snprintf(g->data, sizeof g->data, FOLDER "%s/train.ids", name);
    if (cvt_optional(&f, "adapter")) {
        TINY_OK(cvt_need_string(&f, "adapter", &text));
        snprintf(g->adapter, sizeof g->adapter, FOLDER "%s/%s", name, text);
    }
    TINY_OK(cvt_need_numbers(&f, "betas", 2, betas));
    TINY_OK(cvt_need_string(&f, "schedule", &text));
    g->o = (cli_train_options){
        .steps = whole(g, "steps"),
        .batch = whole(g, "batch"),
        .T = whole(g, "seq_len"),
        .accumulate = whole(g, "accumulate"),
        .shuffle = -1,
        .clip = number(g, "clip"),
        .adamw = {.beta1 = betas[0], .beta2 = betas[1], .eps = number(g, "eps"), .decay = number(g, "weight_decay")},
        .schedule = {.lr = number(g, "lr"), .steps = whole(g, "steps"), .warmup = whole(g, "warmup")}};
    TINY_OK(cli_schedule_parse(text, &g->o.schedule));
}

static inline void close_golden(golden *g)
{
    cvt_st_close(g->file);
    cJSON_Delete(g->json);
}

/* ---- the same run here, and how far it is off ---- */

/* Worst of all steps and tensors; relative. */
typedef struct {
    double loss, norm, rate;
    double update, m, v; /* RMS of the error over the RMS of what the library has, of the tensors on file */
    double squares;      /* √Σ of update, m, v of every parameter */
    int64_t tensors;
    char worst[FH1_PARAM_NAME + 32];
} gap;

typedef struct {
    const golden *g;
    fh1_model model;
    cvt_ckpt *files;
    cvt_adapter adapter;
    fh1_engine *engine;
    fh1_grads *grads;
    cli_train_state state;
    double **initial; /* [state.n] */
    gap off;
} replay;

/* What a test does with a run before its first step and after its last one; NULL: nothing. */
typedef void (*replay_act)(replay *r, bool after);

static double relative(double ours, double theirs)
{
    return ours == theirs ? 0 : fabs(ours - theirs) / fabs(theirs);
}

/* NaN is the worst. */
static void raise_to(double *worst, double v)
{
    if (!(v <= *worst)) *worst = v;
}

static double *wide(const void *v, fh1_dtype dtype, int64_t n)
{
    double *out = malloc((size_t)(n + 1) * sizeof *out);
    ck_assert_ptr_nonnull(out);
    fh1_to_f64(out, v, dtype, n);
    return out;
}

static double root(int64_t n, const double *a, const double *minus)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (a[i] - (minus ? minus[i] : 0)) * (a[i] - (minus ? minus[i] : 0));
    return sqrt(sum);
}

static const void *part_of(const cli_slot *x, int part)
{
    return part == 0 ? x->master : part == 1 ? x->m : x->v;
}

/* One tensor that is on file. */
static void compare_tensor(replay *r, int64_t step, int64_t i, int part)
{
    static const char *const parts[] = {"master", "m", "v"};
    const cli_slot *x = &r->state.slots[i];
    char name[FH1_PARAM_NAME + 32];
    snprintf(name, sizeof name, "step%lld/%s/%s", (long long)step, parts[part], r->grads->params[x->param].name);
    const cvt_st_entry *e = cvt_st_find(r->g->file, name);
    if (!e) return;
    ck_assert_msg(fh1_n_elems(&e->t) == x->n, "%s", name);
    double *ours = wide(part_of(x, part), r->grads->dtype, x->n), *theirs = wide(e->t.data, e->t.dtype, x->n);
    const double off = root(x->n, ours, theirs) / root(x->n, theirs, part == 0 ? r->initial[i] : NULL);
    if (!(off <= fmax(r->off.update, fmax(r->off.m, r->off.v))))
        snprintf(r->off.worst, sizeof r->off.worst, "%s", name);
    raise_to(part == 0 ? &r->off.update : part == 1 ? &r->off.m : &r->off.v, off);
    r->off.tensors++;
    free(ours);
    free(theirs);
}

/* Where parameter i stands when all are sorted by name. */
static int64_t place_of(const replay *r, int64_t i)
{
    int64_t place = 0;
    for (int64_t k = 0; k < r->state.n; k++)
        place +=
            strcmp(r->grads->params[r->state.slots[k].param].name, r->grads->params[r->state.slots[i].param].name) < 0;
    return place;
}

static void compare_squares(replay *r, int64_t step, int part)
{
    static const char *const parts[] = {"update", "m", "v"};
    char name[64];
    snprintf(name, sizeof name, "step%lld/squares/%s", (long long)step, parts[part]);
    const cvt_st_entry *e = cvt_st_find(r->g->file, name);
    ck_assert_msg(e && fh1_n_elems(&e->t) == r->state.n, "%s", name);
    for (int64_t i = 0; i < r->state.n; i++) {
        const cli_slot *x = &r->state.slots[i];
        double *ours = wide(part_of(x, part), r->grads->dtype, x->n);
        raise_to(&r->off.squares,
                 relative(root(x->n, ours, part == 0 ? r->initial[i] : NULL), sqrt(fh1_get(&e->t, place_of(r, i)))));
        free(ours);
    }
}

static double curve(const replay *r, const char *name, int64_t step)
{
    const cvt_st_entry *e = cvt_st_find(r->g->file, name);
    ck_assert_msg(e && fh1_n_elems(&e->t) == r->g->o.steps, "%s", name);
    return fh1_get(&e->t, step - 1);
}

static void each_step(void *user, const cli_train_step *x)
{
    replay *r = user;
    raise_to(&r->off.loss, relative(x->loss, curve(r, "loss", x->step)));
    raise_to(&r->off.norm, relative(x->norm, curve(r, "norm", x->step)));
    raise_to(&r->off.rate, relative(x->lr, curve(r, "rate", x->step)));
    if (x->step != 1 && x->step != r->g->o.steps) return;
    for (int part = 0; part < 3; part++) {
        for (int64_t i = 0; i < r->state.n; i++) compare_tensor(r, x->step, i, part);
        compare_squares(r, x->step, part);
    }
}

static bool is_wanted(void *user, const fh1_param *p)
{
    return p->adapter == (*(const char *)user != '\0');
}

static void open_replay(replay *r, const golden *g, fh1_fault fault)
{
    char adapter[sizeof g->adapter];
    memcpy(adapter, g->adapter, sizeof adapter);
    *r = (replay){.g = g};
    TINY_OK(cvt_model_open(g->base, &r->model));
    TINY_OK(cvt_ckpt_open(g->base, &r->files));
    if (*adapter) {
        TINY_OK(cvt_adapter_open(adapter, NULL, r->files, &r->adapter));
        TINY_OK(cvt_model_attach(&r->model, &r->adapter, 1, CVT_ATTACH_EXACT));
    }
    const char *engine = g->dtype == FH1_F64 ? "ref-f64" : "ref-f32";
    r->engine =
        fault == FH1_FAULT_NONE ? ref_engine_new(engine, NULL, 0) : ref_faulty_engine_new(engine, NULL, 0, fault);
    ck_assert_ptr_nonnull(r->engine);
    TINY_OK(fh1_grads_new(&r->model, r->engine->dtype, is_wanted, adapter, &r->grads));
    cli_factors *f = calloc((size_t)r->grads->n, sizeof *f);
    for (int64_t i = 0; i < r->grads->n; i++) f[i] = (cli_factors){1, 1};
    TINY_OK(cli_train_state_new(&r->model, r->grads, f, &r->state));
    free(f);
    r->initial = calloc((size_t)r->state.n, sizeof *r->initial);
    for (int64_t i = 0; i < r->state.n; i++)
        r->initial[i] = wide(r->state.slots[i].master, r->grads->dtype, r->state.slots[i].n);
}

static void close_replay(replay *r)
{
    for (int64_t i = 0; i < r->state.n; i++) free(r->initial[i]);
    free(r->initial);
    r->engine->free(r->engine);
    fh1_grads_free(r->grads);
    fh1_model_free(&r->model);
    cli_train_state_free(&r->state);
    if (*r->g->adapter) cvt_adapter_free(&r->adapter);
    cvt_ckpt_close(r->files);
}

/* Trains as `o` says (the golden's own options, or spoiled ones). */
static inline gap train(const golden *g, const cli_train_options *o, fh1_fault fault, replay_act act)
{
    replay r;
    cli_train_data *data;
    cli_train_report report = {.quiet = true, .steps = o->steps, .first_step = 1, .each = each_step, .user = &r};
    open_replay(&r, g, fault);
    TINY_OK(cli_train_data_open(g->data, r.model.config.V, o->T, -1, &data));
    const cli_train_run run = {.o = o, .engine = r.engine, .state = &r.state, .data = data, .report = &report};
    if (act) act(&r, false);
    TINY_OK(cli_train_go(&run));
    if (act) act(&r, true);
    const gap off = r.off;
    cli_train_data_free(data);
    close_replay(&r);
    return off;
}
