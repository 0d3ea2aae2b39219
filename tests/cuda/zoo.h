/* The zoo: kernels with one mistake each, beside the same kernel without it. What each build of cuda-host says about
 * them stands in zoo.txt; zoo.sh holds the builds to it (docs/cuda_host.md). Every animal gets T numbers x and leaves T
 * numbers o. */
#pragma once

#include "cuda/sm90_ops.h"

#include <vector>

namespace CU_NS
{

enum { T = 128 };

struct cage {
    float *o;
    const float *x;
    const float *in;         /* x on the host */
    int bug;                 /* 0: the honest twin */
    std::vector<float> seen; /* what the host saw, where that is not o */
};

struct animal {
    const char *name;
    void (*run)(cage *c);
    float (*want)(const float *x, int i);
};

extern const std::vector<animal> zoo_shared, zoo_global, zoo_threads, zoo_copies, zoo_hopper, zoo_host;

static inline float same(const float *x, int i)
{
    return x[i];
}
static inline float reversed(const float *x, int i)
{
    return x[T - 1 - i];
}
static inline float neighbour(const float *x, int i)
{
    return x[i ^ 1];
}

/* An animal that is one launch of one block. */
#define ONE_LAUNCH(kernel) [](cage *c) { LAUNCH(kernel, 1, T, 0, nullptr, c->o, c->x, c->bug); }

} // namespace CU_NS
