/* The groups of learning rate and weight decay of `fh1 train --mup`, counted on a model that need not exist yet. */
#pragma once

#include "oracle/config.h"

/* Lines, or with `json` one object per line, for the parameters of a model with this config: per group of the file what
 * it fits, its factors, tensors and parameters; and the kinds that no group takes, at 1. `path` NULL: every kind.
 * FH1_E_INPUT: a file that `fh1 train --mup` refuses. */
fh1_status cli_mup_groups(const fh1_config *c, const char *path, bool json);
