/* What the tests of the ops without products share: how far one rounding may be off, and one number against its truth.
 */
#pragma once

#include "tests/cuda/harness.h"

#include <cmath>

static const double U = 0x1p-24; /* unit roundoff of f32 */

/* Half the spacing of `t` at |v|; 8 significant bits, or 24. */
static inline double half_ulp(cu_type t, double v)
{
    const int bits = t == CU_BF16 ? 8 : 24;
    int e;
    frexp(v, &e);
    if (e < -125) e = -125; /* subnormal */
    return ldexp(0.5, e - bits);
}

/* `got` of what should be `want`, where f32 arithmetic before the one rounding to `t` may be off by `before`. NaN and
 * infinities must be the same. */
static inline bool close_to(cu_type t, double got, double want, double before)
{
    if (std::isnan(want) || std::isinf(want)) return std::isnan(want) ? std::isnan(got) : got == want;
    return fabs(got - want) <= before + half_ulp(t, fabs(want) + before);
}

/* Type and path of the four runs of every case; and for what has a residual stream, two more with one of f32. */
struct way {
    cu_type type;
    cu_path path;
    bool wide = false;
    cu_type stream() const
    {
        return wide ? CU_F32 : type;
    }
};
static const way ways[] = {{CU_F32, CU_AUTO}, {CU_F32, CU_GENERAL}, {CU_BF16, CU_AUTO}, {CU_BF16, CU_GENERAL}};
enum { N_WAYS = 4 };
static const way stream_ways[] = {{CU_F32, CU_AUTO},     {CU_F32, CU_GENERAL},     {CU_BF16, CU_AUTO},
                                  {CU_BF16, CU_GENERAL}, {CU_BF16, CU_AUTO, true}, {CU_BF16, CU_GENERAL, true}};
enum { N_STREAM_WAYS = 6 };

/* A suite of one case, run. */
static inline int run_tests(const char *name, const TTest *const *tests, size_t n)
{
    Suite *suite = suite_create(name);
    TCase *cases = tcase_create(name);
    tcase_set_timeout(cases, 300);
    for (size_t i = 0; i < n; ++i) tcase_add_test(cases, tests[i]);
    suite_add_tcase(suite, cases);
    return run_suite(suite);
}
