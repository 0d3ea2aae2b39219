#pragma once

#include "reference/real.h"

/* Backward of selective_scan.h. Per channel i and element n, a_t = exp(Δ_t·A), e_t = dy_t, S_t the states of the
 * forward:
 *   dS_t = e_t·C_t + a_{t+1}·dS_{t+1}             + dstate_out at the last token
 *   dC_t[n] = Σ_i S_t·e_t,  dB_t[n] = Σ_i Δ_t·x_t·dS_t
 *   dx_t = Δ_t·Σ_n dS_t·B_t + D·e_t,              dD += Σ_t e_t·x_t
 *   dΔ_t = x_t·Σ_n dS_t·B_t + Σ_n A·q_t           q_t = a_t·dS_t·S_{t-1}
 *   dA_log[i,n] += A·Σ_t Δ_t·q_t,                 dstate = a_0·dS_0
 * Where a token begins another document S_{t-1} is 0 by selection: q_t is 0 and nothing is carried to the left; when
 * that is token 0, dstate is 0. With a `reset`, as in the forward, exp(reset)·dS_t is carried to the left, and q_t is 0
 * all the same: neither Δ_t nor A is in that decay. T = 0: dstate = dstate_out.
 * States are computed again from one kept for each L tokens, never recovered by division; L is 64, or √T where that is
 * more. Memory of one call, in `real`: (T/L + 1)·I·N, and 2·L·N for each 32 channels and each thread; N as whole
 * vectors.
 * Arguments as there; dy [T,I]; state [I,N] as before the call or NULL: zeros; dstate_out [I,N] or NULL: 0. dx [T,I]
 * with rows lddx apart, dB and dC [T,N] lddb and lddc, ddt [T,I], dstate [I,N] assigned; dA_log [I,N], dD [I] added to;
 * each may be NULL. dstate may be dstate_out; no other output overlaps an input. Sums over tokens and over channels:
 * partial sums of 64 and 32 in `real`, added up in f64 in a fixed order. FH1_E_INTERNAL without memory. */
typedef struct {
    int64_t T, I, N, ldx, ldb, ldc;
    const real *x, *B, *C, *dt;
    const fh1_tensor *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
    double reset; /* 0: none */
    const real *state;
    const real *dy;
    const real *dstate_out;
    int64_t lddx, lddb, lddc;
    real *dx, *dB, *dC;
    real *ddt, *dA_log, *dD, *dstate;
} REF(ref_selective_bwd_args);

fh1_status REF(ref_selective_scan_bwd)(const REF(ref_selective_bwd_args) * a);
