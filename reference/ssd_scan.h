#pragma once

#include "reference/real.h"

/* The state space recurrence, per head i with group g = i / (H/G), state S [P,N]:
 *   a_t = exp(Δ_t · A_i),  A_i = -exp(A_log_i)
 *   S_t = a_t S_{t-1} + (Δ_t x_t) ⊗ B_t
 *   y_t = S_t C_t + D_i x_t,  then R(FH1_RP_SSD)
 * token after token: the sequential form is the definition, not an optimisation of anything.
 * At the first token of another document S_{t-1} is 0, by selection. With a `reset` (fh1_doc_reset) it stays, and a_t
 * is exp(reset) there, whatever Δ_t is: of numbers next to nothing is left, of NaN everything. Where no document lies
 * before the first one (state_doc below 0) there is nothing to reset.
 * xbc [T, ldx]: columns x [H,P], B [G,N], C [G,N] one after another (the conv output); dt [T,H];
 * y [T, H·P] assigned. doc [T] or NULL, `state_doc` the document of the incoming state.
 * state [H,P,N]: read, then assigned the state after the last token. */
typedef struct {
    int64_t T, H, P, N, G, ldx;
    const real *xbc, *dt;
    const fh1_tensor *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
    double reset; /* 0: none */
    real *state;
    real *y;
} REF(ref_ssd_args);

/* A of head h, and its group. */
static inline real REF(ref_ssd_rate)(const REF(ref_ssd_args) * a, int64_t h)
{
    const real A_log = REF(ref_get)(a->A_log, h);
    if (REF_FAULT(A_NOT_NEGATED)) return r_exp(A_log);
    if (REF_FAULT(A_LOG_NOT_EXPONENTIATED)) return -A_log;
    if (REF_FAULT(A_IN_BF16_IN_PREFILL) && a->T > 1) return -r_round(FH1_ROUND_BF16, r_exp(A_log));
    return -r_exp(A_log);
}

static inline int64_t REF(ref_ssd_group)(const REF(ref_ssd_args) * a, int64_t h)
{
    if (REF_FAULT(GROUPS_TILED)) return h % a->G;
    return REF_FAULT(GROUP_0_FOR_ALL) ? 0 : h / (a->H / a->G);
}

/* Columns of token t for head h. */
static inline const real *REF(ref_ssd_x)(const REF(ref_ssd_args) * a, int64_t t, int64_t h)
{
    return a->xbc + t * a->ldx + h * a->P;
}

static inline const real *REF(ref_ssd_b)(const REF(ref_ssd_args) * a, int64_t t, int64_t h)
{
    const int64_t g = REF(ref_ssd_group)(a, h) + (REF_FAULT(B_AND_C_SWAPPED) ? a->G : 0);
    return a->xbc + t * a->ldx + a->H * a->P + g * a->N;
}

static inline const real *REF(ref_ssd_c)(const REF(ref_ssd_args) * a, int64_t t, int64_t h)
{
    const int64_t g = REF(ref_ssd_group)(a, h) + (REF_FAULT(B_AND_C_SWAPPED) ? 0 : a->G);
    return a->xbc + t * a->ldx + a->H * a->P + g * a->N;
}

/* Whether token t begins another document than `doc`. */
static inline bool REF(ref_ssd_cut)(const REF(ref_ssd_args) * a, int64_t t, int64_t doc)
{
    return a->doc && a->doc[t] != doc && !REF_FAULT(SCAN_LEAKS_DOCUMENTS);
}

void REF(ref_ssd_scan_fwd)(const REF(ref_ssd_args) * a, const fh1_profile *p);

/* S *= exp(Δ_h·A_h) n times: what a padding column with dt[H] and x = B = C = 0 does to a state. */
void REF(ref_ssd_decay)(int64_t H, int64_t P, int64_t N, const real *dt, const fh1_tensor *A_log, int64_t n,
                        real *state);
