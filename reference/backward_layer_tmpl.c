/* One layer on the way back: the branches that its block adds last come first. Branches of one sum read one norm, and
 * add up b->dn before it is taken through that norm. */
#include "oracle/thread.h"
#include "reference/attention_bwd.h"
#include "reference/backward.h"
#include "reference/rmsnorm_bwd.h"
#include "reference/rope_bwd.h"
#include "reference/swiglu_bwd.h"

#include <stdlib.h>
#include <string.h>

/* out = in·m over the residual stream */
static void scale(const REF(ref_bwd) * b, const real *in, double m, real *out)
{
    const int64_t n = b->k.t.M * b->k.c->D;
    for (int64_t i = 0; i < n; ++i) out[i] = in[i] * (real)m;
}

fh1_status REF(ref_bwd_norm)(REF(ref_bwd) * b, fh1_tap_id id, int64_t layer, const real *x, const fh1_tensor *w)
{
    const fh1_config *c = b->k.c;
    const int64_t M = b->k.t.M;
    FH1_TRY(REF(ref_bwd_flow)(b, id, layer, M, b->dn));
    FH1_TRY(REF(ref_rmsnorm_bwd)(M, c->D, x, w, c->eps, b->dn, b->branch, fh1_grad_of(b->o->grads, w)));
    const real by = REF_FAULT(GRAD_RESIDUAL_NOT_PASSED) ? 0 : 1;
    for (int64_t i = 0; i < M * c->D; ++i) b->dx[i] = by * b->dx[i] + b->branch[i];
    return NULL;
}

/* The same norm of each branch, in the block's own place. */
static const real *norm_of(const REF(ref_bwd) * b, int64_t layer, fh1_tap_id reader)
{
    return REF(ref_bwd_acts)(b, layer)->tap[fh1_tap_linear_input(b->k.c, reader)];
}

/* Adds to b->dn. */
static fh1_status mlp(REF(ref_bwd) * b, int64_t layer)
{
    const fh1_config *c = b->k.c;
    const REF(ref_acts) *a = REF(ref_bwd_acts)(b, layer);
    const int64_t M = b->k.t.M;
    real *dact, *dup;
    FH1_TRY(REF(ref_bwd_new)(b, 2 * M * c->F, &dact));
    dup = dact + M * c->F;
    scale(b, b->dx, REF_FAULT(GRAD_DOWN_MULTIPLIER_DROPPED) ? 1 : c->m_down, b->branch);
    fh1_status s = REF(ref_bwd_linear)(b, FH1_TAP_DOWN_PROJ, layer, M, a->tap[FH1_TAP_ACT], b->branch, false, dact);
    if (!s) s = REF(ref_bwd_flow)(b, FH1_TAP_ACT, layer, M, dact);
    if (!s) {
        REF(ref_swiglu_bwd)(M, c->F, a->tap[FH1_TAP_GATE_PROJ], c->m_gate, a->tap[FH1_TAP_UP_PROJ], dact, dact, dup);
        const real *n = norm_of(b, layer, FH1_TAP_UP_PROJ);
        s = REF(ref_bwd_linear)(b, FH1_TAP_UP_PROJ, layer, M, n, dup, true, b->dn);
        if (!s) s = REF(ref_bwd_linear)(b, FH1_TAP_GATE_PROJ, layer, M, n, dact, true, b->dn);
    }
    REF(ref_bwd_delete)(b, 2 * M * c->F, dact);
    return s;
}

/* [n, Hkv, A] to [Hkv, n, A], or back. */
static void turn(int64_t n, int64_t Hkv, int64_t A, bool back, const real *in, real *out)
{
    for (int64_t t = 0; t < n; ++t)
        for (int64_t h = 0; h < Hkv; ++h) {
            const int64_t packed = (t * Hkv + h) * A, by_head = (h * n + t) * A;
            memcpy(out + (back ? packed : by_head), in + (back ? by_head : packed), (size_t)A * sizeof *out);
        }
}

/* The row's tokens [begin, begin + n) attend to their own document alone. `room`: four times [Hkv, n, A]. */
static fh1_status attend_row(REF(ref_bwd) * b, const REF(ref_acts) * a, int64_t begin, int64_t n, const real *dctx,
                             int64_t *first, real *room, real *dq, real *dk, real *dv)
{
    const fh1_config *c = b->k.c;
    const int64_t kv = c->Hkv * c->A, q = c->Hq * c->A, *doc = b->k.t.doc + begin;
    real *k = room, *v = k + n * kv, *dk_row = v + n * kv, *dv_row = dk_row + n * kv;
    for (int64_t i = 0; i < n; ++i) first[i] = i > 0 && doc[i] == doc[i - 1] ? first[i - 1] : i;
    turn(n, c->Hkv, c->A, false, a->tap[FH1_TAP_K_ROPE] + begin * kv, k);
    turn(n, c->Hkv, c->A, false, a->tap[FH1_TAP_V_PROJ] + begin * kv, v);
    REF(ref_attention_bwd_args)
    args = {.T = n,
            .S = n,
            .Hq = c->Hq,
            .Hkv = c->Hkv,
            .A = c->A,
            .ld_kv = n,
            .q = a->tap[FH1_TAP_Q_ROPE] + begin * q,
            .k = k,
            .v = v,
            .first = first,
            .dout = dctx + begin * q,
            .dq = dq + begin * q,
            .dk = dk_row,
            .dv = dv_row};
    FH1_TRY(REF(ref_attention_bwd)(&args));
    turn(n, c->Hkv, c->A, true, dk_row, dk + begin * kv);
    turn(n, c->Hkv, c->A, true, dv_row, dv + begin * kv);
    return NULL;
}

/* By the rotated queries, rotated keys and values, all packed. */
static fh1_status attend(REF(ref_bwd) * b, const REF(ref_acts) * a, const real *dctx, real *dq, real *dk, real *dv)
{
    const fh1_tokens *t = &b->k.t;
    int64_t longest = 0;
    for (int64_t r = 0; r < t->B; ++r)
        if (t->row_begin[r + 1] - t->row_begin[r] > longest) longest = t->row_begin[r + 1] - t->row_begin[r];
    const int64_t n_room = 4 * longest * b->k.c->Hkv * b->k.c->A;
    int64_t *first = malloc((size_t)(longest + 1) * sizeof *first);
    if (!first) return fh1_no_memory((size_t)(longest + 1) * sizeof *first, "attention ranges");
    real *room = NULL;
    fh1_status s = REF(ref_bwd_new)(b, n_room, &room);
    for (int64_t r = 0; r < t->B && !s; ++r) {
        const int64_t begin = t->row_begin[r], n = t->row_begin[r + 1] - begin;
        if (n > 0) s = attend_row(b, a, begin, n, dctx, first, room, dq, dk, dv);
    }
    REF(ref_bwd_delete)(b, n_room, room);
    free(first);
    return s;
}

fh1_status REF(ref_bwd_attention)(REF(ref_bwd) * b, int64_t layer)
{
    const fh1_config *c = b->k.c;
    const REF(ref_acts) *a = REF(ref_bwd_acts)(b, layer);
    const int64_t M = b->k.t.M, n_q = M * c->Hq * c->A, n_kv = M * c->Hkv * c->A, n = 2 * n_q + 2 * n_kv;
    real *dctx;
    FH1_TRY(REF(ref_bwd_new)(b, n, &dctx));
    real *dq = dctx + n_q, *dk = dq + n_q, *dv = dk + n_kv;
    fh1_status s = REF(ref_bwd_linear)(b, FH1_TAP_O_PROJ, layer, M, a->tap[FH1_TAP_CONTEXT], b->branch, false, dctx);
    if (!s) s = REF(ref_bwd_flow)(b, FH1_TAP_CONTEXT, layer, M, dctx);
    if (!s) s = attend(b, a, dctx, dq, dk, dv);
    if (!s) s = REF(ref_bwd_flow)(b, FH1_TAP_Q_ROPE, layer, M, dq);
    if (!s) s = REF(ref_bwd_flow)(b, FH1_TAP_K_ROPE, layer, M, dk);
    if (!s) {
        REF(ref_rope_bwd)(M, c->Hq, c->A, b->cos_sin, dq);
        REF(ref_rope_bwd)(M, c->Hkv, c->A, b->cos_sin, dk);
        const real m_key = REF_FAULT(GRAD_KEY_MULTIPLIER_DROPPED) ? 1 : (real)c->m_key;
        for (int64_t i = 0; i < n_kv; ++i) dk[i] *= m_key; /* the multiplier stands before the rotation */
        REF(ref_bwd_scale)(b, norm_of(b, layer, FH1_TAP_Q_PROJ), c->m_attn_in);
        s = REF(ref_bwd_linear)(b, FH1_TAP_V_PROJ, layer, M, b->scaled, dv, false, b->dscaled);
    }
    if (!s) s = REF(ref_bwd_linear)(b, FH1_TAP_K_PROJ, layer, M, b->scaled, dk, true, b->dscaled);
    if (!s) s = REF(ref_bwd_linear)(b, FH1_TAP_Q_PROJ, layer, M, b->scaled, dq, true, b->dscaled);
    REF(ref_bwd_delete)(b, n, dctx);
    if (s) return s;
    const real m = REF_FAULT(GRAD_ATTENTION_IN_DROPPED) ? 1 : (real)c->m_attn_in;
    for (int64_t i = 0; i < M * c->D; ++i) b->dn[i] += m * b->dscaled[i];
    return NULL;
}

/* -- the blocks -- */

static void clear_dn(REF(ref_bwd) * b)
{
    memset(b->dn, 0, (size_t)(b->k.t.M * b->k.c->D) * sizeof *b->dn);
}

static fh1_status attention(REF(ref_bwd) * b, int64_t layer)
{
    scale(b, b->dx, REF_FAULT(GRAD_ATTENTION_OUT_DROPPED) ? 1 : b->k.c->m_attn_out, b->branch);
    return REF(ref_bwd_attention)(b, layer);
}

static fh1_status mixer(REF(ref_bwd) * b, int64_t layer)
{
    scale(b, b->dx, REF_FAULT(GRAD_SSM_OUT_DROPPED) ? 1 : b->k.c->m_ssm_out, b->branch);
    return REF(ref_bwd_mixer)(b, layer);
}

/* What SA_M and S_A_M end with: b->dx by the stream before the MLP. */
static fh1_status mlp_step(REF(ref_bwd) * b, int64_t layer)
{
    clear_dn(b);
    FH1_TRY(mlp(b, layer));
    FH1_TRY(REF(ref_bwd_norm)(b, FH1_TAP_PRE_FF_LAYERNORM, layer, REF(ref_bwd_acts)(b, layer)->tap[FH1_TAP_MID],
                              &b->k.m->layers[layer].pre_ff_layernorm));
    return REF(ref_bwd_flow)(b, FH1_TAP_MID, layer, b->k.t.M, b->dx);
}

static fh1_status attention_step(REF(ref_bwd) * b, int64_t layer)
{
    clear_dn(b);
    FH1_TRY(attention(b, layer));
    FH1_TRY(REF(ref_bwd_norm)(b, FH1_TAP_ATTN_LAYERNORM, layer, REF(ref_bwd_acts)(b, layer)->tap[FH1_TAP_MID_SSM],
                              &b->k.m->layers[layer].attn_layernorm));
    return REF(ref_bwd_flow)(b, FH1_TAP_MID_SSM, layer, b->k.t.M, b->dx);
}

fh1_status REF(ref_bwd_layer)(REF(ref_bwd) * b, int64_t layer)
{
    const fh1_block block = b->k.c->block;
    const fh1_layer *l = &b->k.m->layers[layer];
    const int64_t M = b->k.t.M;
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_LAYER, layer, M, b->dx));
    if (b->k.c->family == FH1_FALCON_MAMBA) return REF(ref_bwd_mamba_layer)(b, layer);
    if (block != FH1_BLOCK_SAM) FH1_TRY(mlp_step(b, layer));
    if (block == FH1_BLOCK_S_A_M) FH1_TRY(attention_step(b, layer));
    /* what reads the first norm: the mixer, and beside it what the block adds with it */
    if (block != FH1_BLOCK_S_A_M || !REF_FAULT(GRAD_NORMS_OF_STEPS_ADDED_UP)) clear_dn(b);
    if (block == FH1_BLOCK_SAM) FH1_TRY(mlp(b, layer));
    if (REF_FAULT(GRAD_SAM_NORM_WITHOUT_MLP)) clear_dn(b);
    if (block != FH1_BLOCK_S_A_M && !REF_FAULT(GRAD_SHARED_NORM_OF_THE_MIXER_ONLY)) FH1_TRY(attention(b, layer));
    FH1_TRY(mixer(b, layer));
    return REF(ref_bwd_norm)(b, FH1_TAP_INPUT_LAYERNORM, layer, b->checkpoint + layer * M * b->k.c->D,
                             &l->input_layernorm);
}
