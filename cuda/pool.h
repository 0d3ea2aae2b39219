/* The memory behind caches: per layer and part one allocation, of pages (keys, values) or of slots (conv windows, SSM
 * states). A cache and the copies made of it share a pool, so that they can share pages. Pages count their holders; who
 * writes into one with other holders takes a copy first. Slots are never shared.
 *
 * Belongs to one thread and one stream at a time. */
#pragma once

#include "cuda/kv.h"
#include "cuda/oracle.h"

namespace CU_NS
{

struct cu_array { /* of one layer and part */
    void *p;
    int64_t room; /* pages or slots */
};

struct cu_pool {
    int n_caches;
    cu_type type;
    int64_t n_layers;
    int Hkv, A;
    int64_t conv_elems, ssm_elems; /* of a slot, f32 */
    cu_array *part[4];             /* [n_layers] by fh1_cache_part */
    int64_t n_pages, n_slots;      /* that all layers have */
    int *holders;                  /* [n_pages] */
    int *free_page, *free_slot;    /* stacks */
    int64_t n_free_pages, n_free_slots;
    cudaStream_t stream;
    uint32_t generation; /* another one after every move */
};

fh1_status cu_pool_new(const fh1_config *c, cu_type type, cudaStream_t stream, cu_pool **out);
void cu_pool_hold(cu_pool *p);
void cu_pool_drop(cu_pool *p); /* the last one frees it */

/* Bytes of one page or slot of one layer. */
size_t cu_pool_unit(const cu_pool *p, fh1_cache_part part);
static inline void *cu_pool_at(const cu_pool *p, fh1_cache_part part, int64_t layer, int64_t i)
{
    return static_cast<char *>(p->part[part][layer].p) + static_cast<size_t>(i) * cu_pool_unit(p, part);
}

/* Everything queued before goes on first. */
fh1_status cu_pool_set_stream(cu_pool *p, cudaStream_t stream);

/* At least n free ones, by doubling; by as much as is needed where doubling does not fit. */
fh1_status cu_pool_want_pages(cu_pool *p, int64_t n);
fh1_status cu_pool_want_slots(cu_pool *p, int64_t n);
/* One that was wanted. Contents of a page: none (NaN on the CPU, whatever was there on a device). Of a slot: none. */
fh1_status cu_pool_take_page(cu_pool *p, int *page);
int cu_pool_take_slot(cu_pool *p);
void cu_pool_drop_page(cu_pool *p, int page);
void cu_pool_drop_slot(cu_pool *p, int slot);

/* All layers; neighbours that go to neighbours are copied at once. */
fh1_status cu_pool_copy_page(cu_pool *p, int from, int to);
fh1_status cu_pool_copy_slots(cu_pool *p, const int *from, const int *to, int64_t n);
fh1_status cu_pool_zero_slots(cu_pool *p, const int *slot, int64_t n);

uint32_t cu_next_generation(void);

} // namespace CU_NS
