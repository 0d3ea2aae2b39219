/* Trace files: one .safetensors with the taps of successive calls on one cache (DESIGN, Trace file;
 * docs/traces.md). */
#pragma once

#include "golden/map.h"
#include "oracle/batch.h"
#include "oracle/grads.h"
#include "oracle/model.h"
#include "oracle/tap.h"

typedef struct {
    fh1_tap_id id;
    int64_t layer;
    fh1_tensor t; /* [B, T, …] in the layout of the table; may be a strided view after a map, and
                     may start at any byte: read through fh1_get, fh1_copy, fh1_to_f64 */
} gld_tap;

/* The gradient of a parameter, in its shape (fh1_grads_new). */
typedef struct {
    char name[FH1_TAP_NAME_SIZE]; /* without "grad." */
    int64_t param;                /* its ordinal in backward order among all parameters of the model */
    fh1_tensor t;
} gld_grad;

typedef struct {
    fh1_batch batch; /* ids, mask, positions, seq_idx, labels of this call */
    gld_tap *taps;   /* sorted by fh1_tap_order without a config, in any block */
    int64_t n_taps;
    int64_t n_logits; /* T' of the logits tap, 0 when not recorded */
    gld_grad *grads;  /* in backward order */
    int64_t n_grads;
} gld_step;

typedef struct {
    gld_step *steps;
    int64_t n_steps;
    fh1_family family; /* of the model: the names of its taps */
    char path[1024];
    char contract[128]; /* metadata fh1.contract, empty when absent */
    char variant[256];  /* metadata fh1.variant */
    char producer[256];
    fh1_dtype dtype; /* of the taps, for the default contract: BF16 or F16 if any tap is, else F32 if
                        any is, else F64 */
    void *owner;
} gld_trace;

/* Reads and checks a trace against the model's shapes; only m->config is used, no weight, and for gradients the list of
 * parameters, adapters included. FH1_E_INPUT: no fh1.trace metadata or another version (with a map it may be absent), a
 * missing stepJ/input_ids (reported first, by that name), a gap in the steps, a name that is neither an input, nor a
 * tap or the gradient of a parameter of this model, inputs that are no I64, taps that are no float, a layout other than
 * the table's (expected and found), and whatever gld_trace_check_inputs finds. `map` may be NULL. Views live as long as
 * the trace. */
fh1_status gld_trace_open(const char *path, const fh1_model *m, const gld_map *map, gld_trace *out);
void gld_trace_free(gld_trace *t); /* also fine on zeroed or failed ones */

/* Walks the inputs of all steps as an engine would (ids, masks, positions, documents against the
 * vocabulary and the earlier steps) without computing. Errors say "step J", row and column. */
fh1_status gld_trace_check_inputs(const gld_trace *t, const fh1_config *c);

/* A cache that only keeps the books of a schedule: rows, columns, documents. `least` is its config, filled here, and
 * must outlive it. Advance it with fh1_cache_prepare and fh1_cache_commit. */
fh1_status gld_books_new(const fh1_config *c, int64_t B, fh1_config *least, struct fh1_cache **out);

/* An empty in-memory trace that copies inputs and owns what is recorded; of the family Falcon-H1 until the caller says
 * otherwise. */
fh1_status gld_trace_new(gld_trace *out);
/* Starts the next step with a copy of `b`. B is the same in all steps. */
fh1_status gld_trace_add_step(gld_trace *t, const fh1_batch *b);
/* Adds an owned, NaN-free zero-filled tensor of that shape to the last step and returns its view. A tap
 * that the step already has is FH1_E_INTERNAL. */
fh1_status gld_trace_add_tap(gld_trace *t, fh1_tap_id id, int64_t layer, fh1_dtype dtype, const fh1_tensor *shape,
                             fh1_tensor *view);
/* The same for the gradient of parameter `param`, added in backward order. */
fh1_status gld_trace_add_grad(gld_trace *t, const char *name, int64_t param, fh1_dtype dtype, const fh1_tensor *shape,
                              fh1_tensor *view);
/* Writes it as a file (atomic; refuses an existing target without force). Metadata: fh1.trace, then
 * fh1.contract, fh1.variant and fh1.producer where set, then `meta_pairs`: key, value, … NULL (may be NULL). */
fh1_status gld_trace_write(const gld_trace *t, const char *path, bool force, const char *const *meta_pairs);

/* How many gradients and how many other taps all steps hold. */
int64_t gld_trace_n_grads(const gld_trace *t);
int64_t gld_trace_n_taps(const gld_trace *t);

const gld_tap *gld_trace_find(const gld_trace *t, int64_t step, fh1_tap_id id, int64_t layer);

/* Whether a tap is chosen by a list of globs (fnmatch on tap names, separated by commas); NULL chooses all. */
bool gld_taps_match(fh1_family family, const char *globs, fh1_tap_id id, int64_t layer);
/* FH1_E_INPUT for a glob of the list that matches no tap of a model with this config. */
fh1_status gld_taps_check(const char *globs, const fh1_config *c);
