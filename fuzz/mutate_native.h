/* Mutations that keep a native file near one: the index is decompressed, its text or a record changed or a chunk's
 * bytes, and the file put together again with sizes and checksums that fit, most of the time. */
#pragma once

#include "fuzz/fuzz.h"

/* One change to the n bytes at `data`, which has room for `room`; the new length. */
size_t fuzz_mutate_native(uint8_t *data, size_t n, size_t room, fuzz_rng *r);
