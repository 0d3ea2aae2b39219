/* Shared by golden/shrink*.c. */
#pragma once

#include "golden/shrink.h"

typedef struct {
    const gld_repro_env *env;
    const gld_shrink_options *o;
    gld_repro *best, *candidate; /* best fails as `wanted` does */
    gld_repro_outcome wanted;
    gld_shrink_result *result;
    fh1_status error; /* of the program; ends the search */
    bool changed;     /* in this round */
} gld_search;

/* Tries the candidate, which becomes the best if it fails in the same way; the candidate is the best again afterwards.
 * A candidate that is no valid line has not failed. */
bool gld_search_try(gld_search *s);
bool gld_search_over(const gld_search *s);

/* Makes a number as small as it can be: set(s, arg, v) writes v into s->candidate. `least` first, then by ever smaller
 * steps. */
typedef void (*gld_set)(gld_search *s, int arg, int64_t v);
void gld_search_number(gld_search *s, gld_set set, int arg, int64_t now, int64_t least);

/* One round over everything that can be made smaller. */
void gld_shrink_op(gld_search *s);
void gld_shrink_calls(gld_search *s);
void gld_shrink_traffic(gld_search *s);
void gld_shrink_model(gld_search *s);
/* All widths small at once, which makes the other runs quick; a model from a folder is replaced by a made one. Nothing
 * changes where no such model fails alike. */
void gld_shrink_to_small(gld_search *s);
