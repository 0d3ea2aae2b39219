/* Planted faults that are an edit of the inputs: masks, positions, documents and ids as wrong engines read them, and
 * what a call leaves in the cache of a row without tokens. */
#pragma once

#include "oracle/engine.h"
#include "oracle/fault.h"

typedef struct {
    fh1_batch batch; /* what to run */
    int64_t *memory; /* of the arrays that were replaced */
} ref_edited_batch;

/* `cache` as it is before the call. Freed by ref_edited_batch_free in any case. FH1_E_INTERNAL without memory. */
fh1_status ref_edited_batch_new(fh1_fault f, const fh1_batch *b, const fh1_cache *cache, ref_edited_batch *out);
void ref_edited_batch_free(ref_edited_batch *e);

/* After the call, with the batch that was meant. */
void ref_edit_cache(fh1_fault f, const fh1_batch *b, fh1_cache *cache);
