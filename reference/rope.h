#pragma once

#include "reference/real.h"

/* cos and sin [M, A/2] of angle = position · inv_freq, times the attention factor of the rope type, then
 * R(FH1_RP_ROPE_TABLE). In f64 the angle is exact to f64; in f32 frequency and angle are f32 products, as in
 * transformers. `seq_len` as in fh1_rope_frequencies. */
void REF(ref_rope_table)(const fh1_config *c, int64_t M, const int64_t *position, int64_t seq_len, const fh1_profile *p,
                         real *cos_sin);

/* Rotation by halves (NeoX): x' = R( R(x·cos) + R(rot(x)·sin) ), rot(x) = [-x₂, x₁].
 * x [M, heads, A] in place; cos_sin from ref_rope_table ([M, A/2] cosines, then [M, A/2] sines). */
void REF(ref_rope_fwd)(int64_t M, int64_t heads, int64_t A, const real *cos_sin, const fh1_profile *p, real *x);
