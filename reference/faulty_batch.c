#include "reference/faulty_batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Arrays of the batch, to be edited; NULL where the batch has none. */
typedef struct {
    int64_t B, T, past, columns; /* columns of the mask */
    int64_t *ids, *mask, *positions, *doc;
    bool positions_given;
    const fh1_cache *cache;
} inputs;

/* -- masks ---------------------------------------------------------------------------------------- */

/* Whether the fault takes the mask away. */
static bool drops_mask(fh1_fault f, const inputs *in)
{
    if (f == FH1_FAULT_MASK_IGNORED) return true;
    if (f == FH1_FAULT_MASK_FOR_BATCHES_ONLY) return in->B == 1;
    return f == FH1_FAULT_MASK_DROPPED_ON_A_CACHE && in->past > 0;
}

static void forget_right_padding(inputs *in)
{
    for (int64_t b = 0; b < in->B; ++b) {
        int64_t *row = in->mask + b * in->columns;
        for (int64_t t = 1; t < in->columns; ++t) row[t] |= row[t - 1];
    }
}

static void edit_mask(fh1_fault f, inputs *in)
{
    bool left = false;
    for (int64_t b = 0; b < in->B; ++b) {
        int64_t *row = in->mask + b * in->columns, first = 0;
        while (first < in->columns && !row[first]) ++first;
        left |= first > 0;
        for (int64_t t = 0; t < in->columns; ++t) {
            if (f == FH1_FAULT_MASK_INVERTED) row[t] = 1 - row[t];
            if (f == FH1_FAULT_MASK_OF_ROW_0) row[t] = in->mask[t];
        }
        if (f == FH1_FAULT_MASK_ONE_LATE && first > 0 && first < in->columns) row[first] = 0;
        if (f == FH1_FAULT_MASK_ONE_EARLY && first > 0) row[first - 1] = 1;
    }
    if (f == FH1_FAULT_LENGTH_OF_THE_BATCH || (f == FH1_FAULT_RIGHT_PADDING_IGNORED_BESIDE_LEFT && left))
        forget_right_padding(in);
}

/* -- positions ------------------------------------------------------------------------------------ */

static int64_t edited_position(fh1_fault f, const inputs *in, int64_t b, int64_t t)
{
    const int64_t p = in->positions[b * in->T + t];
    const bool step = in->T == 1 && in->past > 0, padded = in->mask && !in->mask[b * in->columns];
    switch ((int)f) {
    case FH1_FAULT_POSITIONS_RESTART_EACH_CALL: return in->positions_given ? p : t;
    case FH1_FAULT_POSITIONS_RESTART_IN_PREFILL: return in->T > 1 && in->past > 0 ? t : p;
    case FH1_FAULT_DECODE_POSITION_STUCK: return step ? 0 : p;
    case FH1_FAULT_DECODE_POSITION_ONE_LATE: return step ? p + 1 : p;
    case FH1_FAULT_POSITIONS_COUNT_PADDING: return in->mask ? in->past + t : p;
    case FH1_FAULT_POSITIONS_OF_PADDED_ROWS_ONE_LATE: return padded ? p + 1 : p;
    case FH1_FAULT_POSITIONS_OF_ROW_0: return in->positions[t];
    case FH1_FAULT_POSITIONS_RUN_ON: return in->doc ? in->past + t : p;
    case FH1_FAULT_POSITIONS_IN_BF16: return (int64_t)fh1_round_f64(FH1_ROUND_BF16, (double)p);
    case FH1_FAULT_POSITIONS_CLAMPED: return p < 4096 ? p : 4095;
    default: return p;
    }
}

/* -- documents ------------------------------------------------------------------------------------ */

/* The document that the cache holds of a row; 0 before the first token. */
static int64_t held(const inputs *in, int64_t b)
{
    const int64_t doc = in->cache->rows[b].doc;
    return doc > 0 ? doc : 0;
}

static void border_at_position_0(const inputs *in, int64_t b)
{
    int64_t doc = held(in, b);
    for (int64_t t = 0; t < in->T; ++t) {
        if (in->positions[b * in->T + t] == 0 && (t > 0 || in->past > 0)) ++doc;
        in->doc[b * in->T + t] = doc;
    }
}

static void edit_documents(fh1_fault f, const inputs *in)
{
    for (int64_t b = 0; b < in->B; ++b) {
        int64_t *doc = in->doc + b * in->T;
        if (f == FH1_FAULT_DOCUMENT_BORDER_AT_POSITION_0) border_at_position_0(in, b);
        if (f == FH1_FAULT_DOCUMENT_BORDER_ONE_LATE) {
            memmove(doc + 1, doc, (size_t)(in->T - 1) * sizeof *doc);
            if (in->past > 0) doc[0] = held(in, b);
        }
        if (f == FH1_FAULT_DOCUMENT_BORDER_ONE_EARLY) memmove(doc, doc + 1, (size_t)(in->T - 1) * sizeof *doc);
        for (int64_t t = 0; t < in->T; ++t) {
            if (f == FH1_FAULT_DOCUMENTS_OF_ROW_0) doc[t] = in->doc[t];
            if (f == FH1_FAULT_DOCUMENTS_AS_BOOLEAN && doc[t] > 1) doc[t] = 1;
            if (f == FH1_FAULT_CALL_IS_A_DOCUMENT) doc[t] += in->past;
        }
    }
}

/* ------------------------------------------------------------------------------------------------- */

static void edit(fh1_fault f, inputs *in)
{
    const int64_t n = in->B * in->T;
    for (int64_t i = 0; f == FH1_FAULT_IDS_OFF_BY_ONE && i < n; ++i)
        in->ids[i] = (in->ids[i] + 1) % in->cache->config->V;
    if (in->doc) edit_documents(f, in);
    for (int64_t b = in->B - 1; b >= 0; --b) /* row 0 last: the others may read it */
        for (int64_t t = 0; t < in->T; ++t) in->positions[b * in->T + t] = edited_position(f, in, b, t);
    if (in->mask && drops_mask(f, in)) in->mask = NULL;
    if (in->mask) edit_mask(f, in);
}

fh1_status ref_edited_batch_new(fh1_fault f, const fh1_batch *b, const fh1_cache *cache, ref_edited_batch *out)
{
    *out = (ref_edited_batch){.batch = *b};
    const bool fits = !b->mask || b->mask_len == cache->n_cols + b->T;
    if (f == FH1_FAULT_NONE || b->B < 1 || b->T < 1 || b->B != cache->B || !fits) return NULL; /* refused later */
    const int64_t n = b->B * b->T, n_mask = b->mask ? b->B * b->mask_len : 0;
    const size_t bytes = (size_t)(3 * n + n_mask) * sizeof(int64_t);
    if (!(out->memory = malloc(bytes))) return fh1_no_memory(bytes, "the inputs of a faulty engine");
    inputs in = {.B = b->B,
                 .T = b->T,
                 .past = cache->n_cols,
                 .columns = b->mask_len,
                 .ids = out->memory,
                 .positions = out->memory + n,
                 .doc = b->seq_idx ? out->memory + 2 * n : NULL,
                 .mask = b->mask ? out->memory + 3 * n : NULL,
                 .positions_given = b->positions != NULL,
                 .cache = cache};
    memcpy(in.ids, b->ids, (size_t)n * sizeof *in.ids);
    for (int64_t i = 0; i < n; ++i) in.positions[i] = b->positions ? b->positions[i] : cache->n_cols + i % b->T;
    if (in.doc) memcpy(in.doc, b->seq_idx, (size_t)n * sizeof *in.doc);
    if (in.mask) memcpy(in.mask, b->mask, (size_t)n_mask * sizeof *in.mask);
    edit(f, &in);
    out->batch.ids = in.ids;
    out->batch.positions = in.positions;
    out->batch.seq_idx = f == FH1_FAULT_DOCUMENTS_IGNORED ? NULL : in.doc;
    out->batch.mask = in.mask;
    out->batch.mask_len = in.mask ? in.columns : 0;
    return NULL;
}

void ref_edited_batch_free(ref_edited_batch *e)
{
    free(e->memory);
    memset(e, 0, sizeof *e);
}

static void fill_nan(const fh1_cache *c, void *at, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        if (c->dtype == FH1_F64) ((double *)at)[i] = (double)NAN;
        else ((float *)at)[i] = NAN;
    }
}

void ref_edit_cache(fh1_fault f, const fh1_batch *b, fh1_cache *cache)
{
    if (f != FH1_FAULT_EMPTY_ROW_IS_NAN || !b->mask) return;
    const fh1_config *c = cache->config;
    for (int64_t row = 0; row < cache->B; ++row) {
        const fh1_cache_row *r = &cache->rows[row];
        for (int64_t layer = 0; r->n == 0 && layer < c->n_layers; ++layer) {
            fill_nan(cache, r->conv[layer], fh1_conv_dim(c) * (c->K - 1));
            fill_nan(cache, r->ssm[layer], c->H * c->P * c->N);
        }
    }
}
