/* What tests of backward kernels share. Everything is f32; truth is a plain loop in double over the same inputs. */
#pragma once

#include "tests/cuda/small_fixture.h"

#include <functional>

typedef std::vector<float> floats;

static inline floats some(const char *name, int64_t n, double scale = 1, double shift = 0)
{
    return draw(name, static_cast<size_t>(n), scale, shift);
}

/* A sum of n terms in double, and what f32 may be off by when each term has `ops` roundings of its own before it is
 * added: (n + ops)·u·Σ|term|, in any order. */
struct sum_of_terms {
    double value, size;
    int64_t n;
    void add(double term)
    {
        value += term;
        size += fabs(term);
        ++n;
    }
    double off(int ops) const
    {
        return static_cast<double>(n + ops) * U * size;
    }
};

/* `got` beside `want`, each off by no more than `off`; how many of `other`, a wrong answer, would pass as well. */
struct verdict {
    int64_t n, also_wrong;
};

static inline void judge(verdict *v, const char *what, int64_t i, float got, double want, double off, double other)
{
    ck_assert_msg(close_to(CU_F32, got, want, off), "%s[%lld] is %.9g, not %.9g +- %g", what, static_cast<long long>(i),
                  static_cast<double>(got), want, off);
    if (off == 0) return; /* nothing was added up there */
    ++v->n;
    v->also_wrong += close_to(CU_F32, got, other, off);
}

/* A fault that was looked for shows in at least half of the elements. */
static inline void can_fail(const verdict &v, const char *fault)
{
    ck_assert_msg(v.n && v.also_wrong * 2 < v.n, "%s would pass in %lld of %lld elements", fault,
                  static_cast<long long>(v.also_wrong), static_cast<long long>(v.n));
}

/* Runs twice and compares bits: nothing depends on the order of threads. */
static inline void twice(const std::function<std::vector<floats>()> &run, std::vector<floats> *out)
{
    *out = run();
    const std::vector<floats> again = run();
    ck_assert_uint_eq(out->size(), again.size());
    for (size_t i = 0; i < again.size(); ++i)
        ck_assert(again[i].empty() || !memcmp(again[i].data(), (*out)[i].data(), again[i].size() * sizeof(float)));
}
