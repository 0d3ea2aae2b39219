#pragma once

#include "reference/real.h"

/* Causal depthwise convolution and silu, in the column layout of the mixer:
 *   u_t[j] = b[j] + Σ_{k<K} w[j,0,k] · x_{t-(K-1)+k}[j],  y_t = silu(R(u_t)), then R
 * with x left of the call taken from `window`. A tap that reaches into another document, or before the
 * first token, contributes nothing (it is skipped, not multiplied by zero: a NaN there must not pass).
 * x [T, ldx] (c columns used), y [T,c] assigned, w [c,1,K], b [c] or data == NULL.
 * doc [T] non-decreasing document ids or NULL; `window_doc` is the document of the window.
 * window [c,K-1], oldest first: read, then assigned the last K-1 columns of the last document. */
typedef struct {
    int64_t T, c, K, ldx;
    const real *x;
    const fh1_tensor *w, *b;
    const int64_t *doc;
    int64_t window_doc;
    real *window;
    real *y;
} REF(ref_conv1d_args);

fh1_status REF(ref_conv1d_fwd)(const REF(ref_conv1d_args) * a, const fh1_profile *p);

/* Append n columns col[c] to a window [c,K-1], dropping the oldest. */
void REF(ref_conv1d_push)(int64_t c, int64_t K, const real *col, int64_t n, real *window);
