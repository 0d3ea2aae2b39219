#pragma once

#include "reference/real.h"

/* Backward of ref_rope_fwd: the transposed rotation, by -angle. dx [M,heads,A] in place: by the rotated vectors on
 * entry, by the unrotated ones after; cos_sin [2,M,A/2] as ref_rope_table gave it to the forward op. */
void REF(ref_rope_bwd)(int64_t M, int64_t heads, int64_t A, const real *cos_sin, real *dx);
