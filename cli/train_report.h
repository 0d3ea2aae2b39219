/* What a training run tells: memory before it begins, lines on the way, a summary. */
#pragma once

#include "cli/train_state.h"

#include <stdint.h>

typedef struct cli_train_step {
    int64_t step;
    double loss, norm, lr, seconds;
    int64_t tokens, labels;
} cli_train_step;

typedef struct {
    bool json, quiet, terminal; /* terminal: every step has a line; elsewhere the first one and one per 10 % */
    int64_t steps, first_step;  /* the run's last step; the first one of this process */
    double begun, loss_first, loss_last;
    int64_t tokens, tenths;                            /* of this process; tenths of the way that are behind */
    void (*each)(void *user, const cli_train_step *x); /* told of every step, or NULL */
    void *user;
} cli_train_report;

void cli_train_report_begin(cli_train_report *r, int64_t done, int64_t steps, bool json, bool quiet);
/* One line on stderr: weights, masters, moments, gradients. */
void cli_train_report_memory(const cli_train_report *r, const cli_train_state *s);
void cli_train_report_step(cli_train_report *r, const cli_train_step *x);
/* The last line. `out`: what was written; `kind`: "model" or "adapter". */
void cli_train_report_end(const cli_train_report *r, const char *out, const char *kind);
