/* Training runs of torch.optim.AdamW on real transformers and PEFT models, step by step: losses, norms, rates, and how
 * far weights and moments went.
 *
 * f64: the library computes in f64 too (its casts lifted): both differ by roundings of 2^-53, which the steps and the
 * division by the root of v amplify. 1e-9 of a tensor's RMS, asked of gradients, is asked of updates and moments;
 * losses and norms are sums without cancellation, 1e-12 is 4500 roundings. f32: an honest gradient is off by up to e =
 * 2e-5 of its tensor's RMS (sums that cancel, such as A_log's; median 1e-6), so two honest runs by 2e: MOMENTS for m; v
 * squares, 4e. An update is about lr·m/√v, whatever the size of the gradient: where that is x times the RMS, it is off
 * by e/x, at most by all of itself. Over gradients of any spread around 0, of which a share of about x lies below x,
 * that is √(2e) of the update's RMS: 1.5e-3 for the median e. A loss is a mean of some 40 logarithms of f32 sums of V
 * exponentials: 16 roundings of 2^-24. What is planted must miss by ten times the bound. */
#include "tests/train_golden_fixture.h"

#include "convert/file.h"
#include "convert/merge.h"
#include "convert/target_live.h"

#include <unistd.h>

typedef struct {
    double loss, norm, update, moments;
} bounds;

static const bounds f64_bounds = {1e-12, 1e-12, 1e-9, 1e-9}, f32_bounds = {16 * 0x1p-24, 8e-5, 1.5e-3, 8e-5};

static const bounds *bounds_of(const golden *g)
{
    return g->dtype == FH1_F64 ? &f64_bounds : &f32_bounds;
}

/* The largest share of an allowance that is used; 1 is all of it. */
static double share(const gap *a, const bounds *b)
{
    double worst = a->rate > 4 * 0x1p-52 ? INFINITY : 0; /* two formulas of four operations and a cosine */
    raise_to(&worst, a->loss / b->loss);
    raise_to(&worst, a->norm / b->norm);
    raise_to(&worst, a->update / b->update);
    raise_to(&worst, a->squares / b->update);
    raise_to(&worst, a->m / b->moments);
    raise_to(&worst, a->v / b->moments);
    return worst;
}

static const struct {
    const char *name;
    fh1_dtype dtype;
} runs[] = {{"mini-0.5b", FH1_F64},  {"mini-0.5b", FH1_F32}, {"mini-34b", FH1_F64}, {"mini-34b", FH1_F32},
            {"odd", FH1_F64},        {"odd", FH1_F32},       {"finetune", FH1_F64}, {"finetune", FH1_F32},
            {"mamba-tied", FH1_F64}, {"mamba-tied", FH1_F32}};
enum { N_RUNS = sizeof runs / sizeof *runs };

START_TEST(as_torch_trains)
{
    golden g;
    open_golden(&g, runs[_i].name, runs[_i].dtype);
    const gap a = train(&g, &g.o, FH1_FAULT_NONE, NULL);
    ck_assert_msg(share(&a, bounds_of(&g)) <= 1,
                  "%s: loss %.2g norm %.2g rate %.2g update %.2g m %.2g v %.2g squares %.2g, worst %s", runs[_i].name,
                  a.loss, a.norm, a.rate, a.update, a.m, a.v, a.squares, a.worst);
    ck_assert_int_ge(a.tensors, 48); /* the comparison saw them: 24 parameters at least, after two steps */
    close_golden(&g);
}
END_TEST

static void missed(const golden *g, const cli_train_options *o, fh1_fault fault, const char *what)
{
    const gap a = train(g, o, fault, NULL);
    ck_assert_msg(!(share(&a, bounds_of(g)) <= 10), "not noticed in %s: %s", g->dtype == FH1_F64 ? "f64" : "f32", what);
}

START_TEST(planted_faults_are_seen)
{
    golden g;
    open_golden(&g, "mini-34b", runs[_i].dtype);
    int n = 0;
    for (fh1_fault f = FH1_FAULT_NONE + 1; f < FH1_FAULT_COUNT; f++) {
        if (strcmp(fh1_fault_get(f)->op, "adamw") != 0) continue;
        missed(&g, &g.o, f, fh1_fault_get(f)->name);
        n++;
    }
    ck_assert_int_ge(n, 4);
    close_golden(&g);
}
END_TEST

START_TEST(other_options_are_other_runs)
{
    golden g;
    open_golden(&g, "mini-34b", runs[_i].dtype);
    cli_train_options o = g.o;
    o.adamw.decay = 0;
    missed(&g, &o, FH1_FAULT_NONE, "no decay");
    o = g.o;
    o.adamw.beta2 = 0.96;
    missed(&g, &o, FH1_FAULT_NONE, "another beta2");
    o = g.o;
    o.adamw.beta1 = 0.95;
    missed(&g, &o, FH1_FAULT_NONE, "another beta1");
    o = g.o;
    o.clip = 0;
    missed(&g, &o, FH1_FAULT_NONE, "no clipping");
    o = g.o;
    o.schedule.warmup++;
    missed(&g, &o, FH1_FAULT_NONE, "another warm-up");
    o = g.o;
    o.accumulate = 1;
    missed(&g, &o, FH1_FAULT_NONE, "no accumulation");
    o = g.o;
    o.T++;
    missed(&g, &o, FH1_FAULT_NONE, "longer rows");
    close_golden(&g);
}
END_TEST

/* A step of two micro-batches is one of a batch of both: the order of the sums differs, nothing else. */
START_TEST(accumulation_is_the_batch)
{
    golden g;
    open_golden(&g, "mini-34b", FH1_F64);
    cli_train_options o = g.o;
    o.batch = g.o.accumulate;
    o.accumulate = 1;
    const gap a = train(&g, &o, FH1_FAULT_NONE, NULL);
    ck_assert(share(&a, &f64_bounds) <= 1);
    o.recompute = true;
    const gap b = train(&g, &o, FH1_FAULT_NONE, NULL);
    ck_assert_mem_eq(&a.loss, &b.loss, 6 * sizeof a.loss);
    close_golden(&g);
}
END_TEST

/* ---- the fine-tune: before, after, and merged ---- */

/* The mean over all labels of the file, as make_training.py's epoch_loss. */
static double epoch_loss(const golden *g, fh1_engine *e, fh1_model *m)
{
    cli_train_data *d;
    cli_train_batch b;
    fh1_grads *none;
    double loss = 0;
    TINY_OK(cli_train_data_open(g->data, m->config.V, g->o.T, -1, &d));
    TINY_OK(cli_train_batch_new(1, g->o.T, &b));
    TINY_OK(fh1_grads_new(m, e->dtype, NULL, NULL, &none));
    for (int64_t seen = 0; seen < cli_train_data_facts(d)->labels; seen += b.n_labels) {
        fh1_backward o = {.grads = none, .divisor = (double)cli_train_data_facts(d)->labels, .keep = true};
        TINY_OK(cli_train_data_next(d, &b));
        TINY_OK(e->backward(e, m, &b.batch, &o));
        loss += o.loss;
    }
    fh1_grads_free(none);
    cli_train_batch_free(&b);
    cli_train_data_free(d);
    return loss;
}

static double golden_loss(const golden *g, const char *when)
{
    const cJSON *of = cJSON_GetObjectItemCaseSensitive(g->json, "epoch_loss");
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(of, g->dtype == FH1_F64 ? "f64" : "f32"), when);
    ck_assert(cJSON_IsNumber(v));
    return v->valuedouble;
}

static double attached, merged;

/* Saves the adapter, opens it again, merges it and runs the merged model. */
static void merge(replay *r)
{
    char out[64], *config;
    size_t n;
    cvt_adapter a;
    cvt_ckpt *base, *view;
    fh1_model m;
    const void **values = calloc((size_t)r->grads->n, sizeof *values);
    snprintf(out, sizeof out, "/tmp/fh1-train-golden.%ld", (long)getpid());
    for (int64_t i = 0; i < r->state.n; i++) values[r->state.slots[i].param] = r->state.slots[i].master;
    TINY_OK(cvt_file_read(FOLDER "finetune/initial/adapter_config.json", 1 << 16, &config, &n));
    TINY_OK(cli_adapter_save(out, true, config, n, r->grads, values, r->files));
    TINY_OK(cvt_ckpt_open(r->g->base, &base));
    TINY_OK(cvt_adapter_open(out, NULL, base, &a));
    const cvt_merge_part part = {&a, 1};
    const cvt_merge_options o = {.rounding = CVT_ROUND_EXACT};
    TINY_OK(cvt_ckpt_merge(base, &part, 1, &o, &view));
    TINY_OK(cvt_model_from_ckpt(view, &m));
    merged = epoch_loss(r->g, r->engine, &m);
    fh1_model_free(&m);
    cvt_ckpt_close(view);
    cvt_adapter_free(&a);
    cvt_remove_tree(out);
    free(values);
    free(config);
}

static void look(replay *r, bool after)
{
    attached = epoch_loss(r->g, r->engine, &r->model);
    const double want = golden_loss(r->g, after ? "after" : "before");
    const double allowed = r->g->dtype == FH1_F64 ? 1e-12 : 16 * 0x1p-24;
    ck_assert_msg(relative(attached, want) <= allowed, "%s: %.17g, the library has %.17g", after ? "after" : "before",
                  attached, want);
    if (after) merge(r);
}

/* Adapter and merge are rounded to the base's f32 once each: products of 2 or more numbers off by 2^-24 each, of which
 * a loss sees the mean; 16 roundings, as above. */
START_TEST(a_fine_tune_merges)
{
    golden g;
    open_golden(&g, "finetune", runs[_i].dtype);
    train(&g, &g.o, FH1_FAULT_NONE, look);
    ck_assert_msg(relative(merged, attached) <= 16 * 0x1p-24, "merged %.17g, attached %.17g", merged, attached);
    ck_assert(golden_loss(&g, "before") - merged > 3); /* it learned something */
    if (g.dtype == FH1_F32) ck_assert(relative(merged, golden_loss(&g, "merged")) <= 16 * 0x1p-24);
    close_golden(&g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("train_golden");
    TCase *tc = tcase_create("all");
    tcase_add_loop_test(tc, as_torch_trains, 0, N_RUNS);
    tcase_add_loop_test(tc, planted_faults_are_seen, 0, 2);
    tcase_add_loop_test(tc, other_options_are_other_runs, 0, 2);
    tcase_add_test(tc, accumulation_is_the_batch);
    tcase_add_loop_test(tc, a_fine_tune_merges, 0, 2);
    return tiny_main(suite, tc);
}
