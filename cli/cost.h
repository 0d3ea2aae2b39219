/* What a model costs, part by part, from its config alone: parameters, and floating-point operations of a token.
 *
 * An addition and a multiplication are one operation each, so a product [out, in] with a vector is 2·in·out. Counted
 * are products with their biases, the conv, the scan, rotations, scores and weighted values, norms and gates. Not
 * counted are functions (exp, silu, softplus, softmax), multipliers and residual sums. Formulas: docs/allocation.md. */
#pragma once

#include "cli/footprint.h"
#include "oracle/config.h"

typedef struct {
    double parts[CLI_N_PARTS], total; /* whole numbers, exact below 2^53 */
} cli_count;

/* The tensors of a checkpoint with this config. A tied head has none of its own. */
fh1_status cli_parameters_of(const fh1_config *c, cli_count *out);
/* Forward pass of one token that attends to `context` tokens, itself included, all logits of it. */
cli_count cli_flops_of(const fh1_config *c, double context);
