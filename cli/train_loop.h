/* The steps of a training run. */
#pragma once

#include "cli/train_data.h"
#include "cli/train_options.h"
#include "cli/train_report.h"

typedef struct {
    const cli_train_options *o;
    fh1_engine *engine; /* has backward and bwd_ops */
    cli_train_state *state;
    cli_train_data *data;
    cli_train_report *report;
    const char *checkpoint; /* where, or NULL: none is written */
    const cli_conditions *conditions;
} cli_train_run;

/* Steps until o->steps are done, with checkpoints. FH1_E_WRONG names the step and the parameter when loss or gradients
 * are not finite; FH1_E_INTERNAL after a signal: checkpoints that were written stay. */
fh1_status cli_train_go(const cli_train_run *r);
