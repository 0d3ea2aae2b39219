/* Atomic operations on one address: exact and indivisible, between OS threads too. */
#pragma once

#include "cuda/host/thread.h"

namespace cu_host
{
namespace sim
{

template <typename T, typename F> static inline T read_modify_write(T *p, F f)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "not a type that CUDA has atomics for");
    T old, want;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do want = f(old);
    while (!__atomic_compare_exchange(p, &old, &want, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    return old;
}
/* The type of the operand follows that of the place. */
template <typename T> struct Same {
    typedef T type;
};
template <typename T> using same_t = typename Same<T>::type;

} // namespace sim

template <typename T> static inline T atomicAdd(T *p, sim::same_t<T> v)
{
    return sim::read_modify_write(p, [v](T a) -> T { return static_cast<T>(a + v); });
}
/* Wraps around, as on the device; a signed sum would be undefined. */
static inline int atomicAdd(int *p, int v)
{
    return sim::read_modify_write(
        p, [v](int a) -> int { return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(v)); });
}
static inline int atomicSub(int *p, int v)
{
    return sim::read_modify_write(
        p, [v](int a) -> int { return static_cast<int>(static_cast<unsigned>(a) - static_cast<unsigned>(v)); });
}
static inline unsigned atomicSub(unsigned *p, unsigned v)
{
    return sim::read_modify_write(p, [v](unsigned a) -> unsigned { return a - v; });
}
template <typename T> static inline T atomicMax(T *p, sim::same_t<T> v)
{
    return sim::read_modify_write(p, [v](T a) -> T { return a < v ? v : a; });
}
template <typename T> static inline T atomicMin(T *p, sim::same_t<T> v)
{
    return sim::read_modify_write(p, [v](T a) -> T { return v < a ? v : a; });
}
template <typename T> static inline T atomicAnd(T *p, sim::same_t<T> v)
{
    return sim::read_modify_write(p, [v](T a) -> T { return a & v; });
}
template <typename T> static inline T atomicOr(T *p, sim::same_t<T> v)
{
    return sim::read_modify_write(p, [v](T a) -> T { return a | v; });
}
template <typename T> static inline T atomicXor(T *p, sim::same_t<T> v)
{
    return sim::read_modify_write(p, [v](T a) -> T { return a ^ v; });
}
template <typename T> static inline T atomicExch(T *p, sim::same_t<T> v)
{
    return sim::read_modify_write(p, [v](T) -> T { return v; });
}
static inline unsigned atomicInc(unsigned *p, unsigned top)
{
    return sim::read_modify_write(p, [top](unsigned a) -> unsigned { return a >= top ? 0 : a + 1; });
}
template <typename T> static inline T atomicCAS(T *p, sim::same_t<T> expected, sim::same_t<T> v)
{
    __atomic_compare_exchange(p, &expected, &v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return expected;
}

} // namespace cu_host
