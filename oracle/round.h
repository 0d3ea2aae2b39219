/* Rounding to the short float types, round to nearest, ties to even, on the bits.
 * NaN stays NaN (quiet), infinities stay, overflow goes to infinity, subnormals are kept. */
#pragma once

#include <stdint.h>
#include <string.h>

/* Where a pipeline rounds a value to, and to what. */
typedef enum { FH1_ROUND_NONE, FH1_ROUND_F32, FH1_ROUND_BF16, FH1_ROUND_F16, FH1_ROUND_TF32 } fh1_round;

static inline uint32_t fh1_f32_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

static inline float fh1_bits_f32(uint32_t u)
{
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

static inline float fh1_bf16_to_f32(uint16_t h)
{
    return fh1_bits_f32((uint32_t)h << 16);
}

static inline uint16_t fh1_f32_to_bf16(float v)
{
    uint32_t u = fh1_f32_bits(v);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u); /* keep NaN a NaN */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float fh1_f16_to_f32(uint16_t h);
uint16_t fh1_f32_to_f16(float v);

/* From f64 in one rounding (going through f32 would round twice). */
uint16_t fh1_f64_to_bf16(double v);
uint16_t fh1_f64_to_f16(double v);

/* The value of v after one rounding of kind r. */
float fh1_round_f32(fh1_round r, float v);
double fh1_round_f64(fh1_round r, double v);
