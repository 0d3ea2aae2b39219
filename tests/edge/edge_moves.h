/* What the chapters of state, branching and packing share: mistakes on the roads of a law, calls of ragged rows, and
 * parts that are moved between caches the way a server moves them. The data of their walks is the edge_run. */
#pragma once

#include "tests/edge/edge.h"

/* Whether this road makes the mistake of this name: the judged one when the run plants it. */
bool edge_wrong(const law_run *run, const fh1_engine *e, law_road road, const char *name);
/* The same, and the road on the truth that proves that it shows: for one mistake of a case. */
bool edge_mistake(const law_run *run, const fh1_engine *e, law_road road, const char *name);
/* Kernels that run on the CPU take their time: such an engine gets fewer combinations, on the second usual model and,
 * where the case says so, on Falcon-Mamba. */
bool edge_slow(const edge_run *r);
/* Q; for Falcon-Mamba, which has no chunks, that of the usual models: a row is as long and is cut at the same places.
 */
int64_t edge_chunk(const law_run *run);
/* edge_law with the run as the data of the walk, on the usual models that the engine gets. */
fh1_status edge_walks(edge_run *r, int64_t tokens, law_walk walk, uint64_t notices);

/* ---- calls ---- */

/* The next n[b] tokens of run->text[first + b] for each row, padded on the right to the longest. */
fh1_status edge_feed(law_run *run, law_session *s, int first, const int64_t *n);
/* n more tokens for every row. */
fh1_status edge_feed_all(law_run *run, law_session *s, int first, int64_t n);
/* A new session of B rows after edge_feed_all of n tokens (0: no call). */
fh1_status edge_open(law_run *run, fh1_engine *e, int64_t B, int first, int64_t n, law_session **s);

/* Every row, window and state included. */
fh1_status edge_take_all(const law_session *s, bool exact, law_side *out);
/* What the first n tokens of a text leave when one call on an empty cache says them; within rounding. */
fh1_status edge_take_alone(law_run *run, fh1_engine *e, const int64_t *text, int64_t n, law_side *out);

/* Row b starts again: truncated to nothing, its old columns are padding from now on. */
fh1_status edge_restart_row(law_session *s, int64_t b);
/* Row `b` alone in a new session of one row: a copy, reordered to it. */
fh1_status edge_alone(law_run *run, const law_session *from, int64_t b, law_session **s);

/* ---- parts ---- */

enum { EDGE_KEYS = 1, EDGE_WINDOW = 2, EDGE_STATE = 4, EDGE_MEMORY = 6, EDGE_PARTS = 7 };

/* These parts of row `from_row` to row `to_row` of another cache of as many tokens (keys) and the same type. */
fh1_status edge_copy_parts(law_session *to, int64_t to_row, const law_session *from, int64_t from_row, int parts);
/* The same for all rows. */
fh1_status edge_copy_all(law_session *to, const law_session *from, int parts);
/* These parts of a row filled with one value, NaN for instance. */
fh1_status edge_fill(law_session *s, int64_t row, int parts, double value);
/* A slot that is given out as it was left: its row has no token, but window and state that the next one will look at.
 */
fh1_status edge_dirty(law_session *s, int64_t row, double value);
/* A session on a new cache with the rows, columns and documents of `from`, and nothing in it: what a server makes
 * before it swaps contents in. */
fh1_status edge_empty_like(law_run *run, const law_session *from, law_session **s);
/* edge_empty_like with the contents of `from`, which went out and in by fh1_cache_export and fh1_cache_import. */
fh1_status edge_swapped(law_run *run, const law_session *from, int parts, law_session **s);

/* ---- packed rows ---- */

enum { EDGE_DOCS = 8, EDGE_COLUMNS = 64, EDGE_PACKED_ROWS = 3 };

/* Rows of documents side by side, positions from 0 in each. Row b says run->text[b]. */
typedef struct {
    int64_t B, T;
    int64_t n[EDGE_PACKED_ROWS], len[EDGE_PACKED_ROWS][EDGE_DOCS];
    int64_t ids[EDGE_PACKED_ROWS * EDGE_COLUMNS], seq_idx[EDGE_PACKED_ROWS * EDGE_COLUMNS],
        positions[EDGE_PACKED_ROWS * EDGE_COLUMNS]; /* [B, T] */
} edge_packed;

/* Lengths of row b's documents, 0 at the end; every row must have the same sum. Documents are numbered `step` apart. */
void edge_pack(const law_run *run, int64_t B, const int64_t len[][EDGE_DOCS], int64_t step, edge_packed *p);
/* Columns [begin, begin + n) of all rows in one call; without seq_idx where `documents` is false. */
fh1_status edge_feed_packed(law_session *s, const edge_packed *p, int64_t begin, int64_t n, bool documents);
/* Each document of each row, and the memory that the last one leaves: in the packed session, or (s NULL) alone, said in
 * one call; within rounding. `more` tokens of the last document came behind (edge_step_packed). */
fh1_status edge_take_packed(law_run *run, fh1_engine *e, const edge_packed *p, const law_session *s, int64_t more,
                            law_side *out);
/* One more token of every row's last document, without seq_idx. */
fh1_status edge_step_packed(law_run *run, law_session *s, const edge_packed *p);

/* ---- the cases of other files of these chapters ---- */

fh1_status edge_snapshot_restored(edge_run *r);
fh1_status edge_snapshot_anywhere(edge_run *r);
fh1_status edge_snapshots_of_a_batch(edge_run *r);
fh1_status edge_almost_all_cached(edge_run *r);
fh1_status edge_snapshot_twice(edge_run *r);
fh1_status edge_layouts(edge_run *r);
fh1_status edge_preempted(edge_run *r);
fh1_status edge_colliding_keys(edge_run *r);
fh1_status edge_poisoned_pool(edge_run *r);
fh1_status edge_slot_again(edge_run *r);
fh1_status edge_padded_steps(edge_run *r);
fh1_status edge_drafts(edge_run *r);
fh1_status edge_after_drafts(edge_run *r);
fh1_status edge_drafts_at_borders(edge_run *r);
fh1_status edge_placeholders(edge_run *r);
fh1_status edge_same_words(edge_run *r);
fh1_status edge_other_document(edge_run *r);
fh1_status edge_ranks(edge_run *r);
