/* The documents of a text file, packed into rows for training.
 *
 * One document per line, token ids separated by blanks; empty lines hold no document. Rule of packing: a row of T
 * columns takes the next documents while they fit whole, the rest of it is padding on the right. A document longer than
 * T is cut into pieces of T tokens (the last one shorter), each a document of its own. Positions and seq_idx restart
 * with each document, its first token has the label -100, so that no loss crosses a border. After the last document
 * the row ends and the next epoch begins, in the same order or in another one drawn by (seed, epoch).
 *
 * Memory: what a row needs, whatever the file's size or the length of its lines; drawn orders take 16 bytes a document.
 */
#pragma once

#include "oracle/batch.h"

typedef struct {
    int64_t documents, tokens; /* of one epoch, whole documents */
    int64_t labels;            /* tokens that are predicted in one epoch; > 0 */
    uint64_t bytes;
    char hash[33]; /* of the file, XXH3-128 */
} cli_train_facts;

/* Where the next row begins. */
typedef struct {
    int64_t epoch, document; /* ordinals; the document in this epoch's order */
    int64_t token;           /* of that document, where a piece begins */
    int64_t offset;          /* of that document's line in the file; drawn orders look it up */
} cli_train_place;

typedef struct cli_train_data cli_train_data;

/* Reads the whole file once. FH1_E_INPUT with line and column: a word that is no id in [0, V), a zero byte; a file
 * without two tokens in one document, or T < 2: nothing to predict. `shuffle`: the seed of drawn orders, -1: none. */
fh1_status cli_train_data_open(const char *path, int64_t V, int64_t T, int64_t shuffle, cli_train_data **out);
void cli_train_data_free(cli_train_data *d);
const cli_train_facts *cli_train_data_facts(const cli_train_data *d);

cli_train_place cli_train_data_tell(const cli_train_data *d);
/* FH1_E_INPUT when the place is not in this file. */
fh1_status cli_train_data_seek(cli_train_data *d, const cli_train_place *to);

/* B rows of T columns; owns what `batch` points to. */
typedef struct {
    fh1_batch batch;
    int64_t n_labels; /* that count */
    int64_t n_tokens; /* without padding */
    int64_t *memory;  /* ids, mask, positions, seq_idx, labels: [B, T] each */
} cli_train_batch;

fh1_status cli_train_batch_new(int64_t B, int64_t T, cli_train_batch *b);
void cli_train_batch_free(cli_train_batch *b);

/* The next B rows. FH1_E_INPUT when the file is no longer the one that was opened. */
fh1_status cli_train_data_next(cli_train_data *d, cli_train_batch *b);
