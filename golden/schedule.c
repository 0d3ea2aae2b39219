#include "golden/record.h"

#include "oracle/random.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Enough for several chunks of the small models; large models are not asked for minutes of work. */
#define MAX_PREFILL 70

/* The inputs of the call that is being put together. */
typedef struct {
    const fh1_config *c;
    fh1_stream ids, lengths;
    uint64_t drawn; /* ids so far */
    int64_t B, T, past;
    int64_t *mask, *id, *position, *doc; /* one block: [B, past + T], then three of [B, T] */
} builder;

static fh1_status builder_room(builder *s, int64_t B, int64_t past, int64_t T)
{
    size_t n = (size_t)(B * (past + 4 * T));
    s->B = B;
    s->T = T;
    s->past = past;
    s->mask = calloc(n, sizeof *s->mask);
    if (!s->mask) return fh1_no_memory(n * sizeof *s->mask, "a schedule");
    s->id = s->mask + B * (past + T);
    s->position = s->id + B * T;
    s->doc = s->position + B * T;
    return NULL;
}

static int64_t draw_id(builder *s)
{
    return fh1_random_below(s->ids, s->drawn++, s->c->V);
}

/* min .. max of (seed, index) */
static int64_t draw_length(const builder *s, uint64_t index, int64_t min, int64_t max)
{
    return max <= min ? min : min + fh1_random_below(s->lengths, index, max - min + 1);
}

/* Adds the call to the trace, which copies it, and drops the arrays. */
static fh1_status emit(builder *s, gld_trace *t, bool masked, bool with_docs)
{
    fh1_batch b = {.B = s->B, .T = s->T, .ids = s->id, .positions = s->position};
    if (masked) {
        b.mask = s->mask;
        b.mask_len = s->past + s->T;
    }
    if (with_docs) b.seq_idx = s->doc;
    fh1_status status = gld_trace_add_step(t, &b);
    free(s->mask);
    s->mask = NULL;
    return status;
}

/* -- schedule 0: ragged rows, padded left --------------------------------------------------------- */

#define RAGGED_ROWS 3

static fh1_status add_ragged(builder *s, gld_trace *t, const int64_t *length, int64_t prefill, int64_t past, int64_t T)
{
    FH1_TRY(builder_room(s, RAGGED_ROWS, past, T));
    for (int64_t b = 0; b < s->B; b++) {
        int64_t pads = prefill - length[b], columns = past + T;
        for (int64_t col = 0; col < columns; col++) s->mask[b * columns + col] = col >= pads;
        for (int64_t k = 0; k < T; k++) {
            int64_t position = past + k - pads;
            s->id[b * T + k] = draw_id(s);
            s->position[b * T + k] = position < 0 ? 0 : position;
        }
    }
    return emit(s, t, true, false);
}

/* A prefill over two chunk edges beside a middling row and one shorter than the conv window, then steps
 * before and after a continuation: every hand-over of the state between calls of different kinds. */
static fh1_status ragged(builder *s, gld_trace *t)
{
    static const int64_t calls[] = {1, 1, 5, 1};
    const int64_t Q = fh1_scan_chunk(s->c);
    int64_t T = 2 * Q + 5 < MAX_PREFILL ? 2 * Q + 5 : MAX_PREFILL, past = T;
    int64_t short_row = s->c->K > 2 ? s->c->K - 1 : 2;
    int64_t length[RAGGED_ROWS] = {T, draw_length(s, 0, T / 3, T - 1),
                                   draw_length(s, 1, 1, short_row < T ? short_row : T)};
    FH1_TRY(add_ragged(s, t, length, T, 0, T));
    for (size_t k = 0; k < sizeof calls / sizeof *calls; k++) {
        FH1_TRY(add_ragged(s, t, length, T, past, calls[k]));
        past += calls[k];
    }
    return NULL;
}

/* -- schedule 1: documents in a row ---------------------------------------------------------------- */

#define PACKED_ROWS 2

/* Where each row stands: id of its last document and the next position in it. */
typedef struct {
    int64_t doc[PACKED_ROWS], position[PACKED_ROWS];
} place;

/* One call; a new document begins where starts[B, T] says so. */
static fh1_status add_packed(builder *s, gld_trace *t, place *at, int64_t past, int64_t T, const bool *starts,
                             bool with_docs)
{
    FH1_TRY(builder_room(s, PACKED_ROWS, past, T));
    for (int64_t b = 0; b < s->B; b++) {
        for (int64_t k = 0; k < T; k++) {
            if (starts && starts[b * T + k]) {
                at->doc[b]++;
                at->position[b] = 0;
            }
            s->id[b * T + k] = draw_id(s);
            s->position[b * T + k] = at->position[b]++;
            s->doc[b * T + k] = at->doc[b];
        }
    }
    return emit(s, t, false, with_docs);
}

/* Documents of one and two tokens, one as long as the conv window and long ones, at different places in the
 * two rows; then the last document goes on unsaid, a new one begins in the first column of row 0 and the
 * second of row 1, and goes on for one token. */
static fh1_status packed(builder *s, gld_trace *t)
{
    static const bool new_docs[PACKED_ROWS * 4] = {1, 0, 0, 0, 0, 1, 0, 0};
    const int64_t Q = fh1_scan_chunk(s->c);
    int64_t K = s->c->K, tail = (Q + 3 < MAX_PREFILL / 2 ? Q + 3 : MAX_PREFILL / 2) + draw_length(s, 0, 0, 4);
    int64_t T = 1 + K + 2 + tail, middle = draw_length(s, 1, 3, tail - 1);
    bool *starts = calloc((size_t)(PACKED_ROWS * T), sizeof *starts);
    if (!starts) return fh1_no_memory((size_t)(PACKED_ROWS * T), "a schedule");
    starts[1] = starts[1 + K] = starts[1 + K + 2] = true; /* row 0: 1, K, 2 and tail tokens */
    starts[T + middle] = starts[T + middle + K] = true;   /* row 1: middle, K and the rest */

    place at = {{0, 0}, {0, 0}};
    fh1_status status = add_packed(s, t, &at, 0, T, starts, true);
    free(starts);
    if (!status) status = add_packed(s, t, &at, T, 3, NULL, false);
    if (!status) status = add_packed(s, t, &at, T + 3, 4, new_docs, true);
    if (!status) status = add_packed(s, t, &at, T + 7, 1, NULL, false);
    return status;
}

fh1_status gld_schedule_seeded(const fh1_config *c, uint64_t seed, int which, gld_trace *out)
{
    assert(which == 0 || which == 1);
    builder s = {.c = c, .ids = fh1_stream_open(seed, "ids"), .lengths = fh1_stream_open(seed, "lengths")};
    FH1_TRY(gld_trace_new(out));
    snprintf(out->path, sizeof out->path, "seed %llu, %s", (unsigned long long)seed, which ? "packed" : "ragged");
    fh1_status status = which ? packed(&s, out) : ragged(&s, out);
    if (status) gld_trace_free(out);
    return status;
}
