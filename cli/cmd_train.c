/* fh1 train: AdamW on all weights, on some, or on a LoRA adapter. */
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/sink.h"
#include "cli/train_loop.h"
#include "cli/train_save.h"
#include "convert/file.h"
#include "convert/model_attach.h"
#include "convert/model_open.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Everything that a run holds, released in one place. */
typedef struct {
    cli_train_options o;
    cvt_ckpt *files; /* of MODEL */
    fh1_model model;
    bool has_model;
    cvt_adapter old; /* --adapter */
    bool has_old;
    cli_adapter *fresh; /* --lora */
    cli_lora_cover cover;
    char *config; /* of the adapter that is written */
    size_t n_config;
    fh1_engine *engine;
    fh1_grads *grads;
    cli_train_data *data;
    cli_train_state state;
    cli_conditions conditions;
    cli_train_report report;
    char *checkpoint;
} training;

static void release(training *t)
{
    if (t->engine) t->engine->free(t->engine);
    cli_train_data_free(t->data);
    fh1_grads_free(t->grads);
    if (t->has_model) fh1_model_free(&t->model);
    cli_train_state_free(&t->state);
    cli_adapter_free(t->fresh);
    if (t->has_old) cvt_adapter_free(&t->old);
    cvt_ckpt_close(t->files);
    free(t->config);
    free(t->checkpoint);
    cli_train_options_free(&t->o);
}

/* ---- what is there ---- */

static fh1_status check_target(training *t)
{
    const cli_train_options *o = &t->o;
    char *target;
    if (!o->force && cvt_path_exists(o->out))
        return fh1_hint(fh1_where(FH1_BAD("the target exists"), "%s", o->out), "choose another name, or use --force");
    cvt_target probe; /* what would be refused after the work is refused before it */
    fh1_status s = cvt_target_begin(o->out, true, o->force, &probe);
    cvt_target_free(&probe);
    FH1_TRY(s);
    FH1_TRY(cvt_target_path(o->out, &target));
    const size_t n = strlen(target) + sizeof ".ckpt";
    if ((t->checkpoint = malloc(n))) snprintf(t->checkpoint, n, "%s.ckpt", target);
    free(target);
    if (!t->checkpoint) return fh1_no_memory(n, "a path");
    FH1_TRY(cli_checkpoint_is(t->checkpoint));
    if (o->save_every && !o->resume && !o->force && cvt_path_exists(t->checkpoint))
        return fh1_hint(fh1_where(FH1_BAD("the checkpoint of an earlier run is there"), "%s", t->checkpoint),
                        "--resume goes on from it, --force begins anew");
    return NULL;
}

static fh1_status open_engine(training *t)
{
    FH1_TRY(cli_engine_new(t->o.engine, NULL, 0, &t->engine));
    if (t->engine->backward && t->engine->bwd_ops) return NULL;
    return fh1_hint(FH1_BAD("--engine %s has no backward pass", t->o.engine), "ref-f32 and ref-f64 have one");
}

static fh1_status open_model(training *t)
{
    const cli_train_options *o = &t->o;
    FH1_TRY(cvt_ckpt_open(o->model, &t->files));
    FH1_TRY(cli_check_apart(o->model, t->files, o->out));
    FH1_TRY(cvt_model_open(o->model, &t->model));
    t->has_model = true;
    return fh1_engine_open(t->engine, &t->model);
}

static fh1_status open_data(training *t)
{
    const cli_train_options *o = &t->o;
    FH1_TRY(cli_train_data_open(o->data, t->model.config.V, o->T, o->shuffle, &t->data));
    return cli_check_apart(o->data, NULL, o->out);
}

/* ---- adapters ---- */

static fh1_status new_adapter(training *t)
{
    FH1_TRY(cli_adapter_new(&t->model, &t->o.lora, (uint64_t)t->o.seed, &t->fresh, &t->cover));
    return cli_adapter_config(&t->o.lora, t->o.model, &t->config, &t->n_config);
}

/* How much of the model the new adapter reaches: an adapter on too little learns nothing, and says nothing. */
static void tell_cover(const training *t)
{
    const cli_lora_cover *c = &t->cover;
    if (!t->o.lora_text) return;
    if (cli_lora_has(&t->o.lora, "out_proj"))
        cli_warn(t->o.out,
                 "an adapter on out_proj: PEFT refuses to load it for this architecture, whose fused kernels read "
                 "that weight raw; fh1 applies and merges it");
    if (cli_lora_has(&t->o.lora, "dt_proj"))
        cli_warn(
            t->o.out,
            "an adapter on dt_proj: transformers reads that weight raw, so that attached it does nothing there unless "
            "the model is quantised; merge it (fh1 merge, PEFT) to use it");
    if (!t->o.quiet)
        fprintf(stderr,
                "adapter: %" PRId64 " of %" PRId64 " modules, %" PRId64 " numbers, %.3g %% of the model's %" PRId64
                "\n",
                c->modules, c->linears, c->params, 100 * (double)c->params / (double)c->base, c->base);
}

/* PEFT writes the base's embeddings beside their pairs (save_embedding_layers): the numbers that the base has anyway.
 */
static bool is_the_base(const fh1_model *m, const cvt_replacement *r)
{
    for (int64_t i = 0; i < m->n_weights; i++) {
        const fh1_tensor *w = &m->weights[i].t;
        if (strcmp(m->weights[i].name, r->name) != 0) continue;
        for (int64_t k = 0; k < fh1_n_elems(w); k++)
            if (fh1_get(w, k) != fh1_get(&r->t, k)) return false;
        return true;
    }
    return false;
}

static fh1_status refuse_parts(const training *t)
{
    const cvt_adapter *a = &t->old;
    const char *what = a->n_tokens ? "token rows (trainable_token_indices)" : NULL;
    for (int64_t i = 0; i < a->n_replacements && !what; i++)
        if (a->replacements[i].copy || !is_the_base(&t->model, &a->replacements[i]))
            what = "modules of its own (modules_to_save, biases)";
    for (int64_t i = 0; i < a->n_loras && !what; i++)
        if (a->loras[i].parameter) what = "pairs on bare parameters (target_parameters)";
    if (!what) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the adapter holds %s, which fh1 does not train", what), "%s", t->o.adapter),
                    "merge it (fh1 merge) and train a new adapter on the result");
}

static fh1_status old_adapter(training *t)
{
    char path[4096];
    const char *dir = t->o.adapter;
    FH1_TRY(cli_check_apart(dir, NULL, t->o.out));
    FH1_TRY(cvt_adapter_open(dir, NULL, t->files, &t->old));
    t->has_old = true;
    for (int k = 0; k < t->old.n_warnings; k++) cli_warn(dir, t->old.warnings[k]);
    FH1_TRY(refuse_parts(t));
    FH1_TRY(cvt_path_join(path, sizeof path, dir, "adapter_config.json"));
    FH1_TRY(cvt_file_read(path, (size_t)16 << 20, &t->config, &t->n_config));
    return cvt_model_attach(&t->model, &t->old, 1, CVT_ATTACH_EXACT);
}

/* ---- parameters ---- */

static bool is_wanted(void *user, const fh1_param *p)
{
    const cli_train_options *o = user;
    const cli_globs train = cli_train_globs(o), freeze = cli_freeze_globs(o);
    if (cli_trains_adapter(o)) return p->adapter;
    return !p->adapter && cli_is_trained(&train, &freeze, p->name);
}

static fh1_status choose_factors(training *t, cli_factors *f)
{
    const fh1_grads *g = t->grads;
    FH1_TRY(cli_groups_apply(&t->o.groups, g, f));
    for (int64_t i = 0; i < g->n; i++)
        if (!t->o.decay_all && !cli_decays_in_hf(g->params[i].name)) f[i].decay = 0;
    return NULL;
}

static fh1_status choose_parameters(training *t)
{
    cli_train_options *o = &t->o;
    const cli_globs train = cli_train_globs(o), freeze = cli_freeze_globs(o);
    FH1_TRY(fh1_grads_new(&t->model, t->engine->dtype, is_wanted, o, &t->grads));
    FH1_TRY(cli_globs_check("--train", &train, t->grads));
    FH1_TRY(cli_globs_check("--freeze", &freeze, t->grads));
    if (t->grads->bytes == 0)
        return fh1_hint(FH1_BAD("nothing is trained"), o->adapter ? "the adapter has no low-rank pair that acts"
                                                                  : "--train and --freeze leave no weight");
    cli_factors *f = calloc((size_t)t->grads->n, sizeof *f);
    if (!f) return fh1_no_memory((size_t)t->grads->n * sizeof *f, "factors");
    fh1_status s = choose_factors(t, f);
    if (!s) s = cli_train_state_new(&t->model, t->grads, f, &t->state);
    free(f);
    return s;
}

/* ---- the run ---- */

static fh1_status collect_conditions(training *t)
{
    char hash[33];
    const cli_train_facts *f = cli_train_data_facts(t->data);
    if (!t->o.save_every && !t->o.resume) return NULL;
    FH1_TRY(cli_model_hash(&t->model, t->files, hash));
    cli_condition_add(&t->conditions, "the model", "%s", hash);
    cli_condition_add(&t->conditions, "--data", "%s, %" PRIu64 " bytes", f->hash, f->bytes);
    cli_condition_add(&t->conditions, "--adapter", "%s", t->has_old ? t->old.hash : "none");
    cli_train_conditions(&t->o, &t->conditions);
    return NULL;
}

static fh1_status resume(training *t)
{
    cli_train_place place;
    if (!t->o.resume) return NULL;
    if (!cvt_path_exists(t->checkpoint)) {
        if (!t->o.quiet) fprintf(stderr, "note: %s is not there: the run begins at step 1\n", t->checkpoint);
        return NULL;
    }
    FH1_TRY(cli_checkpoint_read(t->checkpoint, &t->state, &place, &t->conditions));
    if (t->state.step > t->o.steps)
        return fh1_found(
            fh1_expected(fh1_where(FH1_BAD("--resume: the checkpoint lies behind the last step"), "%s", t->checkpoint),
                         "at most %" PRId64, t->o.steps),
            "step %" PRId64, t->state.step);
    return cli_train_data_seek(t->data, &place);
}

static fh1_status write_model(training *t)
{
    cvt_ckpt *view, *files = t->files;
    t->files = NULL; /* the view takes it over */
    FH1_TRY(cli_train_view(files, &t->state, &view));
    const cli_sink sink = {"train", CLI_TO_HF, CVT_GGUF_KEEP, t->o.force, t->o.quiet || t->o.json};
    fh1_status s = cli_write(view, t->o.out, &sink);
    cvt_ckpt_close(view);
    return s;
}

static fh1_status write_adapter(training *t)
{
    const fh1_grads *g = t->grads;
    const void **values = calloc((size_t)g->n, sizeof *values);
    if (!values) return fh1_no_memory((size_t)g->n * sizeof *values, "an adapter");
    for (int64_t i = 0; i < t->state.n; i++) values[t->state.slots[i].param] = t->state.slots[i].master;
    cli_interrupt_begin(); /* it takes a moment: a signal waits until the folder is whole */
    fh1_status s = cli_adapter_save(t->o.out, t->o.force, t->config, t->n_config, g, values, t->files);
    cli_interrupt_end();
    free(values);
    return s;
}

static fh1_status train(training *t)
{
    const cli_train_options *o = &t->o;
    FH1_TRY(check_target(t));
    FH1_TRY(open_engine(t));
    FH1_TRY(open_model(t));
    FH1_TRY(open_data(t));
    if (o->lora_text) FH1_TRY(new_adapter(t));
    if (o->adapter) FH1_TRY(old_adapter(t));
    FH1_TRY(choose_parameters(t));
    FH1_TRY(collect_conditions(t));
    FH1_TRY(resume(t));
    cli_train_report_begin(&t->report, t->state.step, o->steps, o->json, o->quiet);
    tell_cover(t);
    cli_train_report_memory(&t->report, &t->state);
    const cli_train_run run = {
        o, t->engine, &t->state, t->data, &t->report, o->save_every ? t->checkpoint : NULL, &t->conditions};
    FH1_TRY(cli_train_go(&run));
    FH1_TRY(cli_trains_adapter(o) ? write_adapter(t) : write_model(t));
    cli_train_report_end(&t->report, o->out, cli_trains_adapter(o) ? "adapter" : "model");
    return NULL;
}

fh1_status cmd_train(int argc, char **argv, int *code)
{
    training *t = calloc(1, sizeof *t);
    cli_list words = {0};
    bool done = false;
    *code = 0;
    if (!t) return fh1_no_memory(sizeof *t, "a training run");
    fh1_status s = cli_train_options_read(argc, argv, &t->o, &words, &done);
    if (!s && !done) s = train(t);
    release(t);
    free(t);
    cli_list_free(&words);
    return s;
}
