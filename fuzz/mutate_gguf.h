/* Mutations that keep a GGUF file near one: its keys and tensors are taken apart, changed, and put together again with
 * counts, lengths, offsets, padding and checksums in step; now and then a few bytes are hurt afterwards. */
#pragma once

#include "fuzz/fuzz.h"

/* One change to the n bytes at `data`, which has room for `room`; the new length. */
size_t fuzz_mutate_gguf(uint8_t *data, size_t n, size_t room, fuzz_rng *r);
