/* bfloat16 as cuda_bf16.h has it: round to nearest even, every NaN becomes 0x7fff, subnormals are kept. */
#pragma once

#include "cuda/host/types.h"

namespace cu_host
{

static inline unsigned __float_as_uint(float f)
{
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float __uint_as_float(unsigned u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float f)
    {
        const unsigned u = __float_as_uint(f);
        if ((u & 0x7fffffffu) > 0x7f800000u) bits = 0x7fff;
        else bits = static_cast<unsigned short>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
    }
    operator float() const
    {
        return __uint_as_float(static_cast<unsigned>(bits) << 16);
    }
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline __nv_bfloat16 __float2bfloat16(float f)
{
    return __nv_bfloat16(f);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return __nv_bfloat16(f);
}
static inline __nv_bfloat16 __float2bfloat16_rz(float f)
{
    __nv_bfloat16 r;
    const unsigned u = __float_as_uint(f);
    r.bits = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fff : static_cast<unsigned short>(u >> 16);
    return r;
}
/* One rounding: to f32 with the last bit sticky (round to odd), which the second rounding then sees. */
static inline __nv_bfloat16 __double2bfloat16(double d)
{
    float f = static_cast<float>(d);
    const double back = static_cast<double>(f);
    unsigned u = __float_as_uint(f);
    if (back != d && d == d && (u & 0x7fffffffu) != 0x7f800000u) {
        if (fabs(back) > fabs(d)) --u;
        u |= 1u;
    }
    return __nv_bfloat16(__uint_as_float(u));
}
static inline float __bfloat162float(__nv_bfloat16 h)
{
    return h;
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b)
{
    __nv_bfloat162 r;
    r.x = a;
    r.y = b;
    return r;
}
static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a)
{
    return __halves2bfloat162(a, a);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b)
{
    return __halves2bfloat162(__nv_bfloat16(a), __nv_bfloat16(b));
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 v)
{
    return __floats2bfloat162_rn(v.x, v.y);
}
static inline __nv_bfloat162 __float2bfloat162_rn(float v)
{
    return __floats2bfloat162_rn(v, v);
}
static inline float2 __bfloat1622float2(__nv_bfloat162 h)
{
    return float2{h.x, h.y};
}
static inline float __low2float(__nv_bfloat162 h)
{
    return h.x;
}
static inline float __high2float(__nv_bfloat162 h)
{
    return h.y;
}
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 h)
{
    return h.x;
}
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 h)
{
    return h.y;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short s)
{
    __nv_bfloat16 r;
    r.bits = s;
    return r;
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h)
{
    return h.bits;
}
static inline bool __hisnan(__nv_bfloat16 h)
{
    return (h.bits & 0x7fff) > 0x7f80;
}

/* Arithmetic is that of the device: the exact result, rounded once. The fused product needs f64 to be exact before. */
static inline __nv_bfloat16 __hadd(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __double2bfloat16(static_cast<double>(static_cast<float>(a)) + static_cast<float>(b));
}
static inline __nv_bfloat16 __hsub(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __double2bfloat16(static_cast<double>(static_cast<float>(a)) - static_cast<float>(b));
}
static inline __nv_bfloat16 __hmul(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __nv_bfloat16(static_cast<float>(a) * static_cast<float>(b));
}
static inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return __halves2bfloat162(__hadd(a.x, b.x), __hadd(a.y, b.y));
}
static inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return __halves2bfloat162(__hmul(a.x, b.x), __hmul(a.y, b.y));
}

} // namespace cu_host
