/* Another width of a model: what its other widths then are. */
#pragma once

#include "oracle/mup.h"

enum { CLI_MUP_MOST = 64 };

/* A list of an option, "1024,2048"; n = 0: not given, 1: for every width, else one for each. */
typedef struct {
    const char *option; /* "--width" */
    const char *text;   /* as typed; NULL: not given */
    int64_t v[CLI_MUP_MOST];
    int n;
} cli_mup_list;

/* Reads `text`: at most CLI_MUP_MOST whole numbers from 1 to 2^31 with commas between. */
fh1_status cli_mup_list_read(cli_mup_list *l);

enum { CLI_MUP_ATTENTION, CLI_MUP_D_SSM, CLI_MUP_MLP, CLI_MUP_HEAD, CLI_MUP_STATE, CLI_MUP_OTHERS };

typedef struct {
    fh1_mup_widths w;
    int64_t Hq, H;              /* heads of attention and mixer */
    bool given[CLI_MUP_OTHERS]; /* else as in the model: in proportion, or the same (head_dim, state) */
} cli_mup_plan;

/* The model `c` at width `D`, `other` the lists of the options and `i` the place of D in its own. What is not given
 * grows in proportion: attention and mixer by heads of their old widths, as many as are nearest and share key/value
 * heads and groups evenly, the MLP to the nearest even number. FH1_E_INPUT: a width that is no whole number of heads.
 */
fh1_status cli_mup_plan_at(const fh1_config *c, int64_t D, const cli_mup_list other[CLI_MUP_OTHERS], int i,
                           cli_mup_plan *out);
