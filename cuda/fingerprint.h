/* Which model is loaded. A model at the same address may be another one by the next call (a test, a shrinker), so that
 * addresses, shapes and samples of every tensor count. */
#pragma once

#include "cuda/oracle.h"

namespace CU_NS
{

struct cu_fingerprint {
    const fh1_model *model;
    uint64_t hash;
};

cu_fingerprint cu_fingerprint_of(const fh1_model *m);

static inline bool cu_fingerprint_same(const cu_fingerprint *a, const cu_fingerprint *b)
{
    return a->model == b->model && a->hash == b->hash;
}

} // namespace CU_NS
