/* Mutations that keep a text near JSON, so that what lies behind the parser is reached: numbers at boundaries, members
 * twice, gone or renamed, types swapped, brackets deeper, escapes that look right, values of another text. */
#pragma once

#include "fuzz/fuzz.h"

typedef struct {
    const char *other; /* another text that lends values; NULL: none */
    size_t n_other;
    const char *const *words; /* keys and strings that mean something to the reader, ended by NULL; may be NULL */
} fuzz_json_stock;

/* One change to the n bytes at `text`, which has room for `room`; the new length. Any bytes will do: what is no JSON is
 * taken as far as it looks like it. Where a change finds no place or no room, another one is tried; after some tries
 * the text is returned as it was. */
size_t fuzz_mutate_json(char *text, size_t n, size_t room, const fuzz_json_stock *stock, fuzz_rng *r);
/* One or some of them, now and then the engine's own: all that a target whose input is one JSON text needs. */
size_t fuzz_mutate_jsons(uint8_t *data, size_t n, size_t room, const fuzz_json_stock *stock, unsigned seed);
