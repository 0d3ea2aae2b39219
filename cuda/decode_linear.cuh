/* The products of a decode step, M = B rows of one token each, fused with what stands before and after them: four
 * launches per layer instead of nine, and the greedy head. Each reads its weights once for up to 8 rows; more rows are
 * made in groups of 8, so any M is right, but from there on rmsnorm.cuh, linear.cuh and swiglu.cuh are faster.
 *
 * What the unfused kernels store and round is rounded here at the same places, in registers or shared memory; the
 * pointers marked "or NULL" store it too (taps), which changes no other number. Rows are dense unless a leading
 * dimension is given.
 *
 * The residual stream x is only read by the kernels that normalise it, and each of its elements is read and written by
 * one thread of those that add to it. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

enum { CU_DECODE_ROWS = 8 };

/* n = R(norm·x·rsqrt(mean x² + eps)); y = R(alpha·(n·Wᵀ) + b), alpha_in for the first n_in rows of W, alpha_qkv for the
 * n_qkv after them. */
struct cu_norm_in_qkv {
    cu_type type;
    int M, D, n_in, n_qkv;
    const void *x;     /* [M, D] */
    const float *norm; /* [D] */
    float eps;
    const void *w;  /* [n_in + n_qkv, D] */
    const float *b; /* [n_in + n_qkv] or NULL */
    float alpha_in, alpha_qkv;
    void *y; /* [M, n_in + n_qkv] */
    int64_t ldy;
    void *n; /* [M, D] or NULL */
};
fh1_status cu_norm_in_qkv_fwd(cu_ctx *k, const cu_norm_in_qkv *a);

/* mixer = R(gated·Wᵀ + b), attn = R(context·Wᵀ + b), x = R(x + mixer·m_mixer + attn·m_attn). */
struct cu_out_o {
    cu_type type;
    int M, D, d_ssm, d_attn;
    const void *gated;   /* [M, d_ssm] */
    const void *context; /* [M, d_attn] */
    const void *out, *o; /* [D, d_ssm], [D, d_attn] */
    const float *out_b;  /* [D] or NULL */
    const float *o_b;    /* [D] or NULL */
    float m_mixer, m_attn;
    void *x;            /* [M, D], accumulated into */
    void *mixer, *attn; /* [M, D] or NULL */
};
fh1_status cu_out_o_fwd(cu_ctx *k, const cu_out_o *a);

/* n as above, g = R(n·W_gateᵀ + b), u = R(n·W_upᵀ + b), act = R(silu(g·m_gate)·u). */
struct cu_norm_gate_up {
    cu_type type;
    int M, D, F;
    const void *x;     /* [M, D] */
    const float *norm; /* [D] */
    float eps;
    const void *w;  /* [2 F, D]: gate | up */
    const float *b; /* [2 F] or NULL */
    float m_gate;
    void *act;     /* [M, F] */
    void *n;       /* [M, D] or NULL */
    void *gate_up; /* [M, 2 F] or NULL: g | u of each row */
};
fh1_status cu_norm_gate_up_fwd(cu_ctx *k, const cu_norm_gate_up *a);

/* down = R(act·Wᵀ + b), x = R(x + down·m_down). */
struct cu_down_residual {
    cu_type type;
    int M, D, F;
    const void *act; /* [M, F] */
    const void *w;   /* [D, F] */
    const float *b;  /* [D] or NULL */
    float m_down;
    void *x;    /* [M, D], accumulated into */
    void *down; /* [M, D] or NULL */
};
fh1_status cu_down_residual_fwd(cu_ctx *k, const cu_down_residual *a);

/* logits = alpha·(h·Wᵀ) in f32 with h = R(norm(x)), or x itself where `norm` is NULL; token = the position of the
 * largest, the lowest of equals, -1 where one is NaN. The same as sample.cuh at temperature 0, without writing V
 * numbers per row. */
struct cu_head_greedy {
    cu_type type;
    int M, D, V;
    const void *x;     /* [M, D] */
    const float *norm; /* [D], or NULL */
    float eps;
    const void *w; /* [V, D] */
    float alpha;
    int *token;    /* [M] */
    float *logits; /* [M, V] or NULL */
    void *n;       /* [M, D] or NULL; only with norm */
    void *scratch; /* cu_head_greedy_scratch bytes */
};
size_t cu_head_greedy_scratch(const cu_ctx *k);
fh1_status cu_head_greedy_fwd(cu_ctx *k, const cu_head_greedy *a);

} // namespace CU_NS
