/* A case's memory: one owner, canaries between the pieces, a rogue fill that no sum survives.
 *
 *   | canary | piece, 64-byte aligned, filled with NaN | canary | piece | …
 *
 * Fresh memory holds NaN with the payload 0xfa57 in every 32-bit lane (a read of unwritten memory
 * shows up as NaN in any result), and a write outside a piece is found by fh1_arena_check. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

typedef struct fh1_arena fh1_arena;

fh1_status fh1_arena_new(fh1_arena **out); /* freed by fh1_arena_free */
/* n_bytes of rogue-filled memory, owned by the arena; `name` is kept for messages (not copied). */
fh1_status fh1_arena_get(fh1_arena *a, size_t n_bytes, const char *name, void **out);
/* FH1_E_INTERNAL naming the first piece whose canary was overwritten, and on which side. */
fh1_status fh1_arena_check(const fh1_arena *a);
size_t fh1_arena_bytes(const fh1_arena *a); /* sum of the pieces */
void fh1_arena_clear(fh1_arena *a);         /* releases the pieces, keeps the arena */
void fh1_arena_free(fh1_arena *a);          /* NULL is fine */
