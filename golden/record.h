/* Runs an engine over a schedule of calls and records its taps as an in-memory trace. */
#pragma once

#include "golden/trace.h"
#include "oracle/engine.h"

typedef struct {
    const char *taps;   /* globs on tap names separated by commas (gld_taps_match), NULL = all */
    bool no_cache_taps; /* leave cache.* out */
    fh1_dtype store;    /* F64/F32/BF16/F16 for tensors; FH1_DTYPE_COUNT: what the engine's profile stores */
} gld_record_options;

/* Options may be NULL in both: all taps, as the profile stores them. A glob that matches no tap is
 * FH1_E_INPUT. Rows of padding are zero. Contract, variants and producer of `out` are the engine's; logits
 * have the T' of `like` where that has logits, otherwise T. After an error `out` is empty. */

/* Every step of `like` (inputs only) on one cache. `out` is a new trace, freed by the caller. */
fh1_status gld_record_like(fh1_engine *e, const fh1_model *m, const gld_trace *like, const gld_record_options *opt,
                           gld_trace *out);

/* Greedy decoding: the prompt batch (step 0), then `n` one-token steps, each row's next token the argmax of
 * its last real logits (lowest id wins a tie). `tokens` [B, n] receives them when not NULL; `out` may be NULL
 * (tokens only, then only the last logits are computed, and the n-th token is not run). After right padding
 * the rows are ragged: the new tokens follow in new columns, the mask keeps the padding out. A padded prompt
 * without positions gets them: they count real tokens. Where the prompt has positions, given or counted, a
 * row's new tokens go on from its last one; otherwise they are left to the default.
 * FH1_E_INPUT: a row without a token. FH1_E_WRONG: logits that are NaN, with row and step. */
fh1_status gld_record_greedy(fh1_engine *e, const fh1_model *m, const fh1_batch *prompt, int64_t n,
                             const gld_record_options *opt, int64_t *tokens, gld_trace *out);

/* Loss and gradients of one batch with labels on an empty cache, in the engine's own type or opt->store. FH1_E_INPUT:
 * an engine without a backward pass, and what gld_grad_check_labels and fh1_engine.backward refuse. */
fh1_status gld_record_backward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, const gld_record_options *opt,
                               gld_trace *out);

/* The seeded schedule of `fh1 check` without a trace: ragged left-padded prefill, decode, continuation on
 * one cache, and (a second trace) one packed batch. `which` is 0 or 1. Inputs only. */
fh1_status gld_schedule_seeded(const fh1_config *c, uint64_t seed, int which, gld_trace *out);
