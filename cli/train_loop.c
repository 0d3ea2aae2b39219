#include "cli/train_loop.h"

#include "cli/interrupt.h"
#include "cli/progress.h"
#include "convert/file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The micro-batches of one step. */
typedef struct {
    cli_train_batch *b; /* n */
    int64_t n, labels, tokens;
} step_data;

static fh1_status read_step(const cli_train_run *r, step_data *d)
{
    do {
        d->labels = d->tokens = 0;
        for (int64_t k = 0; k < d->n; k++) {
            FH1_TRY(cli_train_data_next(r->data, &d->b[k]));
            d->labels += d->b[k].n_labels;
            d->tokens += d->b[k].n_tokens;
        }
        if (d->labels == 0 && !r->o->quiet)
            fprintf(stderr,
                    "note: rows before step %" PRId64 " are passed over: no document in them has two tokens, so "
                    "there is nothing to predict\n",
                    r->state->step + 1);
    } while (d->labels == 0); /* the data have labels somewhere, or they would not have been opened */
    return NULL;
}

/* What a signal leaves is the last checkpoint. */
static fh1_status interrupted(const cli_train_run *r)
{
    char what[sizeof((fh1_error *)NULL)->what];
    fh1_status s = cli_interrupted();
    if (!s || !r->checkpoint || !cvt_path_exists(r->checkpoint)) return s;
    snprintf(what, sizeof what, "%s", s->what);
    return fh1_hint(fh1_fail(FH1_E_INTERNAL, "%s", what), "the last checkpoint stays: --resume goes on from it");
}

/* Every micro-batch is divided by the labels of the whole step, so that their sum is the mean over it. */
static fh1_status differentiate(const cli_train_run *r, const step_data *d, double *loss)
{
    *loss = 0;
    fh1_grads_zero(r->state->grads);
    for (int64_t k = 0; k < d->n; k++) {
        fh1_backward b = {.grads = r->state->grads, .divisor = (double)d->labels, .keep = !r->o->recompute};
        FH1_TRY(interrupted(r));
        FH1_TRY(r->engine->backward(r->engine, r->state->model, &d->b[k].batch, &b));
        *loss += b.loss;
    }
    return NULL;
}

static fh1_status broken_weights(const cli_train_run *r, const fh1_param *p)
{
    fh1_status s = fh1_fail(FH1_E_WRONG, "after step %" PRId64 " weights are not finite", r->state->step);
    return fh1_hint(fh1_where(s, "%s", p->name), "%s; nothing was written after the last checkpoint",
                    r->o->adamw.eps > 0
                        ? "a smaller --lr may help"
                        : "--eps 0 divides 0 by 0 where a gradient is exactly 0, and a smaller --lr may help");
}

/* Weights that an earlier step broke are to blame before what they make of the loss. */
static fh1_status not_finite(const cli_train_run *r, double loss, double norm, const fh1_param *bad)
{
    const fh1_param *weights = cli_train_state_broken(r->state);
    if (weights) return broken_weights(r, weights);
    fh1_status s = fh1_fail(FH1_E_WRONG, "training stopped at step %" PRId64 ": %s not finite", r->state->step + 1,
                            isfinite(loss) ? "gradients are" : "the loss is");
    const double nan = (double)NAN; /* printed without a sign */
    s = fh1_found(s, "loss %g, norm %g", isnan(loss) ? nan : loss, isnan(norm) ? nan : norm);
    if (bad) s = fh1_where(s, "the gradient of %s", bad->name);
    return fh1_hint(s, "a smaller --lr or a --warmup may help; nothing was written after the last checkpoint");
}

static fh1_status one_step(const cli_train_run *r, step_data *d)
{
    const double begun = cli_seconds();
    const fh1_param *bad;
    fh1_adamw adamw = r->o->adamw;
    cli_train_step x = {.step = r->state->step + 1};
    FH1_TRY(read_step(r, d));
    FH1_TRY(differentiate(r, d, &x.loss));
    FH1_TRY(cli_train_state_norm(r->state, r->engine, &x.norm, &bad));
    if (!isfinite(x.loss) || !isfinite(x.norm)) return not_finite(r, x.loss, x.norm, bad);
    x.lr = cli_schedule_lr(&r->o->schedule, x.step);
    adamw.grad_scale = cli_clip_scale(x.norm, r->o->clip);
    FH1_TRY(cli_train_state_update(r->state, r->engine, x.lr, &adamw));
    x.tokens = d->tokens;
    x.labels = d->labels;
    x.seconds = cli_seconds() - begun;
    cli_train_report_step(r->report, &x);
    return NULL;
}

static fh1_status save(const cli_train_run *r)
{
    const cli_train_place place = cli_train_data_tell(r->data);
    const int64_t step = r->state->step;
    if (!r->checkpoint || (step % r->o->save_every != 0 && step != r->o->steps)) return NULL;
    return cli_checkpoint_write(r->checkpoint, r->state, &place, r->conditions);
}

static fh1_status all_steps(const cli_train_run *r, step_data *d)
{
    while (r->state->step < r->o->steps) {
        FH1_TRY(one_step(r, d));
        const fh1_param *broken = r->state->step == r->o->steps ? cli_train_state_broken(r->state) : NULL;
        if (broken) return broken_weights(r, broken); /* the next step would have noticed by its loss */
        FH1_TRY(save(r));
    }
    return NULL;
}

fh1_status cli_train_go(const cli_train_run *r)
{
    step_data d = {.n = r->o->accumulate};
    if (!(d.b = calloc((size_t)d.n, sizeof *d.b))) return fh1_no_memory((size_t)d.n * sizeof *d.b, "batches");
    fh1_status s = NULL;
    for (int64_t k = 0; k < d.n && !s; k++) s = cli_train_batch_new(r->o->batch, r->o->T, &d.b[k]);
    cli_interrupt_begin();
    if (!s) s = all_steps(r, &d);
    if (!s) s = interrupted(r); /* it came in the last step */
    cli_interrupt_end();
    for (int64_t k = 0; k < d.n; k++) cli_train_batch_free(&d.b[k]);
    free(d.b);
    return s;
}
