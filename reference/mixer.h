/* The ssm multipliers, one for each segment z | x | B | C | dt of in_proj's columns. */
#pragma once

#include "reference/call.h"

/* u: m₀ on z, m₁ on x, m₂ on B, m₃ on C, m₄ on dt, as the engine of the call holds them. */
void REF(ref_mup_vector)(const REF(ref_call) * k, real u[5]);
/* proj [rows, 2 d_ssm + 2GN + H] times the vector, rounded at FH1_RP_MUP, in place. */
void REF(ref_mup_apply)(const REF(ref_call) * k, int64_t rows, real *proj);

/* The segment of a column. */
static inline int REF(ref_mup_segment)(const fh1_config *c, int64_t column)
{
    const int64_t GN = c->G * c->N;
    if (column < 2 * c->d_ssm) return column < c->d_ssm ? 0 : 1;
    column -= 2 * c->d_ssm;
    return column < GN ? 2 : column < 2 * GN ? 3 : 4;
}
