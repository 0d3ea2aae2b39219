/* Mathematics and bits of CUDA C. The approximate functions are the accurate ones here: nothing may rely on their last
 * bits, nor on their flushing of subnormals. */
#pragma once

#include "cuda/host/bf16.h"

#include <chrono>
#include <type_traits>

/* glibc declares functions of these names: macros. */
#define __expf(x) ::expf(x)
#define __exp10f(x) ::cu_host::exp10_of(x)
#define __logf(x) ::logf(x)
#define __log2f(x) ::log2f(x)
#define __log10f(x) ::log10f(x)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define __tanf(x) ::tanf(x)
#define __powf(x, y) ::powf(x, y)

namespace cu_host
{

static inline float exp10_of(float x)
{
    return static_cast<float>(::pow(10., static_cast<double>(x)));
}
static inline void __sincosf(float x, float *s, float *c)
{
    *s = ::sinf(x);
    *c = ::cosf(x);
}
static inline float rsqrtf(float x)
{
    return static_cast<float>(1. / ::sqrt(static_cast<double>(x)));
}
static inline double rsqrt(double x)
{
    return 1. / ::sqrt(x);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __frcp_rn(float a)
{
    return 1.f / a;
}
static inline float __fsqrt_rn(float a)
{
    return ::sqrtf(a);
}
static inline float __frsqrt_rn(float a)
{
    return rsqrtf(a);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return ::fmaf(a, b, c);
}
static inline double __fma_rn(double a, double b, double c)
{
    return ::fma(a, b, c);
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
static inline float __saturatef(float x)
{
    return x != x ? 0.f : x < 0.f ? 0.f : x > 1.f ? 1.f : x;
}

static inline int __float_as_int(float f)
{
    int u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float __int_as_float(int u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline long long __double_as_longlong(double d)
{
    long long u;
    memcpy(&u, &d, 8);
    return u;
}
static inline double __longlong_as_double(long long u)
{
    double d;
    memcpy(&d, &u, 8);
    return d;
}
/* Conversions saturate on the device; a cast would be undefined. NaN becomes 0. */
static inline int __float2int_rn(float x)
{
    return x != x               ? 0
           : x >= 2147483648.f  ? 2147483647
           : x <= -2147483648.f ? -2147483647 - 1
                                : static_cast<int>(::rintf(x));
}
static inline int __float2int_rz(float x)
{
    return __float2int_rn(::truncf(x));
}
static inline int __float2int_rd(float x)
{
    return __float2int_rn(::floorf(x));
}
static inline float __int2float_rn(int x)
{
    return static_cast<float>(x);
}
static inline float __uint2float_rn(unsigned x)
{
    return static_cast<float>(x);
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
static inline unsigned __brev(unsigned x)
{
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
    return r;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    const uint64_t v = static_cast<uint64_t>(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; ++i) r |= static_cast<unsigned>(v >> (8 * (s >> (4 * i) & 7)) & 255) << (8 * i);
    return r;
}
/* 32 bits of hi:lo, shifted; the shift counts modulo 32. */
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n)
{
    n &= 31;
    return n ? hi << n | lo >> (32 - n) : hi;
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n)
{
    n &= 31;
    return n ? lo >> n | hi << (32 - n) : lo;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
static inline int __mulhi(int a, int b)
{
    return static_cast<int>(static_cast<int64_t>(a) * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    __extension__ typedef unsigned __int128 wide;
    return static_cast<unsigned long long>(static_cast<wide>(a) * b >> 64);
}

/* min and max as CUDA overloads them: mixed types go to the common one; a NaN loses against a number. */
#define CU_HOST_MIN_MAX(T)        \
    static inline T min(T a, T b) \
    {                             \
        return b < a ? b : a;     \
    }                             \
    static inline T max(T a, T b) \
    {                             \
        return a < b ? b : a;     \
    }
CU_HOST_MIN_MAX(int)
CU_HOST_MIN_MAX(unsigned)
CU_HOST_MIN_MAX(long)
CU_HOST_MIN_MAX(unsigned long)
CU_HOST_MIN_MAX(long long)
CU_HOST_MIN_MAX(unsigned long long)
#undef CU_HOST_MIN_MAX
static inline float min(float a, float b)
{
    return ::fminf(a, b);
}
static inline float max(float a, float b)
{
    return ::fmaxf(a, b);
}
static inline double min(double a, double b)
{
    return ::fmin(a, b);
}
static inline double max(double a, double b)
{
    return ::fmax(a, b);
}

/* Loads and stores with a hint for the cache. */
template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}
template <typename T> static inline T __ldcs(const T *p)
{
    return *p;
}
template <typename T> static inline T __ldcg(const T *p)
{
    return *p;
}
template <typename T> static inline T __ldca(const T *p)
{
    return *p;
}
template <typename T> static inline void __stcs(T *p, T v)
{
    *p = v;
}
template <typename T> static inline void __stcg(T *p, T v)
{
    *p = v;
}
template <typename T> static inline void __stwt(T *p, T v)
{
    *p = v;
}

static inline long long clock64()
{
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

} // namespace cu_host
