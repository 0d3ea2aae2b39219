/* The numbers of a training run: master weights and AdamW's moments.
 *
 * The engine reads bf16 and f16 parameters rounded from the master after every step. A parameter of a wider type is the
 * master itself, in the engine's compute type (f32, or f64 with ref-f64), rounded to its own type when it is saved. */
#pragma once

#include "cli/train_groups.h"
#include "oracle/engine.h"

typedef struct {
    int64_t param;        /* in grads */
    int64_t n;            /* numbers */
    void *master, *m, *v; /* [n] in grads->dtype */
    void *stored;         /* [n] in the model's type; NULL: the engine reads the master */
    cli_factors f;        /* on learning rate and decay; decay 0 where --decay says so */
} cli_slot;

typedef struct {
    fh1_model *model;
    fh1_grads *grads;
    cli_slot *slots; /* n, in the order of grads */
    int64_t n;
    int64_t step;                      /* steps taken */
    int64_t count;                     /* numbers that are trained */
    size_t bytes_master, bytes_stored; /* m and v: as the masters */
} cli_train_state;

/* Takes the parameters that `grads` has gradients for: masters from the model's values, moments 0, and lets the model's
 * views (those of a tied head too) point to what is trained. `factors` has grads->n entries. The model reads the
 * state's memory until it is freed. */
fh1_status cli_train_state_new(fh1_model *m, fh1_grads *grads, const cli_factors *factors, cli_train_state *out);
void cli_train_state_free(cli_train_state *s); /* not the gradients */

/* The stored views from the masters. */
void cli_train_state_show(cli_train_state *s);

/* √Σ g² over all gradients, in the order of grads, f64. NaN or infinite: *bad is the first parameter to blame. */
fh1_status cli_train_state_norm(const cli_train_state *s, fh1_engine *e, double *norm, const fh1_param **bad);

/* One step of AdamW: t = ++step; `o` gives betas, eps, decay and grad_scale, `lr` the rate before factors. */
fh1_status cli_train_state_update(cli_train_state *s, fh1_engine *e, double lr, const fh1_adamw *o);

/* torch.nn.utils.clip_grad_norm_: max/(norm + 1e-6), at most 1; max 0: 1. */
double cli_clip_scale(double norm, double max);

/* The first parameter that has a NaN or an infinity, in the master or in what it is saved as; NULL: none. */
const fh1_param *cli_train_state_broken(const cli_train_state *s);
