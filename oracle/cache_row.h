/* Rows of a cache, for the files that make up oracle/cache.h and for nobody else. */
#pragma once

#include "oracle/cache.h"

/* An empty row with room for `cap` tokens. With a store attached to c it keeps books only. */
fh1_status fh1_row_new(const fh1_cache *c, fh1_cache_row *r, int64_t cap);
/* A row of its own that holds what `from` holds, with no room to spare. */
fh1_status fh1_row_copy(const fh1_cache *c, fh1_cache_row *to, const fh1_cache_row *from);
/* The first token has not come yet: no documents, zero window and state. Capacity stays. */
void fh1_row_empty(fh1_cache *c, int64_t b);
void fh1_row_free(const fh1_cache *c, fh1_cache_row *r);
/* The arrays of the four parts alone. */
void fh1_row_free_parts(const fh1_cache *c, fh1_cache_row *r);
