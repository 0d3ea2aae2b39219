/* What the tensor names of a trace file stand for, and map files, which say it for names of others.
 *
 * Native names are `stepJ/<tap>`, `stepJ/grad.<parameter>` and `stepJ/<input>`, inputs being input_ids,
 * attention_mask, position_ids, seq_idx and labels. A map file has one rule per line:
 *
 *   # comment                        from a '#' at the start of a line or after a blank
 *   foreign -> ours [operation ...]  a tensor called `foreign` is our tap or input `ours`
 *   ignore GLOB                      tensors that nothing else explains and that match are left out
 *
 * `foreign` is compared exactly, blanks inside it included, but {i} stands for a layer number and {j}
 * for a step number (decimal, no leading zeros; not next to a digit or to each other). {i} must then
 * stand in `ours` too. `ours` is a tap or input name without or with a step: `logits`, `step3/logits`,
 * `step{j}/logits`. Without one the step is {j} of the foreign name, or 0. Operations, left to right:
 *
 *   transpose 0,2,1,3   axis k of the result is axis order[k] of the tensor
 *   reshape B,T,-1      row-major; B and T are the batch and the new tokens of the step, S the cache's
 *                       columns after it, one -1 takes what is left
 *
 * The first rule that fits a name wins; a rule that no tensor of the file needs is an error, since a
 * map that misses its target hides the tap it was written for. Native names need no rule. */
#pragma once

#include "oracle/tap.h"

typedef enum {
    GLD_INPUT_IDS,
    GLD_INPUT_MASK,
    GLD_INPUT_POSITIONS,
    GLD_INPUT_SEQ_IDX,
    GLD_INPUT_LABELS,
    GLD_INPUT_COUNT
} gld_input;

const char *gld_input_name(gld_input i);

typedef enum { GLD_NAME_UNKNOWN, GLD_NAME_TAP, GLD_NAME_INPUT, GLD_NAME_GRAD, GLD_NAME_IGNORED } gld_name_kind;

typedef struct {
    gld_name_kind kind;
    int64_t step;  /* also set for an unknown name that begins with stepJ/; -1 without one */
    fh1_tap_id id; /* a tap */
    int64_t layer;
    gld_input input;              /* an input */
    char grad[FH1_TAP_NAME_SIZE]; /* the gradient of a parameter of this name, which is not checked here */
    int rule;                     /* of the map, -1 for a native name; an unknown name with a rule: the rule leads
                                     to a layer or tap that the model has not */
} gld_name;

typedef struct gld_map gld_map;

/* Reads a map file. FH1_E_INPUT with file and line. Freed by gld_map_free. */
fh1_status gld_map_read(const char *path, gld_map **out);
/* The same on text in memory; `what` names it in messages. */
fh1_status gld_map_parse(const char *text, size_t n, const char *what, gld_map **out);
void gld_map_free(gld_map *m); /* NULL is fine */

/* What `name` stands for in a model with this config; m == NULL: native names only. */
gld_name gld_map_name(const gld_map *m, const fh1_config *c, const char *name);

/* The tap or input name of such a model that is nearest to `name` (edit distance; an optional stepJ/ in
 * front is not compared), into buf; false when none is near. */
bool gld_nearest_name(const char *name, const fh1_config *c, char buf[FH1_TAP_NAME_SIZE]);

/* Rules in the order of the file (`ignore` lines are none). */
int gld_map_n_rules(const gld_map *m);        /* 0 for NULL */
int gld_map_line(const gld_map *m, int rule); /* its line number, from 1 */
const char *gld_map_path(const gld_map *m);

/* Applies the operations of a rule to the view *t. A reshape of a transposed tensor needs a dense copy:
 * *copy then owns the bytes that *t points to (freed by the caller), otherwise it is NULL. FH1_E_INPUT
 * with the line when axes or sizes do not fit. */
fh1_status gld_map_apply(const gld_map *m, int rule, int64_t B, int64_t T, int64_t S, fh1_tensor *t, void **copy);
