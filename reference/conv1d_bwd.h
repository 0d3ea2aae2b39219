#pragma once

#include "reference/real.h"

/* Backward of conv1d.h. With u_t and the taps as there, g_t[j] = dy_t[j]·silu'(u_t[j]) (u is computed again), and
 * "t sees s" where the forward reads column s for token t (in the call, or in the window, of the same document):
 *   db[j]   += Σ_t g_t[j]
 *   dw[j,k] += Σ_t g_t[j]·x_{t-(K-1)+k}[j]        over the t that see that column
 *   dx_s[j]  = Σ_k w[j,k]·g_{s+(K-1)-k}[j]        over the tokens that see s, + what the window after the call kept
 * and the same for the columns s < 0 of the window before the call: dwindow. The window after the call holds the
 * columns T-(K-1) … T-1 that the last token sees; column i of dwindow_out goes to column T-(K-1)+i, others get nothing
 * (their copy is a constant 0). T = 0: dwindow = dwindow_out.
 * x [T,ldx] (c columns used), w [c,1,K], b [c] or data == NULL, dy [T,c]; doc [T] or NULL, window [c,K-1] as before the
 * call or NULL: zeros; dwindow_out [c,K-1] or NULL: 0. dx [T,lddx] (c columns), dwindow [c,K-1] assigned; dw [c,1,K],
 * db [c] added to; each may be NULL. Outputs overlap no input. Sums over tokens: partial sums of 64 in `real`, added up
 * in f64. FH1_E_INTERNAL without memory. */
typedef struct {
    int64_t T, c, K, ldx;
    const real *x;
    const fh1_tensor *w, *b;
    const int64_t *doc;
    int64_t window_doc;
    const real *window;
    const real *dy;
    const real *dwindow_out;
    int64_t lddx;
    real *dx;
    real *dw, *db, *dwindow;
} REF(ref_conv1d_bwd_args);

fh1_status REF(ref_conv1d_bwd)(const REF(ref_conv1d_bwd_args) * a);
