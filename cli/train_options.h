/* What `fh1 train` is asked to do. */
#pragma once

#include "cli/options.h"
#include "cli/train_adapter.h"
#include "cli/train_checkpoint.h"
#include "cli/train_groups.h"
#include "cli/train_schedule.h"

typedef struct {
    /* as typed */
    const char *model, *data, *out, *engine;
    const char *lora_text, *adapter, *lr_text, *betas_text, *eps_text, *decay_text, *decay_rule, *clip_text;
    const char *schedule_text, *min_lr_text, *mup;
    cli_list train, freeze;
    int64_t steps, batch, T, accumulate, warmup, seed, shuffle, save_every;
    bool rslora, resume, json, force, quiet, recompute;
    /* understood */
    cli_schedule schedule;
    cli_lora_spec lora;
    fh1_adamw adamw; /* betas, eps, decay */
    double clip;
    bool decay_all;
    cli_groups groups;
} cli_train_options;

extern const char cli_train_help[];

/* Reads the command line; *done after --help. Released by cli_train_options_free in any case. */
fh1_status cli_train_options_read(int argc, char **argv, cli_train_options *o, cli_list *words, bool *done);
void cli_train_options_free(cli_train_options *o);

/* Whether an adapter is trained, new or not. */
bool cli_trains_adapter(const cli_train_options *o);
/* The globs of --train and --freeze. */
cli_globs cli_train_globs(const cli_train_options *o);
cli_globs cli_freeze_globs(const cli_train_options *o);

/* What a resumed run must have in common with this one, but for model, data and adapter. */
void cli_train_conditions(const cli_train_options *o, cli_conditions *c);
