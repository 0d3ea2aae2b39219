/* Token ids from a text file or from a seed, as the batch of a first call. */
#pragma once

#include "oracle/batch.h"

/* Owns what `batch` points to. */
typedef struct {
    fh1_batch batch;
    int64_t *ids, *mask, *positions;
} cli_ids;

/* One row per line, ids separated by blanks; empty lines at the end are ignored. Rows of different
 * length are padded on the left with id 0 and get a mask; their positions count real tokens.
 * FH1_E_INPUT with file, line and column: an empty file or line, a word that is no number, an id
 * outside [0, V). */
fh1_status cli_ids_read(const char *path, int64_t V, cli_ids *out);
/* B rows of T ids drawn by (seed, "fh1 trace ids", place). */
fh1_status cli_ids_seeded(uint64_t seed, int64_t B, int64_t T, int64_t V, cli_ids *out);
void cli_ids_free(cli_ids *ids);
