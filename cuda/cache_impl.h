/* A cache on the device from the inside, for cache.cu and cache_rows.cu. */
#pragma once

#include "cuda/cache.h"
#include "cuda/pool.h"

namespace CU_NS
{

/* Host tables are the truth, those on the device copies that a prepare brings up to date. */
struct cu_cache {
    cu_pool *pool;
    int64_t B, room;     /* rows, and rows that the tables have room for */
    int64_t width;       /* pages of a row in the tables */
    int *slot;           /* [room] */
    int *table;          /* [room, width], -1: no page */
    int *n_pages;        /* [room] */
    int64_t *tokens;     /* [room] that the last prepare made room for */
    bool *stale;         /* [room] emptied: window and state are zeroed by the next cu_cache_settle */
    int *d_slot;         /* [room] */
    int *d_table;        /* [room, width] */
    int *staged;         /* pinned: slots, then the table */
    cudaEvent_t arrived; /* the copy out of `staged` */
    bool dirty;
    uint32_t generation;
};

extern const fh1_cache_store cu_cache_store;

/* B empty rows on `pool`, which the new cache holds. */
fh1_status cu_cache_new(cu_pool *pool, int64_t B, cu_cache **out);
void cu_cache_free(void *store);

/* Pages for tokens [begin[b], end[b]) of every row b, its own where it shares one; begin == end: nothing. */
fh1_status cu_cache_room(cu_cache *c, const int64_t *begin, const int64_t *end);
/* The same for one row. */
fh1_status cu_cache_room_of(cu_cache *c, int64_t b, int64_t begin, int64_t end);
/* Room for B rows of `width` pages in the tables. */
fh1_status cu_cache_widen(cu_cache *c, int64_t B, int64_t width);

/* The tables of the host alone. */
fh1_status cu_cache_host_tables(cu_cache *c, int64_t room, int64_t width);
void cu_cache_free_host_tables(cu_cache *c);
/* What emptying rows left to do: before anything looks at windows and states. */
fh1_status cu_cache_settle(cu_cache *c);

fh1_status cu_cache_read_row(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, void *out);
fh1_status cu_cache_write_row(fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, const void *in);
fh1_status cu_cache_clone_rows(const fh1_cache *c, void **out);
fh1_status cu_cache_reorder_rows(fh1_cache *c, const int64_t *from, int64_t n);

static inline int64_t cu_pages_of(int64_t tokens)
{
    return (tokens + CU_PAGE - 1) / CU_PAGE;
}

} // namespace CU_NS
