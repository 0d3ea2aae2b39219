/* What fuzz_schedule runs: a model, a seed, and traffic on its caches, as bytes. Any bytes are such a schedule:
 *
 *   SCHEDULE_HEAD bytes of the model, each an index into what its field may be (schedule_draw.c), then
 *   SCHEDULE_MOVE bytes per move; what is missing at the end is 0, what is too much is not read.
 *
 * Layouts are fixed, so that a change of a byte is a change of one number, of whatever model. */
#pragma once

#include "fuzz/fuzz.h"

#include "golden/seeded_model.h"
#include "golden/traffic.h"

enum { SCHEDULE_HEAD = 48, SCHEDULE_MOVE = 32, SCHEDULE_BYTES = SCHEDULE_HEAD + 40 * SCHEDULE_MOVE };

/* Where the numbers of a move lie in its bytes. */
enum {
    MOVE_KIND,
    MOVE_CACHE, /* low half: X, high half: Y */
    MOVE_ROWS,  /* low half: rows of a new cache, high half: R */
    MOVE_COUNT,
    MOVE_N,        /* 4: one per row */
    MOVE_LEFT = 8, /* 4 */
    MOVE_RIGHT = 12,
    MOVE_CUTS = 16 /* 4 per row: where the first document begins (0: none), then the tokens up to the next one */
};

typedef struct {
    gld_seeded_spec spec;
    uint64_t seed;
    gld_traffic traffic;
} schedule;

void schedule_of_bytes(const uint8_t *data, size_t size, schedule *out);

/* Bytes that stand for one of the numbers at which caches, windows and chunks break: 0, 1, K-1, K, Q, Q+1, 2Q … */
uint8_t schedule_edge_byte(fuzz_rng *r);

/* Changes of moves and of the model's fields; the seed decides which (schedule_mutate.c). */
size_t schedule_mutate(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t schedule_cross(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out, size_t max_size,
                      unsigned int seed);
