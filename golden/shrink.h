/* Makes the line of a failure small: fewer calls, rows, tokens, layers, heads and widths, no padding, documents or
 * options that do not matter, lattice weights; of traffic fewer moves and caches. A change stays only if the smaller
 * line still FAILs, first at the same kind of tap (in whichever layer), or at the same op; traffic, anywhere.
 * Deterministic. */
#pragma once

#include "golden/repro.h"

typedef struct {
    int max_runs;                                             /* 0: 600 */
    void (*progress)(void *user, int runs, const char *line); /* after each change that stayed; may be NULL */
    void *user;
} gld_shrink_options;

typedef struct {
    gld_repro_outcome outcome; /* of the smallest line */
    int runs;
    bool exhausted; /* max_runs came first */
} gld_shrink_result;

/* `r` becomes the smallest line found. FH1_E_INPUT: the line does not fail, which the message says with its verdict. */
fh1_status gld_shrink(gld_repro *r, const gld_repro_env *env, const gld_shrink_options *o, gld_shrink_result *result);
