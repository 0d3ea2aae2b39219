#pragma once

#include "reference/real.h"

/* The selective scan of Mamba-1, per channel i with a state S of its own [N] and a rate for each of its elements:
 *   A[i,n] = -exp(A_log[i,n])
 *   S_t[i,n] = exp(Δ_t[i]·A[i,n])·S_{t-1}[i,n] + (Δ_t[i]·x_t[i])·B_t[n]
 *   y_t[i] = Σ_n S_t[i,n]·C_t[n] + D[i]·x_t[i]
 * B and C are shared by all channels. Token after token: the sequential form is the definition. At the first token of
 * another document S_{t-1} is 0, by selection; with a `reset`, as in ssd_scan.h, it stays and decays by exp(reset).
 *
 * Roundings, R at FH1_RP_SSD and Q at FH1_RP_SCAN_READ, of pipelines that make y of separate products in the model's
 * type:  y = R(Q(Σ Q(S)·C) + D·x), and R(D·x) too where both round. The state is kept as it is.
 *
 * x [T,I] with rows ldx apart, B [T,N] ldb, C [T,N] ldc; dt [T,I] and y [T,I] dense, y assigned; A_log [I,N], D [I].
 * doc [T] or NULL, `state_doc` the document of the incoming state. state [I,N]: read, then assigned the state after the
 * last token. FH1_E_INTERNAL without memory: I·N numbers of scratch at most. */
typedef struct {
    int64_t T, I, N, ldx, ldb, ldc;
    const real *x, *B, *C, *dt;
    const fh1_tensor *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
    double reset; /* 0: none */
    real *state;
    real *y;
} REF(ref_selective_args);

/* Of dense arrays, without documents. */
static inline REF(ref_selective_args)
    REF(ref_selective_dense)(int64_t T, int64_t I, int64_t N, const real *x, const real *B, const real *C,
                             const real *dt, const fh1_tensor *A_log, const fh1_tensor *D, real *state, real *y)
{
    return (REF(ref_selective_args)){.T = T,
                                     .I = I,
                                     .N = N,
                                     .ldx = I,
                                     .ldb = N,
                                     .ldc = N,
                                     .x = x,
                                     .B = B,
                                     .C = C,
                                     .dt = dt,
                                     .A_log = A_log,
                                     .D = D,
                                     .state = state,
                                     .y = y};
}

fh1_status REF(ref_selective_scan_fwd)(const REF(ref_selective_args) * a, const fh1_profile *p);

/* A[i] as a row of whole vectors (reference/lanes_exp.h), zeros behind N. */
void REF(ref_selective_rates)(const fh1_tensor *A_log, int64_t i, int64_t I, int64_t N, real *row);

/* The same with the roundings of its own: Q `read`, R `out`. */
fh1_status REF(ref_selective_scan_rounded)(const REF(ref_selective_args) * a, fh1_round read, fh1_round out);
