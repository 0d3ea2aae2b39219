#pragma once

#include "reference/real.h"

/* The inner loops of ssd_scan_bwd.h: rows of a head's state [N] over the n tokens of a chunk. B, C, dB, dC point at the
 * row's group in the first of the tokens, the next one ld (dB, dC: ld_out) further. */

/* S = decay[t]·S + in[t]·B_t, the forward's operations: the state after each token to rows [n,N] where that is not
 * NULL, the last one to `last` (may be S, may be NULL). n > 0. */
void REF(ref_ssd_advance)(int64_t n, int64_t N, const real *decay, const real *in, const real *B, int64_t ld,
                          const real *S, real *rows, real *last);

enum { REF_SSD_CHUNK = 16, REF_SSD_ROWS = 2 };

typedef struct {
    int64_t n, N, ld, ld_out;
    const real *decay; /* [n] */
    const bool *ends;  /* [n]: nothing is carried to the left of the token */
    const real *B, *C;
    real *dB, *dC;                                          /* added to */
    const real *before[REF_SSD_ROWS], *after[REF_SSD_ROWS]; /* [n,N]: the states around each token */
    real *carry[REF_SSD_ROWS];                              /* [N]: decay·dS of the token to the right; moved on */
    real e[REF_SSD_ROWS][REF_SSD_CHUNK], in[REF_SSD_ROWS][REF_SSD_CHUNK]; /* dy and dt·x */
    real by_b[REF_SSD_ROWS][REF_SSD_CHUNK];                               /* out: dS·B */
    real by_state[REF_SSD_CHUNK];                                         /* out: Σ_rows dS·before */
} REF(ref_ssd_rows);

/* From the last token to the first, of one or two rows:
 *   dS = carry + e·C;  dC += e·after, dB += in·dS, the first row first;  carry = decay·dS, or 0 where it ends */
void REF(ref_ssd_retreat)(int rows, REF(ref_ssd_rows) * k);
