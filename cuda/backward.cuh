/* Backward passes on the device, contract fp32: activations, gradients and sums are f32, matrices as stored (`w_type`),
 * small parameters f32 as in the forward pass. d<name> is the derivative of the loss by <name>. Gradients of
 * activations are assigned unless `add` says otherwise, gradients of parameters are added to what is there; any output
 * may be NULL: not wanted. Formulas stand at the functions of reference/ of the same names.
 *
 * Deterministic: every sum has one order, which depends on shapes alone; no atomic additions. M = 0 gives zeros where
 * something is assigned over M and leaves parameters alone. Inputs are those of the forward pass, before it ran.
 * `scratch`: as many bytes as cu_<op>_bwd_scratch says for the same arguments, may be NULL where that is 0. */
#pragma once

#include "cuda/tokens.h"

extern "C" {
#include "oracle/backward.h"
}

namespace CU_NS
{

/* -- products ------------------------------------------------------------------------------------------ */

/* c[i,j] = alpha·Σ_r a(i,r)·b(r,j), or added to c. Element (i,r) of a lies at i·a_i + r·a_r, of b at r·b_r + j·b_j; one
 * stride of each is 1. Summed over r in rising order, in f32. Any alignment. */
struct cu_product {
    int64_t I, J, R;
    const float *a;
    int64_t a_i, a_r;
    cu_type b_type;
    const void *b;
    int64_t b_r, b_j;
    float alpha;
    bool add;
    float *c;
    int64_t ldc;
};
fh1_status cu_product_run(cu_ctx *k, const cu_product *a);

/* y = alpha·x·Wᵀ + b:  dx = alpha·dy·W,  dw[n,k] += alpha·dyᵀ·x,  db[n] += Σ dy */
struct cu_linear_bwd_args {
    int M, N, K;
    const float *x; /* [M, ldx]; for dw */
    int64_t ldx;
    cu_type w_type;
    const void *w; /* [N, K] dense; for dx */
    float alpha;
    const float *dy; /* [M, ldy] */
    int64_t ldy;
    bool add;  /* dx += */
    float *dx; /* [M, lddx] */
    int64_t lddx;
    float *dw, *db; /* [N, K], [N] */
};
fh1_status cu_linear_bwd(cu_ctx *k, const cu_linear_bwd_args *a);

/* y += scale·(B·(A·x) + b): dx += scale·(dy·B)·A,  dA += scale·(dy·B)ᵀ·x,  dB += scale·dyᵀ·(A·x),  db += scale·Σ dy.
 * A and B are f32 on the device. */
struct cu_lora_bwd_args {
    int M, N, K, r;
    const float *x;
    int64_t ldx;
    const float *A, *B; /* [r, K], [N, r] */
    float scale, alpha; /* what x is multiplied by on its way in: A·(alpha·x); 1 */
    const float *dy;
    int64_t ldy;
    float *dx; /* [M, lddx], added to */
    int64_t lddx;
    float *dA, *dB, *db;
    float *scratch;
};
size_t cu_lora_bwd_scratch(const cu_lora_bwd_args *a);
fh1_status cu_lora_bwd(cu_ctx *k, const cu_lora_bwd_args *a);

/* -- network ------------------------------------------------------------------------------------------- */

/* dtable[id[m]] += m_emb·dx[m], tokens in their order; the row `pad` gets nothing (-1: none) */
struct cu_embed_bwd_args {
    int M, D;
    const int *id; /* [M] */
    int pad;
    float m_emb;
    const float *dx; /* [M, D] */
    float *dtable;   /* [V, D] */
};
fh1_status cu_embed_bwd(cu_ctx *k, const cu_embed_bwd_args *a);

struct cu_rmsnorm_bwd_args {
    int M, D;
    const float *x, *w; /* [M, D]; [D], or NULL: none */
    float eps;
    const float *dy;
    bool add; /* dx += */
    float *dx, *dw;
    float *scratch;
    int64_t ldx, lddy, lddx; /* elements from row to row; 0: D */
};
size_t cu_rmsnorm_bwd_scratch(const cu_rmsnorm_bwd_args *a);
fh1_status cu_rmsnorm_bwd(cu_ctx *k, const cu_rmsnorm_bwd_args *a);

struct cu_swiglu_bwd_args {
    int M, F;
    const float *gate, *up; /* [M, ld] */
    int64_t ld;
    float m_gate;
    const float *dact;  /* [M, F] */
    float *dgate, *dup; /* [M, ldd]; may be gate and up */
    int64_t ldd;
};
fh1_status cu_swiglu_bwd(cu_ctx *k, const cu_swiglu_bwd_args *a);

/* da = dx·m_a, db = dx·m_b */
struct cu_residual_bwd_args {
    int64_t n;
    const float *dx;
    float m_a, m_b;
    float *da, *db;
};
fh1_status cu_residual_bwd(cu_ctx *k, const cu_residual_bwd_args *a);

/* In place: dq and dk by the rotated vectors on entry, by those before rotation and m_key after. */
struct cu_rope_bwd_args {
    cu_tokens t;    /* M, position */
    int Hq, Hkv, A; /* Hkv = 0: queries only */
    const double *inv_freq;
    float scale, m_key;
    float *dq, *dk; /* [M, ld] */
    int64_t ldq, ldk;
};
fh1_status cu_rope_bwd(cu_ctx *k, const cu_rope_bwd_args *a);

/* Softmax probabilities are computed again from scores. Keys and values lie dense, those of token m's row from key
 * t.row_begin[row] on; `past` of them come before the tokens of this call, in calls of one row (B = 1) only. Token m
 * sees keys row_begin[row] + first[m] .. past + m. */
struct cu_attention_bwd_args {
    cu_tokens t; /* M, row, row_begin, first */
    int past, Hq, Hkv, A;
    const float *q; /* [M, ldq], rotated */
    int64_t ldq;
    const float *k, *v; /* head h of key s at h·kv_head + s·ldkv */
    int64_t kv_head, ldkv;
    const float *dout; /* [M, Hq·A] */
    float *dq;         /* [M, lddq] */
    int64_t lddq;
    float *dk, *dv; /* as k and v */
    int64_t dkv_head, lddkv;
    float *scratch;
};
size_t cu_attention_bwd_scratch(const cu_attention_bwd_args *a);
fh1_status cu_attention_bwd(cu_ctx *k, const cu_attention_bwd_args *a);

/* dlogits = (softmax - onehot)/divisor, 0 in ignored rows (label -100); row[m] = its loss, not divided */
struct cu_cross_entropy_bwd_args {
    int M, V;
    const float *logits; /* [M, V] */
    const int *label;
    double divisor; /* > 0 */
    float *dlogits; /* may be logits */
    double *row;    /* [M] */
};
fh1_status cu_cross_entropy_bwd(cu_ctx *k, const cu_cross_entropy_bwd_args *a);

/* -- mixer --------------------------------------------------------------------------------------------- */

/* Rows of the batch are cut by t.row_begin, documents by t.start (-1: goes on from the row's window or state). */
struct cu_conv1d_bwd_args {
    cu_tokens t;
    int d_ssm, GN, K; /* channels c = d_ssm + 2 GN */
    const float *x;   /* [M, ldx], before the multipliers */
    int64_t ldx;
    float m_x, m_B, m_C;
    const float *w, *b;       /* [c, K]; [c] or NULL */
    const float *window;      /* [slots, c, K-1] before the call, multipliers in; NULL: no row goes on */
    const int *slot;          /* [B]; NULL: slot b is row b */
    const float *dy;          /* [M, c] */
    const float *dwindow_out; /* [B, c, K-1] or NULL: 0 */
    float *dx;                /* [M, lddx], by x before the multipliers */
    int64_t lddx;
    float *dw, *db, *dwindow; /* dwindow [B, c, K-1], by the window before */
    float *scratch;
};
size_t cu_conv1d_bwd_scratch(const cu_conv1d_bwd_args *a);
fh1_status cu_conv1d_bwd(cu_ctx *k, const cu_conv1d_bwd_args *a);

struct cu_dt_softplus_bwd_args {
    int M, H;
    const float *raw; /* [M, ld] */
    int64_t ld;
    float m_dt;
    const float *bias;
    float lo, hi;
    const float *ddt; /* [M, H] */
    float *draw;      /* [M, lddraw], by raw before the multiplier */
    int64_t lddraw;
    float *dbias;
    float *scratch;
};
size_t cu_dt_softplus_bwd_scratch(const cu_dt_softplus_bwd_args *a);
fh1_status cu_dt_softplus_bwd(cu_ctx *k, const cu_dt_softplus_bwd_args *a);

struct cu_ssd_scan_bwd_args {
    cu_tokens t;
    int H, P, N, G;
    const float *xbc; /* [M, ldx]: x [H,P] | B [G,N] | C [G,N] */
    int64_t ldx;
    const float *dt, *A, *D; /* [M, H], [H] -exp(A_log), [H] */
    const float *state;      /* [slots, H, P, N] before the call; NULL: no row goes on */
    const int *slot;         /* [B]; NULL: slot b is row b */
    const float *dy;         /* [M, H·P] */
    const float *dstate_out; /* [B, H, P, N] or NULL: 0 */
    float *dxbc;             /* [M, lddx] */
    int64_t lddx;
    float *ddt;                  /* [M, H] */
    float *dA_log, *dD, *dstate; /* [H] by A_log, [H], [B, H, P, N] */
    float *scratch;
};
size_t cu_ssd_scan_bwd_scratch(const cu_ssd_scan_bwd_args *a);
fh1_status cu_ssd_scan_bwd(cu_ctx *k, const cu_ssd_scan_bwd_args *a);

struct cu_selective_scan_bwd_args {
    cu_tokens t;
    int I, N;
    const float *x; /* [M, ldx] */
    int64_t ldx;
    const float *B, *C; /* [M, ldbc] each */
    int64_t ldbc;
    const float *dt, *A, *D; /* [M, I], [I, N] -exp(A_log), [I] */
    const float *state;      /* [slots, I, N] before the call; NULL: no row goes on */
    const int *slot;         /* [B]; NULL: slot b is row b */
    const float *dy;         /* [M, I] */
    const float *dstate_out; /* [B, I, N] or NULL: 0 */
    float *dx;               /* [M, lddx] */
    int64_t lddx;
    float *dB, *dC; /* [M, lddbc] each */
    int64_t lddbc;
    float *ddt;                  /* [M, I] */
    float *dA_log, *dD, *dstate; /* [I, N] by A_log, [I], [B, I, N] */
    float *scratch;
};
size_t cu_selective_scan_bwd_scratch(const cu_selective_scan_bwd_args *a);
fh1_status cu_selective_scan_bwd(cu_ctx *k, const cu_selective_scan_bwd_args *a);

struct cu_gated_norm_bwd_args {
    int M, d, G;
    const float *y; /* [M, d] */
    const float *z; /* [M, ldz], before m_z */
    int64_t ldz;
    float m_z;
    const float *w; /* [d], or NULL */
    float eps;
    bool norm_before_gate;
    const float *dout; /* [M, d] */
    float *dy;
    float *dz; /* [M, lddz], by z before m_z */
    int64_t lddz;
    float *dw;
    float *scratch;
};
size_t cu_gated_norm_bwd_scratch(const cu_gated_norm_bwd_args *a);
fh1_status cu_gated_norm_bwd(cu_ctx *k, const cu_gated_norm_bwd_args *a);

/* -- the step ------------------------------------------------------------------------------------------ */

/* One tensor of a step; the list lies on the device. */
struct cu_adamw_tensor {
    int64_t n, first; /* first: number of CU_ADAMW_PIECE pieces of the tensors before it */
    const float *g;
    float *w, *m, *v;
    void *copy; /* [n] bf16, rounded from w; or NULL */
    double decay;
};
enum { CU_ADAMW_PIECE = 4096 };
struct cu_adamw_args {
    int n;                       /* tensors */
    const cu_adamw_tensor *list; /* on the device */
    int64_t pieces;              /* of all tensors */
    fh1_adamw o;                 /* its decay is not read */
};
fh1_status cu_adamw(cu_ctx *k, const cu_adamw_args *a);

/* *sum = Σ g², or added to it, in f64 */
enum { CU_SQUARES_PARTS = 512 };
struct cu_squares_args {
    int64_t n;
    const float *g;
    double *part; /* [CU_SQUARES_PARTS] scratch */
    bool add;
    double *sum; /* on the device */
};
fh1_status cu_sum_of_squares(cu_ctx *k, const cu_squares_args *a);

} // namespace CU_NS
