#pragma once

#include "reference/real.h"

/* The state space recurrence, per head i with group g = i / (H/G), state S [P,N]:
 *   a_t = exp(Δ_t · A_i),  A_i = -exp(A_log_i)
 *   S_t = a_t S_{t-1} + (Δ_t x_t) ⊗ B_t
 *   y_t = S_t C_t + D_i x_t,  then R(FH1_RP_SSD)
 * token after token: the sequential form is the definition, not an optimisation of anything.
 * At the first token of another document S_{t-1} is 0, by selection.
 * xbc [T, ldx]: columns x [H,P], B [G,N], C [G,N] one after another (the conv output); dt [T,H];
 * y [T, H·P] assigned. doc [T] or NULL, `state_doc` the document of the incoming state.
 * state [H,P,N]: read, then assigned the state after the last token. */
typedef struct {
    int64_t T, H, P, N, G, ldx;
    const real *xbc, *dt;
    const fh1_tensor *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
    real *state;
    real *y;
} REF(ref_ssd_args);

void REF(ref_ssd_scan_fwd)(const REF(ref_ssd_args) * a, const fh1_profile *p);

/* S *= exp(Δ_h·A_h) n times: what a padding column with dt[H] and x = B = C = 0 does to a state. */
void REF(ref_ssd_decay)(int64_t H, int64_t P, int64_t N, const real *dt, const fh1_tensor *A_log, int64_t n,
                        real *state);
