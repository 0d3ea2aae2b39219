/* Vectors of 32 bytes in GCC's portable notation, four of them as the partial sums of one dot product: the
 * compiler maps them to whatever the clone at hand has (two SSE registers, one AVX2 register …), and the order
 * of the additions is the same everywhere. Loads promise no alignment beyond the element. */
#pragma once

#include "reference/real.h"

#define REF_VEC 32 /* bytes */
#define REF_VEC_LEN (REF_VEC / (int)sizeof(real))
#define REF_SUMS (REF_LANES / REF_VEC_LEN)

/* Always inlined, so that no vector crosses a call: gcc's note that its ABI depends on the processor
 * (-Wpsabi, switched off for this folder) does not apply. */
#define REF_INLINE static inline __attribute__((always_inline))

#if REF_BITS == 128
/* There are no vectors of complex numbers: a lane is one number, which is a vector of two. */
#undef REF_VEC_LEN
#define REF_VEC_LEN 1
typedef real ref_vec, ref_vec_mem;

REF_INLINE ref_vec ref_load(const real *p)
{
    return *p;
}

REF_INLINE real ref_fold(ref_vec v)
{
    return v;
}

REF_INLINE real ref_sum(const ref_vec acc[REF_SUMS])
{
    return (acc[0] + acc[2]) + (acc[1] + acc[3]);
}
#else
typedef real ref_vec __attribute__((vector_size(REF_VEC)));
typedef real ref_vec_mem __attribute__((vector_size(REF_VEC), aligned(sizeof(real)), may_alias));
typedef uint16_t ref_half8 __attribute__((vector_size(16), aligned(2), may_alias));
typedef uint32_t ref_word8 __attribute__((vector_size(32)));
typedef float ref_single8 __attribute__((vector_size(32)));
typedef float ref_single8_mem __attribute__((vector_size(32), aligned(4), may_alias));

REF_INLINE ref_vec ref_load(const real *p)
{
    return *(const ref_vec_mem *)p;
}

/* Eight f32 as one or two vectors of real. */
REF_INLINE void ref_widen8(ref_single8 v, ref_vec *out)
{
#if REF_BITS == 64
    out[0] = __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), ref_vec);
    out[1] = __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), ref_vec);
#else
    out[0] = v;
#endif
}

/* REF_LANES consecutive weights as vectors of real; a bf16 is the upper half of an f32. */
REF_INLINE void ref_load_bf16(const uint16_t *p, ref_vec out[REF_SUMS])
{
    for (int i = 0; i < REF_LANES / 8; ++i) {
        const ref_word8 w = __builtin_convertvector(*(const ref_half8 *)(p + 8 * i), ref_word8) << 16;
        ref_widen8((ref_single8)w, out + i * (8 / REF_VEC_LEN));
    }
}

REF_INLINE void ref_load_f32(const float *p, ref_vec out[REF_SUMS])
{
    for (int i = 0; i < REF_LANES / 8; ++i)
        ref_widen8(*(const ref_single8_mem *)(p + 8 * i), out + i * (8 / REF_VEC_LEN));
}

/* The sum of a vector's elements, pairwise: those half a vector apart first. */
REF_INLINE real ref_fold(ref_vec v)
{
#if REF_BITS == 32
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    return v[0] + v[1];
#else
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
    return v[0] + v[1];
#endif
}

REF_INLINE real ref_sum(const ref_vec acc[REF_SUMS])
{
    return ref_fold((acc[0] + acc[2]) + (acc[1] + acc[3]));
}
#endif
