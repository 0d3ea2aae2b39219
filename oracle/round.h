/* Rounding to the short float types, round to nearest, ties to even, on the bits.
 * NaN stays NaN (quiet), infinities stay, overflow goes to infinity, subnormals are kept. */
#pragma once

#include <stdint.h>
#include <string.h>

/* Where a pipeline rounds a value to, and to what. Q8_0 is no type of one value: blocks of 32 neighbours share a scale.
 * It exists for whole rows (fh1_round_q8_0) and leaves a single value alone. */
typedef enum { FH1_ROUND_NONE, FH1_ROUND_F32, FH1_ROUND_BF16, FH1_ROUND_F16, FH1_ROUND_TF32, FH1_ROUND_Q8_0 } fh1_round;

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

/* One block of 32 in place, as ggml quantises activations: whole multiples, to nearest even, of an f16 scale that is
 * the largest magnitude over 127. */
void fh1_round_q8_0(double *v);

/* The value of v after one rounding of kind r. */
float fh1_round_f32(fh1_round r, float v);
double fh1_round_f64(fh1_round r, double v);
