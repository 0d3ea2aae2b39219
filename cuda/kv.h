/* Keys and values of one layer on the device: pages of CU_PAGE tokens, a table of pages per row that all layers share.
 */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

enum { CU_PAGE = 64 };

struct cu_kv {
    cu_type type;
    int Hkv, A;
    void *key, *value; /* [pages, Hkv, CU_PAGE, A] */
    int64_t n_pages;   /* in the pool */
    const int
        *table; /* [B, max_pages]: token s of row b lies in page table[b·max_pages + s / CU_PAGE], place s % CU_PAGE */
    int max_pages;
};

/* First element of head h of token s of row b. */
static __host__ __device__ inline int64_t cu_kv_at(const cu_kv &kv, int b, int h, int s)
{
    const int64_t page = kv.table[static_cast<int64_t>(b) * kv.max_pages + s / CU_PAGE];
    return ((page * kv.Hkv + h) * CU_PAGE + s % CU_PAGE) * kv.A;
}

} // namespace CU_NS
