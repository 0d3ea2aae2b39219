/* The learning rate of each step.
 *
 * With N steps, W of warm-up, step t = 1 … N:
 *   t <= W          lr·t/W
 *   constant        lr
 *   linear          min + (lr - min)·(1 - x),              x = (t - 1 - W)/(N - W)
 *   cosine          min + (lr - min)·(1 + cos(π·x))/2
 *   inverse-power   max(min, lr·(t/max(W, 1))^-p)
 * so the first step after the warm-up has the whole rate, and `min` is what step N + 1 would have: no step is spent on
 * a rate of 0. Without warm-up linear and cosine are those of transformers (get_linear_schedule_with_warmup, …). */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

typedef enum { CLI_LR_CONSTANT, CLI_LR_LINEAR, CLI_LR_COSINE, CLI_LR_INVERSE_POWER } cli_lr_kind;

typedef struct {
    cli_lr_kind kind;
    double lr, min, power; /* power: of inverse-power, 0.25 by default */
    int64_t steps, warmup;
} cli_schedule;

/* "constant", "linear", "cosine", "inverse-power", "inverse-power:0.5"; sets kind and power. */
fh1_status cli_schedule_parse(const char *text, cli_schedule *s);
/* warmup <= steps, 0 <= min <= lr. */
fh1_status cli_schedule_check(const cli_schedule *s);
double cli_schedule_lr(const cli_schedule *s, int64_t t);
/* Whether the rate of a step depends on the number of steps. */
bool cli_schedule_needs_steps(const cli_schedule *s);
