/* Batches on which a wrong backward pass shows: short rows, borders of chunks, padding, documents. */
#include "cli/gradcheck.h"

#include "oracle/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ONE_AND_THREE, THREE, CHUNK_LESS, CHUNK_MORE, TWO_CHUNKS, PADDED_LEFT, PADDED_RIGHT, PACKED, BATCHES };

static const char *const names[BATCHES] = {
    [ONE_AND_THREE] = "1+3",   [THREE] = "3",          [CHUNK_LESS] = "chunk-1", [CHUNK_MORE] = "chunk+1",
    [TWO_CHUNKS] = "2chunk+5", [PADDED_LEFT] = "left", [PADDED_RIGHT] = "right", [PACKED] = "packed",
};

const char *gradcheck_batch_name(int i)
{
    return i >= 0 && i < BATCHES ? names[i] : NULL;
}

static int64_t rows_of(int i)
{
    return i == ONE_AND_THREE || i == THREE ? 2 : i == PADDED_LEFT || i == PADDED_RIGHT ? 3 : i == PACKED ? 2 : 1;
}

static int64_t columns_of(const fh1_config *c, int i)
{
    /* A selective scan has no chunks; kernels and backward passes take 64 tokens or so at a time. */
    const int64_t chunk = c->family == FH1_FALCON_MAMBA ? 64 : c->Q;
    const int64_t Q = chunk < GRADCHECK_MOST_TOKENS / 4 ? chunk : GRADCHECK_MOST_TOKENS / 4;
    switch (i) {
    case ONE_AND_THREE:
    case THREE: return 3;
    case CHUNK_LESS: return Q > 3 ? Q - 1 : 2;
    case CHUNK_MORE: return Q + 1;
    case TWO_CHUNKS: return 2 * Q + 5;
    case PACKED: return 24;
    default: return 13;
    }
}

/* Real tokens of a row: [begin, end). */
static void extent(int i, int64_t row, int64_t T, int64_t *begin, int64_t *end)
{
    static const int64_t padding[3] = {0, 5, 11};
    *begin = i == PADDED_LEFT ? padding[row] : 0;
    *end = i == PADDED_RIGHT ? T - padding[row] : i == ONE_AND_THREE && row == 0 ? 1 : T;
}

/* Documents of 1, 7 and 16 tokens, and in the second row of 3 and 21. */
static int64_t document(int64_t row, int64_t col)
{
    return row == 0 ? (col >= 1) + (col >= 8) : col >= 3;
}

typedef struct {
    int64_t *ids, *mask, *positions, *seq_idx, *labels;
} arrays;

static void fill_row(const fh1_config *c, uint64_t seed, int i, int64_t row, int64_t T, const arrays *a)
{
    const fh1_stream ids = fh1_stream_open(seed, "gradcheck.ids"), ignored = fh1_stream_open(seed, "gradcheck.ignored");
    int64_t begin, end, since = 0;
    extent(i, row, T, &begin, &end);
    for (int64_t col = 0; col < T; ++col) {
        const int64_t at = row * T + col;
        const bool real = col >= begin && col < end;
        const int64_t doc = i == PACKED ? document(row, col) : 0;
        const bool starts = col == begin || (i == PACKED && doc != document(row, col - 1));
        if (starts) since = col;
        /* Few ids, so that some come twice, and 0 among them: often the id of padding, and a label. */
        const int64_t few = c->V < 24 ? c->V : 24, id = fh1_random_below(ids, (uint64_t)at, few);
        a->ids[at] = !real ? 0 : col % 5 == 2 ? 0 : id * (c->V / few);
        a->mask[at] = real;
        a->positions[at] = real ? col - since : 0;
        a->seq_idx[at] = doc;
        a->labels[at] = a->ids[at];
        const bool skip = i != THREE && i != ONE_AND_THREE && fh1_random_below(ignored, (uint64_t)at, 4) == 0;
        /* The label of a document's first token would be predicted from another document: the second row has one. */
        const bool crosses = starts && i == PACKED && row == 1 && col > begin;
        if (!real || col == begin || skip || (starts && !crosses)) a->labels[at] = -100;
    }
}

fh1_status gradcheck_batch_new(const fh1_config *c, uint64_t seed, int i, gradcheck_batch *out)
{
    const int64_t B = rows_of(i), T = columns_of(c, i), n = B * T;
    *out = (gradcheck_batch){.memory = calloc((size_t)(5 * n), sizeof *out->memory)};
    if (!out->memory) return fh1_no_memory((size_t)(5 * n) * 8, "a batch");
    snprintf(out->name, sizeof out->name, "%s", names[i]);
    int64_t *m = out->memory;
    const arrays a = {m, m + n, m + 2 * n, m + 3 * n, m + 4 * n};
    for (int64_t row = 0; row < B; ++row) fill_row(c, seed, i, row, T, &a);
    const bool padded = i == ONE_AND_THREE || i == PADDED_LEFT || i == PADDED_RIGHT;
    out->batch = (fh1_batch){.B = B, .T = T, .ids = a.ids, .labels = a.labels};
    if (padded) {
        out->batch.mask = a.mask;
        out->batch.mask_len = T;
    }
    if (padded || i == PACKED) out->batch.positions = a.positions;
    if (i == PACKED) out->batch.seq_idx = a.seq_idx;
    return NULL;
}

void gradcheck_batch_free(gradcheck_batch *b)
{
    free(b->memory);
    b->memory = NULL;
}
