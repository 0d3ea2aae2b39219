/* Mutations of a line of words with small grammars inside: words again, gone, swapped or new, numbers at boundaries,
 * parts between separators moved from one place to another. */
#pragma once

#include "fuzz/fuzz.h"

/* One change to the n bytes at `text`, which has room for `room`; the new length. `stock` is ended by NULL. */
size_t fuzz_mutate_words(char *text, size_t n, size_t room, const char *const *stock, fuzz_rng *r);
