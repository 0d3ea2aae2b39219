#pragma once

#include "reference/real.h"

/* Backward of ssd_scan.h. Per head i with group g, a_t = exp(Δ_t·A), e_t = dy_t, S_t the states of the forward:
 *   dS_t = e_t ⊗ C_t + a_{t+1}·dS_{t+1}          + dstate_out at the last token
 *   dC_t = S_tᵀ e_t,  dB_t = Δ_t·dS_tᵀ x_t       both summed over the heads of the group, first head first
 *   dx_t = Δ_t·dS_t B_t + D·e_t,                 dD += Σ_t Σ_p e_t[p]·x_t[p]
 *   dΔ_t = x_tᵀ dS_t B_t + A·q_t                 q_t = a_t·⟨dS_t, S_{t-1}⟩
 *   dA_log += A·Σ_t Δ_t·q_t,                     dstate = a_0·dS_0
 * Where a token begins another document S_{t-1} is 0 by selection: q_t is 0 and nothing is carried to the left; when
 * that is token 0, dstate is 0. With a `reset`, as in the forward, a_t is a constant there: exp(reset)·dS_t is carried,
 * and q_t is 0 all the same, since neither Δ_t nor A is in it. T = 0: dstate = dstate_out.
 * The states are computed again from checkpoints, by the forward's own operations and so bit for bit; never recovered
 * by division. Memory of one call, in `real`: H·N·(P·T/L + 2L + P) with segments of L ≥ 512, L about √(T·P/2): it
 * grows with √T; and N·P·(L/16 + 1) + 67·N + 48·P per thread.
 * xbc [T,ldx] (x [H,P], B [G,N], C [G,N]), dt [T,H], dy [T,H·P]; doc [T] or NULL, state [H,P,N] as before the call or
 * NULL: zeros; dstate_out [H,P,N] or NULL: 0. dxbc [T,lddx] as xbc, ddt [T,H], dstate [H,P,N] assigned; dA_log, dD [H]
 * added to; each may be NULL. dstate may be dstate_out; no other output overlaps an input. Sums over tokens: partial
 * sums of 64 in `real`, added up in f64. FH1_E_INTERNAL without memory. */
typedef struct {
    int64_t T, H, P, N, G, ldx;
    const real *xbc, *dt;
    const fh1_tensor *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
    double reset; /* 0: none */
    const real *state;
    const real *dy;
    const real *dstate_out;
    int64_t lddx;
    real *dxbc;
    real *ddt, *dA_log, *dD, *dstate;
} REF(ref_ssd_bwd_args);

fh1_status REF(ref_ssd_scan_bwd)(const REF(ref_ssd_bwd_args) * a);
