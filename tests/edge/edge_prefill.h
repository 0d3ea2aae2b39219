/* The cases of the chapter on prefill; the table stands in edge_prefill.c. */
#pragma once

#include "tests/edge/edge_rows.h"

/* Lengths around the window, the chunk and two chunks of the usual models. */
enum { EDGE_LENGTHS = 12 };
extern const int64_t edge_lengths[EDGE_LENGTHS];

fh1_status edge_prefill_then_decode(edge_run *r);
fh1_status edge_states_after_decode(edge_run *r);
fh1_status edge_short_prompts(edge_run *r);
fh1_status edge_compositions(edge_run *r);
fh1_status edge_chunk_ends(edge_run *r);
fh1_status edge_mixed_batch(edge_run *r);
fh1_status edge_path_lengths(edge_run *r);
/* edge_prefill_windows.c */
fh1_status edge_windows(edge_run *r); /* of D-02 */
fh1_status edge_short_chunks(edge_run *r);
/* edge_prefill_caches.c */
fh1_status edge_one_token_prompt(edge_run *r);
fh1_status edge_no_new_tokens(edge_run *r);
fh1_status edge_thrown_away(edge_run *r);
fh1_status edge_requests(edge_run *r);
/* edge_long_rows.c */
fh1_status edge_long_rows(edge_run *r);
/* edge_training.c */
fh1_status edge_train_and_eval(edge_run *r);
