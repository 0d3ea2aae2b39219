/* y[t,i] = R(silu(b[i] + Σ_k w[i,k]·p[t-K+1+k,i])), p = x·u[segment of i] in f32: the mup vector enters here,
 * unrounded. Taps before the token's document are skipped, not multiplied by zero; those before the call come from the
 * row's window. The window then holds the last K-1 columns p of the row's current document, oldest first, zeros where
 * there are fewer. Many tokens and one-token steps alike. */
#pragma once

#include "cuda/tokens.h"

namespace CU_NS
{

struct cu_conv1d {
    cu_type type;
    cu_tokens t;
    int d_ssm, GN, K; /* channels c = d_ssm + 2 GN: x | B | C */
    const void *x;    /* [M, ldx] in_proj's columns from x on */
    int64_t ldx;
    float m_x, m_B, m_C; /* ssm_multipliers 1, 2, 3 */
    const float *w;      /* [c, K] */
    const float *b;      /* [c], or NULL */
    float *window;       /* [slots, c, K-1], read and updated */
    const int *slot;     /* [B] */
    void *y;             /* [M, c] */
};

fh1_status cu_conv1d_fwd(cu_ctx *k, const cu_conv1d *a);

} // namespace CU_NS
