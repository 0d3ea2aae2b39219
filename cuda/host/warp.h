/* Barriers, shuffles, votes and reductions of CUDA C over the scheduler's calls (thread.h). */
#pragma once

#include "cuda/host/bf16.h"
#include "cuda/host/thread.h"

namespace cu_host
{

static inline void __syncthreads(sim::Site s = CU_HOST_HERE)
{
    sim::sync_threads(s);
}
static inline int __syncthreads_or(int p, sim::Site s = CU_HOST_HERE)
{
    return sim::sync_threads_vote(p, 0, s);
}
static inline int __syncthreads_and(int p, sim::Site s = CU_HOST_HERE)
{
    return sim::sync_threads_vote(p, 1, s);
}
static inline int __syncthreads_count(int p, sim::Site s = CU_HOST_HERE)
{
    return sim::sync_threads_vote(p, 2, s);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, sim::Site s = CU_HOST_HERE)
{
    sim::collective(
        mask, nullptr, [](void *const *, unsigned) {}, "__syncwarp", true, s);
}
static inline void __threadfence_block()
{
    sim::fence(0);
}
static inline void __threadfence()
{
    sim::fence(1);
}
static inline void __threadfence_system()
{
    sim::fence(2);
}
static inline void __nanosleep(unsigned)
{
    sim::yield();
}

namespace sim
{

template <typename T> struct Shuffle {
    T v, out;
    int from;
};
template <typename T> CU_HOST_NO_TSAN static inline T shuffle(unsigned mask, T v, int from, const char *what, Site s)
{
    static_assert(std::is_arithmetic<T>::value || std::is_same<T, __nv_bfloat16>::value ||
                      std::is_same<T, __nv_bfloat162>::value,
                  "not a type that CUDA shuffles");
    Shuffle<T> a{v, v, from};
    collective(
        mask, &a,
        [](void *const *args, unsigned m) CU_HOST_NO_TSAN {
            for (unsigned rest = m; rest; rest &= rest - 1) {
                const int l = __builtin_ctz(rest);
                auto *me = static_cast<Shuffle<T> *>(args[l]);
                if (!(m >> me->from & 1))
                    die(cur->site, "lane %d reads lane %d, which is not in mask %08x", l, me->from, m);
                me->out = static_cast<Shuffle<T> *>(args[me->from])->v;
            }
        },
        what, false, s);
    return a.out;
}
static inline int lane_of_width(int w, Site s)
{
    if (w < 1 || w > 32 || (w & (w - 1))) die(s, "a shuffle's width is a power of two up to 32, not %d", w);
    return static_cast<int>(cur->lane);
}

struct Vote {
    unsigned v, all;
};
CU_HOST_NO_TSAN static inline unsigned vote(unsigned mask, bool p, const char *what, Site s)
{
    Vote a{p, 0};
    collective(
        mask, &a,
        [](void *const *args, unsigned m) CU_HOST_NO_TSAN {
            unsigned all = 0;
            for (int l = 0; l < 32; ++l)
                if (m >> l & 1 && static_cast<Vote *>(args[l])->v) all |= 1u << l;
            for (int l = 0; l < 32; ++l)
                if (m >> l & 1) static_cast<Vote *>(args[l])->all = all;
        },
        what, false, s);
    return a.all;
}

template <typename T> struct Match {
    T v;
    unsigned same;
};
/* One reduction over the lanes; F: T (T, T). */
template <typename T, typename F>
CU_HOST_NO_TSAN static inline T reduce(unsigned mask, T v, F, const char *what, Site s)
{
    T a = v;
    collective(
        mask, &a,
        [](void *const *args, unsigned m) CU_HOST_NO_TSAN {
            T r = *static_cast<T *>(args[__builtin_ctz(m)]);
            for (unsigned rest = m & (m - 1); rest; rest &= rest - 1)
                r = F::of(r, *static_cast<T *>(args[__builtin_ctz(rest)]));
            for (unsigned rest = m; rest; rest &= rest - 1) *static_cast<T *>(args[__builtin_ctz(rest)]) = r;
        },
        what, false, s);
    return a;
}
#define CU_HOST_REDUCTION(name, expr)                               \
    struct name {                                                   \
        template <typename T> CU_HOST_NO_TSAN static T of(T a, T b) \
        {                                                           \
            return static_cast<T>(expr);                            \
        }                                                           \
    };
CU_HOST_REDUCTION(Sum, static_cast<unsigned>(a) + static_cast<unsigned>(b))
CU_HOST_REDUCTION(Min, b < a ? b : a)
CU_HOST_REDUCTION(Max, a < b ? b : a)
CU_HOST_REDUCTION(And, a &b)
CU_HOST_REDUCTION(Or, a | b)
CU_HOST_REDUCTION(Xor, a ^ b)
#undef CU_HOST_REDUCTION

} // namespace sim

static inline unsigned __ballot_sync(unsigned mask, int p, sim::Site s = CU_HOST_HERE)
{
    return sim::vote(mask, p != 0, "__ballot_sync", s);
}
static inline int __any_sync(unsigned mask, int p, sim::Site s = CU_HOST_HERE)
{
    return sim::vote(mask, p != 0, "__any_sync", s) != 0;
}
static inline int __all_sync(unsigned mask, int p, sim::Site s = CU_HOST_HERE)
{
    return sim::vote(mask, p == 0, "__all_sync", s) == 0;
}
template <typename T>
CU_HOST_NO_TSAN static inline unsigned __match_any_sync(unsigned mask, T v, sim::Site s = CU_HOST_HERE)
{
    sim::Match<T> a{v, 0};
    sim::collective(
        mask, &a,
        [](void *const *args, unsigned m) CU_HOST_NO_TSAN {
            for (int l = 0; l < 32; ++l)
                for (int o = 0; m >> l & 1 && o < 32; ++o)
                    if (m >> o & 1 &&
                        static_cast<sim::Match<T> *>(args[o])->v == static_cast<sim::Match<T> *>(args[l])->v)
                        static_cast<sim::Match<T> *>(args[l])->same |= 1u << o;
        },
        "__match_any_sync", false, s);
    return a.same;
}

/* Lane l of a segment of w lanes; a lane past the segment's end gives the own value, one before it does not. */
template <typename T> static inline T __shfl_sync(unsigned mask, T v, int from, int w = 32, sim::Site s = CU_HOST_HERE)
{
    const int l = sim::lane_of_width(w, s);
    return sim::shuffle(mask, v, (l & ~(w - 1)) | (from & (w - 1)), "__shfl_sync", s);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int x, int w = 32, sim::Site s = CU_HOST_HERE)
{
    const int l = sim::lane_of_width(w, s), j = l ^ x;
    return sim::shuffle(mask, v, j >= 0 && j <= (l | (w - 1)) ? j : l, "__shfl_xor_sync", s);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int w = 32, sim::Site s = CU_HOST_HERE)
{
    const int l = sim::lane_of_width(w, s);
    const unsigned j = static_cast<unsigned>(l) + (d < 32 ? d : 32);
    return sim::shuffle(mask, v, j <= static_cast<unsigned>(l | (w - 1)) ? static_cast<int>(j) : l, "__shfl_down_sync",
                        s);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int w = 32, sim::Site s = CU_HOST_HERE)
{
    const int l = sim::lane_of_width(w, s), j = l - static_cast<int>(d < 32 ? d : 32);
    return sim::shuffle(mask, v, j >= (l & ~(w - 1)) ? j : l, "__shfl_up_sync", s);
}

#define CU_HOST_REDUCE(name, T, F)                                       \
    static inline T name(unsigned mask, T v, sim::Site s = CU_HOST_HERE) \
    {                                                                    \
        return sim::reduce(mask, v, sim::F{}, #name, s);                 \
    }
CU_HOST_REDUCE(__reduce_add_sync, int, Sum)
CU_HOST_REDUCE(__reduce_add_sync, unsigned, Sum)
CU_HOST_REDUCE(__reduce_min_sync, int, Min)
CU_HOST_REDUCE(__reduce_min_sync, unsigned, Min)
CU_HOST_REDUCE(__reduce_max_sync, int, Max)
CU_HOST_REDUCE(__reduce_max_sync, unsigned, Max)
CU_HOST_REDUCE(__reduce_and_sync, unsigned, And)
CU_HOST_REDUCE(__reduce_or_sync, unsigned, Or)
CU_HOST_REDUCE(__reduce_xor_sync, unsigned, Xor)
#undef CU_HOST_REDUCE

} // namespace cu_host
