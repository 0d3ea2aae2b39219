/* The search space of Falcon-H1's report: how many eighths of a layer go to the mixer, to attention and to the MLP, in
 * each of three blocks. s + a + m = 8, each 1 or more, makes 21 partitions of
 *   d_ssm = 4096·s/8,  attention width Hq·head_dim = 6144·a/8,  MLP width 4864·m/8      at D 1280,
 * and of D/1280 times as much at another width (docs/allocation.md). */
#pragma once

#include "oracle/config.h"

#include <stddef.h>

enum { CLI_N_FRACTIONS = 21 };

typedef struct {
    int s, a, m; /* eighths; all 0: the widths of the config stay */
} cli_fractions;

/* "2,1,5". FH1_E_INPUT tells what is wrong with it. */
fh1_status cli_fractions_read(const char *text, cli_fractions *out);
void cli_fractions_all(cli_fractions out[CLI_N_FRACTIONS]); /* by s, then a */

typedef struct {
    bool has_block; /* else as in the base */
    fh1_block block;
    cli_fractions f;
    int64_t D, layers, N, V; /* 0: as in the base */
} cli_space;

/* The text of a config.json (malloc'ed, n bytes) and what it says: the base with the keys of `p` set, with fractions
 * also those of the widths, and the multipliers of the µP law for them. Heads are as wide as those of the base, or,
 * where the 21 partitions are no whole numbers of such heads, as the largest power of two below that makes them so.
 * base NULL: the report's model (D 1280, 60 layers, the rest as in the 1.5B-Deep). FH1_E_INPUT: another model type, a
 * width that eighths do not divide. */
fh1_status cli_space_config(const char *base, const cli_space *p, char **text, size_t *n, fh1_config *config);
