/* The state of a training run in one file, from which it goes on to the same bits: a safetensors file with master/NAME,
 * m/NAME and v/NAME per trained parameter and, as metadata, the step, the place in the data and everything that must be
 * the same when the run goes on. */
#pragma once

#include "cli/train_data.h"
#include "cli/train_state.h"
#include "convert/checkpoint.h"

/* What a resumed run has in common with the one that wrote the checkpoint: a name for messages, and a value. */
typedef struct {
    char name[32];
    char value[256];
} cli_condition;

enum { CLI_CONDITIONS = 40 };
typedef struct {
    cli_condition items[CLI_CONDITIONS];
    int n;
} cli_conditions;

void cli_condition_add(cli_conditions *c, const char *name, const char *value, ...)
    __attribute__((format(printf, 3, 4)));

/* Replaces the file as a whole; an existing one must be such a checkpoint. */
fh1_status cli_checkpoint_write(const char *path, const cli_train_state *s, const cli_train_place *place,
                                const cli_conditions *conditions);
/* Fills masters, moments, step and place. FH1_E_INPUT names the first condition that differs, with both values, and
 * whatever is not as it was written. */
fh1_status cli_checkpoint_read(const char *path, cli_train_state *s, cli_train_place *place,
                               const cli_conditions *conditions);
/* FH1_E_INPUT when there is a file of that name that is no checkpoint. */
fh1_status cli_checkpoint_is(const char *path);

/* Of names, types, shapes and bytes of all weights, and of its config. */
fh1_status cli_model_hash(const fh1_model *m, cvt_ckpt *files, char out[33]);
